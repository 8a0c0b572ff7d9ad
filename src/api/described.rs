//! What JSON of uploads and jobs looks like, for the description alone: it is made where the values are
//! (`uploads/view.rs`, `jobs/view.rs`), and `tests/it/openapi.rs` has real answers checked against this.

#![expect(dead_code, reason = "descriptions of JSON that is made elsewhere")]

use utoipa::ToSchema;

/// A file that somebody sends.
#[derive(ToSchema)]
#[schema(as = Upload)]
pub(super) struct UploadView {
    id: String,
    kind: Kind,
    /// `created`, `uploading`, `verifying`, `ready`, `refused`, `expired`, `aborted` or `deleted`.
    state: String,
    /// Its length; of a form at most, until its end.
    bytes: u64,
    /// Bytes that are here.
    offset: u64,
    part_bytes: u64,
    /// It must have; once it is ready, it has.
    sha256: Option<String>,
    name: Option<String>,
    /// The track that it is for.
    track: Option<String>,
    /// What it turned out to be.
    mime: Option<String>,
    /// Of a refusal.
    reason: Option<String>,
    /// The same for people.
    error: Option<String>,
    /// Where tus goes on with it.
    tus: String,
    created_at: String,
    expires_at: Option<String>,
    finished_at: Option<String>,
}

/// What a file is said to be.
#[derive(ToSchema)]
#[schema(as = UploadKind)]
#[schema(rename_all = "lowercase")]
pub(super) enum Kind {
    Audio,
    Image,
    Video,
}

/// A file that is announced.
#[derive(ToSchema)]
#[schema(as = NewUpload)]
pub(super) struct AnnouncesView {
    kind: Kind,
    bytes: u64,
    sha256: Option<String>,
    name: Option<String>,
    track_id: Option<String>,
}

/// A form with a file: its fields first.
#[derive(ToSchema)]
#[schema(as = UploadForm)]
pub(super) struct FormView {
    kind: Kind,
    sha256: Option<String>,
    name: Option<String>,
    track_id: Option<String>,
    #[schema(format = Binary)]
    file: String,
}

#[derive(ToSchema)]
#[schema(as = Uploads)]
pub(super) struct UploadList {
    items: Vec<UploadView>,
    /// For `before`; null at the end.
    next: Option<String>,
}

/// What the bucket has of an upload.
#[derive(ToSchema)]
#[schema(as = UploadParts)]
pub(super) struct PartsView {
    parts: Vec<PartView>,
    part_bytes: u64,
    /// How many parts all of it has.
    parts_of_it: u64,
}

#[derive(ToSchema)]
#[schema(as = UploadPart)]
pub(super) struct PartView {
    number: u32,
    bytes: u64,
    etag: String,
}

/// Which parts shall have URLs.
#[derive(ToSchema)]
#[schema(as = PartNumbers)]
pub(super) struct WantsParts {
    /// 1 to 100 of them.
    parts: Vec<u32>,
}

/// URLs to PUT parts to.
#[derive(ToSchema)]
#[schema(as = PartUrls)]
pub(super) struct PartUrls {
    parts: Vec<PartUrl>,
    expires_at: String,
}

#[derive(ToSchema)]
#[schema(as = PartUrl)]
pub(super) struct PartUrl {
    number: u32,
    bytes: u64,
    url: String,
}

/// The parts that were sent, as the bucket answered.
#[derive(ToSchema)]
#[schema(as = SentParts)]
pub(super) struct SentParts {
    parts: Vec<SentPart>,
}

#[derive(ToSchema)]
#[schema(as = SentPart)]
pub(super) struct SentPart {
    number: u32,
    etag: String,
}

/// Work for the transcoder.
#[derive(ToSchema)]
#[schema(as = Job)]
pub(super) struct JobView {
    id: String,
    kind: String,
    /// `queued`, `leased`, `succeeded`, `dead` or `cancelled`.
    state: String,
    priority: i64,
    source: Option<String>,
    track: Option<String>,
    title: Option<String>,
    callback: Option<String>,
    /// The rungs to make again; null: all.
    rungs: Option<Vec<String>>,
    /// 0 to 1.
    progress: Option<f64>,
    eta_s: Option<f64>,
    attempt: i64,
    failures: i64,
    failures_max: i64,
    worker: Option<String>,
    cancelling: bool,
    reason: Option<String>,
    error: Option<String>,
    /// What came of it.
    #[schema(value_type = Option<Object>)]
    output: Option<String>,
    client: String,
    created_at: String,
    started_at: Option<String>,
    run_at: Option<String>,
    finished_at: Option<String>,
}

#[derive(ToSchema)]
#[schema(as = Jobs)]
pub(super) struct JobList {
    items: Vec<JobView>,
    /// For `before`; null at the end.
    next: Option<String>,
}

/// Which rungs to make again.
#[derive(ToSchema)]
#[schema(as = RetryWish)]
pub(super) struct RetryView {
    rungs: Option<Vec<String>>,
}

/// What was sent to the callback, and what came of it.
#[derive(ToSchema)]
#[schema(as = Callbacks)]
pub(super) struct CallbackList {
    #[schema(value_type = Vec<Object>)]
    items: Vec<String>,
    /// For `after`; null at the end.
    next: Option<i64>,
}

#[derive(ToSchema)]
#[schema(as = Redelivered)]
pub(super) struct Redelivered {
    redelivered: i64,
}
