//! What the origin counts. Every handle is made once: a request touches a few atomics, no registry.

use std::time::Duration;

use hyper::StatusCode;
use metrics::{Counter, Gauge, counter, gauge};

use super::cache::Lookup;
use super::target::Route;
use crate::base::telemetry::{self, CLASSES, Histogram, histogram};
use crate::cdn::Refused;
use crate::server::gate::Gate;

/// The statuses we answer with; anything else is counted as the last.
const STATUSES: [u16; 14] = [200, 204, 206, 304, 400, 403, 404, 405, 412, 416, 451, 501, 503, 500];

pub(super) struct Metrics {
    routes: [OfRoute; Route::ALL.len()],
    lookups: [Counter; 3],
    missing: Counter,
    gate_full: Counter,
    no_secret: Counter,
    refused: [Counter; Refused::ALL.len()],
    in_flight: Gauge,
    in_flight_bytes: Gauge,
    fills: Gauge,
}

struct OfRoute {
    by_status: [Counter; STATUSES.len()],
    /// By class of status, as in `CLASSES`.
    seconds: [&'static Histogram; CLASSES.len()],
    body_bytes: Counter,
}

impl Metrics {
    pub(super) fn new() -> Metrics {
        let of_route = |route: Route| {
            let route = route.as_str();
            OfRoute {
                by_status: STATUSES
                    .map(|status| counter!(telemetry::REQUESTS, "route" => route, "status" => status.to_string())),
                seconds: CLASSES.map(|class| {
                    let labels = [("route", route), ("class", class)];
                    histogram(telemetry::REQUEST_SECONDS, &labels, &histogram::SECONDS)
                }),
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
            no_secret: refused("origin_secret"),
            refused: Refused::ALL.map(|reason| refused(reason.as_str())),
            in_flight: gauge!(telemetry::IN_FLIGHT),
            in_flight_bytes: gauge!(telemetry::IN_FLIGHT_BYTES),
            fills: gauge!(telemetry::FILLS),
        }
    }

    pub(super) fn answered(&self, route: Route, status: StatusCode, body_bytes: u64, took: Duration) {
        let of_route = &self.routes[route as usize];
        let at = STATUSES.iter().position(|known| *known == status.as_u16()).unwrap_or(STATUSES.len() - 1);
        of_route.by_status[at].increment(1);
        of_route.seconds[telemetry::class_index(status.as_u16())].record_duration(took);
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
        self.refused[reason as usize].increment(1);
    }

    pub(super) fn without_secret(&self) {
        self.no_secret.increment(1);
    }

    pub(super) fn sample(&self, gate: &Gate, fills: usize) {
        self.in_flight.set(gate.requests() as f64);
        self.in_flight_bytes.set(gate.bytes() as f64);
        self.fills.set(fills as f64);
    }
}
