//! An upload to a bucket: S3's own in parts. A part that is full is sent while the next one fills; what is left when
//! a body ends is an object of its own (`tail-{writer}`), which the next body begins with.
//!
//! Parts and tails that no row names do not count: the same number is sent again, or the upload ends and all go.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::task::JoinHandle;

use super::{Intake, Made};
use crate::base::{Error, Kind, Result};
use crate::store::objects::Meta;
use crate::store::s3::{Bucket, UPLOADS};
use crate::uploads::{PART_BYTES, Part, Upload, UploadId};

/// Writes to the parts of an upload.
#[derive(Debug)]
pub(super) struct RemoteSink {
    bucket: Bucket,
    key: String,
    intake: Begins,
    store_upload: Option<String>,
    /// Behind the last part that was handed over.
    buffer: BytesMut,
    /// Parts that were handed over, ever.
    handed: u64,
    /// The part that is on its way.
    sending: Option<JoinHandle<Result<Part>>>,
    /// Sent, and not yet named by the row.
    sent: Vec<Part>,
    /// Whose tail the row names.
    tail: Option<i64>,
    /// A tail that the row does not name yet.
    new_tail: Option<i64>,
}

/// What is needed to begin the upload in parts when the first part is full.
#[derive(Clone, Debug)]
struct Begins {
    db: crate::db::Db,
    upload: UploadId,
}

/// The object that an upload becomes.
pub(super) fn key(id: &UploadId) -> String {
    format!("{UPLOADS}{id}/source")
}

fn tail_key(id: &UploadId, writer: i64) -> String {
    format!("{UPLOADS}{id}/tail-{writer}")
}

const META: Meta = Meta { content_type: "application/octet-stream", cache_control: "private, no-store" };

/// S3's id of the upload in parts, which is begun if there is none.
pub(super) async fn store_upload(intake: &Intake, upload: &Upload) -> Result<String> {
    let begins = Begins { db: intake.db.clone(), upload: upload.id.clone() };
    match &upload.store_upload {
        Some(known) => Ok(known.clone()),
        None => begins.begin(intake.bucket_of(upload)?).await,
    }
}

impl Begins {
    async fn begin(&self, bucket: &Bucket) -> Result<String> {
        let key = key(&self.upload);
        let begun_key = key.clone();
        let begun = bucket.ask(move |bucket| async move { bucket.begin_parts(&begun_key, &META).await }).await?;
        let kept = self.db.keep_store_upload(&self.upload, &begun).await?;
        if kept.as_ref() != Some(&begun) {
            // Somebody was faster, or the upload has ended: ours is one too many.
            let _ = bucket.ask(move |bucket| async move { bucket.abort_parts(&key, &begun).await }).await;
        }
        kept.ok_or_else(|| Error::not_found(format!("upload {} has ended", self.upload)))
    }
}

impl RemoteSink {
    /// To go on at the upload's offset, with what is behind its last whole part.
    pub(super) async fn open(intake: &Intake, upload: &Upload) -> Result<RemoteSink> {
        let bucket = intake.bucket_of(upload)?.clone();
        let behind = upload.offset % PART_BYTES;
        let mut buffer = BytesMut::new();
        if behind > 0 {
            let writer = upload.tail.ok_or_else(|| Error::internal(format!("upload {} has no tail", upload.id)))?;
            let key = tail_key(&upload.id, writer);
            buffer
                .extend_from_slice(&bucket.ask(move |bucket| async move { bucket.get(&key, 0..behind).await }).await?);
        }
        Ok(RemoteSink {
            bucket,
            key: key(&upload.id),
            intake: Begins { db: intake.db.clone(), upload: upload.id.clone() },
            store_upload: upload.store_upload.clone(),
            buffer,
            handed: upload.offset / PART_BYTES,
            sending: None,
            sent: vec![],
            tail: upload.tail,
            new_tail: None,
        })
    }

    pub(super) fn at_end(&self) -> u64 {
        self.handed * PART_BYTES + self.buffer.len() as u64
    }

    /// A part that is on its way is waited for.
    pub(super) fn durable_when_synced(&self) -> u64 {
        (self.handed - u64::from(self.sending.is_some())) * PART_BYTES
    }

    pub(super) async fn push(&mut self, mut chunk: Bytes) -> Result<()> {
        while !chunk.is_empty() {
            let room = PART_BYTES as usize - self.buffer.len();
            self.buffer.extend_from_slice(&chunk.split_to(room.min(chunk.len())));
            if self.buffer.len() as u64 == PART_BYTES {
                self.send().await?;
            }
        }
        Ok(())
    }

    /// Sends the buffer as the next part, once the one before it has arrived.
    async fn send(&mut self) -> Result<()> {
        self.arrived().await?;
        let store_upload = match &self.store_upload {
            Some(known) => known.clone(),
            None => self.intake.begin(&self.bucket).await?,
        };
        self.store_upload = Some(store_upload.clone());
        let (bucket, key, number) = (self.bucket.clone(), self.key.clone(), self.handed as i32 + 1);
        let bytes = std::mem::take(&mut self.buffer).freeze();
        self.handed += 1;
        self.sending = Some(tokio::spawn(async move {
            let length = bytes.len() as u64;
            let send = move |bucket: Bucket| async move { bucket.put_part(&key, &store_upload, number, bytes).await };
            let etag = bucket.ask(send).await?;
            Ok(Part { number, bytes: length, etag })
        }));
        Ok(())
    }

    async fn arrived(&mut self) -> Result<()> {
        let Some(sending) = self.sending.take() else { return Ok(()) };
        let part = sending.await.map_err(|died| Error::internal("sending a part died").because(died))??;
        self.sent.push(part);
        Ok(())
    }

    pub(super) async fn sync(&mut self, intake: &Intake, upload: &Upload, all: bool, end: u64) -> Result<Made> {
        let _ = intake;
        if all {
            let ends = self.at_end() == end;
            if ends && !self.buffer.is_empty() {
                // The last part may be short.
                self.send().await?;
                self.arrived().await?;
                let new_parts = std::mem::take(&mut self.sent);
                return Ok(Made { to: end, new_parts, tail: None });
            }
            self.arrived().await?;
            let whole = self.handed * PART_BYTES;
            if self.at_end() > whole.max(upload.offset) {
                let key = tail_key(&upload.id, upload.writer);
                let bytes = Bytes::copy_from_slice(&self.buffer);
                self.bucket.ask(move |bucket| async move { bucket.put(&key, bytes, &META).await }).await?;
                self.new_tail = Some(upload.writer);
                let to = self.at_end();
                return Ok(Made { to, new_parts: std::mem::take(&mut self.sent), tail: self.new_tail });
            }
        }
        // What is behind the parts is in memory, or in the tail that the row names: that one stays while no part is new.
        if self.sent.is_empty() && self.sending.is_none() {
            return Ok(Made { to: upload.offset.max(self.handed * PART_BYTES), new_parts: vec![], tail: self.tail });
        }
        let to = (self.handed - u64::from(self.sending.is_some())) * PART_BYTES;
        match to > upload.offset {
            true => Ok(Made { to, new_parts: std::mem::take(&mut self.sent), tail: None }),
            false => Ok(Made { to: upload.offset, new_parts: vec![], tail: self.tail }),
        }
    }

    /// The row names the new tail, or none: the old one is of no use.
    pub(super) async fn written(&mut self, upload: &Upload) {
        let now = self.new_tail.take();
        if self.tail != now && (now.is_some() || self.handed * PART_BYTES > upload.offset) {
            if let Some(old) = self.tail {
                let key = tail_key(&upload.id, old);
                let _ = self.bucket.ask(move |bucket| async move { bucket.delete(&key).await }).await;
            }
            self.tail = now;
        }
    }

    /// Nobody will ever name what we left.
    pub(super) async fn forget(&mut self, upload: &Upload) {
        if let Some(writer) = self.new_tail.take() {
            let key = tail_key(&upload.id, writer);
            let _ = self.bucket.ask(move |bucket| async move { bucket.delete(&key).await }).await;
        }
    }
}

/// Makes one object of the parts, if that was not done before; false when it cannot be: the parts are others.
pub(super) async fn assemble(intake: &Intake, upload: &Upload) -> Result<bool> {
    let bucket = intake.bucket_of(upload)?;
    let key = key(&upload.id);
    if let Some(bytes) = length(bucket, &key).await? {
        return Ok(bytes == upload.bytes);
    }
    let Some(store_upload) = upload.store_upload.clone() else {
        // Nothing was ever sent: only an empty file has no part.
        bucket.ask(move |bucket| async move { bucket.put(&key, Bytes::new(), &META).await }).await?;
        return Ok(upload.bytes == 0);
    };
    let parts = intake.db.upload_parts(&upload.id).await?;
    let parts: Vec<(i32, String)> = parts.into_iter().map(|part| (part.number, part.etag)).collect();
    let finished_key = key.clone();
    let finish = move |bucket: Bucket| async move { bucket.finish_parts(&finished_key, &store_upload, &parts).await };
    match bucket.ask(finish).await {
        Ok(()) => {}
        Err(error) if error.kind() == Kind::Invalid => return Ok(false),
        // An answer that was lost: it is finished already, or it was never there.
        Err(error) if error.kind() == Kind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(length(bucket, &key).await? == Some(upload.bytes))
}

async fn length(bucket: &Bucket, key: &str) -> Result<Option<u64>> {
    let key = key.to_owned();
    match bucket.ask(move |bucket| async move { bucket.stat(&key).await }).await {
        Ok(stat) => Ok(Some(stat.bytes)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes what is left of tails, and of uploads in parts that a killed process began beside; the object stays.
pub(super) async fn remove_tails(intake: &Intake, upload: &Upload) -> Result<()> {
    abort_all(intake, upload).await?;
    remove_all(intake, upload, Some(key(&upload.id))).await
}

/// Removes everything: parts, tails, the object.
pub(super) async fn remove(intake: &Intake, upload: &Upload) -> Result<()> {
    abort_all(intake, upload).await?;
    remove_all(intake, upload, None).await
}

async fn abort_all(intake: &Intake, upload: &Upload) -> Result<()> {
    let key = key(&upload.id);
    let abort = move |bucket: Bucket| async move {
        for (key, store_upload) in bucket.unfinished_below(&key, Duration::ZERO).await? {
            match bucket.abort_parts(&key, &store_upload).await {
                Err(error) if error.kind() == Kind::NotFound => {}
                aborted => aborted?,
            }
        }
        Ok(())
    };
    intake.bucket_of(upload)?.ask(abort).await
}

async fn remove_all(intake: &Intake, upload: &Upload, but: Option<String>) -> Result<()> {
    let prefix = format!("{UPLOADS}{}/", upload.id);
    let remove = move |bucket: Bucket| async move {
        let page = bucket.list(&prefix, None, 1_000).await?;
        for object in page.objects.iter().filter(|object| Some(&object.key) != but.as_ref()) {
            bucket.delete(&object.key).await?;
        }
        Ok(())
    };
    intake.bucket_of(upload)?.ask(remove).await
}
