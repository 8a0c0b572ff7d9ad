//! What the origin counts. Every handle is made once: a request touches a few atomics, no registry.

use std::time::Duration;

use hyper::StatusCode;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::cache::Lookup;
use super::target::Route;
use crate::base::telemetry;
use crate::cdn::bunny::Refused;
use crate::server::gate::Gate;

/// The statuses we answer with; anything else is counted as the last.
const STATUSES: [u16; 14] = [200, 204, 206, 304, 400, 403, 404, 405, 412, 416, 451, 501, 503, 500];

pub(super) struct Metrics {
    routes: [OfRoute; Route::ALL.len()],
    lookups: [Counter; 3],
    missing: Counter,
    gate_full: Counter,
    refused: [Counter; 6],
    in_flight: Gauge,
    in_flight_bytes: Gauge,
}

struct OfRoute {
    by_status: [Counter; STATUSES.len()],
    seconds: Histogram,
    body_bytes: Counter,
}

impl Metrics {
    pub(super) fn new() -> Metrics {
        let of_route = |route: Route| {
            let route = route.as_str();
            OfRoute {
                by_status: STATUSES
                    .map(|status| counter!(telemetry::REQUESTS, "route" => route, "status" => status.to_string())),
                seconds: histogram!(telemetry::REQUEST_SECONDS, "route" => route),
                body_bytes: counter!(telemetry::BODY_BYTES, "route" => route),
            }
        };
        let lookup = |outcome: &'static str| counter!(telemetry::LOOKUPS, "outcome" => outcome);
        let refused = |reason: &'static str| counter!(telemetry::REFUSED, "reason" => reason);
        Metrics {
            routes: Route::ALL.map(of_route),
            lookups: ["hit", "fill", "wait"].map(lookup),
            missing: lookup("missing"),
            gate_full: refused("in_flight"),
            refused: REASONS.map(|reason| refused(reason.as_str())),
            in_flight: gauge!(telemetry::IN_FLIGHT),
            in_flight_bytes: gauge!(telemetry::IN_FLIGHT_BYTES),
        }
    }

    pub(super) fn answered(&self, route: Route, status: StatusCode, body_bytes: u64, took: Duration) {
        let of_route = &self.routes[route as usize];
        let at = STATUSES.iter().position(|known| *known == status.as_u16()).unwrap_or(STATUSES.len() - 1);
        of_route.by_status[at].increment(1);
        of_route.seconds.record(took.as_secs_f64());
        of_route.body_bytes.increment(body_bytes);
    }

    pub(super) fn found(&self, lookup: Lookup) {
        self.lookups[lookup as usize].increment(1);
    }

    pub(super) fn missing(&self) {
        self.missing.increment(1);
    }

    pub(super) fn gate_full(&self) {
        self.gate_full.increment(1);
    }

    pub(super) fn refused(&self, reason: Refused) {
        let at = REASONS.iter().position(|known| *known == reason);
        self.refused[at.expect("every reason is listed")].increment(1);
    }

    pub(super) fn sample(&self, gate: &Gate) {
        self.in_flight.set(gate.requests() as f64);
        self.in_flight_bytes.set(gate.bytes() as f64);
    }
}

const REASONS: [Refused; 6] = [
    Refused::Missing,
    Refused::Malformed,
    Refused::Expired,
    Refused::WrongPath,
    Refused::WrongAddress,
    Refused::Mismatch,
];
