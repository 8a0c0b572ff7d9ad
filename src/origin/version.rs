//! A published version, opened. In: `version.json` and the files it names. Out: `Object`s ready to send.
//!
//! Everything that can be computed once is: playlists are rendered, entity tags are text, offsets are
//! added up, files are mapped and their lengths checked. Selecting an object then copies nothing.

use std::fs::File;
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::header::HeaderValue;

use super::target::{ObjectName, Part, RungName};
use crate::base::error::Context as _;
use crate::base::id::{TrackId, VersionId};
use crate::base::{Result, hex};
use crate::hls::playlist::{self, HandedOn, Scope};
use crate::hls::version::{self, Extra, Family, Role, Rung, VersionIndex};
use crate::store::local::LocalStore;
use crate::store::mapped::Mapped;

/// An open version: one descriptor and one mapping for each file.
#[derive(Debug)]
pub(super) struct Version {
    rungs: Vec<OpenRung>,
    extras: Vec<(Role, Stored)>,
    /// By `Scope`: `All`, `Aac`, `Flac`.
    multivariants: [Option<Document>; 3],
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
struct Stored {
    file: Mapped,
    etag: HeaderValue,
}

#[derive(Debug)]
struct Document {
    bytes: Bytes,
    etag: HeaderValue,
}

/// A quoted 128-bit hash in hexadecimal.
const ETAG_BYTES: usize = 34;

/// One representation, ready to send.
#[derive(Debug)]
pub(super) struct Object<'v> {
    pub(super) content: Content<'v>,
    pub(super) etag: HeaderValue,
    pub(super) media: Media,
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
    Peaks,
    PeaksSmall,
}

impl Media {
    pub(super) const ALL: [Media; 4] = [Media::Playlist, Media::Audio, Media::Peaks, Media::PeaksSmall];

    /// `Content-Type`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Media::Playlist => "application/vnd.apple.mpegurl", // RFC 8216 §4
            Media::Audio => "audio/mp4",
            Media::Peaks => "application/octet-stream",
            Media::PeaksSmall => "application/json",
        }
    }
}

impl Object<'_> {
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
    pub(super) fn open(store: &LocalStore, track: TrackId, id: VersionId, handed_on: HandedOn) -> Result<Version> {
        let index = VersionIndex::decode_as(id, &store.read_version(track, id)?)?;
        let open = |object: &version::Object| {
            let what = || format!("cannot serve {} of {track} {id}", object.name);
            let file = store.open_object(track, id, &object.name).context(what)?;
            let etag = etag_of_digest(&object.sha256[..32]);
            Ok(Stored { file: Mapped::open(file, object.bytes).context(what)?, etag })
        };
        let rung = |rung: &Rung| Ok(OpenRung::new(rung, open(&rung.object)?, handed_on));
        let rungs: Vec<OpenRung> = index.rungs.iter().map(rung).collect::<Result<_>>()?;
        let extras = index.extras.iter().map(|Extra { role, object }| Ok((*role, open(object)?)));
        let extras = extras.collect::<Result<_>>()?;
        let modified = published(store, track, id).or_else(|| modified(rungs.first()?.whole.file.file()));
        let modified_s = modified.unwrap_or(0).min(unix_s(SystemTime::now()));
        let date = httpdate::fmt_http_date(UNIX_EPOCH + std::time::Duration::from_secs(modified_s));
        let scopes = [Scope::All, Scope::Aac, Scope::Flac];
        Ok(Version {
            rungs,
            extras,
            multivariants: scopes.map(|scope| playlist::multivariant(&index, scope, handed_on).map(Document::new)),
            modified_s,
            modified: HeaderValue::from_str(&date).expect("a date is ASCII"),
            tag: HeaderValue::from_str(track.as_str()).expect("a track id is ASCII"),
        })
    }

    /// How many files are open for it: its weight in the cache.
    pub(super) fn files(&self) -> u64 {
        (self.rungs.len() + self.extras.len()) as u64
    }

    /// The object of that name; `None` when this version has none.
    pub(super) fn select(&self, name: &ObjectName<'_>) -> Option<Object<'_>> {
        match name {
            ObjectName::OfRung(rung, part) => self.rung(rung)?.select(*part),
            ObjectName::Multivariant(scope) => {
                let at = match scope {
                    Scope::All => 0,
                    Scope::Aac => 1,
                    Scope::Flac => 2,
                };
                Some(self.multivariants[at].as_ref()?.object())
            }
            ObjectName::File(name) => {
                let rung = self.rungs.iter().find(|rung| *rung.file_name == **name)?;
                Some(rung.whole.object(Media::Audio))
            }
            ObjectName::Extra(role) => {
                let (_, stored) = self.extras.iter().find(|(known, _)| known == role)?;
                Some(stored.object(match role {
                    Role::Preview => Media::Audio,
                    Role::Peaks => Media::Peaks,
                    Role::PeaksSmall => Media::PeaksSmall,
                }))
            }
        }
    }

    fn rung(&self, wanted: &RungName<'_>) -> Option<&OpenRung> {
        self.rungs.iter().find(|rung| rung.family == wanted.family && *rung.name == *wanted.name)
    }
}

impl OpenRung {
    fn new(rung: &Rung, whole: Stored, handed_on: HandedOn) -> OpenRung {
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
            playlist: Document::new(playlist::media(rung, handed_on)),
            slices: std::iter::once((0, rung.init.bytes)).chain(slices).collect(),
            etags: etags.into(),
        }
    }

    fn select(&self, part: Part) -> Option<Object<'_>> {
        let number = match part {
            Part::Playlist => return Some(self.playlist.object()),
            Part::Init => 0,
            Part::Segment(number) => number + 1,
        };
        let (start, end) = *self.slices.get(number)?;
        let etag = self.etags.slice(number * ETAG_BYTES..(number + 1) * ETAG_BYTES);
        let etag = HeaderValue::from_maybe_shared(etag).expect("hexadecimal is ASCII");
        Some(Object { content: Content::File(&self.whole.file, start..end), etag, media: Media::Audio })
    }
}

impl Stored {
    fn object(&self, media: Media) -> Object<'_> {
        let content = Content::File(&self.file, 0..self.file.len());
        Object { content, etag: self.etag.clone(), media }
    }
}

impl Document {
    fn new(bytes: Vec<u8>) -> Document {
        let etag = etag_of_digest(&hex::encode(&version::digest128(&bytes)));
        Document { bytes: bytes.into(), etag }
    }

    fn object(&self) -> Object<'_> {
        Object { content: Content::Memory(&self.bytes), etag: self.etag.clone(), media: Media::Playlist }
    }
}

fn quoted(digest: &str) -> String {
    format!("\"{digest}\"")
}

fn etag_of_digest(digest: &str) -> HeaderValue {
    HeaderValue::from_str(&quoted(digest)).expect("hexadecimal is ASCII")
}

/// When `version.json` was put in place.
fn published(store: &LocalStore, track: TrackId, id: VersionId) -> Option<u64> {
    modified(&store.open_object(track, id, "version.json").ok()?)
}

fn modified(file: &File) -> Option<u64> {
    Some(unix_s(file.metadata().ok()?.modified().ok()?))
}

fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
