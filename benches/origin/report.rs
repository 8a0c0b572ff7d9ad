//! Figures of a run and how they are told: a table for the screen, Markdown and JSON.

use serde_json::{Value, json};

use crate::idle::Idle;
use crate::paced::Latency;
use crate::peers::Who;

/// What one run of the load said about one server.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    /// Answers per second.
    pub(crate) requests_per_s: f64,
    /// Median latency under full load.
    pub(crate) p50_us: f64,
    /// 99th percentile.
    pub(crate) p99_us: f64,
    /// CPU time of the server per answer.
    pub(crate) cpu_us: f64,
}

/// The middle of some numbers; the mean of the two middle ones when they are even in number.
pub(crate) fn median(of: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = of.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// One kind of answer at every server.
pub(crate) struct Comparison {
    name: String,
    nginx_max: f64,
    floor_max: Option<f64>,
    /// In the order they were first measured; every server has one entry per round.
    rounds: Vec<(Who, Vec<Figures>)>,
}

impl Comparison {
    /// Of the answer `name`, with its bars: CPU per request relative to nginx and to the floor.
    pub(crate) fn new(name: &str, nginx_max: f64, floor_max: Option<f64>) -> Comparison {
        Comparison { name: name.into(), nginx_max, floor_max, rounds: Vec::new() }
    }

    /// Adds a server's figures of one round.
    pub(crate) fn add(&mut self, who: Who, figures: Figures) {
        match self.rounds.iter_mut().find(|(known, _)| *known == who) {
            Some((_, rounds)) => rounds.push(figures),
            None => self.rounds.push((who, vec![figures])),
        }
        self.rounds.sort_by_key(|(who, _)| *who);
    }

    /// Medians of a server's rounds.
    pub(crate) fn figures(&self, who: Who) -> Option<Figures> {
        let (_, rounds) = self.rounds.iter().find(|(known, _)| *known == who)?;
        let middle = |field: fn(&Figures) -> f64| median(rounds.iter().map(field));
        Some(Figures {
            requests_per_s: middle(|f| f.requests_per_s),
            p50_us: middle(|f| f.p50_us),
            p99_us: middle(|f| f.p99_us),
            cpu_us: middle(|f| f.cpu_us),
        })
    }

    /// CPU per request of `who` relative to `other`.
    fn ratio(&self, who: Who, other: Who) -> Option<f64> {
        Some(self.figures(who)?.cpu_us / self.figures(other)?.cpu_us)
    }

    /// segue's ratio and bar, against nginx and against the floor, where both were measured.
    fn verdicts(&self) -> Vec<Verdict> {
        [(Who::Nginx, Some(self.nginx_max)), (Who::Floor, self.floor_max)]
            .into_iter()
            .filter_map(|(other, max)| Some(Verdict { other, ratio: self.ratio(Who::Segue, other)?, max: max? }))
            .collect()
    }

    /// One line while the run goes on.
    pub(crate) fn progress(&self) -> String {
        let servers = self.rounds.iter().filter_map(|(who, _)| {
            Some(format!(
                "{} {:.2} µs, {:.0}/s",
                who.name(),
                self.figures(*who)?.cpu_us,
                self.figures(*who)?.requests_per_s
            ))
        });
        format!("{:<16} {}", self.name, servers.collect::<Vec<_>>().join(" · "))
    }
}

/// A ratio beside its bar.
struct Verdict {
    other: Who,
    ratio: f64,
    max: f64,
}

impl Verdict {
    fn passes(&self) -> bool {
        self.ratio <= self.max
    }

    fn text(&self) -> String {
        let word = if self.passes() { "pass" } else { "MISS" };
        format!("{word} (≤ {:.2} × {})", self.max, self.other.name())
    }
}

/// Everything one run found.
pub(crate) struct Report {
    machine: String,
    smoke: bool,
    notes: Vec<String>,
    comparisons: Vec<Comparison>,
    /// Requests per second and each server's latency at that rate.
    pub(crate) paced: Option<(f64, Vec<(Who, Latency)>)>,
    /// Memory with idle connections.
    pub(crate) idle: Vec<(Who, Idle)>,
}

/// A table: its title, its columns and their rows.
struct Table {
    title: String,
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Report {
    /// An empty report; `smoke` gives no verdicts.
    pub(crate) fn new(machine: String, smoke: bool) -> Report {
        Report { machine, smoke, notes: Vec::new(), comparisons: Vec::new(), paced: None, idle: Vec::new() }
    }

    /// Remembers something the reader must know.
    pub(crate) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// Remembers a reason to doubt the figures.
    pub(crate) fn warn_if(&mut self, doubtful: bool, why: &str) {
        if doubtful {
            self.note(format!("warning: {why}"));
        }
    }

    /// Adds one kind of answer.
    pub(crate) fn add(&mut self, comparison: Comparison) {
        self.comparisons.push(comparison);
    }

    /// Whether any bar was missed.
    pub(crate) fn missed(&self) -> bool {
        let cpu = self.comparisons.iter().flat_map(Comparison::verdicts);
        !self.smoke && cpu.chain(self.paced_verdict()).chain(self.idle_verdict()).any(|verdict| !verdict.passes())
    }

    /// Q3: p99 at half of nginx's peak.
    fn paced_verdict(&self) -> Option<Verdict> {
        let (_, latencies) = self.paced.as_ref()?;
        let of = |who| latencies.iter().find(|(known, _)| *known == who).map(|(_, l)| l.p99_us);
        Some(Verdict { other: Who::Nginx, ratio: of(Who::Segue)? / of(Who::Nginx)?, max: 1.0 })
    }

    /// Q5: bytes per idle connection.
    fn idle_verdict(&self) -> Option<Verdict> {
        let of = |who| self.idle.iter().find(|(known, _)| *known == who).map(|(_, idle)| idle.per_connection());
        Some(Verdict { other: Who::Nginx, ratio: of(Who::Segue)? / of(Who::Nginx)?, max: 1.0 })
    }

    fn word(&self, verdicts: &[Verdict]) -> String {
        match self.smoke {
            true => "not judged".into(),
            false => verdicts.iter().map(Verdict::text).collect::<Vec<_>>().join(", "),
        }
    }

    fn tables(&self) -> Vec<Table> {
        let ratio = |r: Option<f64>| r.map_or_else(|| "–".into(), |r| format!("{r:.2}"));
        let mut requests = Table {
            title: "CPU time of the server per answer, keep-alive, one core (Q1, Q4)".into(),
            columns: vec!["answer", "server", "req/s", "p50 µs", "p99 µs", "CPU µs/req", "× nginx", "× floor", "bar"],
            rows: Vec::new(),
        };
        for comparison in &self.comparisons {
            for (who, _) in &comparison.rounds {
                let Some(figures) = comparison.figures(*who) else { continue };
                requests.rows.push(vec![
                    comparison.name.clone(),
                    who.name().into(),
                    format!("{:.0}", figures.requests_per_s),
                    format!("{:.0}", figures.p50_us),
                    format!("{:.0}", figures.p99_us),
                    format!("{:.2}", figures.cpu_us),
                    ratio(comparison.ratio(*who, Who::Nginx)),
                    ratio(comparison.ratio(*who, Who::Floor)),
                    if *who == Who::Segue { self.word(&comparison.verdicts()) } else { String::new() },
                ]);
            }
        }
        let mut tables = vec![requests];
        if let Some((rate, latencies)) = &self.paced {
            let rows = latencies.iter().map(|(who, latency)| {
                let verdict = if *who == Who::Segue { self.paced_verdict() } else { None };
                vec![
                    who.name().into(),
                    format!("{:.0}", latency.p50_us),
                    format!("{:.0}", latency.p99_us),
                    verdict.map_or_else(String::new, |v| self.word(&[v])),
                ]
            });
            tables.push(Table {
                title: format!("Latency at half of nginx's peak: {rate:.0} segments of 192 KiB per second (Q3)"),
                columns: vec!["server", "p50 µs", "p99 µs", "bar"],
                rows: rows.collect(),
            });
        }
        if let Some((_, first)) = self.idle.first() {
            let rows = self.idle.iter().map(|(who, idle)| {
                let verdict = if *who == Who::Segue { self.idle_verdict() } else { None };
                vec![
                    who.name().into(),
                    format!("{:.0}", idle.per_connection()),
                    format!("{:.1}", idle.before_bytes as f64 / f64::from(1 << 20)),
                    format!("{:.1}", idle.after_bytes as f64 / f64::from(1 << 20)),
                    verdict.map_or_else(String::new, |v| self.word(&[v])),
                ]
            });
            tables.push(Table {
                title: format!("Memory of {} idle keep-alive connections (Q5)", first.connections),
                columns: vec!["server", "bytes each", "MiB before", "MiB with them", "bar"],
                rows: rows.collect(),
            });
        }
        tables
    }

    /// For the screen.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n", self.machine);
        for note in &self.notes {
            text.push_str(&format!("{note}\n"));
        }
        for table in self.tables() {
            let widths: Vec<usize> = (0..table.columns.len())
                .map(|at| {
                    let cells = table.rows.iter().map(|row| row[at].chars().count());
                    cells.chain([table.columns[at].chars().count()]).max().unwrap_or(0)
                })
                .collect();
            let line = |cells: Vec<&str>| {
                let cells = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
                format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
            };
            text.push_str(&format!("\n{}\n", table.title));
            text.push_str(&line(table.columns.clone()));
            for row in &table.rows {
                text.push_str(&line(row.iter().map(String::as_str).collect()));
            }
        }
        text
    }

    /// For documents.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("{}.\n", self.machine);
        for note in &self.notes {
            text.push_str(&format!("\n> {note}\n"));
        }
        for table in self.tables() {
            text.push_str(&format!("\n**{}**\n\n| {} |\n", table.title, table.columns.join(" | ")));
            text.push_str(&format!("|{}\n", "---|".repeat(table.columns.len())));
            for row in &table.rows {
                text.push_str(&format!("| {} |\n", row.join(" | ")));
            }
        }
        text
    }

    /// For programs: every round of every server, nothing rounded.
    pub(crate) fn json(&self) -> String {
        let verdict =
            |v: &Verdict| json!({"against": v.other.name(), "ratio": v.ratio, "max": v.max, "pass": v.passes()});
        let answers: Vec<Value> = self
            .comparisons
            .iter()
            .map(|comparison| {
                let servers: serde_json::Map<String, Value> = comparison
                    .rounds
                    .iter()
                    .map(|(who, rounds)| {
                        let of = |field: fn(&Figures) -> f64| rounds.iter().map(field).collect::<Vec<f64>>();
                        let rounds = json!({
                            "requests_per_s": of(|f| f.requests_per_s),
                            "p50_us": of(|f| f.p50_us),
                            "p99_us": of(|f| f.p99_us),
                            "cpu_us": of(|f| f.cpu_us),
                        });
                        (who.name().to_owned(), rounds)
                    })
                    .collect();
                let verdicts: Vec<Value> = comparison.verdicts().iter().map(verdict).collect();
                json!({"answer": comparison.name, "rounds": servers, "verdicts": verdicts})
            })
            .collect();
        let paced = self.paced.as_ref().map(|(rate, latencies)| {
            let servers: serde_json::Map<String, Value> =
                latencies.iter().map(|(who, l)| (who.name().to_owned(), json!(l))).collect();
            json!({"requests_per_s": rate, "servers": servers, "verdict": self.paced_verdict().as_ref().map(verdict)})
        });
        let idle: Vec<Value> = self
            .idle
            .iter()
            .map(|(who, idle)| {
                json!({
                    "server": who.name(),
                    "connections": idle.connections,
                    "before_bytes": idle.before_bytes,
                    "after_bytes": idle.after_bytes,
                })
            })
            .collect();
        let all = json!({
            "machine": self.machine,
            "smoke": self.smoke,
            "notes": self.notes,
            "answers": answers,
            "paced": paced,
            "idle": idle,
            "idle_verdict": self.idle_verdict().as_ref().map(verdict),
        });
        format!("{all:#}\n")
    }
}
