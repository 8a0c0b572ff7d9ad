//! What a path asks for. In: the path of the request. Out: `Target`, which borrows from it.
//!
//! Every object has exactly one spelling: no escapes, no dot segments, no empty components, one way to
//! write a number. A cache in front of us then holds each object once, and a signature means one thing.

use super::blocks::Guard;
use crate::base::id::{TrackId, VersionId};
use crate::cdn::bunny;
use crate::hls::playlist::{PREVIEW_DIRECTORY, Scope};
use crate::hls::version::{Family, Role};

/// A well-formed media path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'p> {
    /// The path token in front, if there was one.
    pub token: Option<&'p str>,
    /// The path without the token: what is signed and what caches know.
    pub path: &'p str,
    /// The catalogue item.
    pub track: TrackId,
    /// Its published package.
    pub version: VersionId,
    /// The object within it.
    pub object: ObjectName<'p>,
}

/// An object of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectName<'p> {
    /// `master.m3u8`, `aac/master.m3u8`, `flac/master.m3u8`, `video/master.m3u8`.
    Multivariant(Scope),
    /// Something of a rung: `aac/96/…`, `flac/…`, `video/720p/…`.
    OfRung(RungName<'p>, Part),
    /// `/d/…/{file}`: a rung's whole file, progressive.
    File(&'p str),
    /// `/p/…/preview.m3u8`, `/p/…/preview/…`: the preview's HLS form, public.
    OfPreview(Part),
    /// `/p/…/preview.m4a`, `/p/…/poster.jpg`, `/w/…`: beside the ladder, public.
    Extra(Role),
}

/// A rung by the components of its path; `name` is empty for a family with one rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RungName<'p> {
    /// `aac`, `flac`.
    pub family: Family,
    /// `96`.
    pub name: &'p str,
}

/// A part of a rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `index.m3u8`.
    Playlist,
    /// `init.mp4`.
    Init,
    /// `00000.mp4` …, from 0.
    Segment(usize),
}

/// The kinds of object, for metrics: route templates, not paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Route {
    /// Multivariant playlist.
    Multivariant,
    /// Media playlist.
    Playlist,
    /// Init section.
    Init,
    /// Media segment.
    Segment,
    /// Whole rung.
    File,
    /// Preview.
    Preview,
    /// Waveform.
    Waveform,
    /// A still of the picture.
    Poster,
    /// Nothing we know.
    Unknown,
}

impl Route {
    /// Every route, in the order of their numbers.
    pub const ALL: [Route; 9] = [
        Route::Multivariant,
        Route::Playlist,
        Route::Init,
        Route::Segment,
        Route::File,
        Route::Preview,
        Route::Waveform,
        Route::Poster,
        Route::Unknown,
    ];

    /// The template, as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Route::Multivariant => "/a/{track}/{version}/{scope}/master.m3u8",
            Route::Playlist => "/a/{track}/{version}/{rung}/index.m3u8",
            Route::Init => "/a/{track}/{version}/{rung}/init.mp4",
            Route::Segment => "/a/{track}/{version}/{rung}/{segment}.mp4",
            Route::File => "/d/{track}/{version}/{file}",
            Route::Preview => "/p/{track}/{version}/preview",
            Route::Waveform => "/w/{track}/{version}/peaks",
            Route::Poster => "/p/{track}/{version}/poster.jpg",
            Route::Unknown => "unknown",
        }
    }
}

/// Whether a path is ours to answer: media, or something with a token in front.
pub fn is_media(path: &str) -> bool {
    ["/a/", "/p/", "/w/", "/d/", "/bcdn_token="].iter().any(|prefix| path.starts_with(prefix))
}

impl<'p> Target<'p> {
    /// Reads a path; `None` for anything that does not spell an object.
    pub fn decode(whole: &'p str) -> Option<Target<'p>> {
        let (token, path) = match bunny::split_path(whole) {
            Some((token, path)) => (Some(token), path),
            None => (None, whole),
        };
        let mut components = path.strip_prefix('/')?.splitn(4, '/');
        let space = components.next()?;
        let track = TrackId::decode(components.next()?)?;
        let version = VersionId::decode(components.next()?)?;
        let rest = components.next()?;
        let object = match (space, rest) {
            ("a", _) => decode_adaptive(rest)?,
            ("d", _) => ObjectName::File(decode_file(rest)?),
            ("p", "preview.m4a") => ObjectName::Extra(Role::Preview),
            ("p", "poster.jpg") => ObjectName::Extra(Role::Poster),
            ("p", "preview.m3u8") => ObjectName::OfPreview(Part::Playlist),
            ("p", _) => ObjectName::OfPreview(decode_slice(rest.strip_prefix(PREVIEW_DIRECTORY)?)?),
            ("w", "peaks.bin") => ObjectName::Extra(Role::Peaks),
            ("w", "peaks.json") => ObjectName::Extra(Role::PeaksSmall),
            ("w", _) => ObjectName::Extra(Role::PeaksAt(decode_zoom(rest)?)),
            _ => return None,
        };
        Some(Target { token, path, track, version, object })
    }

    /// Whether it takes a token to get it.
    pub fn needs_token(&self) -> bool {
        !matches!(self.object, ObjectName::Extra(_) | ObjectName::OfPreview(_))
    }

    /// Whether this guard makes it take one, though it is public of others.
    pub fn is_kept_by(&self, guard: Guard) -> bool {
        match guard {
            Guard::All => !self.needs_token(),
            Guard::Preview => matches!(self.object, ObjectName::Extra(Role::Preview) | ObjectName::OfPreview(_)),
        }
    }

    /// The kind of object.
    pub fn route(&self) -> Route {
        match self.object {
            ObjectName::Multivariant(_) => Route::Multivariant,
            ObjectName::OfRung(_, Part::Playlist) => Route::Playlist,
            ObjectName::OfRung(_, Part::Init) => Route::Init,
            ObjectName::OfRung(_, Part::Segment(_)) => Route::Segment,
            ObjectName::File(_) => Route::File,
            ObjectName::OfPreview(_) | ObjectName::Extra(Role::Preview) => Route::Preview,
            ObjectName::Extra(Role::Peaks | Role::PeaksAt(_) | Role::PeaksSmall) => Route::Waveform,
            ObjectName::Extra(Role::Poster) => Route::Poster,
        }
    }
}

fn decode_adaptive(rest: &str) -> Option<ObjectName<'_>> {
    let (directory, file) = match rest.rsplit_once('/') {
        Some(("", _)) => return None,
        Some(pair) => pair,
        None => ("", rest),
    };
    let rung = |family, name| Some(ObjectName::OfRung(RungName { family, name }, decode_part(file)?));
    match (directory, file) {
        ("", "master.m3u8") => Some(ObjectName::Multivariant(Scope::All)),
        ("aac", "master.m3u8") => Some(ObjectName::Multivariant(Scope::Aac)),
        ("flac", "master.m3u8") => Some(ObjectName::Multivariant(Scope::Flac)),
        ("video", "master.m3u8") => Some(ObjectName::Multivariant(Scope::Video)),
        ("aac", _) => rung(Family::Aac, ""),
        ("flac", _) => rung(Family::Flac, ""),
        _ => {
            let (family, name) = directory.split_once('/')?;
            let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric());
            match (family, plain) {
                ("aac", true) => rung(Family::Aac, name),
                ("flac", true) => rung(Family::Flac, name),
                ("video", true) => rung(Family::Video, name),
                _ => None,
            }
        }
    }
}

fn decode_part(file: &str) -> Option<Part> {
    match file {
        "index.m3u8" => Some(Part::Playlist),
        _ => decode_slice(file),
    }
}

/// A slice of an encoding's file.
fn decode_slice(file: &str) -> Option<Part> {
    match file {
        "init.mp4" => Some(Part::Init),
        _ => decode_number(file.strip_suffix(".mp4")?).map(Part::Segment),
    }
}

/// `peaks-2048.bin`; no zeros in front.
fn decode_zoom(file: &str) -> Option<u32> {
    let digits = file.strip_prefix("peaks-")?.strip_suffix(".bin")?;
    let plain = (1..=7).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if plain && !digits.starts_with('0') { digits.parse().ok() } else { None }
}

/// Five digits or more, and no more zeros in front than it takes to make five.
fn decode_number(digits: &str) -> Option<usize> {
    let canonical = match digits.len() {
        5 => true,
        6..=9 => !digits.starts_with('0'),
        _ => false,
    };
    if !canonical || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(digits.bytes().fold(0, |number, b| number * 10 + usize::from(b - b'0')))
}

fn decode_file(name: &str) -> Option<&str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    (name.ends_with(".mp4") && !name.starts_with('.') && name.bytes().all(plain)).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V: &str = "00112233445566778899aabbccddeeff00112233";

    fn check(path: &str, expected: Option<ObjectName<'_>>) {
        let path = path.replace("{v}", &format!("trk_1/{V}"));
        assert_eq!(Target::decode(&path).map(|target| target.object), expected, "{path}");
    }

    fn of(family: Family, name: &'static str, part: Part) -> Option<ObjectName<'static>> {
        Some(ObjectName::OfRung(RungName { family, name }, part))
    }

    #[test]
    fn every_object_of_a_version_has_a_path() {
        check("/a/{v}/master.m3u8", Some(ObjectName::Multivariant(Scope::All)));
        check("/a/{v}/aac/master.m3u8", Some(ObjectName::Multivariant(Scope::Aac)));
        check("/a/{v}/flac/master.m3u8", Some(ObjectName::Multivariant(Scope::Flac)));
        check("/a/{v}/aac/96/index.m3u8", of(Family::Aac, "96", Part::Playlist));
        check("/a/{v}/aac/96/init.mp4", of(Family::Aac, "96", Part::Init));
        check("/a/{v}/aac/96/00000.mp4", of(Family::Aac, "96", Part::Segment(0)));
        check("/a/{v}/flac/00123.mp4", of(Family::Flac, "", Part::Segment(123)));
        check("/a/{v}/flac/123456.mp4", of(Family::Flac, "", Part::Segment(123_456)));
        check("/a/{v}/video/master.m3u8", Some(ObjectName::Multivariant(Scope::Video)));
        check("/a/{v}/video/720p/index.m3u8", of(Family::Video, "720p", Part::Playlist));
        check("/a/{v}/video/iframes/00002.mp4", of(Family::Video, "iframes", Part::Segment(2)));
        check("/p/{v}/poster.jpg", Some(ObjectName::Extra(Role::Poster)));
        check("/d/{v}/aac-96.mp4", Some(ObjectName::File("aac-96.mp4")));
        check("/p/{v}/preview.m4a", Some(ObjectName::Extra(Role::Preview)));
        check("/w/{v}/peaks.bin", Some(ObjectName::Extra(Role::Peaks)));
        check("/w/{v}/peaks.json", Some(ObjectName::Extra(Role::PeaksSmall)));
        check("/w/{v}/peaks-2048.bin", Some(ObjectName::Extra(Role::PeaksAt(2048))));
        check("/p/{v}/preview.m3u8", Some(ObjectName::OfPreview(Part::Playlist)));
        check("/p/{v}/preview/init.mp4", Some(ObjectName::OfPreview(Part::Init)));
        check("/p/{v}/preview/00004.mp4", Some(ObjectName::OfPreview(Part::Segment(4))));
    }

    #[test]
    fn there_is_no_second_spelling() {
        for path in [
            "/a/{v}/aac/96/0.mp4",
            "/a/{v}/aac/96/0000.mp4",
            "/a/{v}/aac/96/000000.mp4",
            "/a/{v}/aac/96/+0000.mp4",
            "/a/{v}/aac/96/00000.mp4/",
            "/a/{v}/aac/96/00000.m4s",
            "/a/{v}/aac/96/9999999999.mp4",
            "/a/{v}/aac/%39%36/00000.mp4",
            "/a/{v}/aac/96/../96/00000.mp4",
            "/a/{v}/aac/./00000.mp4",
            "/a/{v}/aac//00000.mp4",
            "/a//{v}/master.m3u8",
            "//a/{v}/master.m3u8",
            "/a/{v}//master.m3u8",
            "/a/{v}/AAC/master.m3u8",
            "/a/{v}/opus/96/00000.mp4",
            "/a/{v}/video/00000.mp4",
            "/a/{v}/video/index.m3u8",
            "/a/{v}/poster.jpg",
            "/w/{v}/poster.jpg",
            "/a/{v}/aac/96/x/00000.mp4",
            "/a/{v}/",
            "/a/{v}",
            "/a/trk_1/00112233445566778899AABBCCDDEEFF00112233/master.m3u8",
            "/d/{v}/version.json",
            "/d/{v}/.mp4",
            "/d/{v}/a/b.mp4",
            "/p/{v}/aac/96/00000.mp4",
            "/p/{v}/preview/index.m3u8",
            "/p/{v}/preview/../aac/96/00000.mp4",
            "/p/{v}/preview/aac/96/00000.mp4",
            "/p/{v}/init.mp4",
            "/p/{v}/master.m3u8",
            "/a/{v}/preview/00000.mp4",
            "/w/{v}/peaks-02048.bin",
            "/w/{v}/peaks-.bin",
            "/w/{v}/peaks-99999999.bin",
            "/w/{v}/preview.m4a",
            "/x/{v}/master.m3u8",
            "/",
            "",
            "*",
        ] {
            check(path, None);
        }
    }

    #[test]
    fn a_token_in_front_is_split_off_and_the_path_is_what_was_signed() {
        let path = format!("/bcdn_token=HS256-x&token_path=%2Fa%2F&expires=1/a/t/{V}/master.m3u8");
        let target = Target::decode(&path).unwrap();
        assert_eq!(target.token, Some("bcdn_token=HS256-x&token_path=%2Fa%2F&expires=1"));
        assert_eq!(target.path, format!("/a/t/{V}/master.m3u8"));
        assert!(target.needs_token());
        assert_eq!(Target::decode(&format!("/bcdn_token=x/bcdn_token=y/a/t/{V}/master.m3u8")), None);
    }

    proptest! {
        // A failure becomes a case of the table above, not a file of seeds.
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,120}", rest in "[a-z0-9./%_-]{0,40}") {
            let _ = Target::decode(&text);
            let path = format!("/a/t/{V}/{rest}");
            if let Some(target) = Target::decode(&path) {
                prop_assert_eq!(target.path, &path);
                prop_assert!(!path.contains('%') && !path.contains("/."));
            }
        }
    }
}
