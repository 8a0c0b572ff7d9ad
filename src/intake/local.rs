//! An upload to this machine's disk: one file, written at its end, synced before its offset is written down. A lock
//! of the file (flock(2)) ends with the process that writes.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Made;
use crate::base::error::Context as _;
use crate::base::{Error, Result};
use crate::uploads::UploadId;

/// Bytes that are written at a time: a page cache takes a megabyte in less than a context switch costs.
const PIECE_BYTES: usize = 1 << 20;

/// Writes to the file of an upload.
#[derive(Debug)]
pub(super) struct LocalSink {
    file: Arc<File>,
    path: PathBuf,
    buffer: BytesMut,
    /// Bytes that the file has from us and from before.
    handed: u64,
}

impl LocalSink {
    /// The file, locked; `None` while another writer has it.
    pub(super) async fn open(dir: &Path, id: &UploadId) -> Result<Option<(Arc<File>, PathBuf)>> {
        let (dir, path) = (dir.to_owned(), dir.join(id.as_str()));
        blocking(move || {
            let what = || format!("cannot open {} for an upload", path.display());
            fs::create_dir_all(&dir).context(what)?;
            let new = !path.exists();
            let file =
                OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).context(what)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(_)) | Ok(()) => {} // no locks here: the number of the writer is enough
            }
            if new {
                File::open(&dir).and_then(|dir| dir.sync_all()).context(what)?;
            }
            Ok(Some((Arc::new(file), path)))
        })
        .await
    }

    /// To go on at `offset`.
    pub(super) async fn at((file, path): (Arc<File>, PathBuf), offset: u64) -> Result<LocalSink> {
        let length = file.metadata().context(|| format!("cannot look at {}", path.display()))?.len();
        if length < offset {
            return Err(Error::internal(format!(
                "{} has {length} bytes and its row says {offset}: the disk lost some; remove the upload and send it again",
                path.display()
            )));
        }
        Ok(LocalSink { file, path, buffer: BytesMut::new(), handed: offset })
    }

    pub(super) fn at_end(&self) -> u64 {
        self.handed + self.buffer.len() as u64
    }

    pub(super) fn durable_when_synced(&self) -> u64 {
        self.handed
    }

    pub(super) async fn push(&mut self, chunk: Bytes) -> Result<()> {
        self.buffer.extend_from_slice(&chunk);
        match self.buffer.len() >= PIECE_BYTES {
            true => self.write().await,
            false => Ok(()),
        }
    }

    /// Hands the buffer to the kernel. On failure it is dropped: the sender has it.
    async fn write(&mut self) -> Result<()> {
        let (bytes, at, file, path) = (self.buffer.split(), self.handed, Arc::clone(&self.file), self.path.clone());
        let length = bytes.len() as u64;
        blocking(move || {
            file.write_all_at(&bytes, at).context(|| format!("cannot write {length} bytes to {}", path.display()))
        })
        .await?;
        self.handed += length;
        Ok(())
    }

    pub(super) async fn sync(&mut self, all: bool) -> Result<Made> {
        if all && !self.buffer.is_empty() {
            self.write().await?;
        }
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        blocking(move || file.sync_data().context(|| format!("cannot sync {}", path.display()))).await?;
        Ok(Made { to: self.handed, ..Made::default() })
    }

    pub(super) async fn discard(&mut self, committed: u64) {
        self.buffer.clear();
        self.handed = committed;
        let file = Arc::clone(&self.file);
        let _ = blocking(move || file.set_len(committed).context(|| "")).await; // else it is written over
    }
}

/// Removes the file of an upload.
pub(super) async fn remove(dir: &Path, id: &UploadId) -> Result<()> {
    let path = dir.join(id.as_str());
    blocking(move || match fs::remove_file(&path) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.context(|| format!("cannot remove {}", path.display())),
    })
    .await
}

/// Runs what waits for the disk beside the runtime.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|cause| Error::internal("a task panicked").because(cause))?
}
