//! What JSON of tracks, notices and the admin's desk looks like, for the description alone: it is made where the values are
//! (`view.rs`, `dmca.rs`, `desk.rs`), and `tests/it/openapi.rs` has real answers checked against this.

#![expect(dead_code, reason = "descriptions of JSON that is made elsewhere")]

use utoipa::ToSchema;

use crate::api::described::JobView;

/// How a track stands.
#[derive(ToSchema)]
#[schema(as = TrackState, rename_all = "lowercase")]
pub(in crate::api) enum StateView {
    Draft,
    Uploaded,
    Processing,
    Ready,
    Published,
    Unlisted,
    Failed,
    Blocked,
    Deleted,
}

/// Whether strangers may hear a track.
#[derive(ToSchema)]
#[schema(as = Visibility, rename_all = "lowercase")]
pub(in crate::api) enum VisibilityView {
    Public,
    Private,
}

/// What a track costs.
#[derive(ToSchema)]
#[schema(as = Price)]
pub(in crate::api) struct PriceView {
    /// In the smallest unit of the currency.
    #[schema(minimum = 1, maximum = 10_000_000_000_i64)]
    price_minor: i64,
    /// ISO 4217.
    #[schema(pattern = "^[A-Z]{3}$")]
    currency: String,
}

/// Pictures of a track, by the length of their longer side.
#[derive(ToSchema)]
#[schema(as = Artwork)]
pub(in crate::api) struct ArtworkView {
    small: String,
    medium: String,
    large: String,
}

/// Where a track is, without the host.
#[derive(ToSchema)]
#[schema(as = TrackUrls)]
pub(in crate::api) struct UrlsView {
    watch: String,
    embed: String,
    master: String,
    stream: String,
    download: String,
    preview: String,
    waveform: String,
}

/// A track, as everybody sees it who may know of it; what stands behind `urls` only its owner and admins see.
#[derive(ToSchema)]
#[schema(as = SeenTrack)]
pub(in crate::api) struct SeenView {
    id: String,
    title: String,
    /// Null before there is something to hear.
    duration_s: Option<f64>,
    /// Whether a rung decodes to the source bit by bit.
    lossless: bool,
    price: Option<PriceView>,
    preview_enabled: bool,
    artwork: Option<ArtworkView>,
    published_at: Option<String>,
    urls: UrlsView,
    state: Option<StateView>,
    visibility: Option<VisibilityView>,
    publish: Option<bool>,
    preview_start_s: Option<f64>,
    version: Option<String>,
    upload: Option<String>,
    waits_for_upload: Option<bool>,
    job: Option<String>,
    error: Option<String>,
    created_at: Option<String>,
    updated_at: Option<String>,
}

/// A track, as its owner sees it.
#[derive(ToSchema)]
#[schema(as = Track)]
pub(in crate::api) struct TrackView {
    id: String,
    title: String,
    duration_s: Option<f64>,
    lossless: bool,
    price: Option<PriceView>,
    preview_enabled: bool,
    artwork: Option<ArtworkView>,
    published_at: Option<String>,
    urls: UrlsView,
    state: StateView,
    visibility: VisibilityView,
    /// Whether it is published as soon as it is ready.
    publish: bool,
    /// Where the preview begins; null: where it is loudest.
    preview_start_s: Option<f64>,
    /// The version that is shown.
    version: Option<String>,
    /// The upload that the latest version is made from.
    upload: Option<String>,
    waits_for_upload: bool,
    job: Option<String>,
    /// Why it failed.
    error: Option<String>,
    created_at: String,
    updated_at: String,
}

/// What shall be different of a track; a price of null is none, a start of null is at the loudest.
#[derive(ToSchema)]
#[schema(as = ChangedTrack)]
pub(in crate::api) struct ChangedView {
    title: Option<String>,
    visibility: Option<VisibilityView>,
    publish: Option<bool>,
    preview_enabled: Option<bool>,
    #[schema(minimum = 0, maximum = 36_000)]
    preview_start_s: Option<f64>,
    price: Option<PriceView>,
}

#[derive(ToSchema)]
#[schema(as = Tracks)]
pub(in crate::api) struct TrackList {
    items: Vec<TrackView>,
    /// For `after`; null at the end.
    next: Option<String>,
}

/// How a track stands, with its job and the rungs that are whole.
#[derive(ToSchema)]
#[schema(as = TrackStatus)]
pub(in crate::api) struct StatusView {
    state: StateView,
    error: Option<String>,
    waits_for_upload: bool,
    job: Option<JobView>,
    #[schema(value_type = Vec<Object>)]
    rungs: Vec<String>,
    /// Whether something can be heard.
    playable: bool,
    track: TrackView,
}

/// One of the server-sent events of a track.
#[derive(ToSchema)]
#[schema(as = TrackEvent)]
pub(in crate::api) struct EventView {
    /// The number behind which to go on; progress has none.
    id: Option<String>,
    event: String,
    /// JSON: `{"seq", "at", "event", "data"}`, of progress `{"progress", "eta_s"}`.
    data: String,
}

/// What came of one track of several.
#[derive(ToSchema)]
#[schema(as = BatchResult)]
pub(in crate::api) struct BatchItem {
    id: String,
    /// `done` or `not-found`.
    result: String,
}

#[derive(ToSchema)]
#[schema(as = BatchResults)]
pub(in crate::api) struct BatchView {
    items: Vec<BatchItem>,
}

/// A version that a track has shown.
#[derive(ToSchema)]
#[schema(as = Version)]
pub(in crate::api) struct VersionView {
    id: String,
    /// Whether it is the one that is shown.
    current: bool,
    bytes: Option<u64>,
    duration_s: f64,
    samples: u64,
    rate: u32,
    flac: bool,
    lossless: bool,
    video: bool,
    made_at: String,
}

#[derive(ToSchema)]
#[schema(as = Versions)]
pub(in crate::api) struct VersionList {
    items: Vec<VersionView>,
    /// For `before`; null at the end.
    next: Option<String>,
}

/// What was measured of the sound that a track shows.
#[derive(ToSchema)]
#[schema(as = Media)]
pub(in crate::api) struct MediaView {
    id: String,
    version: String,
    duration_s: f64,
    source: SourceView,
    /// Null of a silent film.
    loudness: Option<LoudnessView>,
    /// The rungs, each as long as the source.
    rungs: Vec<RungView>,
    /// The picture of a film.
    #[schema(value_type = Option<Object>)]
    video: Option<String>,
    preview_start_s: Option<f64>,
    /// Rungs that were not made because they could add nothing, and why.
    #[schema(value_type = Vec<Object>)]
    skipped: Vec<String>,
}

/// What went in, decoded.
#[derive(ToSchema)]
#[schema(as = MediaSource)]
pub(in crate::api) struct SourceView {
    codec: String,
    rate: u32,
    channels: u32,
    /// Where the channels are, when FLAC has no layout of just these.
    layout: Option<String>,
    /// 32 of floating point.
    bits: u32,
    /// Length in samples per channel.
    samples: u64,
}

/// EBU R128; two decimals.
#[derive(ToSchema)]
#[schema(as = Loudness)]
pub(in crate::api) struct LoudnessView {
    /// In LUFS; absent of silence.
    integrated_lufs: Option<f64>,
    /// In LU.
    range_lu: f64,
    /// In dBTP; absent of silence.
    true_peak_dbtp: Option<f64>,
    /// `track_gain_db` and `track_peak`; absent of silence.
    #[schema(value_type = Option<Object>)]
    replay_gain: Option<String>,
}

/// A rung of the ladder, and what is not to be heard of it.
#[derive(ToSchema)]
#[schema(as = MediaRung)]
pub(in crate::api) struct RungView {
    path: String,
    codecs: String,
    rate: u32,
    channels: u32,
    bits: u32,
    /// The highest of any segment or short run of segments, in bit/s.
    bandwidth: u64,
    average_bandwidth: u64,
    segments: u64,
    /// Samples that decoders give before the first and behind the last that are meant.
    priming: u32,
    padding: u32,
    samples: u64,
    lossless: bool,
    /// What was lost on the way from the source, in words.
    loss: Option<String>,
}

/// Several tracks, each alone and all as one.
#[derive(ToSchema)]
#[schema(as = LoudnessTogether)]
pub(in crate::api) struct TogetherView {
    #[schema(value_type = Vec<Object>)]
    tracks: Vec<String>,
    together: AlbumView,
}

/// EBU R128 of several tracks as one, to 0.05 LU; null of silence.
#[derive(ToSchema)]
#[schema(as = AlbumLoudness)]
pub(in crate::api) struct AlbumView {
    integrated_lufs: Option<f64>,
    range_lu: f64,
    true_peak_dbtp: Option<f64>,
    /// ReplayGain 2.0.
    album_gain_db: Option<f64>,
    album_peak: f64,
}

/// A share in force.
#[derive(ToSchema)]
#[schema(as = Share)]
pub(in crate::api) struct ShareView {
    id: String,
    label: Option<String>,
    created_at: String,
    expires_at: String,
}

#[derive(ToSchema)]
#[schema(as = Shares)]
pub(in crate::api) struct ShareList {
    items: Vec<ShareView>,
    /// For `before`; null at the end.
    next: Option<String>,
}

/// A share that was made, with what opens, shown once.
#[derive(ToSchema)]
#[schema(as = NewShare)]
pub(in crate::api) struct MadeShare {
    id: String,
    track: String,
    token: String,
    url: String,
    label: Option<String>,
    expires_at: String,
}

/// What a token of a share opens.
#[derive(ToSchema)]
#[schema(as = ResolvedShare)]
pub(in crate::api) struct Resolved {
    track: String,
    expires_at: String,
    watch: String,
}

/// The words of a track.
#[derive(ToSchema)]
#[schema(as = Lyrics)]
pub(in crate::api) struct LyricsView {
    text: String,
    /// Whether each line begins with its time: `[01:23.45]`.
    synced: bool,
    /// BCP 47.
    language: Option<String>,
    updated_at: String,
}

/// How often a track was heard.
#[derive(ToSchema)]
#[schema(as = TrackStats)]
pub(in crate::api) struct StatsView {
    /// Since there is the track.
    plays: i64,
    /// Days on which it was.
    days: Vec<DayView>,
}

#[derive(ToSchema)]
#[schema(as = TrackDay)]
pub(in crate::api) struct DayView {
    #[schema(format = Date)]
    day: String,
    plays: i64,
    listeners: i64,
}

/// A notice of infringement, 17 USC 512(c)(3)(A)(i)–(vi).
#[derive(ToSchema)]
#[schema(as = Notice)]
pub(in crate::api) struct NoticeView {
    /// (i) Full name of who signs.
    #[schema(max_length = 2000)]
    signature: Option<String>,
    /// (ii) The work that is infringed.
    #[schema(max_length = 2000)]
    work: String,
    /// (iii) Where the material is: an address on this server, or a track's id.
    #[schema(max_length = 2000)]
    location: String,
    /// (iv) Name of the complainant.
    #[schema(max_length = 2000)]
    name: Option<String>,
    /// (iv) Their postal address.
    #[schema(max_length = 2000)]
    address: Option<String>,
    /// (iv) Their telephone.
    #[schema(max_length = 2000)]
    phone: Option<String>,
    /// (iv) Their mail address.
    #[schema(max_length = 2000)]
    email: String,
    /// (v) That they believe in good faith that the use is not authorised.
    good_faith_statement: bool,
    /// (vi) That it is accurate, and under penalty of perjury that they are authorised to act.
    sworn_statement: bool,
    /// For whom they act, when not for themselves; shown to who asks for the track.
    #[schema(max_length = 2000)]
    on_behalf_of: Option<String>,
}

/// A counter-notice, 17 USC 512(g)(3).
#[derive(ToSchema)]
#[schema(as = CounterNotice)]
pub(in crate::api) struct CounterView {
    #[schema(max_length = 2000)]
    signature: String,
    #[schema(max_length = 2000)]
    name: String,
    #[schema(max_length = 2000)]
    address: String,
    #[schema(max_length = 2000)]
    phone: String,
    /// (C) Under penalty of perjury: removed by mistake or misidentification.
    good_faith_statement: bool,
    /// (D) Consent to the jurisdiction of the Federal District Court, and to service of process.
    consents_to_jurisdiction: bool,
}

/// How a notice stands.
#[derive(ToSchema)]
#[schema(as = NoticeStanding, rename_all = "snake_case")]
pub(in crate::api) enum StandingView {
    Incomplete,
    Received,
    TakenDown,
    Waiting,
    Restored,
    Upheld,
    Dismissed,
}

/// What the sender of a notice gets.
#[derive(ToSchema)]
#[schema(as = NoticeReceipt)]
pub(in crate::api) struct ReceiptView {
    id: String,
    standing: StandingView,
    /// Elements that the law wants and that are not there, by name.
    missing: Vec<String>,
    received_at: String,
}

/// A notice and how it stands.
#[derive(ToSchema)]
#[schema(as = FiledNotice)]
pub(in crate::api) struct FiledView {
    id: String,
    standing: StandingView,
    track: Option<String>,
    notice: NoticeView,
    missing: Vec<String>,
    counter_notice: Option<CounterView>,
    received_at: String,
    taken_down_at: Option<String>,
    counter_notice_at: Option<String>,
    /// Put back not before.
    restore_from: Option<String>,
    /// And before this.
    restore_by: Option<String>,
    closed_at: Option<String>,
    /// Of a takedown: how long until this server was dark; null when it was not within three seconds.
    dark_after_ms: Option<u64>,
    /// Of one notice: everything that was done about it.
    log: Option<Vec<AuditView>>,
}

/// A line of the audit log.
#[derive(ToSchema)]
#[schema(as = AuditLine)]
pub(in crate::api) struct AuditView {
    at: String,
    actor: String,
    action: String,
    #[schema(value_type = Object)]
    data: String,
}

#[derive(ToSchema)]
#[schema(as = FiledNotices)]
pub(in crate::api) struct FiledList {
    items: Vec<FiledView>,
    /// For `before`; null at the end.
    next: Option<String>,
}

/// A worker of a process, as it said itself.
#[derive(ToSchema)]
#[schema(as = Worker)]
pub(in crate::api) struct WorkerView {
    /// What it is called; each process has it once.
    worker: String,
    /// The process: host, number, four random digits.
    node: String,
    /// How often it has a turn.
    every_s: f64,
    /// When its process began.
    since: String,
    /// When its process last said something.
    seen_at: String,
    /// Whether that is so long ago that the process has died, or does not reach the database.
    silent: bool,
    /// Until when it does for all processes what it is named for, without another word; null: another does, or each does.
    holds_until: Option<String>,
    /// When its last turn ended; null: it has had none.
    last_run_at: Option<String>,
    /// Turns of this process that failed.
    failures: i64,
    /// Why the last of them did.
    last_error: Option<String>,
    last_error_at: Option<String>,
}

/// Who has a lease.
#[derive(ToSchema)]
#[schema(as = LeaseOfWork)]
pub(in crate::api) struct LeaseView {
    name: String,
    /// What it does.
    does: String,
    /// When it is not heard of any more, then the lease is another's.
    until: String,
}

#[derive(ToSchema)]
#[schema(as = Workers)]
pub(in crate::api) struct WorkerList {
    /// By worker, then by process.
    items: Vec<WorkerView>,
    leases: Vec<LeaseView>,
}
