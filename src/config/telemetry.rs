//! The settings of the log and of traces.

use serde::{Deserialize, Serialize};

use crate::base::telemetry::Access;

/// The log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `tracing` filter: `info`, `segue=debug,warn`.
    pub filter: String,
    /// One JSON object a line instead of text.
    pub json: bool,
    /// Which requests get a line: `off`, `errors` (400 and above) or `all`.
    pub access: Access,
    /// Lines about errors a second at most; the rest are counted.
    pub errors_per_s_max: u32,
}

impl Default for Log {
    fn default() -> Log {
        Log { filter: "info".into(), json: false, access: Access::Errors, errors_per_s_max: 20 }
    }
}

/// Traces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Where spans go: an OTLP/HTTP collector's URL for traces. Unset: nowhere.
    pub otlp_traces_endpoint: Option<String>,
    /// `service.name` of the spans.
    pub service_name: String,
    /// Share of hits that have a span, 0 to 1; misses always have one.
    pub hit_ratio: f64,
    /// Hits a second at most that have a span because their `traceparent` is sampled.
    pub sampled_hits_per_s_max: u32,
}

impl Default for Telemetry {
    fn default() -> Telemetry {
        Telemetry {
            otlp_traces_endpoint: None,
            service_name: "segue".into(),
            hit_ratio: 0.0,
            sampled_hits_per_s_max: 100,
        }
    }
}
