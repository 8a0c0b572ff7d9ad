//! A published version, opened. In: `version.json` and the files it names. Out: `Object`s ready to send.
//!
//! Everything that can be computed once is: playlists are rendered and coded, entity tags are text,
//! offsets are added up, files are mapped and their lengths checked. Selecting an object then copies
//! nothing.

use std::fs::File;
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderValue};

use super::encoding::{Coded, Coding, Codings};
use super::target::{ObjectName, Part, RungName};
use crate::base::error::Context as _;
use crate::base::id::{TrackId, VersionId};
use crate::base::{Result, hex};
use crate::hls::playlist::{self, HandedOn, Scope};
use crate::hls::version::{self, Extra, Family, Role, Rung, VersionIndex};
use crate::store::Store;
use crate::store::mapped::Mapped;

/// An open version: one descriptor and one mapping for each file.
#[derive(Debug)]
pub(super) struct Version {
    rungs: Vec<OpenRung>,
    preview: Option<OpenRung>,
    extras: Vec<OpenExtra>,
    /// By `Scope`, in the order of `Scope::ALL`.
    multivariants: [Option<Document>; Scope::ALL.len()],
    /// When it was published, whole seconds since 1970.
    pub(super) modified_s: u64,
    /// The same as an HTTP date.
    pub(super) modified: HeaderValue,
    /// What a CDN purges by.
    pub(super) tag: HeaderValue,
}

#[derive(Debug)]
struct OpenRung {
    family: Family,
    name: Box<str>,
    file_name: Box<str>,
    whole: Stored,
    playlist: Document,
    /// Where each slice begins and ends: init section, then segments. Invariant: in order, within the
    /// file (`VersionIndex::decode` checked the sums, opening it checked the length).
    slices: Box<[(u64, u64)]>,
    /// The slices' entity tags, `ETAG_BYTES` each, in one piece of memory.
    etags: Bytes,
}

#[derive(Debug)]
struct OpenExtra {
    role: Role,
    stored: Stored,
    /// Of JSON only.
    codings: Codings,
}

#[derive(Debug)]
struct Stored {
    file: Mapped,
    etag: HeaderValue,
}

#[derive(Debug)]
struct Document {
    bytes: Bytes,
    etag: HeaderValue,
    codings: Codings,
}

/// A quoted 128-bit hash in hexadecimal.
const ETAG_BYTES: usize = 34;

/// One representation, ready to send.
#[derive(Debug)]
pub(super) struct Object<'v> {
    pub(super) content: Content<'v>,
    pub(super) etag: HeaderValue,
    pub(super) media: Media,
    /// `Content-Encoding`, when the bytes are coded.
    pub(super) coding: Option<Coding>,
}

/// Where the bytes are.
#[derive(Debug)]
pub(super) enum Content<'v> {
    Memory(&'v Bytes),
    File(&'v Mapped, Range<u64>),
}

/// What kind of bytes they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Media {
    Playlist,
    Audio,
    Video,
    Peaks,
    PeaksSmall,
    Poster,
}

impl Media {
    pub(super) const ALL: [Media; 6] =
        [Media::Playlist, Media::Audio, Media::Video, Media::Peaks, Media::PeaksSmall, Media::Poster];

    /// `Content-Type`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Media::Playlist => "application/vnd.apple.mpegurl", // RFC 8216 §4
            Media::Audio => "audio/mp4",
            Media::Video => "video/mp4",
            Media::Peaks => "application/octet-stream",
            Media::PeaksSmall => "application/json",
            Media::Poster => "image/jpeg",
        }
    }

    /// Whether it is text that has coded forms, so that answers vary by what the client accepts.
    pub(super) fn is_text(self) -> bool {
        matches!(self, Media::Playlist | Media::PeaksSmall)
    }
}

impl<'v> Object<'v> {
    fn coded(coded: &'v Coded, media: Media) -> Object<'v> {
        let content = Content::Memory(&coded.bytes);
        Object { content, etag: coded.etag.clone(), media, coding: Some(coded.coding) }
    }

    pub(super) fn length(&self) -> u64 {
        match &self.content {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::File(_, range) => range.end - range.start,
        }
    }
}

impl Version {
    /// Opens a version. Blocks: reads and hashes the index, opens, maps and checks every file.
    ///
    /// # Errors
    /// `NotFound` when there is no such version, `Invalid` when it is damaged, `Busy` when no more
    /// files can be opened.
    pub(super) fn open(store: &Store, track: TrackId, id: VersionId, handed_on: HandedOn) -> Result<Version> {
        let index = VersionIndex::decode_as(id, &store.read_version(track, id)?)?;
        let open = |object: &version::Object, rung: Option<&Rung>| {
            let what = || format!("cannot serve {} of {track} {id}", object.name);
            let etag = etag_of_digest(&object.sha256[..32]);
            Ok(Stored { file: store.map((track, id), object, rung).context(what)?, etag })
        };
        let rung =
            |rung: &Rung| Ok(OpenRung::new(rung, open(&rung.object, Some(rung))?, playlist::media(rung, handed_on)));
        let pictures = index.pictures().map(|picture| &picture.encoding);
        let rungs: Vec<OpenRung> = index.rungs.iter().chain(pictures).map(rung).collect::<Result<_>>()?;
        // Public: its playlist hands no token on.
        let preview = index.preview.as_ref().map(|preview| {
            let playlist = playlist::preview(&preview.rung);
            Ok(OpenRung::new(&preview.rung, open(&preview.rung.object, Some(&preview.rung))?, playlist))
        });
        let preview = preview.transpose()?;
        let extras = index.extras.iter().map(|Extra { role, object }| Ok(OpenExtra::new(*role, open(object, None)?)));
        let extras = extras.collect::<Result<_>>()?;
        let modified = store.published_s(track, id).or_else(|| modified(rungs.first()?.whole.file.file()));
        let modified_s = modified.unwrap_or(0).min(unix_s(SystemTime::now()));
        let date = httpdate::fmt_http_date(UNIX_EPOCH + std::time::Duration::from_secs(modified_s));
        Ok(Version {
            rungs,
            preview,
            extras,
            multivariants: Scope::ALL.map(|scope| playlist::multivariant(&index, scope, handed_on).map(Document::new)),
            modified_s,
            modified: HeaderValue::from_str(&date).expect("a date is ASCII"),
            tag: HeaderValue::from_str(track.as_str()).expect("a track id is ASCII"),
        })
    }

    /// Whether its files have lost their names: who asks next shall get others.
    pub(super) fn is_evicted(&self) -> bool {
        self.rungs.first().is_some_and(|rung| rung.whole.file.is_evicted())
    }

    /// How many files are open for it: its weight in the cache.
    pub(super) fn files(&self) -> u64 {
        (self.rungs.len() + self.preview.iter().len() + self.extras.len()) as u64
    }

    /// Bytes of memory that it holds for as long as it is open, without what its files map.
    pub(super) fn memory_bytes(&self) -> u64 {
        let rungs =
            self.rungs.iter().chain(&self.preview).map(|rung| {
                rung.playlist.memory_bytes() + rung.etags.len() + size_of_val::<[(u64, u64)]>(&rung.slices)
            });
        let multivariants = self.multivariants.iter().flatten().map(Document::memory_bytes);
        let extras = self.extras.iter().map(|extra| extra.codings.bytes());
        rungs.chain(multivariants).chain(extras).sum::<usize>() as u64
    }

    /// The object of that name, in the coding that the request's headers select; `None` when this version
    /// has none of that name.
    pub(super) fn select(&self, name: &ObjectName<'_>, headers: &HeaderMap) -> Option<Object<'_>> {
        match name {
            ObjectName::OfRung(rung, part) => self.rung(rung)?.select(*part, headers),
            ObjectName::Multivariant(scope) => {
                let at = Scope::ALL.iter().position(|known| known == scope)?;
                Some(self.multivariants[at].as_ref()?.object(headers))
            }
            ObjectName::File(name) => {
                let rung = self.rungs.iter().find(|rung| *rung.file_name == **name)?;
                Some(rung.whole.object(rung.media()))
            }
            ObjectName::OfPreview(part) => self.preview.as_ref()?.select(*part, headers),
            ObjectName::Extra(Role::Preview) if self.preview.is_some() => {
                Some(self.preview.as_ref()?.whole.object(Media::Audio))
            }
            ObjectName::Extra(role) => {
                let extra = self.extras.iter().find(|extra| extra.role == *role)?;
                let media = match role {
                    Role::Preview => Media::Audio,
                    Role::Peaks | Role::PeaksAt(_) => Media::Peaks,
                    Role::PeaksSmall => Media::PeaksSmall,
                    Role::Poster => Media::Poster,
                };
                let coded = extra.codings.select(headers, &extra.stored.etag);
                Some(coded.map_or_else(|| extra.stored.object(media), |coded| Object::coded(coded, media)))
            }
        }
    }

    fn rung(&self, wanted: &RungName<'_>) -> Option<&OpenRung> {
        self.rungs.iter().find(|rung| rung.family == wanted.family && *rung.name == *wanted.name)
    }
}

impl OpenRung {
    fn new(rung: &Rung, whole: Stored, playlist: Vec<u8>) -> OpenRung {
        let segments = rung.segments.iter().zip(rung.offsets());
        // Cannot overflow: `VersionIndex::decode` added them up.
        let slices = segments.map(|(segment, start)| (start, start + segment.bytes));
        let hashes = std::iter::once(&rung.init.hash).chain(rung.segments.iter().map(|segment| &segment.hash));
        let etags: String = hashes.map(|hash| quoted(&hex::encode(hash))).collect();
        OpenRung {
            family: rung.family,
            name: rung.name.as_str().into(),
            file_name: rung.object.name.as_str().into(),
            whole,
            playlist: Document::new(playlist),
            slices: std::iter::once((0, rung.init.bytes)).chain(slices).collect(),
            etags: etags.into(),
        }
    }

    fn media(&self) -> Media {
        if self.family == Family::Video { Media::Video } else { Media::Audio }
    }

    fn select(&self, part: Part, headers: &HeaderMap) -> Option<Object<'_>> {
        let number = match part {
            Part::Playlist => return Some(self.playlist.object(headers)),
            Part::Init => 0,
            Part::Segment(number) => number + 1,
        };
        let (start, end) = *self.slices.get(number)?;
        let etag = self.etags.slice(number * ETAG_BYTES..(number + 1) * ETAG_BYTES);
        let etag = HeaderValue::from_maybe_shared(etag).expect("hexadecimal is ASCII");
        let content = Content::File(&self.whole.file, start..end);
        Some(Object { content, etag, media: self.media(), coding: None })
    }
}

impl Stored {
    fn object(&self, media: Media) -> Object<'_> {
        let content = Content::File(&self.file, 0..self.file.len());
        Object { content, etag: self.etag.clone(), media, coding: None }
    }
}

impl OpenExtra {
    fn new(role: Role, stored: Stored) -> OpenExtra {
        /// Small JSON only: a larger one is better served from its file.
        const CODED_BYTES_MAX: u64 = 256 << 10;
        let length = stored.file.len();
        let codings = match role {
            // What a bucket still has is not waited for: playback may be what the version is opened for.
            Role::PeaksSmall if length <= CODED_BYTES_MAX && stored.file.present_until(0) >= length => {
                Codings::of(&stored.file.slice(0..length), &stored.etag)
            }
            _ => Codings::default(),
        };
        OpenExtra { role, stored, codings }
    }
}

impl Document {
    fn new(bytes: Vec<u8>) -> Document {
        let etag = etag_of_digest(&hex::encode(&version::digest128(&bytes)));
        let codings = Codings::of(&bytes, &etag);
        Document { bytes: bytes.into(), etag, codings }
    }

    fn object(&self, headers: &HeaderMap) -> Object<'_> {
        if let Some(coded) = self.codings.select(headers, &self.etag) {
            return Object::coded(coded, Media::Playlist);
        }
        let (content, etag) = (Content::Memory(&self.bytes), self.etag.clone());
        Object { content, etag, media: Media::Playlist, coding: None }
    }

    fn memory_bytes(&self) -> usize {
        self.bytes.len() + self.codings.bytes()
    }
}

fn quoted(digest: &str) -> String {
    format!("\"{digest}\"")
}

fn etag_of_digest(digest: &str) -> HeaderValue {
    HeaderValue::from_str(&quoted(digest)).expect("hexadecimal is ASCII")
}

fn modified(file: &File) -> Option<u64> {
    Some(unix_s(file.metadata().ok()?.modified().ok()?))
}

fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
