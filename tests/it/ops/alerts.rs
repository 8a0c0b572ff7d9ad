//! Every alert fires where it has to, and is silent while all is well: promtool on rules and series.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use serde_json::Value;

use super::{assert_shown, files, metrics, ok, read, root, yaml};

/// A service that works, in points of a minute. `a+b` grows by b a minute.
const WELL: &[(&str, &str)] = &[
    (r#"segue_origin_requests_total{route="segment",status="206"}"#, "0+6000"),
    (r#"segue_origin_requests_total{route="segment",status="404"}"#, "0+600"),
    (r#"segue_origin_requests_total{route="segment",status="503"}"#, "0+1"),
    (r#"segue_origin_request_seconds_bucket{class="2xx",le="0.01"}"#, "0+6000"),
    (r#"segue_origin_request_seconds_bucket{class="2xx",le="1"}"#, "0+6000"),
    (r#"segue_origin_request_seconds_bucket{class="2xx",le="+Inf"}"#, "0+6000"),
    (r#"segue_cmcd_requests_total{sf="hls",ot="audio"}"#, "0+600"),
    (r#"segue_cmcd_starvations_total{sf="hls",ot="audio"}"#, "0+1"),
    (r#"segue_origin_refused_total{reason="token_expired"}"#, "0+10"),
    (r#"segue_origin_refused_total{reason="token_mismatch"}"#, "0+1"),
    (r#"segue_origin_refused_total{reason="connections"}"#, "0+0"),
    (r#"segue_origin_connections{instance="a"}"#, "1000+0"),
    (r#"segue_origin_blocks_age_seconds{instance="a"}"#, "1+0"),
    (r#"segue_store_fetches_total{outcome="ok"}"#, "0+60"),
    (r#"segue_store_fetches_total{outcome="failed"}"#, "0+1"),
    (r#"segue_store_fetches_total{outcome="damaged"}"#, "0+0"),
    (r#"segue_tls_certificate_not_after_seconds{instance="a"}"#, "5184000+0"),
    (r#"segue_tls_reloads_total{outcome="failed"}"#, "0+0"),
    (r#"segue_key_reloads_total{outcome="failed"}"#, "0+0"),
    ("segue_playback_fallbacks_total", "0+0"),
    (r#"process_open_fds{instance="a"}"#, "500+0"),
    (r#"process_max_fds{instance="a"}"#, "65536+0"),
    (r#"process_start_time_seconds{instance="a"}"#, "1+0"),
    (r#"segue_jobs_queued{priority="5",instance="a"}"#, "3+0"),
    ("segue_jobs_running", "2+0"),
    (r#"segue_jobs_oldest_age_seconds{priority="5"}"#, "30+0"),
    ("segue_jobs_dead", "4+0"),
    (r#"segue_job_attempts_total{outcome="succeeded"}"#, "0+10"),
    (r#"segue_job_attempts_total{outcome="refused"}"#, "0+10"),
    (r#"segue_job_failures_total{reason="input"}"#, "0+10"),
    (r#"segue_job_failures_total{reason="internal"}"#, "0+0"),
    (r#"segue_transcode_realtime_factor_bucket{le="2"}"#, "0+0"),
    (r#"segue_transcode_realtime_factor_bucket{le="20"}"#, "0+5"),
    (r#"segue_transcode_realtime_factor_bucket{le="+Inf"}"#, "0+5"),
    (r#"segue_transcode_playable_seconds_bucket{le="4"}"#, "0+5"),
    (r#"segue_transcode_playable_seconds_bucket{le="45"}"#, "0+5"),
    (r#"segue_transcode_playable_seconds_bucket{le="+Inf"}"#, "0+5"),
    ("segue_uploads_verifying", "1+0"),
    (r#"segue_uploads_refused_total{reason="virus"}"#, "0+0"),
    ("segue_cdn_purges_waiting", "0+0"),
    ("segue_callbacks_waiting", "2+0"),
    (r#"segue_worker_interval_seconds{worker="janitor"}"#, "10+0"),
    (r#"segue_worker_last_run_timestamp_seconds{worker="janitor",instance="a"}"#, "0+60"),
    (r#"segue_worker_last_run_timestamp_seconds{worker="janitor",instance="b"}"#, "1+0"),
    (r#"segue_worker_failures_total{worker="janitor"}"#, "0+0.1"),
    (r#"segue_ledger_trial_balance_minor_units{currency="EUR"}"#, "0+0"),
    (r#"segue_ledger_clearing_difference_minor_units{currency="EUR"}"#, "0+0"),
    ("segue_ledger_hash_chain_valid", "1+0"),
    ("segue_ledger_orphan_refund_rows", "0+0"),
    ("segue_ledger_stuck_orders_pending", "0+0"),
    ("segue_ledger_stuck_refunds_pending", "0+0"),
    ("segue_ledger_failed_transfers_at_max_retry", "0+0"),
    ("segue_ledger_reversal_pending_transfers", "0+0"),
    ("segue_reconciler_last_run_timestamp", "0+60"),
    (r#"segue_reconciler_discrepancies{kind="strange"}"#, "0+0"),
    (r#"segue_reconciler_discrepancies{kind="missing"}"#, "0+0"),
    ("segue_ledger_unsealed_journals", "0+0"),
    ("segue_ledger_last_verification_timestamp", "0+60"),
    ("segue_ledger_alarms", "0+0"),
    ("segue_ledger_open_invoices", "3+0"),
    ("segue_ledger_stuck_invoices_open", "0+0"),
    (r#"segue_payment_webhooks_total{result="accepted"}"#, "0+10"),
    (r#"segue_payment_webhooks_total{result="unsigned"}"#, "0+1"),
    ("segue_payment_webhooks_oldest_age_seconds", "30+0"),
];

/// What goes wrong: series that differ from `WELL` (none is what is not there), after how many minutes who complains.
type Case = (&'static str, &'static [(&'static str, &'static str)], u32, &'static [&'static str]);

const CASES: &[Case] = &[
    ("all is well", &[], 90, &[]),
    (
        "one request in ten fails",
        &[(r#"segue_origin_requests_total{route="segment",status="503"}"#, "0+600")],
        70,
        &["SegueOriginErrors", "SegueOriginErrorsSlowly"],
    ),
    (
        "one in two hundred fails, for hours",
        &[(r#"segue_origin_requests_total{route="segment",status="503"}"#, "0+33")],
        420,
        &["SegueOriginErrorsSlowly"],
    ),
    (
        "it was bad and is over",
        &[(r#"segue_origin_requests_total{route="segment",status="503"}"#, "0+600x30 18000x470")],
        65,
        &[],
    ),
    (
        "first bytes take a second",
        &[(r#"segue_origin_request_seconds_bucket{class="2xx",le="0.01"}"#, "0+0")],
        30,
        &["SegueOriginSlow"],
    ),
    (
        "players run dry",
        &[(r#"segue_cmcd_starvations_total{sf="hls",ot="audio"}"#, "0+12")],
        40,
        &["SegueListenersStarve"],
    ),
    (
        "there are too many connections",
        &[(r#"segue_origin_refused_total{reason="connections"}"#, "0+10")],
        30,
        &["SegueOriginFull"],
    ),
    ("no origin is left", &[(r#"segue_origin_connections{instance="a"}"#, "")], 10, &["SegueOriginsGone"]),
    (
        "an origin of two cannot read the blocks",
        &[(r#"segue_origin_blocks_age_seconds{instance="b"}"#, "0+60")],
        10,
        &["SegueTakedownsDoNotArrive"],
    ),
    ("the bucket is away", &[(r#"segue_store_fetches_total{outcome="failed"}"#, "0+60")], 20, &["SegueBucketFails"]),
    (
        "the bucket lies",
        &[(r#"segue_store_fetches_total{outcome="damaged"}"#, "0x10 1x490")],
        15,
        &["SegueBytesDamaged"],
    ),
    (
        "somebody guesses tokens",
        &[(r#"segue_origin_refused_total{reason="token_mismatch"}"#, "0+1200")],
        30,
        &["SegueForgedTokens"],
    ),
    (
        "a certificate has ten days left",
        &[(r#"segue_tls_certificate_not_after_seconds{instance="a"}"#, "864000+0")],
        120,
        &["SegueCertificateExpires"],
    ),
    (
        "a new key cannot be read",
        &[(r#"segue_key_reloads_total{outcome="failed"}"#, "0x10 1x490")],
        15,
        &["SegueReloadFails"],
    ),
    ("the CDN's key cannot sign", &[("segue_playback_fallbacks_total", "0+1")], 15, &["SeguePlaybackFallsBack"]),
    ("descriptors leak", &[(r#"process_open_fds{instance="a"}"#, "60000+0")], 15, &["SegueDescriptorsRunOut"]),
    (
        "a server crashes and comes back",
        &[(r#"process_start_time_seconds{instance="a"}"#, "0+60")],
        15,
        &["SegueRestarts"],
    ),
    (
        "an upload waits for twenty minutes",
        &[(r#"segue_jobs_oldest_age_seconds{priority="5"}"#, "1200+0")],
        10,
        &["SegueJobsWait"],
    ),
    ("nobody works", &[("segue_jobs_running", "0+0")], 15, &["SegueWorkersGone"]),
    (
        "the database is away",
        &[
            (r#"segue_jobs_queued{priority="5",instance="a"}"#, "-1+0"),
            ("segue_jobs_running", "-1+0"),
            ("segue_uploads_verifying", "-1+0"),
        ],
        20,
        &["SegueQueueUnseen", "SegueUploadsUnseen"],
    ),
    (
        "the database is away from one worker of two",
        &[(r#"segue_jobs_queued{priority="5",instance="b"}"#, "-1+0")],
        20,
        &[],
    ),
    ("jobs die", &[("segue_jobs_dead", "4x20 6x480")], 30, &["SegueJobsDie"]),
    ("attempts crash", &[(r#"segue_job_failures_total{reason="internal"}"#, "0+5")], 60, &["SegueAttemptsFail"]),
    (
        "transcodes crawl",
        &[(r#"segue_transcode_realtime_factor_bucket{le="2"}"#, "0+5")],
        120,
        &["SegueTranscodesSlow"],
    ),
    (
        "first rungs are late",
        &[(r#"segue_transcode_playable_seconds_bucket{le="4"}"#, "0+0")],
        120,
        &["SegueFirstRungLate"],
    ),
    ("the scanner is away", &[("segue_uploads_verifying", "30+0")], 20, &["SegueUploadsUnseen"]),
    (
        "somebody sends viruses",
        &[(r#"segue_uploads_refused_total{reason="virus"}"#, "0+1")],
        30,
        &["SegueUploadsInfected"],
    ),
    ("the CDN refuses to purge", &[("segue_cdn_purges_waiting", "3+0")], 20, &["SeguePurgesWait"]),
    ("a receiver of callbacks is away", &[("segue_callbacks_waiting", "200+0")], 40, &["SegueCallbacksWait"]),
    (
        "a worker hangs",
        &[(r#"segue_worker_last_run_timestamp_seconds{worker="janitor",instance="a"}"#, "0+60x30 1800x460")],
        60,
        &["SegueWorkerSilent"],
    ),
    (
        "a worker fails every other time",
        &[(r#"segue_worker_failures_total{worker="janitor"}"#, "0+3")],
        60,
        &["SegueWorkerFails"],
    ),
    (
        "the books do not balance",
        &[(r#"segue_ledger_trial_balance_minor_units{currency="EUR"}"#, "-3+0")],
        5,
        &["SegueLedgerUnbalanced"],
    ),
    (
        "a payment has no journal",
        &[(r#"segue_ledger_clearing_difference_minor_units{currency="EUR"}"#, "-5+0")],
        5,
        &["SegueLedgerClearingDiffers"],
    ),
    ("the chain is broken", &[("segue_ledger_hash_chain_valid", "0+0")], 5, &["SegueLedgerChainBroken"]),
    ("nobody samples the ledger", &[("segue_ledger_hash_chain_valid", "-1+0")], 15, &["SegueLedgerUnseen"]),
    ("a refund is unknown", &[("segue_ledger_orphan_refund_rows", "1+0")], 10, &["SegueRefundsOrphaned"]),
    ("an order is stuck", &[("segue_ledger_stuck_orders_pending", "1+0")], 15, &["SegueOrdersStuck"]),
    ("a refund is stuck", &[("segue_ledger_stuck_refunds_pending", "1+0")], 15, &["SegueRefundsStuck"]),
    ("a seller was not paid", &[("segue_ledger_failed_transfers_at_max_retry", "1+0")], 15, &["SegueTransfersFailed"]),
    ("a reversal hangs", &[("segue_ledger_reversal_pending_transfers", "2+0")], 420, &["SegueReversalsPending"]),
    (
        "the reconciler stopped",
        &[("segue_reconciler_last_run_timestamp", "0+60x60 3600x440")],
        240,
        &["SegueReconcilerStale"],
    ),
    (
        "the provider has what we do not know",
        &[(r#"segue_reconciler_discrepancies{kind="strange"}"#, "1+0")],
        5,
        &["SegueReconcilerDiscrepancies"],
    ),
    ("a journal has no seal", &[("segue_ledger_unsealed_journals", "1+0")], 10, &["SegueLedgerUnsealed"]),
    (
        "nobody computes the ledger",
        &[("segue_ledger_last_verification_timestamp", "0+60x60 3600x440")],
        240,
        &["SegueLedgerUnverified"],
    ),
    ("a payment conflicts", &[("segue_ledger_alarms", "1+0")], 5, &["SegueMoneyAlarms"]),
    ("a bank is at it for eight days", &[("segue_ledger_stuck_invoices_open", "1+0")], 15, &["SegueInvoicesStuck"]),
    (
        "the webhook secret is wrong",
        &[
            (r#"segue_payment_webhooks_total{result="accepted"}"#, "0+0"),
            (r#"segue_payment_webhooks_total{result="unsigned"}"#, "0+10"),
        ],
        40,
        &["SegueWebhooksRefused"],
    ),
    (
        "deliveries are not processed",
        &[("segue_payment_webhooks_oldest_age_seconds", "1000+60")],
        15,
        &["SegueWebhooksWait"],
    ),
    // Of the books, what is only just well.
    ("a refund is unknown for four minutes", &[("segue_ledger_orphan_refund_rows", "0x10 1x490")], 15, &[]),
    ("an order is stuck for nine minutes", &[("segue_ledger_stuck_orders_pending", "0x10 1x490")], 20, &[]),
    ("a refund is stuck for nine minutes", &[("segue_ledger_stuck_refunds_pending", "0x10 1x490")], 20, &[]),
    ("a seller is not paid for nine minutes", &[("segue_ledger_failed_transfers_at_max_retry", "0x10 1x490")], 20, &[]),
    ("nobody sampled for nine minutes", &[("segue_ledger_hash_chain_valid", "1x10 -1x490")], 20, &[]),
    ("a reversal came back in time", &[("segue_ledger_reversal_pending_transfers", "2x350 0x5 2x65")], 420, &[]),
    ("the last sweep was two hours ago", &[("segue_reconciler_last_run_timestamp", "0+60x60 3600x440")], 180, &[]),
    (
        "the ledger was computed two hours ago",
        &[("segue_ledger_last_verification_timestamp", "0+60x60 3600x440")],
        180,
        &[],
    ),
    ("a seal is late for four minutes", &[("segue_ledger_unsealed_journals", "0x10 1x490")], 15, &[]),
    ("strangers send webhooks", &[(r#"segue_payment_webhooks_total{result="unsigned"}"#, "0+100")], 40, &[]),
    ("a delivery waits for ten minutes", &[("segue_payment_webhooks_oldest_age_seconds", "600+0")], 60, &[]),
];

#[test]
fn every_alert_fires_in_its_case_and_none_while_all_is_well() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("alerts.yaml");
    fs::write(&file, tests(CASES)).unwrap();
    ok(Command::new("promtool").args(["test", "rules"]).arg(&file));

    // It does look: an alert that is expected where all is well is missed.
    let well = tests(&CASES[..1]);
    fs::write(&file, well.replacen("exp_samples: []", "exp_samples: [{labels: '{}', value: 1}]", 1)).unwrap();
    let output = Command::new("promtool").args(["test", "rules"]).arg(&file).output().unwrap();
    assert!(!output.status.success());
}

/// The cases as promtool reads them.
fn tests(cases: &[Case]) -> String {
    let mut text = "rule_files:\n".to_owned();
    for path in files("k8s/base/rules", ".yaml") {
        writeln!(text, "  - {}", root().join(path).display()).unwrap();
    }
    text.push_str("evaluation_interval: 1m\ntests:\n");
    for (what, changes, after_min, alerts) in cases {
        let mut series: BTreeMap<&str, &str> = WELL.iter().copied().collect();
        series.extend(changes.iter().copied());
        writeln!(text, "  - name: {what}\n    interval: 1m\n    input_series:").unwrap();
        for (name, values) in series.iter().filter(|(_, values)| !values.is_empty()) {
            let lasting = if values.contains('x') { (*values).to_owned() } else { format!("{values}x{after_min}") };
            writeln!(text, "      - {{series: '{name}', values: '{lasting}'}}").unwrap();
        }
        text.push_str("    promql_expr_test:\n");
        text.push_str("      - expr: 'sum by (alertname) (ALERTS{alertstate=\"firing\"}) > bool 0'\n");
        writeln!(text, "        eval_time: {after_min}m").unwrap();
        let expected = alerts.iter().map(|alert| format!("{{labels: '{{alertname=\"{alert}\"}}', value: 1}}"));
        writeln!(text, "        exp_samples: [{}]", expected.collect::<Vec<_>>().join(", ")).unwrap();
    }
    text
}

#[test]
fn every_alert_has_a_case_a_runbook_and_metrics_that_there_are() {
    let paths = files("k8s/base/rules", ".yaml");
    ok(Command::new("promtool").args(["check", "rules"]).args(paths.iter().map(|path| root().join(path))));
    let operations = read("docs/OPERATIONS.md");
    let runbooks: BTreeSet<String> =
        operations.lines().filter_map(|line| line.strip_prefix("### ")).map(str::to_lowercase).collect();
    let mut tried: BTreeSet<&str> = CASES.iter().flat_map(|(_, _, _, alerts)| alerts.iter().copied()).collect();
    let rules = yaml(&paths);
    let rules = rules.iter().flat_map(|file| file["groups"].as_array().unwrap());
    for rule in rules.flat_map(|group| group["rules"].as_array().unwrap()) {
        let name = rule["alert"].as_str().unwrap();
        for metric in metrics(rule["expr"].as_str().unwrap()) {
            assert_shown(metric, name);
        }
        assert!(matches!(rule["labels"]["severity"].as_str(), Some("page" | "ticket")), "{name}");
        let runbook = rule["annotations"]["runbook"].as_str().unwrap();
        let anchor = runbook.strip_prefix("docs/OPERATIONS.md#").unwrap_or_default();
        assert!(runbooks.contains(anchor), "{name}: docs/OPERATIONS.md has no heading for {runbook}");
        assert!(rule["annotations"]["summary"].is_string(), "{name}");
        assert!(tried.remove(name), "{name} is tried by no case");
    }
    assert!(tried.is_empty(), "{tried:?} are no alerts");
}

#[test]
fn the_operators_rules_are_the_same() {
    for path in files("k8s/base/rules", ".yaml") {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let object = yaml(&[format!("k8s/components/operator/rules-{name}.yaml").into()]);
        let [object] = &object[..] else { panic!("one object: {object:?}") };
        assert_eq!(object["kind"], "PrometheusRule");
        assert_eq!(object["spec"], yaml(&[path])[0], "run `make k8s-rules`");
        assert_ne!(object["spec"]["groups"], Value::Null);
    }
}
