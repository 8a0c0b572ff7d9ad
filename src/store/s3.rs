//! A bucket: the only place that speaks S3. In: keys, bytes, files. Out: objects, ranges, signed URLs.
//!
//! Works with AWS and with servers that speak its protocol: any endpoint, path-style addresses, and checksums only
//! where the protocol asks for them, because the SDK's own default (CRC32 in a trailer) is refused by many. All
//! requests run on a runtime of the bucket's own: the cores never wait for TLS, signatures or hashes.
//!
//! Retries: the SDK repeats what may be repeated, with growing pauses and jitter; `get` also repeats what broke in
//! the middle of a body. Every request and every wait ends by a timeout.
//!
//! Clocks: the SDK signs a refused request again by the server's time (`RequestTimeTooSkewed`). What we sign for
//! others nobody corrects, so each answer's `Date` is remembered and used for that.

use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::interceptors::{BeforeDeserializationInterceptorContextRef, InterceptorContext};
use aws_sdk_s3::config::retry::{ClassifyRetry, RetryAction, RetryConfig};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, ConfigBag, Credentials, IdentityCache, Intercept, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, RuntimeComponents,
};
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use aws_smithy_async::time::TimeSource;
use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::credentials::{Provider, Source};
use super::objects::{Listed, Meta, Page, Stat};
use crate::base::clock::Clock;
use crate::base::error::Context as _;
use crate::base::secret::Secret;
use crate::base::{Error, Kind, Result};

/// How much the threads that talk to the bucket stand back: a third of a core's time where the core has more to do.
const NICE: i32 = 5;

/// Where the bucket is and how to talk to it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name.
    pub bucket: String,
    /// Its region; third-party servers mostly take any.
    pub region: String,
    /// `https://s3.example.com`; `None` is AWS in `region`.
    pub endpoint: Option<String>,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`.
    pub path_style: bool,
    /// Put in front of every key: empty, or with a `/` at its end.
    pub prefix: String,
    /// Key id, not secret.
    pub access_key: String,
    /// The key.
    pub secret_key: Secret,
    /// Goes with temporary keys.
    pub session_token: Option<Secret>,
    /// A CRC32 with every upload, as AWS likes it and others refuse it. Default off.
    pub checksums: bool,
    /// How long a connection may take. Default 3 s.
    pub connect_timeout: Duration,
    /// How long the server may say nothing. Default 10 s.
    pub read_timeout: Duration,
    /// How often a request is tried. Default 3.
    pub attempts: u32,
    /// Where keys come from. Default: those above.
    pub keys: Source,
    /// The endpoint in URLs that are signed for others, when listeners reach the bucket by another name.
    pub public_endpoint: Option<String>,
    /// The age from which nobody can still be at an upload or a publish. Default a day.
    pub abandoned: Duration,
    /// What time it is here.
    pub clock: Clock,
}

/// How an object shows itself when it is read by a signed URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Read by HEAD instead of GET: a signature is for one method.
    pub head: bool,
    /// `Content-Disposition`.
    pub disposition: Option<String>,
    /// `Content-Type`.
    pub content_type: Option<String>,
}

impl Options {
    /// The defaults for a bucket.
    pub fn new(bucket: &str, access_key: &str, secret_key: Secret) -> Options {
        Options {
            bucket: bucket.to_owned(),
            region: "us-east-1".into(),
            endpoint: None,
            path_style: false,
            prefix: String::new(),
            access_key: access_key.to_owned(),
            secret_key,
            session_token: None,
            checksums: false,
            connect_timeout: Duration::from_secs(3),
            read_timeout: Duration::from_secs(10),
            attempts: 3,
            keys: Source::Given,
            public_endpoint: None,
            abandoned: Duration::from_secs(24 * 3600),
            clock: Clock::System,
        }
    }
}

/// Files up to this size are one PUT; larger ones go in parts.
const SINGLE_PUT_BYTES_MAX: u64 = 16 << 20;
/// Bytes of a part; at most 10,000 parts make an object, so very large files have larger ones.
const PART_BYTES: u64 = 8 << 20;
const PARTS_MAX: u64 = 10_000;
/// Parts on their way at a time: what a file takes of memory is this many of them.
const PARTS_AT_ONCE: usize = 3;
/// Pages of unfinished uploads that are asked for in one go.
const UNFINISHED_PAGES_MAX: usize = 100;
/// What people upload lies below this; `intake` tidies there.
pub const UPLOADS: &str = "uploads/";
/// AWS signs for a week at most.
const PRESIGNED_MAX: Duration = Duration::from_secs(7 * 86_400);

/// A bucket. Cheap to clone.
#[derive(Clone)]
pub struct Bucket(Arc<Inner>);

struct Inner {
    client: Client,
    /// Signs for others; another one where they reach the bucket by another name.
    signing: Client,
    /// How far the server's clock is ahead of ours, in seconds, by its last answer.
    ahead_s: Arc<AtomicI64>,
    options: Options,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background(); // the last handle may be dropped inside another runtime
        }
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({})", self.place())
    }
}

/// Bytes of an object on their way.
pub(super) struct Arriving {
    bucket: Bucket,
    key: String,
    body: ByteStream,
    /// Bytes that are still to come.
    left: u64,
    /// A server that sends a byte now and then would keep a fetch for ever.
    until: tokio::time::Instant,
}

impl Arriving {
    /// The next of them; `None` when all have come.
    ///
    /// # Errors
    /// `Unavailable` when they break off, take too long, or are more than was asked for.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        let (bucket, key) = (&self.bucket, &self.key);
        let wait = self.until.saturating_duration_since(tokio::time::Instant::now());
        let frame = bucket.frame(key, &mut self.body, wait.min(bucket.0.options.read_timeout)).await?;
        let came = frame.as_ref().map_or(0, Bytes::len) as u64;
        match self.left.checked_sub(came) {
            Some(left) if frame.is_some() || left == 0 => self.left = left,
            Some(_) => return Err(Error::new(Kind::Unavailable, format!("{} cut {key} short", bucket.place()))),
            None => return Err(Error::new(Kind::Unavailable, format!("{} gave too much of {key}", bucket.place()))),
        }
        Ok(frame)
    }
}

impl Bucket {
    /// Prepares to talk to the bucket; asks nothing yet.
    ///
    /// # Errors
    /// `Internal` when its threads cannot start.
    pub fn open(options: Options) -> Result<Bucket> {
        let token = options.session_token.as_ref().map(text);
        let credentials = Credentials::new(&options.access_key, text(&options.secret_key), token, None, "segue");
        let ahead_s = Arc::new(AtomicI64::new(0));
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(options.connect_timeout)
            .read_timeout(options.read_timeout)
            .operation_attempt_timeout(options.read_timeout * 6) // a part of 8 MiB over a slow line
            .build();
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(options.region.clone()))
            // Ours looks at a file, or remembers what a role gave: a second memory would only be staler.
            .identity_cache(IdentityCache::no_cache())
            .credentials_provider(Provider::new(options.keys.clone(), credentials))
            .time_source(Time(options.clock.clone()))
            .interceptor(Hear { clock: options.clock.clone(), ahead_s: ahead_s.clone() })
            .force_path_style(options.path_style)
            .retry_classifier(Throttled)
            .retry_config(RetryConfig::standard().with_max_attempts(options.attempts.max(1)))
            .timeout_config(timeouts)
            .request_checksum_calculation(match options.checksums {
                true => RequestChecksumCalculation::WhenSupported,
                false => RequestChecksumCalculation::WhenRequired,
            })
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if let Some(endpoint) = &options.endpoint {
            config = config.endpoint_url(endpoint);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(16) // they write what was fetched
            .thread_name("s3")
            .on_thread_start(|| {
                // A thread's own (sched(7)): who asks for what is here goes before who must wait anyway.
                let _ = rustix::process::setpriority_process(None, NICE);
            })
            .enable_all()
            .build()
            .context(|| "cannot start the threads that talk to the bucket")?;
        // The SDK starts its sleeper inside a runtime.
        let _inside = runtime.enter();
        let client = Client::from_conf(config.clone().build());
        let signing = match &options.public_endpoint {
            Some(endpoint) => Client::from_conf(config.endpoint_url(endpoint).build()),
            None => client.clone(),
        };
        drop(_inside);
        Ok(Bucket(Arc::new(Inner { client, signing, ahead_s, options, runtime: Some(runtime) })))
    }

    /// The age from which nobody can still be at an upload or a publish.
    pub fn abandoned(&self) -> Duration {
        self.0.options.abandoned
    }

    /// How often a request is tried.
    pub(super) fn attempts(&self) -> u32 {
        self.0.options.attempts.max(1)
    }

    /// Runs `work` beside the caller. Nobody joins it: it tells its end to whoever waits.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime().spawn(work);
    }

    /// Runs `work` and blocks until it has ended. Not for the cores.
    ///
    /// # Errors
    /// What `work` says.
    pub fn wait<T, F, W>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Bucket) -> W,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        let (tx, rx) = std::sync::mpsc::sync_channel(1);
        let work = work(self.clone());
        self.spawn(async move {
            let _ = tx.send(work.await); // the one who waits is there until it hears
        });
        rx.recv().unwrap_or_else(|died| Err(Error::internal("a request to the bucket died").because(died)))
    }

    /// Runs `work` beside the caller, on the bucket's own threads, and says what came of it.
    pub async fn ask<T, F, W>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Bucket) -> W,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        let done = self.runtime().spawn(work(self.clone())).await;
        done.unwrap_or_else(|died| Err(Error::internal("a request to the bucket died").because(died)))
    }

    /// Which bucket, for messages.
    pub fn place(&self) -> String {
        let options = &self.0.options;
        match &options.endpoint {
            Some(endpoint) => format!("bucket {} at {endpoint}", options.bucket),
            None => format!("bucket {} in {}", options.bucket, options.region),
        }
    }

    /// Stores a small object, replacing what was there.
    ///
    /// # Errors
    /// `Unavailable` when the bucket cannot be reached or refuses.
    pub async fn put(&self, key: &str, bytes: Bytes, meta: &Meta) -> Result<()> {
        let put = self.put_request(key, meta).body(ByteStream::from(bytes)).send().await;
        put.map(drop).map_err(|cause| self.explain("write", key, cause))
    }

    /// As `put`, but only over the version of the object with `etag`, or over none. Servers that do not know
    /// conditions write regardless: never the only lock.
    ///
    /// # Errors
    /// `Busy` when another writer came first; else as `put`.
    pub async fn put_over(&self, key: &str, bytes: Bytes, meta: &Meta, etag: Option<&str>) -> Result<()> {
        let put = self.put_request(key, meta).body(ByteStream::from(bytes));
        let put = match etag {
            // Without quotes, as AWS's own examples have it: Ceph compares the text as it is.
            Some(etag) => put.if_match(etag.trim_matches('"')),
            None => put.if_none_match("*"),
        };
        put.send().await.map(drop).map_err(|cause| self.explain("write", key, cause))
    }

    fn put_request(
        &self,
        key: &str,
        meta: &Meta,
    ) -> aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder {
        let put = self.0.client.put_object().bucket(self.bucket()).key(self.full(key));
        put.content_type(meta.content_type).cache_control(meta.cache_control)
    }

    /// Stores a file: one PUT for a small one, parts for a large one, which become visible together. On failure
    /// nothing is visible and no part stays.
    ///
    /// # Errors
    /// `Internal` when the file cannot be read, else as `put`.
    pub async fn put_file(&self, key: &str, path: &Path, meta: &Meta) -> Result<()> {
        let read = || format!("cannot read {}", path.display());
        let mut file = tokio::fs::File::open(path).await.context(read)?;
        let length = file.metadata().await.context(read)?.len();
        if length > SINGLE_PUT_BYTES_MAX {
            return self.put_parts(key, file, length, meta).await;
        }
        let mut bytes = Vec::with_capacity(length as usize);
        file.read_to_end(&mut bytes).await.context(read)?;
        self.put(key, bytes.into(), meta).await
    }

    async fn put_parts(&self, key: &str, file: tokio::fs::File, length: u64, meta: &Meta) -> Result<()> {
        let create = self.0.client.create_multipart_upload().bucket(self.bucket()).key(self.full(key));
        let create = create.content_type(meta.content_type).cache_control(meta.cache_control);
        let create =
            if self.0.options.checksums { create.checksum_algorithm(ChecksumAlgorithm::Crc32) } else { create };
        let created = create.send().await.map_err(|cause| self.explain("begin to write", key, cause))?;
        let upload = created.upload_id.ok_or_else(|| Error::internal(format!("{} gave no upload id", self.place())))?;
        let done = self.send_parts(key, file, length, &upload).await;
        if done.is_err()
            && let Err(error) = self.abort_parts(key, &upload).await
        {
            tracing::warn!(error = error.chain(), "parts of a failed upload stay until they are swept");
        }
        done
    }

    async fn send_parts(&self, key: &str, mut file: tokio::fs::File, length: u64, upload: &str) -> Result<()> {
        let part_bytes = PART_BYTES.max(length.div_ceil(PARTS_MAX).next_multiple_of(1 << 20));
        let mut sending: JoinSet<Result<CompletedPart>> = JoinSet::new();
        let mut parts = Vec::new();
        let (mut number, mut left) = (1, length);
        while left > 0 || !sending.is_empty() {
            if left > 0 && sending.len() < PARTS_AT_ONCE {
                let mut part = BytesMut::with_capacity(part_bytes.min(left) as usize);
                let wanted = part_bytes.min(left) as usize;
                while part.len() < wanted {
                    let mut rest = (&mut file).take((wanted - part.len()) as u64);
                    if rest.read_buf(&mut part).await.context(|| format!("cannot read what becomes {key}"))? == 0 {
                        return Err(Error::internal(format!("what becomes {key} got shorter while it was read")));
                    }
                }
                left -= wanted as u64;
                let (bucket, key, upload) = (self.clone(), key.to_owned(), upload.to_owned());
                sending.spawn(async move { bucket.send_part(&key, &upload, number, part.freeze()).await });
                number += 1;
                continue;
            }
            let sent = sending.join_next().await.expect("some are on their way");
            parts.push(sent.unwrap_or_else(|died| Err(Error::internal("an upload died").because(died)))?);
        }
        parts.sort_by_key(CompletedPart::part_number);
        self.complete(key, upload, parts).await
    }

    async fn send_part(&self, key: &str, upload: &str, number: i32, bytes: Bytes) -> Result<CompletedPart> {
        let send = self.0.client.upload_part().bucket(self.bucket()).key(self.full(key)).upload_id(upload);
        let sent = send.part_number(number).body(ByteStream::from(bytes)).send().await;
        let sent = sent.map_err(|cause| self.explain("write a part of", key, cause))?;
        let part = CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag);
        Ok(part.set_checksum_crc32(sent.checksum_crc32).build())
    }

    /// Sends one part of an upload and returns its entity tag. The same number again replaces it.
    ///
    /// # Errors
    /// `NotFound` when the upload has ended, `Unavailable` when the bucket cannot be reached or refuses.
    pub async fn put_part(&self, key: &str, upload: &str, number: i32, bytes: Bytes) -> Result<String> {
        let part = self.send_part(key, upload, number, bytes).await?;
        let no_tag = || Error::internal(format!("{} gave no entity tag for a part of {key}", self.place()));
        part.e_tag.ok_or_else(no_tag)
    }

    /// Number, length and entity tag of every part that the bucket has of an upload, by number.
    ///
    /// # Errors
    /// `NotFound` when the upload has ended, `Unavailable` when the bucket cannot be asked.
    pub async fn list_parts(&self, key: &str, upload: &str) -> Result<Vec<(i32, u64, String)>> {
        let mut parts = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let list = self.0.client.list_parts().bucket(self.bucket()).key(self.full(key)).upload_id(upload);
            let answer = list.set_part_number_marker(after.take()).send().await;
            let answer = answer.map_err(|cause| self.explain("list the parts of", key, cause))?;
            let more = answer.is_truncated().unwrap_or(false);
            let next = answer.next_part_number_marker().map(str::to_owned);
            parts.extend(answer.parts.unwrap_or_default().into_iter().filter_map(|part| {
                let bytes = u64::try_from(part.size?).ok()?;
                Some((part.part_number?, bytes, part.e_tag?))
            }));
            match next {
                Some(next) if more && parts.len() < PARTS_MAX as usize => after = Some(next),
                _ => break,
            }
        }
        parts.sort_by_key(|(number, ..)| *number);
        Ok(parts)
    }

    /// Bytes `range` of an object, exactly; tried again when the body breaks off.
    ///
    /// # Errors
    /// `NotFound` when there is no such object, `Unavailable` when it cannot be had whole.
    pub async fn get(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let mut last = None;
        for attempt in 0..self.attempts() {
            self.pause(attempt).await;
            match self.get_once(key, &range).await {
                Err(error) if error.kind() == Kind::Unavailable => last = Some(error),
                done => return done,
            }
        }
        Err(last.expect("it was tried"))
    }

    async fn get_once(&self, key: &str, range: &Range<u64>) -> Result<Bytes> {
        let mut arriving = self.open_range(key, range.clone()).await?;
        let mut bytes = BytesMut::new();
        while let Some(frame) = arriving.next().await? {
            bytes.extend_from_slice(&frame);
        }
        Ok(bytes.freeze())
    }

    /// Bytes `range` of an object, which is not empty, as they come. Asked for once.
    ///
    /// # Errors
    /// As `get`.
    pub(super) async fn open_range(&self, key: &str, range: Range<u64>) -> Result<Arriving> {
        let asked = format!("bytes={}-{}", range.start, range.end - 1);
        let answer = self.0.client.get_object().bucket(self.bucket()).key(self.full(key)).range(asked).send().await;
        let answer = answer.map_err(|cause| self.explain("read", key, cause))?;
        let starts = format!("bytes {}-{}/", range.start, range.end - 1);
        if !answer.content_range().is_some_and(|given| given.starts_with(&starts)) {
            let given = answer.content_range().unwrap_or("all of it").to_owned();
            let place = self.place();
            return Err(Error::new(Kind::Unavailable, format!("{place} gave {given} of {key}, not {starts}")));
        }
        let until = tokio::time::Instant::now() + self.0.options.read_timeout * 6;
        Ok(Arriving { bucket: self.clone(), key: key.into(), body: answer.body, left: range.end - range.start, until })
    }

    /// A whole object of at most `bytes_max`.
    ///
    /// # Errors
    /// As `get`; `Invalid` when it is larger.
    pub async fn get_all(&self, key: &str, bytes_max: u64) -> Result<(Bytes, Stat)> {
        let mut last = None;
        for attempt in 0..self.attempts() {
            self.pause(attempt).await;
            let answer = self.0.client.get_object().bucket(self.bucket()).key(self.full(key)).send().await;
            let answer = answer.map_err(|cause| self.explain("read", key, cause))?;
            let stat = Stat {
                bytes: answer.content_length().and_then(|length| u64::try_from(length).ok()).unwrap_or(0),
                etag: answer.e_tag().unwrap_or_default().to_owned(),
                modified_s: answer.last_modified().map_or(0, |date| u64::try_from(date.secs()).unwrap_or(0)),
                content_type: answer.content_type().unwrap_or_default().to_owned(),
                cache_control: answer.cache_control().unwrap_or_default().to_owned(),
            };
            match self.collect(key, answer, bytes_max).await {
                Err(error) if error.kind() == Kind::Unavailable => last = Some(error),
                done => return done.map(|bytes| (bytes, stat)),
            }
        }
        Err(last.expect("it was tried"))
    }

    async fn collect(&self, key: &str, answer: GetObjectOutput, bytes_max: u64) -> Result<Bytes> {
        let mut body = answer.body;
        let mut bytes = BytesMut::new();
        while let Some(frame) = self.frame(key, &mut body, self.0.options.read_timeout).await? {
            if bytes.len() as u64 + frame.len() as u64 > bytes_max {
                return Err(Error::invalid(format!("{key} in {} is larger than {bytes_max} bytes", self.place())));
            }
            bytes.extend_from_slice(&frame);
        }
        Ok(bytes.freeze())
    }

    /// The next bytes of a body; `None` at its end. A server that stops in the middle is not covered by the SDK's
    /// timeouts.
    async fn frame(&self, key: &str, body: &mut ByteStream, wait: Duration) -> Result<Option<Bytes>> {
        let broke = |cause: String| Error::new(Kind::Unavailable, format!("{} broke off {key}: {cause}", self.place()));
        let frame = tokio::time::timeout(wait, body.try_next()).await;
        frame.map_err(|_| broke("nothing came for too long".into()))?.map_err(|cause| broke(cause.to_string()))
    }

    /// Waits before an attempt that is not the first: 100, 200, 400 ms, up to twice that.
    pub(super) async fn pause(&self, attempt: u32) {
        if attempt > 0 {
            let mut random = [0];
            getrandom::fill(&mut random).expect("the operating system gives random bytes");
            let base_ms = 50u64 << attempt.min(6);
            tokio::time::sleep(Duration::from_millis(base_ms + base_ms * u64::from(random[0]) / 255)).await;
        }
    }

    /// What is known of an object.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn stat(&self, key: &str) -> Result<Stat> {
        let answer = self.0.client.head_object().bucket(self.bucket()).key(self.full(key)).send().await;
        let answer = answer.map_err(|cause| self.explain("look at", key, cause))?;
        Ok(Stat {
            bytes: answer.content_length().and_then(|length| u64::try_from(length).ok()).unwrap_or(0),
            etag: answer.e_tag().unwrap_or_default().to_owned(),
            modified_s: answer.last_modified().map_or(0, |date| u64::try_from(date.secs()).unwrap_or(0)),
            content_type: answer.content_type().unwrap_or_default().to_owned(),
            cache_control: answer.cache_control().unwrap_or_default().to_owned(),
        })
    }

    /// Objects whose keys begin with `prefix`, in the order of their bytes, after the key `after`.
    ///
    /// # Errors
    /// `Unavailable` when the bucket cannot be asked.
    pub async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Page> {
        let list = self.0.client.list_objects_v2().bucket(self.bucket()).prefix(self.full(prefix));
        let list = list.set_start_after(after.map(|key| self.full(key))).max_keys(max.clamp(1, 1_000) as i32);
        let answer = list.send().await.map_err(|cause| self.explain("list", prefix, cause))?;
        let more = answer.is_truncated().unwrap_or(false);
        let own = self.0.options.prefix.len();
        let objects: Vec<Listed> = answer
            .contents
            .unwrap_or_default()
            .into_iter()
            .filter_map(|object| {
                let bytes = object.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
                let modified_s = object.last_modified.map_or(0, |date| u64::try_from(date.secs()).unwrap_or(0));
                Some(Listed { key: object.key?.get(own..)?.to_owned(), bytes, modified_s })
            })
            .collect();
        let next = objects.last().filter(|_| more).map(|last| last.key.clone());
        Ok(Page { objects, next })
    }

    /// Removes an object; one that is not there is removed already.
    ///
    /// # Errors
    /// `Unavailable` when the bucket cannot be asked or refuses.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let answer = self.0.client.delete_object().bucket(self.bucket()).key(self.full(key)).send().await;
        answer.map(drop).map_err(|cause| self.explain("remove", key, cause))
    }

    /// Keys and ids of uploads in parts that were begun at least `age` ago and have not ended.
    ///
    /// # Errors
    /// `Unavailable` when the bucket cannot be asked.
    pub async fn unfinished(&self, age: Duration) -> Result<Vec<(String, String)>> {
        self.unfinished_below("", age).await
    }

    /// The same of keys that begin with `below`.
    ///
    /// # Errors
    /// As `unfinished`.
    pub async fn unfinished_below(&self, below: &str, age: Duration) -> Result<Vec<(String, String)>> {
        self.unfinished_by(below, age, 1_000).await
    }

    /// The same, asked for `page` at a time; after `UNFINISHED_PAGES_MAX` pages it is enough.
    ///
    /// # Errors
    /// As `unfinished`.
    pub async fn unfinished_by(&self, below: &str, age: Duration, page: i32) -> Result<Vec<(String, String)>> {
        let prefix = &self.0.options.prefix;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let latest = i64::try_from(now.saturating_sub(age).as_secs()).unwrap_or(i64::MAX);
        let mut unfinished = Vec::new();
        let mut after: (Option<String>, Option<String>) = (None, None);
        for _ in 0..UNFINISHED_PAGES_MAX {
            let list = self.0.client.list_multipart_uploads().bucket(self.bucket()).prefix(self.full(below));
            let list = list.max_uploads(page).set_key_marker(after.0.take()).set_upload_id_marker(after.1.take());
            let answer = list.send().await.map_err(|cause| self.explain("list unfinished uploads of", "", cause))?;
            after = (answer.next_key_marker().map(str::to_owned), answer.next_upload_id_marker().map(str::to_owned));
            let more = answer.is_truncated().unwrap_or(false) && after.0.is_some();
            let uploads = answer.uploads.unwrap_or_default().into_iter();
            let old = uploads.filter(|upload| upload.initiated.is_some_and(|began| began.secs() <= latest));
            unfinished.extend(
                old.filter_map(|upload| Some((upload.key?.strip_prefix(prefix)?.to_owned(), upload.upload_id?))),
            );
            if !more {
                break;
            }
        }
        Ok(unfinished)
    }

    /// Takes back uploads in parts of versions that were begun at least `age` ago: what killed processes left. Of those
    /// below `UPLOADS` their rows know, and other keys are not ours. Returns how many.
    ///
    /// # Errors
    /// `Unavailable` when the bucket cannot be asked.
    pub async fn sweep(&self, age: Duration) -> Result<usize> {
        let unfinished = self.unfinished_below("v/", age).await?;
        for (key, upload) in &unfinished {
            match self.abort_parts(key, upload).await {
                Err(error) if error.kind() == Kind::NotFound => {} // it has ended meanwhile
                aborted => aborted?,
            }
        }
        Ok(unfinished.len())
    }

    /// After this long no request that was begun is still on its way: every try of one to its end.
    pub fn patience(&self) -> Duration {
        self.0.options.read_timeout * 6 * self.0.options.attempts.max(1) * 2
    }

    /// Takes back an upload in parts.
    ///
    /// # Errors
    /// `NotFound` when it has ended, `Unavailable` when the bucket cannot be asked.
    pub async fn abort_parts(&self, key: &str, upload: &str) -> Result<()> {
        let abort = self.0.client.abort_multipart_upload().bucket(self.bucket()).key(self.full(key));
        abort.upload_id(upload).send().await.map(drop).map_err(|cause| self.explain("take back", key, cause))
    }

    /// Makes one object of parts that were sent: their numbers and entity tags, by rising number.
    ///
    /// # Errors
    /// `Unavailable` when the bucket refuses.
    pub async fn finish_parts(&self, key: &str, upload: &str, parts: &[(i32, String)]) -> Result<()> {
        let parts =
            parts.iter().map(|(number, etag)| CompletedPart::builder().part_number(*number).e_tag(etag).build());
        self.complete(key, upload, parts.collect()).await
    }

    async fn complete(&self, key: &str, upload: &str, parts: Vec<CompletedPart>) -> Result<()> {
        let all = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = self.0.client.complete_multipart_upload().bucket(self.bucket()).key(self.full(key));
        let complete = complete.upload_id(upload).multipart_upload(all).send().await;
        complete.map(drop).map_err(|cause| self.explain("finish", key, cause))
    }

    /// A URL by which anybody can read the object for a while.
    ///
    /// # Errors
    /// `Usage` for a validity that S3 does not sign: none, or over a week.
    pub async fn presign_get(&self, key: &str, valid: Duration) -> Result<String> {
        let get = self.0.signing.get_object().bucket(self.bucket()).key(self.full(key));
        let signed =
            get.presigned(self.presigning(valid)?).await.map_err(|cause| self.explain("sign for", key, cause))?;
        Ok(signed.uri().to_owned())
    }

    /// A URL by which anybody can write the object for a while, with this content type and length and no other.
    ///
    /// # Errors
    /// As `presign_get`.
    pub async fn presign_put(&self, key: &str, content_type: &str, bytes: u64, valid: Duration) -> Result<String> {
        let put = self.0.signing.put_object().bucket(self.bucket()).key(self.full(key)).content_type(content_type);
        let put = put.content_length(i64::try_from(bytes).unwrap_or(i64::MAX));
        let signed =
            put.presigned(self.presigning(valid)?).await.map_err(|cause| self.explain("sign for", key, cause))?;
        Ok(signed.uri().to_owned())
    }

    /// A URL by which anybody can send one part of an upload for a while.
    ///
    /// # Errors
    /// As `presign_get`.
    pub async fn presign_part(&self, key: &str, upload: &str, number: i32, valid: Duration) -> Result<String> {
        let part = self.0.signing.upload_part().bucket(self.bucket()).key(self.full(key));
        let part = part.upload_id(upload).part_number(number);
        let signed =
            part.presigned(self.presigning(valid)?).await.map_err(|cause| self.explain("sign for", key, cause))?;
        Ok(signed.uri().to_owned())
    }

    /// As `presign_part`, for a part of this length and no other.
    ///
    /// # Errors
    /// As `presign_get`.
    pub async fn presign_part_of(
        &self,
        key: &str,
        upload: &str,
        (number, bytes): (i32, u64),
        valid: Duration,
    ) -> Result<String> {
        let part = self.0.signing.upload_part().bucket(self.bucket()).key(self.full(key));
        let part = part.upload_id(upload).part_number(number);
        let part = part.content_length(i64::try_from(bytes).unwrap_or(i64::MAX));
        let signed =
            part.presigned(self.presigning(valid)?).await.map_err(|cause| self.explain("sign for", key, cause))?;
        Ok(signed.uri().to_owned())
    }

    /// As `presign_get`, for ourselves: by the name that we know the bucket by.
    ///
    /// # Errors
    /// As `presign_get`.
    pub async fn presign_inside(&self, key: &str, valid: Duration) -> Result<String> {
        let get = self.0.client.get_object().bucket(self.bucket()).key(self.full(key));
        let signed = get.presigned(self.presigning(valid)?).await;
        Ok(signed.map_err(|cause| self.explain("sign for", key, cause))?.uri().to_owned())
    }

    /// As `presign_get`, for one method and with headers of the answer.
    ///
    /// # Errors
    /// As `presign_get`.
    pub async fn presign_shown(&self, key: &str, valid: Duration, shown: &Shown) -> Result<String> {
        let (bucket, full, until) = (self.bucket(), self.full(key), self.presigning(valid)?);
        let (disposition, content_type) = (shown.disposition.clone(), shown.content_type.clone());
        let signed = if shown.head {
            let head = self.0.signing.head_object().bucket(bucket).key(full);
            let head = head.set_response_content_disposition(disposition).set_response_content_type(content_type);
            head.presigned(until).await.map_err(|cause| self.explain("sign for", key, cause))?
        } else {
            let get = self.0.signing.get_object().bucket(bucket).key(full);
            let get = get.set_response_content_disposition(disposition).set_response_content_type(content_type);
            get.presigned(until).await.map_err(|cause| self.explain("sign for", key, cause))?
        };
        Ok(signed.uri().to_owned())
    }

    /// From now on by the server's clock: it is the one that refuses what has expired, or has not begun.
    fn presigning(&self, valid: Duration) -> Result<PresigningConfig> {
        let refuse = || Error::usage(format!("S3 signs for a second to a week, not for {} s", valid.as_secs()));
        if valid.is_zero() || valid > PRESIGNED_MAX {
            return Err(refuse());
        }
        let here_s = i64::try_from(self.0.options.clock.unix_s()).unwrap_or(i64::MAX);
        let there_s = here_s.saturating_add(self.0.ahead_s.load(Ordering::Relaxed));
        let start = UNIX_EPOCH + Duration::from_secs(u64::try_from(there_s).unwrap_or(0));
        let config = PresigningConfig::builder().start_time(start).expires_in(valid).build();
        config.map_err(|cause| refuse().because(cause))
    }

    /// Makes the bucket, for tests and first starts; one that is there already is fine.
    ///
    /// # Errors
    /// `Unavailable` when the server refuses.
    pub async fn create(&self) -> Result<()> {
        match self.0.client.create_bucket().bucket(self.bucket()).send().await {
            Err(cause) if cause.as_service_error().is_some_and(|e| e.is_bucket_already_owned_by_you()) => Ok(()),
            made => made.map(drop).map_err(|cause| self.explain("make", "", cause)),
        }
    }

    /// Begins an upload in parts that others send by signed URLs.
    ///
    /// # Errors
    /// `Unavailable` when the server refuses.
    pub async fn begin_parts(&self, key: &str, meta: &Meta) -> Result<String> {
        let create = self.0.client.create_multipart_upload().bucket(self.bucket()).key(self.full(key));
        let created = create.content_type(meta.content_type).cache_control(meta.cache_control).send().await;
        let created = created.map_err(|cause| self.explain("begin to write", key, cause))?;
        created.upload_id.ok_or_else(|| Error::internal(format!("{} gave no upload id", self.place())))
    }

    fn runtime(&self) -> &Runtime {
        self.0.runtime.as_ref().expect("it is there until the last handle is dropped")
    }

    fn bucket(&self) -> &str {
        &self.0.options.bucket
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.0.options.prefix)
    }

    /// What went wrong, in one line: what, with which object of which bucket, why, what to do.
    fn explain<E: ProvideErrorMetadata + std::error::Error + 'static>(
        &self,
        what: &str,
        key: &str,
        cause: SdkError<E, HttpResponse>,
    ) -> Error {
        let status = cause.raw_response().map(|response| response.status().as_u16());
        let code = cause.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or_default().to_owned();
        let (kind, advice) = match status {
            Some(404) if code != "NoSuchBucket" => (Kind::NotFound, ""),
            Some(404) => (Kind::Unavailable, "; check store.s3.bucket and store.s3.endpoint"),
            Some(409 | 412) => (Kind::Busy, ""),
            Some(_) if code == "RequestTimeTooSkewed" => (Kind::Unavailable, "; correct this machine's clock"),
            Some(401 | 403) => {
                (Kind::Unavailable, "; check store.s3.access_key and store.s3.secret_key, and the clock")
            }
            Some(400) if ["InvalidPart", "InvalidPartOrder", "EntityTooSmall"].contains(&&*code) => (Kind::Invalid, ""),
            Some(301 | 307 | 400) => {
                (Kind::Unavailable, "; check store.s3.region, store.s3.endpoint and store.s3.path_style")
            }
            _ => (Kind::Unavailable, ""),
        };
        let why = match (status, &cause) {
            (Some(status), _) => format!("{status} {code}").trim_end().to_owned(),
            (None, SdkError::TimeoutError(_)) => "no answer in time".to_owned(),
            (None, SdkError::DispatchFailure(failure)) => {
                failure.as_connector_error().map_or_else(|| "no connection".to_owned(), |cause| chain(cause))
            }
            // Above all when there are no keys.
            (None, cause) => cause.source().map_or_else(|| "the request could not be made".to_owned(), chain),
        };
        Error::new(kind, format!("cannot {what} {key} in {}: {why}{advice}", self.place()).replace("  ", " "))
    }
}

/// A cause and what is below it, without repeating itself.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        next = cause.source();
    }
    line
}

fn text(secret: &Secret) -> String {
    String::from_utf8_lossy(secret.expose()).into_owned()
}

/// What the SDK takes for the time.
#[derive(Debug)]
struct Time(Clock);

impl TimeSource for Time {
    fn now(&self) -> SystemTime {
        match &self.0 {
            Clock::System => SystemTime::now(),
            clock => UNIX_EPOCH + Duration::from_secs(clock.unix_s()),
        }
    }
}

/// 429, which AWS does not say and others do.
#[derive(Debug)]
struct Throttled;

impl ClassifyRetry for Throttled {
    fn classify_retry(&self, ctx: &InterceptorContext) -> RetryAction {
        match ctx.response().is_some_and(|response| response.status().as_u16() == 429) {
            true => RetryAction::throttling_error(),
            false => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "Throttled"
    }
}

/// Compares the server's clock with ours, answer by answer.
#[derive(Debug)]
struct Hear {
    clock: Clock,
    ahead_s: Arc<AtomicI64>,
}

/// A difference up to this is the way of the answer, and whole seconds.
const SKEW_S_MIN: i64 = 60;

impl Intercept for Hear {
    fn name(&self) -> &'static str {
        "Hear"
    }

    fn read_after_transmit(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        let date = context.response().headers().get("date").and_then(|date| httpdate::parse_http_date(date).ok());
        if let Some(there) = date.and_then(|date| date.duration_since(UNIX_EPOCH).ok()) {
            let ahead_s = there.as_secs() as i64 - self.clock.unix_s() as i64;
            let ahead_s = if ahead_s.abs() < SKEW_S_MIN { 0 } else { ahead_s };
            let before_s = self.ahead_s.swap(ahead_s, Ordering::Relaxed);
            if ahead_s != 0 && before_s == 0 {
                tracing::warn!(
                    ahead_s,
                    "the bucket's clock and this machine's differ; requests are signed by the bucket's, correct the clock"
                );
            }
        }
        Ok(())
    }
}
