//! Takes in what people send. In: bytes, in any number of requests. Out: an upload that is looked at and ready, or
//! refused.
//!
//! ```text
//! create ─▶ begin ─▶ take … take ─▶ (any number of times) ─▶ verify: whole ▶ hash ▶ kind ▶ scan ─▶ ready | refused
//!           one writer at a time; each offset is written down after its bytes are durable, never before
//! ```
//! In a bucket an upload is a native one in parts of `PART_BYTES`; what lies behind the last whole part is an object
//! of its own between two requests, so any node can go on. No assembled copy is on any disk. On a local store it is a
//! file. Either way memory is two parts for each body, and bodies are bounded. See docs/decisions/0043.

mod clamd;
mod local;
#[cfg(feature = "s3")]
mod remote;
mod verify;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use metrics::{Counter, counter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tracing::Instrument as _;

pub use clamd::{Address, Clamd};
use local::LocalSink;
#[cfg(feature = "s3")]
use remote::RemoteSink;

use crate::base::clock::Clock;
use crate::base::telemetry;
use crate::base::{Error, Kind, Result};
use crate::db::Db;
use crate::db::uploads::{Begun, Created, Verdict, Written};
#[cfg(feature = "s3")]
use crate::store::s3::{Bucket, UPLOADS};
use crate::store::{Backend, Store};
use crate::uploads::tus::Checksum;
use crate::uploads::{NewUpload, Part, Place, Reason, Rules, State, Upload, UploadId};
#[cfg(feature = "s3")]
use crate::uploads::{part_bytes, parts_of};

/// What may be sent, and how it is treated.
#[derive(Clone, Debug)]
pub struct Options {
    /// What may be sent.
    pub rules: Rules,
    /// Bodies that are taken at once; each has up to two parts in memory. Full is an answer.
    pub bodies_max: usize,
    /// How long a writer, or somebody who verifies, keeps the right without being heard of.
    pub lock: Duration,
    /// How long URLs for parts are valid.
    pub presign: Duration,
    /// How long a URL is valid that a transcode reads from; it is signed again when it is not.
    pub source_valid: Duration,
    /// Who looks for viruses; `None`: nobody.
    pub clamd: Option<Clamd>,
}

/// Everything that takes uploads in. Cheap to share.
#[derive(Debug)]
pub struct Intake {
    /// Where uploads are rows.
    pub db: Db,
    /// What may be sent, and how it is treated.
    pub options: Options,
    /// Directory of uploads to this machine.
    dir: PathBuf,
    /// The bucket, whether or not new uploads go there.
    #[cfg(feature = "s3")]
    bucket: Option<Bucket>,
    /// Where new uploads go.
    place: Place,
    clock: Clock,
    bodies: Arc<Semaphore>,
    received: Counter,
    ended: [(State, Counter); 4],
    refused: [(Reason, Counter); Reason::ALL.len()],
}

/// Bytes as they arrive; an error is the sender's.
pub trait Chunks: Send {
    /// The next bytes, never none of them; `None` at the end.
    fn next(&mut self) -> impl Future<Output = Option<std::result::Result<Bytes, String>>> + Send;
}

/// What came of asking to write.
#[derive(Debug)]
pub enum Begin {
    /// Go on from `Writing::offset`.
    Writing(Box<Writing>),
    /// Somebody else writes to it.
    Taken,
    /// As many bodies as there may be are being taken.
    Busy,
    /// It cannot be written: this is how it stands.
    Not(Box<Upload>),
    /// There is no such upload.
    Unknown,
}

/// How a body ended.
#[derive(Debug)]
pub enum Ended {
    /// All of it is durable.
    Whole,
    /// The sender left or broke off; what came is durable.
    Broken(String),
    /// There was more than the upload may have; what came before is durable.
    TooLarge,
    /// It is not what its checksum says; none of it is kept.
    Mismatch,
    /// Somebody else has the right to write, or the upload has ended; none of it is kept.
    Lost,
    /// There is no room; what was durable before stays.
    Full(Error),
    /// The store or the database does not take it; what was durable before stays.
    Failed(Error),
}

/// The right to add bytes to an upload. Dropping it gives it back.
#[derive(Debug)]
pub struct Writing {
    intake: Arc<Intake>,
    upload: Upload,
    sink: Sink,
    /// What the row says.
    committed: u64,
    state: State,
    lost: Arc<AtomicBool>,
    keeper: JoinHandle<()>,
    /// As the intake's; of a form, which ends sooner.
    rules: Rules,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Sink {
    Local(LocalSink),
    #[cfg(feature = "s3")]
    Remote(RemoteSink),
}

/// How long what a form left holds its room when its process died.
const FORM_LEFT: Duration = Duration::from_secs(300);
/// How much may be durable without being written down.
const COMMIT_BYTES: u64 = 8 << 20;

impl Intake {
    /// Takes uploads in for `store`.
    pub fn new(db: Db, store: &Store, options: Options, clock: Clock) -> Intake {
        let by = |state: State| {
            let counter = counter!(telemetry::UPLOADS, "outcome" => state.as_str());
            counter.increment(0);
            (state, counter)
        };
        let why = |reason: Reason| {
            let counter = counter!(telemetry::UPLOADS_REFUSED, "reason" => reason.as_str());
            counter.increment(0);
            (reason, counter)
        };
        let received = counter!(telemetry::UPLOAD_BYTES);
        received.increment(0);
        Intake {
            dir: store.uploads_dir(),
            #[cfg(feature = "s3")]
            bucket: store.remote().map(|remote| remote.bucket().clone()),
            place: match store.primary() {
                Backend::Local => Place::Local,
                Backend::S3 => Place::S3,
            },
            bodies: Arc::new(Semaphore::new(options.bodies_max)),
            db,
            options,
            clock,
            received,
            ended: [State::Ready, State::Refused, State::Expired, State::Aborted].map(by),
            refused: Reason::ALL.map(why),
        }
    }

    /// Where new uploads lie.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Microseconds since 1970.
    pub fn now_us(&self) -> i64 {
        self.clock.unix_us()
    }

    /// Announces an upload.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn create(&self, new: &NewUpload) -> Result<Created> {
        // Neither its name nor its owner: spans are for people who need to know neither.
        let span = tracing::info_span!("announce_upload", kind = new.kind.as_str(), bytes = new.bytes);
        self.db.create_upload(new, &self.options.rules, self.now_us()).instrument(span).await
    }

    /// Announces what comes in this very request and cannot be gone on with: when the process dies, its room is given
    /// back after `FORM_LEFT`.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn create_form(&self, new: &NewUpload) -> Result<Created> {
        self.db.create_upload(new, &self.form_rules(), self.now_us()).await
    }

    /// Gives up what a form of a process that died has left; false while somebody is at it.
    ///
    /// # Errors
    /// As `begin`.
    pub async fn give_up_form(self: &Arc<Self>, upload: &Upload) -> Result<bool> {
        match self.begin(upload).await? {
            Begin::Writing(writing) => {
                writing.end().await;
                self.remove(&upload.id).await
            }
            Begin::Taken | Begin::Busy | Begin::Not(_) | Begin::Unknown => Ok(false),
        }
    }

    fn form_rules(&self) -> Rules {
        let rules = &self.options.rules;
        Rules { expires: rules.expires.min(FORM_LEFT), ..rules.clone() }
    }

    /// Takes the right to write.
    ///
    /// # Errors
    /// `Unavailable` when the database or the store does not answer; `Internal` when the file cannot be opened.
    pub async fn begin(self: &Arc<Self>, upload: &Upload) -> Result<Begin> {
        let Ok(permit) = Arc::clone(&self.bodies).try_acquire_owned() else { return Ok(Begin::Busy) };
        // On this machine a lock of the file says whether another writer lives: after a crash nobody has to wait.
        let file = match upload.place {
            Place::Local => match LocalSink::open(&self.dir, &upload.id).await? {
                None => return Ok(Begin::Taken),
                Some(file) => Some(file),
            },
            Place::S3 => None,
        };
        let now_us = self.now_us();
        let begun = self.db.begin_write(&upload.id, file.is_some(), now_us, now_us + self.lock_us()).await?;
        let upload = match begun {
            Begun::Writing(upload) => upload,
            Begun::Taken => return Ok(Begin::Taken),
            Begun::Not(upload) => return Ok(Begin::Not(Box::new(upload))),
            Begun::Unknown => return Ok(Begin::Unknown),
        };
        let sink = match file {
            Some(file) => LocalSink::at(file, upload.offset).await.map(Sink::Local),
            #[cfg(feature = "s3")]
            None => RemoteSink::open(self, &upload).await.map(Sink::Remote),
            #[cfg(not(feature = "s3"))]
            None => Err(elsewhere(&upload.id)),
        };
        let sink = match sink {
            Ok(sink) => sink,
            Err(error) => {
                self.db.end_write(&upload.id, upload.writer).await?;
                return Err(error);
            }
        };
        let lost = Arc::new(AtomicBool::new(false));
        let keeper = tokio::spawn(keep(Arc::clone(self), upload.id.clone(), upload.writer, Arc::clone(&lost)));
        let (committed, state) = (upload.offset, upload.state);
        let intake = Arc::clone(self);
        let rules = self.options.rules.clone();
        let writing = Writing { intake, upload, sink, committed, state, lost, keeper, rules, _permit: permit };
        Ok(Begin::Writing(Box::new(writing)))
    }

    /// Looks at an upload all of whose bytes are here. `Err`: it could not be looked at; try later.
    ///
    /// # Errors
    /// When the store or the scanner does not answer.
    pub async fn verify(&self, upload: &Upload) -> Result<Verdict> {
        let span = tracing::info_span!("verify_upload", id = upload.id.as_str(), bytes = upload.bytes);
        verify::verify(self, upload).instrument(span).await
    }

    /// Puts off the next look, and says why to the owner.
    ///
    /// # Errors
    /// When the database refuses; it is looked at again all the same.
    pub async fn put_off(&self, upload: &Upload, why: &Error, at_us: i64) -> Result<()> {
        self.db.verify_later(&upload.id, &verify::later(why), at_us).await
    }

    /// Says what came of looking; false when it had ended meanwhile.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn settle(&self, upload: &Upload, verdict: &Verdict) -> Result<bool> {
        if !self.db.settle_upload(&upload.id, verdict, self.now_us()).await? {
            return Ok(false);
        }
        match verdict {
            Verdict::Ready { .. } => self.count(State::Ready),
            Verdict::Refused(reason, _) => {
                self.count(State::Refused);
                self.refused.iter().filter(|(known, _)| known == reason).for_each(|(_, counter)| counter.increment(1));
                self.clear_or_later(upload).await;
            }
        }
        Ok(true)
    }

    /// What its owner does not want any more; false when there was nothing to remove.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn remove(&self, id: &UploadId) -> Result<bool> {
        let Some(removed) = self.db.remove_upload(id, self.now_us()).await? else { return Ok(false) };
        self.count(removed.state);
        self.clear_or_later(&removed).await;
        Ok(true)
    }

    /// Ends what nobody goes on with, and removes what is left of what ended; says how many ended.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn tidy(&self) -> Result<usize> {
        let expired = self.db.expire_uploads(self.now_us()).await?;
        for upload in &expired {
            self.count(State::Expired);
            self.clear_or_later(upload).await;
        }
        for upload in self.db.unswept_uploads().await? {
            // A request to the bucket that was on its way when the upload ended may still arrive: looked at twice.
            let settled = upload.finished_us.is_some_and(|ended| ended <= self.now_us() - self.settle_us(upload.place));
            if settled && self.clear(&upload).await.is_ok() {
                self.db.swept_upload(&upload.id, self.now_us()).await?;
            }
        }
        Ok(expired.len())
    }

    /// Takes back uploads in parts that no row knows: of processes that were killed between the two. Returns how many.
    ///
    /// # Errors
    /// When the bucket or the database cannot be reached.
    pub async fn sweep_orphans(&self) -> Result<usize> {
        #[cfg(feature = "s3")]
        let mut swept = 0;
        #[cfg(not(feature = "s3"))]
        let swept = 0;
        #[cfg(feature = "s3")]
        if let Some(bucket) = &self.bucket {
            let age = bucket.abandoned(); // a row may be a moment behind its bucket
            let begun = move |bucket: Bucket| async move { bucket.unfinished_below(UPLOADS, age).await };
            let unfinished = bucket.ask(begun).await?;
            for (key, store_upload) in unfinished {
                let Some(id) = key.strip_prefix(UPLOADS).and_then(|rest| rest.split('/').next()) else { continue };
                let Some(id) = UploadId::decode(id) else { continue };
                let known = self.db.upload(&id).await?.is_some_and(|upload| {
                    upload.state.is_in_flight() && upload.store_upload.as_deref() == Some(&store_upload)
                });
                if !known {
                    let took = bucket.ask(move |bucket| async move { bucket.abort_parts(&key, &store_upload).await });
                    swept += usize::from(took.await.is_ok());
                }
            }
        }
        Ok(swept)
    }

    /// URLs for these parts of an upload to the bucket, with the length of each.
    ///
    /// # Errors
    /// `Usage` for a part that there is not, or an upload that is not to a bucket; else as `begin`.
    #[cfg(feature = "s3")]
    pub async fn presign(&self, upload: &Upload, numbers: &[u32]) -> Result<Vec<(u32, u64, String)>> {
        let store_upload = remote::store_upload(self, upload).await?;
        let key = remote::key(&upload.id);
        let mut signed = Vec::new();
        for number in numbers {
            let bytes = part_bytes(upload.bytes, u64::from(*number)).ok_or_else(|| {
                Error::usage(format!("there is no part {number}; there are 1 to {}", parts_of(upload.bytes)))
            })?;
            let (key, store_upload) = (key.clone(), store_upload.clone());
            let (number, valid) = (*number, self.options.presign);
            let sign = move |bucket: Bucket| async move {
                bucket.presign_part_of(&key, &store_upload, (number as i32, bytes), valid).await
            };
            signed.push((number, bytes, self.bucket_of(upload)?.ask(sign).await?));
        }
        Ok(signed)
    }

    /// The parts of an upload that the bucket has.
    ///
    /// # Errors
    /// As `presign`.
    #[cfg(feature = "s3")]
    pub async fn parts(&self, upload: &Upload) -> Result<Vec<Part>> {
        let Some(store_upload) = upload.store_upload.clone() else { return Ok(vec![]) };
        let key = remote::key(&upload.id);
        let list = move |bucket: Bucket| async move { bucket.list_parts(&key, &store_upload).await };
        let listed = self.bucket_of(upload)?.ask(list).await?;
        Ok(listed.into_iter().map(|(number, bytes, etag)| Part { number, bytes, etag }).collect())
    }

    /// Ends an upload whose parts were sent straight to the bucket, if the bucket has exactly those parts.
    ///
    /// # Errors
    /// `Usage` saying which part is not as it was said; else as `begin`.
    #[cfg(feature = "s3")]
    pub async fn finish_parts(&self, upload: &Upload, said: &[(u32, String)]) -> Result<Begun> {
        let have = self.parts(upload).await?;
        let wanted = parts_of(upload.bytes);
        for number in 1..=wanted {
            let bytes = part_bytes(upload.bytes, number).expect("it is one of them");
            let part = have.iter().find(|part| part.number as u64 == number);
            let part =
                part.ok_or_else(|| Error::usage(format!("part {number} of {wanted} is not in the bucket; send it")))?;
            if part.bytes != bytes {
                let found = part.bytes;
                return Err(Error::usage(format!("part {number} has {found} bytes and not {bytes}; send it again")));
            }
            let tag = said.iter().find(|(said, _)| u64::from(*said) == number).map(|(_, tag)| tag.trim_matches('"'));
            match tag {
                Some(tag) if tag == part.etag.trim_matches('"') => {}
                Some(_) => {
                    return Err(Error::usage(format!(
                        "the ETag of part {number} is not what the bucket has; send it again"
                    )));
                }
                None => {
                    return Err(Error::usage(format!("part {number} of {wanted} is not in the list; name every part")));
                }
            }
        }
        if have.len() as u64 != wanted || said.len() as u64 != wanted {
            return Err(Error::usage(format!(
                "there are {} parts in the bucket and {} in the list, not {wanted}",
                have.len(),
                said.len()
            )));
        }
        self.db.finish_parts(&upload.id, &have, self.now_us()).await
    }

    /// A file of this machine, or a URL that the bucket signs, to read a ready upload from.
    ///
    /// # Errors
    /// `NotFound` when it is not ready, or lies in another store than this process has.
    pub fn ready_source(self: &Arc<Self>, upload: &Upload) -> Result<Source> {
        if upload.state != State::Ready {
            return Err(Error::not_found(format!("upload {} is {}, not ready", upload.id, upload.state.as_str())));
        }
        match upload.place {
            Place::Local => Ok(Source::File(self.dir.join(upload.id.as_str()))),
            #[cfg(feature = "s3")]
            Place::S3 => {
                let bucket = self.bucket_of(upload)?.clone();
                let (key, valid) = (remote::key(&upload.id), self.options.source_valid);
                Ok(Source::Url(Arc::new(move || {
                    let key = key.clone();
                    bucket.wait(move |bucket: Bucket| async move { bucket.presign_inside(&key, valid).await })
                })))
            }
            #[cfg(not(feature = "s3"))]
            Place::S3 => Err(elsewhere(&upload.id)),
        }
    }

    /// The bytes of a ready upload, to be read a piece at a time; `None` when it is not ready, or they are gone.
    ///
    /// # Errors
    /// When the store does not answer, or the upload lies in another store than this process has.
    pub async fn pieces(&self, upload: &Upload) -> Result<Option<Pieces>> {
        match upload.state {
            State::Ready => Ok(verify::Stored::open(self, upload).await?.map(Pieces)),
            _ => Ok(None),
        }
    }

    /// Removes every byte of an upload now, and the wish for it. What a bucket still gets of it by a late request is
    /// looked for once more, as always.
    ///
    /// # Errors
    /// When the database or the store refuses.
    pub async fn erase(&self, id: &UploadId) -> Result<()> {
        if let Some(removed) = self.db.remove_upload(id, self.now_us()).await? {
            self.count(removed.state);
        }
        match self.db.upload(id).await? {
            Some(upload) => self.clear(&upload).await,
            None => Ok(()),
        }
    }

    #[cfg(feature = "s3")]
    fn bucket_of(&self, upload: &Upload) -> Result<&Bucket> {
        match upload.place {
            Place::S3 => self.bucket.as_ref().ok_or_else(|| elsewhere(&upload.id)),
            Place::Local => {
                Err(Error::usage(format!("upload {} does not go to a bucket; send it by tus or as a form", upload.id)))
            }
        }
    }

    async fn clear_or_later(&self, upload: &Upload) {
        if let Err(error) = self.clear(upload).await {
            tracing::warn!(upload = upload.id.as_str(), error = error.chain(), "its bytes are removed later");
        }
    }

    /// Removes all bytes of an upload that ended. May be done again.
    async fn clear(&self, upload: &Upload) -> Result<()> {
        match upload.place {
            Place::Local => local::remove(&self.dir, &upload.id).await,
            #[cfg(feature = "s3")]
            Place::S3 => remote::remove(self, upload).await,
            #[cfg(not(feature = "s3"))]
            Place::S3 => Err(elsewhere(&upload.id)),
        }
    }

    fn count(&self, state: State) {
        self.ended.iter().filter(|(known, _)| *known == state).for_each(|(_, counter)| counter.increment(1));
    }

    /// After this long nothing of an upload that ended is on its way any more.
    fn settle_us(&self, place: Place) -> i64 {
        let late = match place {
            Place::Local => Duration::ZERO,
            #[cfg(feature = "s3")]
            Place::S3 => self.bucket.as_ref().map(Bucket::patience).unwrap_or_default(),
            #[cfg(not(feature = "s3"))]
            Place::S3 => Duration::ZERO,
        };
        (late + self.options.lock).as_micros() as i64
    }

    fn lock_us(&self) -> i64 {
        self.options.lock.as_micros() as i64
    }
}

/// The bytes of a ready upload.
pub struct Pieces(verify::Stored);

impl Pieces {
    /// How many there are.
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Up to `most` of them from `at`; fewer at the end only.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn at(&mut self, at: u64, most: u64) -> Result<Bytes> {
        self.0.at(at, most).await
    }
}

/// Signs a URL; blocks.
pub type Sign = Arc<dyn Fn() -> Result<String> + Send + Sync>;

/// Where a ready upload is read from.
pub enum Source {
    /// A file of this machine.
    File(PathBuf),
    /// A URL, made anew by each call.
    Url(Sign),
}

fn elsewhere(id: &UploadId) -> Error {
    Error::not_found(format!("upload {id} lies in a bucket, and this process has none; set store.kind to s3"))
}

/// Keeps the right to write until it is told to stop.
async fn keep(intake: Arc<Intake>, id: UploadId, writer: i64, lost: Arc<AtomicBool>) {
    loop {
        tokio::time::sleep(intake.options.lock / 3).await;
        match intake.db.renew_write(&id, writer, intake.now_us() + intake.lock_us()).await {
            Ok(true) => {}
            Ok(false) => return lost.store(true, Ordering::Relaxed),
            Err(error) => tracing::warn!(upload = id.as_str(), error = error.chain(), "cannot keep the right to write"),
        }
    }
}

impl Writing {
    /// The upload as it stood when the right was given.
    pub fn upload(&self) -> &Upload {
        &self.upload
    }

    /// Bytes that are durable.
    pub fn offset(&self) -> u64 {
        self.committed
    }

    /// How it stands now.
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes a body to its end, or as far as it goes, and says how it ended. With a checksum all of it counts or
    /// nothing does. With `most` its end is the end of the upload: less than was announced.
    pub async fn take(&mut self, chunks: &mut impl Chunks, mut checksum: Option<Checksum>, most: Option<u64>) -> Ended {
        let mut ended = Ended::Whole;
        if most.is_some() {
            self.rules = self.intake.form_rules();
        }
        loop {
            let chunk = match chunks.next().await {
                None => break,
                Some(Ok(chunk)) => chunk,
                Some(Err(why)) => {
                    ended = Ended::Broken(why);
                    break;
                }
            };
            if self.lost.load(Ordering::Relaxed) {
                return Ended::Lost;
            }
            if self.sink.at() + chunk.len() as u64 > most.unwrap_or(self.upload.bytes) {
                ended = Ended::TooLarge;
                break;
            }
            if let Some(checksum) = &mut checksum {
                checksum.update(&chunk);
            }
            self.intake.received.increment(chunk.len() as u64);
            if let Err(error) = self.sink.push(chunk).await {
                return self.stopped(error, checksum.is_some()).await;
            }
            if checksum.is_none() && self.sink.durable_when_synced().saturating_sub(self.committed) >= COMMIT_BYTES {
                match self.commit(false, false).await {
                    Ok(true) => {}
                    Ok(false) => return Ended::Lost,
                    Err(error) => return failed(error),
                }
            }
        }
        let whole = matches!(ended, Ended::Whole);
        let good = checksum.is_none_or(|checksum| whole && checksum.matches());
        if !good {
            self.sink.discard(self.committed).await;
            return if whole { Ended::Mismatch } else { ended };
        }
        match self.commit(true, most.is_some() && whole).await {
            Ok(true) => ended,
            Ok(false) => Ended::Lost,
            Err(error) => failed(error),
        }
    }

    /// The store did not take a chunk: what it took before may still count.
    async fn stopped(&mut self, error: Error, all_or_nothing: bool) -> Ended {
        if all_or_nothing {
            self.sink.discard(self.committed).await;
        } else if let Err(error) = self.commit(false, false).await {
            tracing::warn!(upload = self.upload.id.as_str(), error = error.chain(), "cannot keep what came before");
        }
        failed(error)
    }

    /// Makes what came durable and writes it down; false when the right was lost. `all`: also what is behind the
    /// last whole part. `ends`: this is the end, whatever length was announced.
    async fn commit(&mut self, all: bool, ends: bool) -> Result<bool> {
        let length = if ends { Some(self.sink.at()) } else { None };
        let end = length.unwrap_or(self.upload.bytes);
        let made = self.sink.sync(&self.intake, &self.upload, all, end).await?;
        let Made { to, new_parts, tail } = made;
        let new = to > self.committed || length.is_some() || (to == end && self.state.is_open());
        if !new {
            return Ok(true);
        }
        let written = Written { from: self.committed, to, parts: new_parts, tail, length };
        let (db, rules) = (&self.intake.db, &self.rules);
        let now_us = self.intake.now_us();
        match db.commit_write(&self.upload.id, self.upload.writer, &written, rules, now_us).await? {
            None => {
                self.sink.forget(&self.upload).await;
                Ok(false)
            }
            Some(state) => {
                (self.committed, self.state) = (to, state);
                self.sink.written(&self.upload).await;
                Ok(true)
            }
        }
    }

    /// Gives the right back.
    pub async fn end(self) {
        self.keeper.abort();
        if self.state.is_open()
            && let Err(error) = self.intake.db.end_write(&self.upload.id, self.upload.writer).await
        {
            tracing::warn!(upload = self.upload.id.as_str(), error = error.chain(), "its lock ends by itself");
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.keeper.abort(); // then the right ends by itself
    }
}

/// What a sink made durable.
#[derive(Debug, Default)]
struct Made {
    to: u64,
    new_parts: Vec<Part>,
    tail: Option<i64>,
}

macro_rules! on {
    ($sink:expr, $inner:ident => $answer:expr) => {
        match $sink {
            Sink::Local($inner) => $answer,
            #[cfg(feature = "s3")]
            Sink::Remote($inner) => $answer,
        }
    };
}

impl Sink {
    /// Where the next byte goes.
    fn at(&self) -> u64 {
        on!(self, sink => sink.at_end())
    }

    /// How far a `sync` without `all` would come.
    fn durable_when_synced(&self) -> u64 {
        on!(self, sink => sink.durable_when_synced())
    }

    async fn push(&mut self, chunk: Bytes) -> Result<()> {
        on!(self, sink => sink.push(chunk).await)
    }

    async fn sync(&mut self, intake: &Intake, upload: &Upload, all: bool, end: u64) -> Result<Made> {
        match self {
            Sink::Local(sink) => {
                let _ = (intake, upload, end);
                sink.sync(all).await
            }
            #[cfg(feature = "s3")]
            Sink::Remote(sink) => sink.sync(intake, upload, all, end).await,
        }
    }

    /// What came after `committed` never was.
    async fn discard(&mut self, committed: u64) {
        match self {
            Sink::Local(sink) => sink.discard(committed).await,
            #[cfg(feature = "s3")]
            Sink::Remote(_) => {} // no row names its parts: they are sent again
        }
    }

    /// The row names what was made durable.
    async fn written(&mut self, upload: &Upload) {
        match self {
            Sink::Local(_) => _ = upload,
            #[cfg(feature = "s3")]
            Sink::Remote(sink) => sink.written(upload).await,
        }
    }

    /// The row will never name it.
    async fn forget(&mut self, upload: &Upload) {
        match self {
            Sink::Local(_) => _ = upload,
            #[cfg(feature = "s3")]
            Sink::Remote(sink) => sink.forget(upload).await,
        }
    }
}

/// No room, or something else.
fn failed(error: Error) -> Ended {
    let mut next = std::error::Error::source(&error);
    while let Some(cause) = next {
        let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(kind, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)) {
            return Ended::Full(error);
        }
        next = cause.source();
    }
    match error.kind() {
        Kind::NotFound => Ended::Lost, // the upload in parts has ended
        _ => Ended::Failed(error),
    }
}
