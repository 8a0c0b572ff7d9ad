//! An archive of everything that is here of somebody: rows as JSON, files as they sent them, pictures.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
#[cfg(feature = "s3")]
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::zip::{Packing, Zip};
use super::{EXPORT_KEPT_US, People, blocking};
use crate::auth::UserId;
use crate::base::error::Context as _;
use crate::base::{Error, Kind, Result, hex};
use crate::db::leaving::{Archive, Export, ExportState};
use crate::db::people::PARTS;
use crate::jobs::Lease;
use crate::jobs::person::ExportId;
use crate::store::{Backend, artwork};
#[cfg(feature = "s3")]
use crate::store::{objects::Meta, s3::Shown};
use crate::uploads::{Place, Upload};

/// The most JSON about one thing: rows have some hundred bytes.
const JSON_BYTES_MAX: u64 = 2 << 30;
/// Bytes of a file that are copied at once.
const PIECE_BYTES: u64 = 4 << 20;
/// Below it archives lie in a bucket.
#[cfg(feature = "s3")]
const PREFIX: &str = "exports/";
/// What the archive is called where it is kept.
const NAME: &str = "segue-export.zip";

/// What is in it, for people.
const README: &str = "This is everything that Segue keeps about you.\n\n\
    *.json      what we wrote down: your account, tracks, uploads, purchases, sales. Times are UTC; amounts are in minor\n\
    \x20           units (cents).\n\
    originals/  the files that you sent, as you sent them: the name of the upload, then the name of the file.\n\
    artwork/    the pictures of your tracks, in their largest size.\n";

type Writer = Zip<BufWriter<File>>;

/// An archive that somebody may have.
pub enum Opened {
    /// A file of this machine.
    File(Arc<File>),
    /// A URL that the bucket signs.
    Url(String),
}

impl People {
    /// Makes an archive and keeps it, unless that was done; false when the lease is not ours any more. The job is settled
    /// then.
    ///
    /// # Errors
    /// `NotFound` when nobody wants it any more; else when the database or a store does not answer, or the disk is full.
    pub async fn export(&self, lease: &Lease, id: &ExportId) -> Result<bool> {
        let gone = || Error::not_found(format!("nobody waits for the export {id} any more"));
        let export = self.db.export(id).await?.ok_or_else(gone)?;
        let archive = match export.state {
            ExportState::Ready(archive) => archive,
            ExportState::Queued => self.make(&export.user, id).await?,
            ExportState::Failed => return Err(gone()),
        };
        let now_us = self.now_us();
        self.db.settle_export(lease, id, &archive, (now_us + EXPORT_KEPT_US, now_us)).await
    }

    async fn make(&self, user: &UserId, id: &ExportId) -> Result<Archive> {
        let (store, now_us) = (self.store.clone(), self.now_us());
        // Removed with all that is in it, whatever happens.
        let staging = blocking(move || store.stage()).await?;
        let path = staging.dir().join(NAME);
        let made = path.clone();
        let mut zip = blocking(move || {
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&made);
            let file = file.context(|| format!("cannot make {}", made.display()))?;
            Ok(Zip::new(BufWriter::with_capacity(1 << 20, file), now_us))
        })
        .await?;
        zip = entry(zip, "README.txt", README.as_bytes().to_vec()).await?;
        for part in PARTS {
            let mut json = b"[".to_vec();
            zip = begin(zip, format!("{}.json", part.name), Packing::Deflated, JSON_BYTES_MAX).await?;
            for page in 0.. {
                let (rows, more) = self.db.rows_of(part, user, page).await?;
                for (number, row) in rows.iter().enumerate() {
                    json.extend_from_slice(if page == 0 && number == 0 { b"\n" } else { b",\n" });
                    serde_json::to_writer_pretty(&mut json, row).expect("plain data always serialises");
                }
                if !more {
                    json.extend_from_slice(b"\n]\n");
                }
                zip = write(zip, std::mem::take(&mut json)).await?;
                if !more {
                    break;
                }
            }
            zip = end(zip).await?;
        }
        zip = self.originals(zip, user).await?;
        zip = self.pictures(zip, user).await?;
        let (bytes, sha256) = blocking(move || finish(zip)).await?;
        let place = self.keep(&path, id).await?;
        drop(staging);
        Ok(Archive { place, bytes, sha256 })
    }

    async fn originals(&self, mut zip: Writer, user: &UserId) -> Result<Writer> {
        let mut after = None;
        loop {
            let page = self.db.uploads_ready(user, after.as_ref()).await?;
            let Some(last) = page.last() else { return Ok(zip) };
            after = Some(last.clone());
            for id in page {
                // Whoever removed it meanwhile does not want it in here either.
                let Some(upload) = self.db.upload(&id).await? else { continue };
                let Some(mut pieces) = self.intake.pieces(&upload).await? else { continue };
                zip = begin(zip, original(&upload), Packing::Stored, pieces.bytes()).await?;
                let mut at = 0;
                while at < pieces.bytes() {
                    let bytes = pieces.at(at, PIECE_BYTES).await?;
                    at += bytes.len() as u64;
                    zip = write(zip, bytes.to_vec()).await?;
                }
                zip = end(zip).await?;
            }
        }
    }

    async fn pictures(&self, mut zip: Writer, user: &UserId) -> Result<Writer> {
        for page in 0.. {
            let tracks = self.db.tracks_with_pictures(user, page).await?;
            if tracks.is_empty() {
                break;
            }
            for track in tracks {
                let (store, id, hash) = (self.store.clone(), track.id, track.artwork.unwrap_or_default());
                let largest = artwork::SIZES[artwork::SIZES.len() - 1];
                match blocking(move || artwork::read(&store, id, &hash, largest)).await {
                    Ok(bytes) => zip = stored(zip, format!("artwork/{id}.jpg"), bytes.to_vec()).await?,
                    Err(error) if error.kind() == Kind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(zip)
    }

    /// Puts a file where it is had from: in the directory, or in the bucket.
    async fn keep(&self, path: &std::path::Path, id: &ExportId) -> Result<Place> {
        match self.store.primary() {
            Backend::Local => {
                let (from, dir, to) = (path.to_owned(), self.dir(), self.dir().join(format!("{id}.zip")));
                blocking(move || {
                    let what = || format!("cannot keep {}", to.display());
                    fs::create_dir_all(&dir).context(what)?;
                    fs::rename(&from, &to).context(what)?;
                    File::open(&dir).and_then(|dir| dir.sync_all()).context(what)
                })
                .await?;
                Ok(Place::Local)
            }
            #[cfg(feature = "s3")]
            Backend::S3 => {
                let (key, path) = (key(id), path.to_owned());
                let put =
                    move |bucket: crate::store::s3::Bucket| async move { bucket.put_file(&key, &path, &META).await };
                self.bucket()?.ask(put).await?;
                Ok(Place::S3)
            }
            #[cfg(not(feature = "s3"))]
            Backend::S3 => Err(Error::internal("this build has no bucket")),
        }
    }

    /// Opens an archive for whoever may have it; `None`: there is none any more.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn open_export(&self, export: &Export) -> Result<Option<(Archive, Opened)>> {
        let ExportState::Ready(archive) = &export.state else { return Ok(None) };
        if export.expires_us.is_none_or(|expires_us| expires_us <= self.now_us()) {
            return Ok(None);
        }
        let opened = match archive.place {
            Place::Local => {
                let path = self.dir().join(format!("{}.zip", export.id));
                let open = blocking(move || match File::open(&path) {
                    Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
                    file => file.map(Some).context(|| format!("cannot read {}", path.display())),
                });
                let Some(file) = open.await? else { return Ok(None) };
                Opened::File(Arc::new(file))
            }
            #[cfg(feature = "s3")]
            Place::S3 => {
                let key = key(&export.id);
                let shown = Shown {
                    head: false,
                    disposition: Some(format!("attachment; filename=\"{NAME}\"")),
                    content_type: Some("application/zip".into()),
                };
                let sign = move |bucket: crate::store::s3::Bucket| async move {
                    bucket.presign_shown(&key, URL_VALID, &shown).await
                };
                Opened::Url(self.bucket()?.ask(sign).await?)
            }
            #[cfg(not(feature = "s3"))]
            Place::S3 => return Err(Error::internal("this build has no bucket")),
        };
        Ok(Some((archive.clone(), opened)))
    }

    /// Removes archives whose time is over; says how many.
    ///
    /// # Errors
    /// When the database or the store does not answer.
    pub async fn tidy_exports(&self) -> Result<usize> {
        let over = self.db.exports_over(self.now_us()).await?;
        for export in &over {
            self.remove_export(export).await?;
        }
        Ok(over.len())
    }

    /// Removes an archive and its row.
    pub(super) async fn remove_export(&self, export: &Export) -> Result<()> {
        // By its name, whatever its row says: of an attempt that was killed there may be one that no row tells of.
        let path = self.dir().join(format!("{}.zip", export.id));
        blocking(move || match fs::remove_file(&path) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.context(|| format!("cannot remove {}", path.display())),
        })
        .await?;
        #[cfg(feature = "s3")]
        if self.store.remote().is_some() {
            let key = key(&export.id);
            self.bucket()?.ask(move |bucket| async move { bucket.delete(&key).await }).await?;
        }
        self.db.forget_export(&export.id).await
    }

    #[cfg(feature = "s3")]
    fn bucket(&self) -> Result<&crate::store::s3::Bucket> {
        let remote = self.store.remote();
        let remote = remote.ok_or_else(|| Error::internal("an export lies in a bucket, and this process has none"))?;
        Ok(remote.bucket())
    }
}

#[cfg(feature = "s3")]
const META: Meta = Meta { content_type: "application/zip", cache_control: "private, no-store" };
/// How long a URL opens that the bucket signs: long enough to begin.
#[cfg(feature = "s3")]
const URL_VALID: Duration = Duration::from_secs(900);

#[cfg(feature = "s3")]
fn key(id: &ExportId) -> String {
    format!("{PREFIX}{id}.zip")
}

/// The name of a file in the archive: what its sender called it, without what a path could be made of.
fn original(upload: &Upload) -> String {
    let harmless = |c: char| {
        if c.is_control() || matches!(c, '/' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|') { '_' } else { c }
    };
    let name: String = upload.name.as_deref().unwrap_or("file").chars().map(harmless).take(120).collect();
    format!("originals/{}-{}", upload.id, name.trim_matches([' ', '.']))
}

async fn begin(mut zip: Writer, name: String, packing: Packing, bytes_max: u64) -> Result<Writer> {
    blocking(move || {
        zip.begin(&name, packing, bytes_max)?;
        Ok(zip)
    })
    .await
}

async fn write(mut zip: Writer, bytes: Vec<u8>) -> Result<Writer> {
    blocking(move || {
        zip.write(&bytes)?;
        Ok(zip)
    })
    .await
}

async fn end(mut zip: Writer) -> Result<Writer> {
    blocking(move || {
        zip.end()?;
        Ok(zip)
    })
    .await
}

async fn entry(zip: Writer, name: &str, bytes: Vec<u8>) -> Result<Writer> {
    let length = bytes.len() as u64;
    end(write(begin(zip, name.to_owned(), Packing::Deflated, length).await?, bytes).await?).await
}

async fn stored(zip: Writer, name: String, bytes: Vec<u8>) -> Result<Writer> {
    let length = bytes.len() as u64;
    end(write(begin(zip, name, Packing::Stored, length).await?, bytes).await?).await
}

/// Makes the file durable; its length and its hash.
fn finish(zip: Writer) -> Result<(u64, String)> {
    let what = || "cannot read the archive";
    let mut file =
        zip.finish()?.into_inner().map_err(|cause| Error::internal("cannot write the archive").because(cause))?;
    file.sync_all().context(|| "cannot write the archive")?;
    std::io::Seek::rewind(&mut file).context(what)?;
    let (mut hash, mut piece, mut bytes) = (Sha256::new(), vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut piece).context(what)? {
            0 => return Ok((bytes, hex::encode(&hash.finalize()))),
            read => {
                hash.update(&piece[..read]);
                bytes += read as u64;
            }
        }
    }
}
