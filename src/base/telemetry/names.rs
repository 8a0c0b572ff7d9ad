//! Every metric: its name, what it counts, by which labels. `docs/OPERATIONS.md` explains them to
//! operators; a test compares that table, this one and a scrape.

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Samples by size.
    Histogram,
}

/// Requests answered, by `route` template and `status`.
pub const REQUESTS: &str = "segue_origin_requests_total";
/// Time from the decoded request head to the response handed to hyper, in seconds, by `route` template
/// and `class` of status.
pub const REQUEST_SECONDS: &str = "segue_origin_request_seconds";
/// Body bytes announced, by `route` template.
pub const BODY_BYTES: &str = "segue_origin_body_bytes_total";
/// Body bytes by how they left: `path` is `sendfile`, `edge` (up to the first page boundary, beside the
/// head) or `copy`.
pub const SOCKET_BYTES: &str = "segue_origin_socket_bytes_total";
/// Requests that were plain, and answered without hyper.
pub const PLAIN: &str = "segue_origin_plain_total";
/// Bytes of media files read from the disk because they were not in the page cache.
pub const COLD_BYTES: &str = "segue_origin_cold_bytes_total";
/// Chunks asked of the bucket, by `outcome`: `ok`, `failed`, `damaged` (asked for again).
pub const STORE_FETCHES: &str = "segue_store_fetches_total";
/// Bytes fetched from the bucket.
pub const STORE_FETCHED_BYTES: &str = "segue_store_fetched_bytes_total";
/// Bytes of the bucket on this machine's disk.
pub const CACHE_BYTES: &str = "segue_cache_bytes";
/// Versions evicted from the disk.
pub const CACHE_EVICTIONS: &str = "segue_cache_evictions_total";
/// Version cache answers, by `outcome`: `hit`, `fill`, `wait`, `missing`.
pub const LOOKUPS: &str = "segue_origin_lookups_total";
/// Time to open a version, in seconds, by `outcome`.
pub const FILL_SECONDS: &str = "segue_origin_fill_seconds";
/// Versions being opened, or waiting for it.
pub const FILLS: &str = "segue_origin_fills_in_flight";
/// Requests refused, by `reason`.
pub const REFUSED: &str = "segue_origin_refused_total";
/// Open connections now.
pub const CONNECTIONS: &str = "segue_origin_connections";
/// Open connections that are nothing but a socket, between two requests.
pub const CONNECTIONS_IDLE: &str = "segue_origin_connections_idle";
/// Requests in flight now.
pub const IN_FLIGHT: &str = "segue_origin_requests_in_flight";
/// Body bytes in flight now.
pub const IN_FLIGHT_BYTES: &str = "segue_origin_bytes_in_flight";
/// Tracks that are blocked, private or deleted.
pub const BLOCKS: &str = "segue_origin_blocks";
/// Seconds since the origin last learned which tracks are blocked; seldom above 1.
pub const BLOCKS_AGE: &str = "segue_origin_blocks_age_seconds";
/// Times the origin could not learn which tracks are blocked.
pub const BLOCKS_FAILURES: &str = "segue_origin_blocks_failures_total";
/// Seconds from a block to this origin's knowing it, at most one too long: a block is dated in whole seconds.
pub const BLOCKS_DARK: &str = "segue_origin_blocks_dark_seconds";
/// Connections by what their peer spoke: `protocol` is `http1` or `h2`.
pub const CONNECTIONS_OPENED: &str = "segue_origin_connections_opened_total";
/// TLS handshakes by `outcome`: `full`, `resumed`; failed: `timeout`, `closed`, `not_tls`, `incompatible` (no
/// version, cipher or protocol in common), `refused` (the client sent an alert, usually about our
/// certificate), `broken`, `busy`.
pub const TLS_HANDSHAKES: &str = "segue_tls_handshakes_total";
/// Attempts to read the certificate again, by `outcome`: `changed`, `failed`.
pub const TLS_RELOADS: &str = "segue_tls_reloads_total";
/// Attempts to take new signing keys, by `outcome`: `changed`, `failed`.
pub const KEY_RELOADS: &str = "segue_key_reloads_total";
/// When the certificate expires, in seconds since 1970.
pub const TLS_NOT_AFTER: &str = "segue_tls_certificate_not_after_seconds";
/// 1 when cold files are read by io_uring, 0 when by threads.
pub const IO_URING: &str = "segue_origin_io_uring";
/// Control requests answered, by `route` template and `class` of status.
pub const CONTROL_SECONDS: &str = "segue_control_request_seconds";
/// Statements sent to the database for control requests, by `route` template.
pub const CONTROL_STATEMENTS: &str = "segue_control_statements_total";

/// Jobs whose time has come and that wait, by `priority`; -1 while the queue cannot be read.
pub const JOBS_QUEUED: &str = "segue_jobs_queued";
/// Seconds that the oldest of them waits, by `priority`.
pub const JOBS_OLDEST: &str = "segue_jobs_oldest_age_seconds";
/// Jobs that run, on any worker.
pub const JOBS_RUNNING: &str = "segue_jobs_running";
/// Jobs that failed for good and wait for a person.
pub const JOBS_DEAD: &str = "segue_jobs_dead";
/// Attempts of this process that ended, by `outcome`: `succeeded`, `failed`, `refused`, `cancelled`,
/// `handed_back`, `lost`.
pub const JOB_ATTEMPTS: &str = "segue_job_attempts_total";
/// … of them, those that failed or were refused, by `reason`: `input`, `missing`, `stalled`, `lost`, `internal`.
pub const JOB_FAILURES: &str = "segue_job_failures_total";
/// Seconds of media that a transcode made in a second.
pub const TRANSCODE_FACTOR: &str = "segue_transcode_realtime_factor";
/// Playlists that the bucket signed because the CDN's key could not.
pub const PLAYBACK_FALLBACKS: &str = "segue_playback_fallbacks_total";
/// Requests to a CDN's API to purge, by `outcome`: `done`, `failed`, `refused`.
pub const PURGES: &str = "segue_cdn_purges_total";
/// Purges that wait to be asked for.
pub const PURGES_WAITING: &str = "segue_cdn_purges_waiting";
/// Seconds from the start of an attempt until a new track could be played with its first rung.
pub const TRANSCODE_PLAYABLE: &str = "segue_transcode_playable_seconds";
/// Tries to deliver a callback, by `outcome`: `delivered`, `failed`.
pub const CALLBACKS: &str = "segue_callback_tries_total";
/// Callbacks that wait to be delivered.
pub const CALLBACKS_WAITING: &str = "segue_callbacks_waiting";

/// Mails, by `outcome`: `sent`, `failed`.
pub const MAILS: &str = "segue_mail_tries_total";
/// Mails that wait to be sent.
pub const MAILS_WAITING: &str = "segue_mails_waiting";
/// Logins and what else proves who somebody is, by `outcome`: `ok`, `refused`, `throttled`.
pub const LOGINS: &str = "segue_login_tries_total";
/// Requests refused because a limit was used up, by `limit`.
pub const RATE_LIMITED: &str = "segue_rate_limited_total";

/// Bytes of uploads that were taken from senders.
pub const UPLOAD_BYTES: &str = "segue_upload_bytes_total";
/// Uploads that became ready or ended, by `outcome`: `ready`, `refused`, `expired`, `aborted`.
pub const UPLOADS: &str = "segue_uploads_total";
/// … of them, those refused, by `reason`: `size`, `sha256`, `kind`, `virus`, `parts`.
pub const UPLOADS_REFUSED: &str = "segue_uploads_refused_total";
/// Looks at uploads that could not be finished and are repeated.
pub const UPLOADS_PUT_OFF: &str = "segue_upload_looks_put_off_total";
/// Uploads all of whose bytes are here and that were not looked at to the end yet.
pub const UPLOADS_VERIFYING: &str = "segue_uploads_verifying";

/// Requests with CMCD, by `sf` (streaming format) and `ot` (object type).
pub const CMCD_REQUESTS: &str = "segue_cmcd_requests_total";
/// … of them, those that said that the player had run dry (`bs`).
pub const CMCD_STARVED: &str = "segue_cmcd_starvations_total";
/// … and those needed urgently to start, seek or recover (`su`).
pub const CMCD_STARTUP: &str = "segue_cmcd_startups_total";
/// Requests whose CMCD could not be read, or was too long.
pub const CMCD_INVALID: &str = "segue_cmcd_invalid_total";
/// Media the player held (`bl`), in seconds.
pub const CMCD_BUFFER: &str = "segue_cmcd_buffer_length_seconds";
/// Time until the player would run dry without this object (`dl`), in seconds.
pub const CMCD_DEADLINE: &str = "segue_cmcd_deadline_seconds";
/// Throughput the player measured (`mtp`), in bits per second.
pub const CMCD_MEASURED: &str = "segue_cmcd_measured_throughput_bits_per_second";
/// Encoded bitrate of the object (`br`), in bits per second.
pub const CMCD_BITRATE: &str = "segue_cmcd_encoded_bitrate_bits_per_second";
/// Most throughput the player has use for (`rtp`), in bits per second.
pub const CMCD_REQUESTED: &str = "segue_cmcd_requested_throughput_bits_per_second";

/// Refunds of which nobody knows for five minutes whether the provider has them; -1, as with the next ones: nobody could
/// look.
pub const ORPHAN_REFUNDS: &str = "segue_ledger_orphan_refund_rows";
/// Orders that wait for their payment although a sweep has looked.
pub const STUCK_ORDERS: &str = "segue_ledger_stuck_orders_pending";
/// Refunds that wait although a sweep has looked.
pub const STUCK_REFUNDS: &str = "segue_ledger_stuck_refunds_pending";
/// Invoices whose payment nobody knows the end of yet: banks may take days.
pub const OPEN_INVOICES: &str = "segue_ledger_open_invoices";
/// … and those that have been so for more than a week.
pub const STUCK_INVOICES: &str = "segue_ledger_stuck_invoices_open";
/// Transfers that were tried five times or given up.
pub const FAILED_TRANSFERS: &str = "segue_ledger_failed_transfers_at_max_retry";
/// Transfers that have to come back.
pub const PENDING_REVERSALS: &str = "segue_ledger_reversal_pending_transfers";
/// Payments and refunds at the provider that are not what we asked for.
pub const MONEY_ALARMS: &str = "segue_ledger_alarms";
/// Posted debits less credits, by `currency`; `XXX` stands for none and shows that somebody looks.
pub const TRIAL_BALANCE: &str = "segue_ledger_trial_balance_minor_units";
/// Journals without a seal.
pub const UNSEALED: &str = "segue_ledger_unsealed_journals";
/// 1 when every seal and balance was what the postings say, 0 when not; looked at once an hour.
pub const CHAIN_VALID: &str = "segue_ledger_hash_chain_valid";
/// When that was last looked at, in seconds since 1970; 0: not by this process.
pub const VERIFIED_LAST: &str = "segue_ledger_last_verification_timestamp";
/// What the ledger says that the provider holds, less what every payment, refund, transfer and dispute says.
pub const CLEARING_DIFFERENCE: &str = "segue_ledger_clearing_difference_minor_units";
/// What sweeps moved on, by `phase`: `payments`, `refunds`, `orphans`, `disputes`, `given_back`, `subscriptions`,
/// `comparison`.
pub const SWEEP_ACTIONS: &str = "segue_reconciler_actions_total";
/// Refunds that no provider knew of.
pub const SWEEP_ORPHANS: &str = "segue_reconciler_orphan_refunds_total";
/// Seconds that the last sweep took.
pub const SWEEP_SECONDS: &str = "segue_reconciler_sweep_duration_seconds";
/// When the last sweep of this process ended, in seconds since 1970; without payments now.
pub const SWEEP_LAST: &str = "segue_reconciler_last_run_timestamp";
/// What the last comparison with the provider found on one side only, by `kind`: `strange`, that nobody here knows, `missing`,
/// that the provider does not list.
pub const DISCREPANCIES: &str = "segue_reconciler_discrepancies";
/// Deliveries of providers that were taken, by `result`: `accepted`, `unsigned`, `malformed`.
pub const WEBHOOKS: &str = "segue_payment_webhooks_total";
/// Deliveries that were taken and not processed yet.
pub const WEBHOOKS_WAITING: &str = "segue_payment_webhooks_waiting";
/// Seconds since the oldest of them came.
pub const WEBHOOKS_AGE: &str = "segue_payment_webhooks_oldest_age_seconds";
/// Disputes that a provider told of.
pub const DISPUTES: &str = "segue_payment_disputes_total";

/// How often a worker has a turn, by `worker`.
pub const WORKER_EVERY: &str = "segue_worker_interval_seconds";
/// When the last turn of a worker in this process ended, in seconds since 1970; before its first, when it began. By `worker`.
pub const WORKER_LAST: &str = "segue_worker_last_run_timestamp_seconds";
/// Turns of a worker that failed, by `worker`.
pub const WORKER_FAILURES: &str = "segue_worker_failures_total";

/// Log lines left out because the writer was behind.
pub const LOG_DROPPED: &str = "segue_log_dropped_total";
/// Access log lines left out because there were too many errors in a second.
pub const ACCESS_SUPPRESSED: &str = "segue_log_access_suppressed_total";
/// Batches of spans that no collector took.
pub const TRACE_FAILED: &str = "segue_trace_export_failures_total";
/// 1, with the `version` of the program.
pub const BUILD_INFO: &str = "segue_build_info";

pub(super) const PROCESS_CPU: &str = "process_cpu_seconds_total";
pub(super) const PROCESS_RESIDENT: &str = "process_resident_memory_bytes";
pub(super) const PROCESS_VIRTUAL: &str = "process_virtual_memory_bytes";
pub(super) const PROCESS_OPEN_FDS: &str = "process_open_fds";
pub(super) const PROCESS_MAX_FDS: &str = "process_max_fds";
pub(super) const PROCESS_THREADS: &str = "process_threads";
pub(super) const PROCESS_START: &str = "process_start_time_seconds";

/// Kind, name and help of each.
pub const ALL: &[(Kind, &str, &str)] = &[
    (Kind::Counter, REQUESTS, "Requests answered, by route template and status; route door is before any route."),
    (
        Kind::Histogram,
        REQUEST_SECONDS,
        "Seconds from the request head to the head of the answer, by route and status class.",
    ),
    (Kind::Counter, BODY_BYTES, "Body bytes announced, by route template."),
    (Kind::Counter, SOCKET_BYTES, "Body bytes by the way they left: sendfile, edge or copy."),
    (Kind::Counter, PLAIN, "Requests that were plain, and answered without hyper."),
    (Kind::Counter, COLD_BYTES, "Bytes of media files read from the disk."),
    (Kind::Counter, STORE_FETCHES, "Chunks asked of the bucket, by outcome: ok, failed or damaged."),
    (Kind::Counter, STORE_FETCHED_BYTES, "Bytes fetched from the bucket."),
    (Kind::Gauge, CACHE_BYTES, "Bytes of the bucket that are on this machine's disk."),
    (Kind::Counter, CACHE_EVICTIONS, "Versions evicted from the disk."),
    (Kind::Counter, PLAYBACK_FALLBACKS, "Playlists that the bucket signed because the CDN's key could not."),
    (Kind::Counter, LOOKUPS, "Lookups of a version, by outcome: hit, fill, wait or missing."),
    (Kind::Histogram, FILL_SECONDS, "Seconds to open a version, by outcome: ok, missing or failed."),
    (Kind::Gauge, FILLS, "Versions being opened, or waiting for it."),
    (Kind::Counter, REFUSED, "Requests and connections refused, by reason."),
    (Kind::Gauge, CONNECTIONS, "Open connections."),
    (Kind::Gauge, CONNECTIONS_IDLE, "Open connections between two requests, of which only the socket is left."),
    (Kind::Gauge, IN_FLIGHT, "Answers on their way."),
    (Kind::Gauge, IN_FLIGHT_BYTES, "Body bytes on their way."),
    (Kind::Counter, CONNECTIONS_OPENED, "Connections by the protocol their peer spoke: http1 or h2."),
    (Kind::Counter, TLS_HANDSHAKES, "TLS handshakes by outcome."),
    (Kind::Counter, TLS_RELOADS, "Attempts to read the certificate again, by outcome: changed or failed."),
    (Kind::Counter, KEY_RELOADS, "Attempts to take new signing keys, by outcome: changed or failed."),
    (Kind::Gauge, TLS_NOT_AFTER, "When the certificate expires, in seconds since 1970."),
    (Kind::Gauge, BLOCKS, "Tracks that are blocked, private or deleted."),
    (Kind::Gauge, BLOCKS_AGE, "Seconds since the origin last learned which tracks are blocked."),
    (Kind::Counter, BLOCKS_FAILURES, "Times the origin could not learn which tracks are blocked."),
    (Kind::Histogram, BLOCKS_DARK, "Seconds from a legal block until this origin answered 451, at most one too long."),
    (Kind::Gauge, IO_URING, "1 when cold files are read by io_uring, 0 when by threads."),
    (Kind::Histogram, CONTROL_SECONDS, "Seconds to answer a control request, by route template and status class."),
    (Kind::Counter, CONTROL_STATEMENTS, "Statements sent to the database for control requests, by route template."),
    (
        Kind::Gauge,
        JOBS_QUEUED,
        "Jobs whose time has come and that wait, by priority; -1 while the queue cannot be read.",
    ),
    (Kind::Gauge, JOBS_OLDEST, "Seconds that the oldest waiting job has waited, by priority."),
    (Kind::Gauge, JOBS_RUNNING, "Jobs that run, on any worker."),
    (Kind::Gauge, JOBS_DEAD, "Jobs that failed for good and wait for a person."),
    (
        Kind::Counter,
        JOB_ATTEMPTS,
        "Attempts that ended, by outcome: lost by whoever found the lease expired, superseded by a worker that woke up.",
    ),
    (Kind::Counter, JOB_FAILURES, "Attempts of this process that failed or were refused, by reason."),
    (Kind::Histogram, TRANSCODE_FACTOR, "Seconds of media that a transcode made in a second."),
    (Kind::Counter, PURGES, "Requests to a CDN's API to purge, by outcome: done, failed or refused."),
    (Kind::Gauge, PURGES_WAITING, "Purges that wait to be asked for."),
    (Kind::Histogram, TRANSCODE_PLAYABLE, "Seconds until the first rung of a new track could be played."),
    (Kind::Counter, CALLBACKS, "Tries to deliver a callback, by outcome: delivered or failed."),
    (Kind::Gauge, CALLBACKS_WAITING, "Callbacks that wait to be delivered."),
    (Kind::Counter, MAILS, "Tries to send a mail, by outcome: sent or failed."),
    (Kind::Gauge, MAILS_WAITING, "Mails that wait to be sent."),
    (Kind::Counter, LOGINS, "Tries to log in, by outcome: ok, refused or throttled."),
    (Kind::Counter, RATE_LIMITED, "Requests refused because a limit was used up, by limit."),
    (Kind::Counter, UPLOAD_BYTES, "Bytes of uploads taken from senders."),
    (Kind::Counter, UPLOADS, "Uploads that became ready or ended, by outcome."),
    (Kind::Counter, UPLOADS_REFUSED, "Uploads refused, by reason."),
    (Kind::Counter, UPLOADS_PUT_OFF, "Looks at uploads that could not be finished and are repeated."),
    (Kind::Gauge, UPLOADS_VERIFYING, "Uploads that wait to be looked at."),
    (Kind::Counter, CMCD_REQUESTS, "Answered requests with CMCD, by streaming format and object type."),
    (Kind::Counter, CMCD_STARVED, "CMCD bs: the player had run dry before this request."),
    (Kind::Counter, CMCD_STARTUP, "CMCD su: needed urgently to start, seek or recover."),
    (Kind::Counter, CMCD_INVALID, "Answered requests whose CMCD could not be read or was too long."),
    (Kind::Histogram, CMCD_BUFFER, "CMCD bl: seconds of media the player held."),
    (Kind::Histogram, CMCD_DEADLINE, "CMCD dl: seconds until the player would run dry without this object."),
    (Kind::Histogram, CMCD_MEASURED, "CMCD mtp: throughput the player measured."),
    (Kind::Histogram, CMCD_BITRATE, "CMCD br: encoded bitrate of the object."),
    (Kind::Histogram, CMCD_REQUESTED, "CMCD rtp: the most throughput the player has use for."),
    (
        Kind::Gauge,
        ORPHAN_REFUNDS,
        "Refunds of which nobody knows whether the provider has them; -1: nobody could look.",
    ),
    (Kind::Gauge, STUCK_ORDERS, "Orders that wait for their payment although a sweep has looked."),
    (Kind::Gauge, STUCK_REFUNDS, "Refunds that wait although a sweep has looked."),
    (Kind::Gauge, OPEN_INVOICES, "Invoices whose payment nobody knows the end of yet."),
    (Kind::Gauge, STUCK_INVOICES, "Invoices whose payment nobody knows the end of for more than a week."),
    (Kind::Gauge, FAILED_TRANSFERS, "Transfers that were tried five times or given up."),
    (Kind::Gauge, PENDING_REVERSALS, "Transfers that have to come back."),
    (Kind::Gauge, MONEY_ALARMS, "Payments and refunds at the provider that are not what we asked for."),
    (Kind::Gauge, TRIAL_BALANCE, "Posted debits less credits, by currency; anything but 0 is wrong."),
    (Kind::Gauge, UNSEALED, "Journals without a seal."),
    (
        Kind::Gauge,
        CLEARING_DIFFERENCE,
        "What the ledger says that the provider holds, less what its rows say, by currency; anything but 0 is wrong.",
    ),
    (Kind::Gauge, CHAIN_VALID, "1 when every seal and balance was what the postings say, at the last look."),
    (
        Kind::Gauge,
        VERIFIED_LAST,
        "When the ledger was last computed again, in seconds since 1970; 0: not by this process.",
    ),
    (Kind::Counter, SWEEP_ACTIONS, "What sweeps moved on, by phase."),
    (Kind::Counter, SWEEP_ORPHANS, "Refunds that no provider knew of."),
    (Kind::Gauge, SWEEP_SECONDS, "Seconds that the last sweep took."),
    (
        Kind::Gauge,
        SWEEP_LAST,
        "When the last sweep of this process ended, in seconds since 1970; without payments now.",
    ),
    (
        Kind::Gauge,
        DISCREPANCIES,
        "What the last comparison found on one side only, by kind: strange (nobody here knows it), missing (not listed there).",
    ),
    (Kind::Counter, WEBHOOKS, "Deliveries of providers, by result: accepted, unsigned or malformed."),
    (Kind::Gauge, WEBHOOKS_WAITING, "Deliveries of providers that were taken and not processed yet."),
    (Kind::Gauge, WEBHOOKS_AGE, "Seconds since the oldest delivery came that was not processed yet."),
    (Kind::Counter, DISPUTES, "Disputes that a provider told of."),
    (Kind::Gauge, WORKER_EVERY, "How often a worker has a turn, by worker."),
    (
        Kind::Gauge,
        WORKER_LAST,
        "When the last turn of a worker in this process ended, in seconds since 1970; before its first, when it began.",
    ),
    (Kind::Counter, WORKER_FAILURES, "Turns of a worker that failed, by worker; the next tries again."),
    (Kind::Counter, LOG_DROPPED, "Log lines left out: standard error was too slow, or libraries wrote too many."),
    (Kind::Counter, ACCESS_SUPPRESSED, "Access log lines left out because there were too many errors in a second."),
    (
        Kind::Counter,
        TRACE_FAILED,
        "Batches of spans that the collector did not take; they are tried again, then dropped.",
    ),
    (Kind::Gauge, BUILD_INFO, "1; the labels say what was built."),
    (Kind::Counter, PROCESS_CPU, "Processor time used, user and system, in seconds."),
    (Kind::Gauge, PROCESS_RESIDENT, "Resident memory, mapped media included."),
    (Kind::Gauge, PROCESS_VIRTUAL, "Virtual memory; one window of it is reserved for mapped media."),
    (Kind::Gauge, PROCESS_OPEN_FDS, "Open file descriptors."),
    (Kind::Gauge, PROCESS_MAX_FDS, "File descriptors that may be open."),
    (Kind::Gauge, PROCESS_THREADS, "Threads."),
    (Kind::Gauge, PROCESS_START, "When the process started, in seconds since 1970."),
];

/// The help of a metric.
///
/// # Panics
/// For a name that is not in the table: nobody could look it up.
pub(super) fn help(name: &str) -> &'static str {
    let found = ALL.iter().find(|(_, known, _)| *known == name);
    found.unwrap_or_else(|| panic!("{name} is not in telemetry::names::ALL")).2
}
