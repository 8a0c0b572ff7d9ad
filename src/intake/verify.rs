//! Looks at an upload once, before anything else may. One read of what is stored, from its first byte to its last,
//! feeds the hash, the recogniser and the scanner: what was hashed is what was scanned is what will be transcoded.
//! Nothing that was computed while the bytes arrived is believed, so there is no state to keep over a restart.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::Intake;
use super::clamd::{Found, Scan};
use super::local::blocking;
use crate::base::error::Context as _;
use crate::base::{Error, Kind, Result, hex};
use crate::db::uploads::Verdict;
use crate::uploads::magic::{self, Format, HEAD_BYTES};
use crate::uploads::{Place, Reason, Upload};

/// Bytes that are read at a time.
const READ_BYTES: u64 = 4 << 20;

pub(super) async fn verify(intake: &Intake, upload: &Upload) -> Result<Verdict> {
    let refuse = |reason, why: String| Ok(Verdict::Refused(reason, why));
    let Some(mut stored) = Stored::open(intake, upload).await? else {
        return refuse(
            Reason::Parts,
            "its parts in the bucket are not those that were sent; send the file again".into(),
        );
    };
    if stored.bytes != upload.bytes {
        let why = format!("{} bytes were announced and {} are here; send the file again", upload.bytes, stored.bytes);
        return refuse(Reason::Size, why);
    }
    let head = stored.at(0, HEAD_BYTES as u64).await?;
    let format = match recognised(upload, &head) {
        Ok(format) => format,
        Err(why) => return refuse(Reason::Kind, why),
    };
    let mut scan = match &intake.options.clamd {
        Some(clamd) => Some(clamd.begin().await?),
        None => None,
    };
    let mut hash = Sha256::new();
    let mut at = 0;
    while at < upload.bytes {
        let bytes = stored.at(at, READ_BYTES).await?;
        at += bytes.len() as u64;
        if let Some(scan) = &mut scan {
            scan.send(&bytes).await?;
        }
        hash = blocking(move || {
            hash.update(&bytes);
            Ok(hash)
        })
        .await?;
    }
    let sha256 = hex::encode(&hash.finalize());
    if let Some(wanted) = upload.sha256.as_ref().filter(|wanted| **wanted != sha256) {
        let why = format!("its SHA-256 is {sha256} and not {wanted}: it was damaged on its way; send the file again");
        return refuse(Reason::Sha256, why);
    }
    if let Some(found) = finished(scan).await? {
        return refuse(Reason::Virus, format!("the scanner found {found} in it; it is not kept"));
    }
    #[cfg(feature = "s3")]
    if upload.place == Place::S3 {
        super::remote::remove_tails(intake, upload).await?;
    }
    Ok(Verdict::Ready { mime: format.mime.to_owned(), sha256 })
}

async fn finished(scan: Option<Scan>) -> Result<Option<String>> {
    let Some(scan) = scan else { return Ok(None) };
    Ok(match scan.finish().await? {
        Found::Nothing => None,
        Found::Signature(name) => Some(name),
    })
}

/// The format, if it is one that may be sent as what it was said to be; else why not.
fn recognised(upload: &Upload, head: &[u8]) -> std::result::Result<&'static Format, String> {
    let kind = upload.kind;
    // The transcoder's own words for what is often taken for audio.
    #[cfg(feature = "transcode")]
    if kind == crate::uploads::Kind::Audio
        && let Err(refusal) = crate::transcode::refuse_by_first_bytes(head)
    {
        return Err(refusal.chain());
    }
    let article = |kind: crate::uploads::Kind| match kind {
        crate::uploads::Kind::Audio => "audio",
        crate::uploads::Kind::Image => "an image",
        crate::uploads::Kind::Video => "a video",
    };
    match magic::recognise(head) {
        Some(format) if format.kinds.contains(&kind) => Ok(format),
        Some(format) => Err(format!("it is {}, not {}; send it as what it is", format.name, article(kind))),
        None if head.is_empty() => Err("it is empty; send the file again".into()),
        None => Err(format!(
            "its first bytes are of no known format, so it is not {}; GET /api/v1/upload/limits lists those that are read",
            article(kind)
        )),
    }
}

/// The bytes as they are stored.
pub(super) struct Stored {
    pub(super) bytes: u64,
    from: From,
}

enum From {
    File(std::sync::Arc<std::fs::File>),
    #[cfg(feature = "s3")]
    Bucket(crate::store::s3::Bucket, String),
}

impl Stored {
    /// `None`: it cannot be put together.
    pub(super) async fn open(intake: &Intake, upload: &Upload) -> Result<Option<Stored>> {
        match upload.place {
            Place::Local => {
                let (path, announced) = (intake.dir.join(upload.id.as_str()), upload.bytes);
                blocking(move || {
                    let what = || format!("cannot read the upload {}", path.display());
                    let open = std::fs::OpenOptions::new().read(true).write(true).open(&path);
                    let file = match open.context(what) {
                        Err(error) if error.kind() == Kind::NotFound => return Ok(None),
                        file => file?,
                    };
                    let mut bytes = file.metadata().context(what)?.len();
                    if bytes > announced {
                        file.set_len(announced).context(what)?; // of a writer that had lost the right
                        bytes = announced;
                    }
                    file.sync_all().context(what)?;
                    Ok(Some(Stored { bytes, from: From::File(std::sync::Arc::new(file)) }))
                })
                .await
            }
            #[cfg(feature = "s3")]
            Place::S3 => {
                if !super::remote::assemble(intake, upload).await? {
                    return Ok(None);
                }
                let bucket = intake.bucket_of(upload)?.clone();
                Ok(Some(Stored { bytes: upload.bytes, from: From::Bucket(bucket, super::remote::key(&upload.id)) }))
            }
            #[cfg(not(feature = "s3"))]
            Place::S3 => Err(super::elsewhere(&upload.id)),
        }
    }

    /// Up to `most` bytes from `at`; fewer at the end only.
    pub(super) async fn at(&mut self, at: u64, most: u64) -> Result<Bytes> {
        let range = at..self.bytes.min(at + most);
        match &self.from {
            From::File(file) => {
                let file = std::sync::Arc::clone(file);
                blocking(move || {
                    let mut bytes = vec![0; (range.end - range.start) as usize];
                    std::os::unix::fs::FileExt::read_exact_at(&*file, &mut bytes, range.start)
                        .context(|| "cannot read the upload")?;
                    Ok(bytes.into())
                })
                .await
            }
            #[cfg(feature = "s3")]
            From::Bucket(bucket, key) => {
                let key = key.clone();
                bucket.ask(move |bucket| async move { bucket.get(&key, range).await }).await
            }
        }
    }
}

/// Why an upload is looked at again later, in words for its owner.
pub(super) fn later(error: &Error) -> String {
    format!("it could not be looked at yet, and will be again: {}", error.chain())
}
