//! Histograms that cost a request two atomic additions. In: whole numbers of a small unit. Out: the
//! Prometheus text.
//!
//! The recorder's own histograms keep every sample until somebody collects them, which allocates on the
//! way of a hit and sorts later; ours have their buckets from the start.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Most buckets a histogram has; the last one, `+Inf`, is beside them.
const BUCKETS_MAX: usize = 20;

/// How a histogram measures.
#[derive(Debug)]
pub struct Scale {
    /// Upper bounds, in the unit that is recorded. Invariant: sorted, at most `BUCKETS_MAX`.
    bounds: &'static [u64],
    /// What is recorded, times this …
    times: f64,
    /// … divided by this, is what is shown: two whole numbers, so that nothing is rounded.
    per_unit: f64,
}

/// 25 µs … 10 s, recorded in nanoseconds: a hit takes microseconds, a cold fill may take seconds.
pub const SECONDS: Scale = Scale {
    bounds: &[
        25_000,
        50_000,
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        1_000_000_000,
        2_500_000_000,
        5_000_000_000,
        10_000_000_000,
    ],
    times: 1.0,
    per_unit: 1e9,
};
/// What players hold and wait for, 0.1 … 60 s, recorded in milliseconds.
pub const PLAYER_SECONDS: Scale = Scale {
    bounds: &[100, 250, 500, 1_000, 2_000, 4_000, 6_000, 10_000, 15_000, 20_000, 30_000, 45_000, 60_000],
    times: 1.0,
    per_unit: 1e3,
};
/// 32 kbit/s … 1 Gbit/s, recorded in kbit/s.
pub const BITS_PER_SECOND: Scale = Scale {
    bounds: &[32, 64, 96, 128, 160, 256, 512, 1_000, 2_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000],
    times: 1e3,
    per_unit: 1.0,
};

/// 0.5 … 500 times real time, recorded in thousandths.
pub const FACTOR: Scale = Scale {
    bounds: &[500, 1_000, 2_000, 5_000, 10_000, 15_000, 20_000, 30_000, 50_000, 75_000, 100_000, 200_000, 500_000],
    times: 1.0,
    per_unit: 1e3,
};

/// One histogram; lives as long as the process.
#[derive(Debug)]
pub struct Histogram {
    name: &'static str,
    /// `route="…",class="2xx"`, escaped.
    labels: String,
    scale: &'static Scale,
    /// Samples by bucket, not cumulative; the last is `+Inf`.
    counts: [AtomicU64; BUCKETS_MAX + 1],
    /// In the recorded unit.
    sum: AtomicU64,
}

/// All of them, in the order they were made.
static ALL: Mutex<Vec<&'static Histogram>> = Mutex::new(Vec::new());

/// The histogram of this name and these labels, made on first use and never freed: names and labels come
/// from fixed lists. Takes a lock; keep what it gives.
pub fn histogram(name: &'static str, labels: &[(&str, &str)], scale: &'static Scale) -> &'static Histogram {
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
    let labels = labels.join(",");
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = all.iter().find(|known| known.name == name && known.labels == labels) {
        return known;
    }
    assert!(scale.bounds.len() <= BUCKETS_MAX, "{name} has too many buckets");
    let counts = [const { AtomicU64::new(0) }; BUCKETS_MAX + 1];
    let made: &'static Histogram =
        Box::leak(Box::new(Histogram { name, labels, scale, counts, sum: AtomicU64::new(0) }));
    all.push(made);
    made
}

impl Scale {
    fn shown(&self, recorded: u64) -> f64 {
        recorded as f64 * self.times / self.per_unit
    }
}

impl Histogram {
    /// Counts one sample. No lock, no allocation.
    pub fn record(&self, value: u64) {
        let at = self.scale.bounds.partition_point(|bound| *bound < value);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Counts one duration, for the scales of nanoseconds.
    pub fn record_duration(&self, took: Duration) {
        self.record(took.as_nanos() as u64); // 584 years fit
    }

    fn render(&self, out: &mut String) {
        let Histogram { name, labels, scale, .. } = self;
        let comma = if labels.is_empty() { "" } else { "," };
        let mut cumulative = 0;
        for (at, bound) in scale.bounds.iter().enumerate() {
            cumulative += self.counts[at].load(Ordering::Relaxed);
            let bound = scale.shown(*bound);
            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {cumulative}");
        }
        cumulative += self.counts[scale.bounds.len()].load(Ordering::Relaxed);
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {cumulative}");
        let sum = scale.shown(self.sum.load(Ordering::Relaxed));
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(out, "{name}_sum{braces} {sum}\n{name}_count{braces} {cumulative}");
    }
}

/// Appends every histogram to `out`, families together, each with its help.
pub(super) fn render(out: &mut String, help: impl Fn(&str) -> &'static str) {
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner).clone();
    all.sort_by_key(|histogram| histogram.name); // stable: the order within a family stays
    for family in all.chunk_by(|one, next| one.name == next.name) {
        let name = family[0].name;
        let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} histogram", help(name));
        family.iter().for_each(|histogram| histogram.render(out));
        out.push('\n');
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_land_in_cumulative_buckets_with_sum_and_count() {
        static SCALE: Scale = Scale { bounds: &[100, 1_000], times: 1.0, per_unit: 1e3 };
        let histogram = histogram("test_seconds", &[("route", "/a/\"{x}\"")], &SCALE);
        assert!(std::ptr::eq(histogram, super::histogram("test_seconds", &[("route", "/a/\"{x}\"")], &SCALE)));
        for value in [0, 100, 101, 5_000] {
            histogram.record(value);
        }
        let mut text = String::new();
        histogram.render(&mut text);
        let labels = r#"route="/a/\"{x}\"""#;
        assert_eq!(
            text,
            format!(
                "test_seconds_bucket{{{labels},le=\"0.1\"}} 2\ntest_seconds_bucket{{{labels},le=\"1\"}} 3\n\
                 test_seconds_bucket{{{labels},le=\"+Inf\"}} 4\ntest_seconds_sum{{{labels}}} 5.201\n\
                 test_seconds_count{{{labels}}} 4\n"
            )
        );
    }

    #[test]
    fn every_scale_is_sorted_and_fits() {
        for scale in [&SECONDS, &PLAYER_SECONDS, &BITS_PER_SECOND] {
            assert!(scale.bounds.is_sorted() && scale.bounds.len() <= BUCKETS_MAX);
        }
    }
}
