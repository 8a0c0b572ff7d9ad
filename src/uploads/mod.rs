//! Files that people send, as values: what an upload is, how it may move, what it may be. Pure; `db/uploads.rs`
//! keeps it, `intake/` takes the bytes, `api/uploads.rs` and `api/tus.rs` speak to the sender.
//!
//! ```text
//! created ─ first bytes ▶ uploading ─ last byte ▶ verifying ─▶ ready ─ by its owner ▶ deleted
//!    │                        │                       ├──────▶ refused   wrong content, or a virus
//!    ├────────────────────────┼──────────────────────▶┴──────▶ aborted   by its owner
//!    └────────────────────────┴──────────────────────────────▶ expired   nobody went on
//! ```
//! Only what is ready is seen by anything else. What ends gives back its quota in the same transaction, and its
//! bytes are removed afterwards, as often as that takes.

pub mod magic;
pub mod tus;
pub mod view;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::id::{TrackId, sortable_id};

/// Bytes of a part of an upload to a bucket; the last part is shorter. S3 wants 5 MiB at least and 10,000 parts at
/// most, so an object has at most 78 GiB.
pub const PART_BYTES: u64 = 8 << 20;
/// The largest limit that can be set: what 10,000 parts hold.
pub const BYTES_MAX: u64 = 10_000 * PART_BYTES;
/// The longest name of a file, in characters.
pub const NAME_CHARS_MAX: usize = 255;

sortable_id!(
    /// The id of an upload: `upl_` and 26 characters that sort by time, of which 16 are random.
    UploadId, "upl_", "upload id", ""
);

/// What somebody says that a file is; its bytes have to agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Sound.
    Audio,
    /// A picture.
    Image,
    /// Moving pictures.
    Video,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Audio, Kind::Image, Kind::Video];

    /// Its name in the database and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Audio => "audio",
            Kind::Image => "image",
            Kind::Video => "video",
        }
    }

    /// The kind of this name.
    pub fn decode(text: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// How an upload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Announced; no byte is here.
    Created,
    /// Some bytes are here.
    Uploading,
    /// All bytes are here; nobody has looked at them yet.
    Verifying,
    /// Looked at and found good.
    Ready,
    /// Looked at and found to be something else than was said, or harmful.
    Refused,
    /// Nobody went on with it in time.
    Expired,
    /// Its owner did not want it any more.
    Aborted,
    /// It was ready, and its owner removed it.
    Deleted,
}

impl State {
    /// All of them.
    pub const ALL: [State; 8] = [
        State::Created,
        State::Uploading,
        State::Verifying,
        State::Ready,
        State::Refused,
        State::Expired,
        State::Aborted,
        State::Deleted,
    ];

    /// Its name in the database and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Created => "created",
            State::Uploading => "uploading",
            State::Verifying => "verifying",
            State::Ready => "ready",
            State::Refused => "refused",
            State::Expired => "expired",
            State::Aborted => "aborted",
            State::Deleted => "deleted",
        }
    }

    /// The state of this name.
    pub fn decode(text: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// The legal moves: forward only.
    pub fn may_become(self, next: State) -> bool {
        use State::{Aborted, Created, Deleted, Expired, Ready, Refused, Uploading, Verifying};
        match self {
            Created => matches!(next, Uploading | Verifying | Expired | Aborted),
            Uploading => matches!(next, Verifying | Expired | Aborted),
            Verifying => matches!(next, Ready | Refused | Aborted),
            Ready => next == Deleted,
            Refused | Expired | Aborted | Deleted => false,
        }
    }

    /// Whether bytes may still be added.
    pub fn is_open(self) -> bool {
        matches!(self, State::Created | State::Uploading)
    }

    /// Whether it counts as on its way: the quota of uploads at once.
    pub fn is_in_flight(self) -> bool {
        matches!(self, State::Created | State::Uploading | State::Verifying)
    }

    /// Whether nothing is kept of it but the row.
    pub fn is_gone(self) -> bool {
        matches!(self, State::Refused | State::Expired | State::Aborted | State::Deleted)
    }
}

/// Why an upload was refused: a label of a metric, so the list is fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Another length than was said.
    Size,
    /// Another SHA-256 than was said.
    Sha256,
    /// Its bytes are of another kind than was said.
    Kind,
    /// The scanner knows it.
    Virus,
    /// Its parts are not those that were said.
    Parts,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 5] = [Reason::Size, Reason::Sha256, Reason::Kind, Reason::Virus, Reason::Parts];

    /// Its name in the database and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Size => "size",
            Reason::Sha256 => "sha256",
            Reason::Kind => "kind",
            Reason::Virus => "virus",
            Reason::Parts => "parts",
        }
    }
}

/// Where the bytes of an upload lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file below the store's directory.
    Local,
    /// In the bucket.
    S3,
}

impl Place {
    /// Its name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Place::Local => "local",
            Place::S3 => "s3",
        }
    }
}

/// What somebody announces.
#[derive(Clone, Debug)]
pub struct NewUpload {
    /// Who sends.
    pub owner: String,
    /// What it is said to be.
    pub kind: Kind,
    /// Its length in bytes; of a form the most that it can be, until its end is seen.
    pub bytes: u64,
    /// The SHA-256 it must have, hexadecimal.
    pub sha256: Option<String>,
    /// What its sender calls it; never used as a path.
    pub name: Option<String>,
    /// The track it is for.
    pub track: Option<TrackId>,
    /// `Upload-Metadata` as it was sent, for HEAD.
    pub metadata: Option<String>,
    /// The same key of the same owner is the same upload.
    pub idempotency_key: Option<String>,
    /// Where it will lie.
    pub place: Place,
}

/// An upload as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Upload {
    /// Its id.
    pub id: UploadId,
    /// Who sends: nobody else sees it.
    pub owner: String,
    /// What it is said to be.
    pub kind: Kind,
    /// How it stands.
    pub state: State,
    /// Its length in bytes.
    pub bytes: u64,
    /// Bytes from its beginning that are durable.
    pub offset: u64,
    /// The SHA-256 it must have, and once it is ready the one it has, hexadecimal.
    pub sha256: Option<String>,
    /// What its sender calls it.
    pub name: Option<String>,
    /// The track it is for.
    pub track: Option<TrackId>,
    /// `Upload-Metadata` as it was sent.
    pub metadata: Option<String>,
    /// Where it lies.
    pub place: Place,
    /// S3's id of the upload in parts, once there is one.
    pub store_upload: Option<String>,
    /// The writer whose object holds what lies behind the last whole part; `None`: nothing does.
    pub tail: Option<i64>,
    /// The number of its latest writer: whoever has a lower one has lost the right.
    pub writer: i64,
    /// What it turned out to be.
    pub mime: Option<String>,
    /// Of a refusal.
    pub reason: Option<String>,
    /// The same for people; while it is verified: why not yet.
    pub error: Option<String>,
    /// When nobody may go on any more, in microseconds since 1970; `None` when that cannot happen.
    pub expires_us: Option<i64>,
    /// When it was announced, in microseconds since 1970.
    pub created_us: i64,
    /// When it reached `ready` or its end, in microseconds since 1970.
    pub finished_us: Option<i64>,
}

/// One part of an upload to a bucket, as the bucket knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// 1, 2, …
    pub number: i32,
    /// Its length.
    pub bytes: u64,
    /// Its entity tag, quotes and all.
    pub etag: String,
}

/// Parts of a file of so many bytes.
pub fn parts_of(bytes: u64) -> u64 {
    bytes.div_ceil(PART_BYTES).max(1)
}

/// Length of part `number` of a file of so many bytes; `None` when it has no such part.
pub fn part_bytes(bytes: u64, number: u64) -> Option<u64> {
    let begins = number.checked_sub(1)?.checked_mul(PART_BYTES)?;
    (number <= parts_of(bytes)).then(|| PART_BYTES.min(bytes - begins))
}

/// What may be sent, and how much of it: the one source of every limit.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Bytes of one file by kind.
    pub audio_bytes_max: u64,
    /// …
    pub image_bytes_max: u64,
    /// …
    pub video_bytes_max: u64,
    /// How long an upload waits for its next byte.
    pub expires: Duration,
    /// Uploads of one owner that are on their way at once.
    pub owner_uploads_max: u64,
    /// Bytes of one owner that are on their way, counted when they are announced.
    pub owner_in_flight_bytes_max: u64,
    /// Bytes of one owner that are stored or on their way.
    pub owner_stored_bytes_max: u64,
}

impl Rules {
    /// Bytes that a file of this kind may have.
    pub fn bytes_max(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Audio => self.audio_bytes_max,
            Kind::Image => self.image_bytes_max,
            Kind::Video => self.video_bytes_max,
        }
    }

    /// Bytes that any file may have.
    pub fn any_bytes_max(&self) -> u64 {
        Kind::ALL.into_iter().map(|kind| self.bytes_max(kind)).max().unwrap_or(0)
    }
}

/// A name that somebody else gave a file: no path, no control characters, not too long; `None` when nothing is left.
pub fn clean_name(name: &str) -> Option<String> {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let plain: String = last.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
    let plain = plain.trim().to_owned();
    (!plain.is_empty()).then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_legal_moves_are_these_and_no_others() {
        let legal: Vec<_> = State::ALL
            .into_iter()
            .flat_map(|from| State::ALL.into_iter().filter(move |to| from.may_become(*to)).map(move |to| (from, to)))
            .map(|(from, to)| format!("{}>{}", from.as_str(), to.as_str()))
            .collect();
        assert_eq!(
            legal,
            [
                "created>uploading",
                "created>verifying",
                "created>expired",
                "created>aborted",
                "uploading>verifying",
                "uploading>expired",
                "uploading>aborted",
                "verifying>ready",
                "verifying>refused",
                "verifying>aborted",
                "ready>deleted",
            ]
        );
        for state in State::ALL {
            assert_eq!(State::decode(state.as_str()), Some(state));
        }
    }

    #[test]
    fn ids_come_back_and_lead_nowhere() {
        let id = UploadId::new(1_700_000_000_000_000);
        assert_eq!(UploadId::decode(id.as_str()), Some(id));
        for bad in ["", "upl_", "upl_../../../../etc/passwd....", "upl_01HQ0000000000000000000000", "job_0123"] {
            assert_eq!(UploadId::decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn parts_cover_a_file_exactly() {
        for bytes in [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES, 500 << 20] {
            let lengths: Vec<_> = (1..=parts_of(bytes)).map(|number| part_bytes(bytes, number).unwrap()).collect();
            assert_eq!(lengths.iter().sum::<u64>(), bytes);
            assert!(lengths[..lengths.len() - 1].iter().all(|length| *length == PART_BYTES));
            assert_eq!(part_bytes(bytes, parts_of(bytes) + 1), None);
            assert_eq!(part_bytes(bytes, 0), None);
        }
        assert_eq!(part_bytes(1, u64::MAX), None);
    }

    #[test]
    fn names_are_names_and_no_paths() {
        let check = |given: &str, kept: Option<&str>| assert_eq!(clean_name(given).as_deref(), kept, "{given:?}");
        check("song.flac", Some("song.flac"));
        check("../../etc/passwd", Some("passwd"));
        check("C:\\music\\lied.wav", Some("lied.wav"));
        check("a\r\nX-Evil: 1", Some("aX-Evil: 1"));
        check("/", None);
        assert_eq!(clean_name(&"x".repeat(300)).unwrap().len(), NAME_CHARS_MAX);
    }
}
