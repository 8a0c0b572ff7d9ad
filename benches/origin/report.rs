//! Figures of a run and how they are told: one table of ratios, one of rates; for the screen, as Markdown
//! and as JSON.

use serde_json::{Value, json};

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

/// A row of the table of ratios: one figure of every server, smaller is better.
pub(crate) struct Line {
    /// Of what: `192 KiB segment`.
    pub(crate) what: String,
    /// Which figure, with its unit: `CPU µs/answer`.
    pub(crate) figure: &'static str,
    /// By server, one number per round.
    rounds: Vec<(Who, Vec<f64>)>,
    /// What segue's figure may be.
    bars: Vec<Bar>,
}

/// The most that segue's figure may be.
#[derive(Clone, Copy)]
pub(crate) enum Bar {
    /// This much of another server's.
    Times(f64, Who),
    /// This.
    AtMost(f64),
}

impl Line {
    /// A line without figures yet.
    pub(crate) fn new(what: &str, figure: &'static str, bars: Vec<Bar>) -> Line {
        Line { what: what.into(), figure, rounds: Vec::new(), bars }
    }

    /// Adds a server's figure of one round.
    pub(crate) fn add(&mut self, who: Who, figure: f64) {
        push(&mut self.rounds, who, figure);
    }

    /// The median of a server's rounds.
    fn value(&self, who: Who) -> Option<f64> {
        let (_, rounds) = self.rounds.iter().find(|(known, _)| *known == who)?;
        Some(median(rounds.iter().copied()))
    }

    fn ratio(&self, other: Who) -> Option<f64> {
        Some(self.value(Who::Segue)? / self.value(other)?)
    }

    /// Each bar that can be judged, and whether segue passes.
    fn verdicts(&self) -> Vec<(Bar, bool)> {
        let passes = |bar: &Bar| match *bar {
            Bar::Times(max, other) => Some(self.ratio(other)? <= max),
            Bar::AtMost(max) => Some(self.value(Who::Segue)? <= max),
        };
        self.bars.iter().filter_map(|bar| Some((*bar, passes(bar)?))).collect()
    }

    /// One line while the run goes on.
    pub(crate) fn progress(&self) -> String {
        let of = |(who, _): &(Who, Vec<f64>)| Some(format!("{} {}", who.name(), number(self.value(*who)?)));
        let servers: Vec<String> = self.rounds.iter().filter_map(of).collect();
        format!("{:<30} {:<24} {}", self.what, self.figure, servers.join(" · "))
    }
}

impl Bar {
    fn text(self) -> String {
        match self {
            Bar::Times(max, other) => format!("≤ {max:.2} × {}", other.name()),
            Bar::AtMost(max) => format!("≤ {}", number(max)),
        }
    }
}

fn push<T>(rounds: &mut Vec<(Who, Vec<T>)>, who: Who, value: T) {
    match rounds.iter_mut().find(|(known, _)| *known == who) {
        Some((_, of)) => of.push(value),
        None => rounds.push((who, vec![value])),
    }
    rounds.sort_by_key(|(who, _)| *who);
}

/// Three digits that matter, no more.
fn number(value: f64) -> String {
    match value.abs() {
        small if small < 10.0 => format!("{value:.2}"),
        middle if middle < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Full load: rates and latencies of one kind of answer at every server.
pub(crate) struct Loaded {
    what: String,
    /// In the order of `Who`; every server has one entry per round.
    rounds: Vec<(Who, Vec<Figures>)>,
}

impl Loaded {
    /// Of the answer `what`.
    pub(crate) fn new(what: &str) -> Loaded {
        Loaded { what: what.into(), rounds: Vec::new() }
    }

    /// Adds a server's figures of one round.
    pub(crate) fn add(&mut self, who: Who, figures: Figures) {
        push(&mut self.rounds, who, figures);
    }

    /// Median answers per second of a server.
    pub(crate) fn rate(&self, who: Who) -> Option<f64> {
        let (_, rounds) = self.rounds.iter().find(|(known, _)| *known == who)?;
        Some(median(rounds.iter().map(|f| f.requests_per_s)))
    }

    /// CPU time per answer, as a line of the table of ratios.
    pub(crate) fn cpu(&self, bars: Vec<Bar>) -> Line {
        let mut line = Line::new(&self.what, "CPU µs/answer", bars);
        for (who, rounds) in &self.rounds {
            rounds.iter().for_each(|figures| line.add(*who, figures.cpu_us));
        }
        line
    }
}

/// Everything one run found.
pub(crate) struct Report {
    machine: String,
    smoke: bool,
    notes: Vec<String>,
    lines: Vec<Line>,
    loaded: Vec<Loaded>,
}

/// A table: its title, its columns and their rows.
struct Table {
    title: &'static str,
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Report {
    /// An empty report; `smoke` gives no verdicts.
    pub(crate) fn new(machine: String, smoke: bool) -> Report {
        Report { machine, smoke, notes: Vec::new(), lines: Vec::new(), loaded: Vec::new() }
    }

    /// Remembers something the reader must know.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Remembers a reason to doubt the figures.
    pub(crate) fn warn_if(&mut self, doubtful: bool, why: &str) {
        if doubtful {
            self.note(format!("warning: {why}"));
        }
    }

    /// Adds lines to the table of ratios and says them.
    pub(crate) fn add(&mut self, lines: impl IntoIterator<Item = Line>) {
        for line in lines {
            eprintln!("{}", line.progress());
            self.lines.push(line);
        }
    }

    /// Adds a row to the table of rates.
    pub(crate) fn add_loaded(&mut self, loaded: Loaded) {
        self.loaded.push(loaded);
    }

    /// Whether nothing was measured.
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether any bar was missed.
    pub(crate) fn missed(&self) -> bool {
        !self.smoke && self.lines.iter().flat_map(Line::verdicts).any(|(_, passes)| !passes)
    }

    fn tables(&self) -> [Table; 2] {
        let cell = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
        let ratio = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |v| format!("{v:.2}"));
        let line = |line: &Line| {
            let verdicts = line.verdicts();
            let bars: Vec<String> = verdicts.iter().map(|(bar, _)| bar.text()).collect();
            let words: Vec<&str> = verdicts.iter().map(|(_, passes)| if *passes { "pass" } else { "MISS" }).collect();
            vec![
                line.what.clone(),
                line.figure.to_owned(),
                cell(line.value(Who::Segue)),
                cell(line.value(Who::Nginx)),
                cell(line.value(Who::Floor)),
                ratio(line.ratio(Who::Nginx)),
                ratio(line.ratio(Who::Floor)),
                bars.join(", "),
                if self.smoke { "not judged".to_owned() } else { words.join(", ") },
            ]
        };
        let loaded = |loaded: &Loaded| {
            let rows = loaded.rounds.iter().map(|(who, rounds)| {
                let middle = |field: fn(&Figures) -> f64| format!("{:.0}", median(rounds.iter().map(field)));
                let (rate, p50, p99) = (middle(|f| f.requests_per_s), middle(|f| f.p50_us), middle(|f| f.p99_us));
                vec![loaded.what.clone(), who.name().to_owned(), rate, p50, p99]
            });
            rows.collect::<Vec<_>>()
        };
        [
            Table {
                title: "Ratios: smaller is better",
                columns: vec!["what", "figure", "segue", "nginx", "C floor", "× nginx", "× floor", "bar", ""],
                rows: self.lines.iter().map(line).collect(),
            },
            Table {
                title: "Rates and latencies at full load, one core, 32 requests on their way",
                columns: vec!["answer", "server", "req/s", "p50 µs", "p99 µs"],
                rows: self.loaded.iter().flat_map(loaded).collect(),
            },
        ]
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
        let line = |line: &Line| {
            let servers: serde_json::Map<String, Value> =
                line.rounds.iter().map(|(who, rounds)| (who.name().to_owned(), json!(rounds))).collect();
            let verdicts: Vec<Value> =
                line.verdicts().iter().map(|(bar, passes)| json!({"bar": bar.text(), "pass": passes})).collect();
            let (to_nginx, to_floor) = (line.ratio(Who::Nginx), line.ratio(Who::Floor));
            json!({
                "what": line.what, "figure": line.figure, "rounds": servers,
                "times_nginx": to_nginx, "times_floor": to_floor, "verdicts": verdicts,
            })
        };
        let loaded = |loaded: &Loaded| {
            let servers: serde_json::Map<String, Value> = loaded
                .rounds
                .iter()
                .map(|(who, rounds)| {
                    let of = |field: fn(&Figures) -> f64| rounds.iter().map(field).collect::<Vec<f64>>();
                    let rounds = json!({
                        "requests_per_s": of(|f| f.requests_per_s),
                        "p50_us": of(|f| f.p50_us),
                        "p99_us": of(|f| f.p99_us),
                    });
                    (who.name().to_owned(), rounds)
                })
                .collect();
            json!({"answer": loaded.what, "rounds": servers})
        };
        let all = json!({
            "machine": self.machine,
            "smoke": self.smoke,
            "notes": self.notes,
            "lines": self.lines.iter().map(line).collect::<Vec<_>>(),
            "loaded": self.loaded.iter().map(loaded).collect::<Vec<_>>(),
        });
        format!("{all:#}\n")
    }
}
