//! What operators get beside the program: the Dockerfile, the manifests, the dashboards and the alerts. Each is read by the
//! tool that will read it there, and compared with what it speaks about: settings, metrics, runbooks.

mod alerts;
mod keys;
mod manifests;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use segue::base::telemetry;
use serde_json::Value;

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()))
}

/// A Python that has what `.ci/setup test` put into tests/ops/python.
fn python() -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", root().join("tests/ops/python"));
    command
}

/// Runs a command that has to work and returns what it printed.
fn ok(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|cause| panic!("{command:?}: {cause}; .ci/setup test installs it"));
    assert!(output.status.success(), "{command:?}: {}", crate::support::said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The documents of YAML files.
fn yaml(paths: &[PathBuf]) -> Vec<Value> {
    const SCRIPT: &str = "import sys, json, yaml\n\
        print(json.dumps([d for p in sys.argv[1:] for d in yaml.safe_load_all(open(p)) if d], default=str))";
    let paths = paths.iter().map(|path| root().join(path));
    serde_json::from_str(&ok(python().args(["-c", SCRIPT]).args(paths))).unwrap()
}

/// Every file below a directory with such an ending, in order, relative to the root.
fn files(below: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![root().join(below)];
    while let Some(dir) = dirs.pop() {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => dirs.push(path),
                false if path.to_str().unwrap().ends_with(ending) => {
                    found.push(path.strip_prefix(root()).unwrap().to_owned());
                }
                false => {}
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no {ending} below {below}");
    found
}

/// Every text in a document, whatever it hangs on.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(all) => all.iter().flat_map(texts).collect(),
        Value::Object(all) => all.values().flat_map(texts).collect(),
        _ => vec![],
    }
}

/// The metrics that an expression of Prometheus names.
fn metrics(expression: &str) -> BTreeSet<&str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("segue_") || word.starts_with("process_")).collect()
}

/// Panics for a metric that nobody shows, or that is asked for as what it is not.
fn assert_shown(metric: &str, of: &str) {
    let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|part| metric.strip_suffix(part));
    let known = |name: &str| telemetry::ALL.iter().find(|(_, known, _)| *known == name).map(|(kind, _, _)| *kind);
    let fits = match (known(metric), histogram.map(known)) {
        (Some(kind), _) => kind != telemetry::Kind::Histogram,
        (None, Some(Some(kind))) => kind == telemetry::Kind::Histogram,
        _ => false,
    };
    assert!(fits, "{of} asks for {metric}, which is not in telemetry::names::ALL, or is of another kind");
}

#[test]
fn dashboards_ask_for_metrics_that_there_are() {
    for path in files("k8s/base/dashboards", ".json") {
        let board: Value = serde_json::from_str(&read(&path)).unwrap();
        let name = path.display().to_string();
        let panels = board["panels"].as_array().unwrap();
        let mut ids = BTreeSet::new();
        let mut asked = 0;
        for panel in panels {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{name}: two panels have the id {}", panel["id"]);
            for target in panel["targets"].as_array().into_iter().flatten() {
                let found = metrics(target["expr"].as_str().unwrap());
                assert!(!found.is_empty(), "{name}: {} shows nothing of ours", panel["title"]);
                found.iter().for_each(|metric| assert_shown(metric, &name));
                asked += found.len();
            }
        }
        assert!(asked > 10, "{name} has {asked} metrics");
        // What Grafana needs to tell boards apart and to find its data.
        assert!(board["uid"].as_str().unwrap().starts_with("segue-") && board["templating"]["list"].is_array());
    }
    assert_eq!(metrics("sum(rate(segue_a_total{x=\"1\"}[5m])) / process_b"), ["process_b", "segue_a_total"].into());
}

/// Every test of the sources, as `file::test`: `http::gate::name` of tests/it, `cdn::bunny::tests::name` of src.
fn tests_of_the_sources() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (below, ending) in [("src", ".rs"), ("tests/it", ".rs")] {
        for path in files(below, ending) {
            let text = read(&path);
            let inside = path.strip_prefix(below).unwrap().with_extension("");
            let mut module = inside.to_str().unwrap().trim_end_matches("/mod").replace('/', "::");
            if below == "src" {
                // A file of tests beside its module, or a module of tests in it.
                module = match module.strip_suffix("_tests") {
                    Some(of) => format!("{of}::tests"),
                    None => format!("{}::tests", module.trim_end_matches("::tests")),
                };
            }
            let mut inner = String::new();
            let mut is_test = false;
            for line in text.lines() {
                let line = line.trim_start_matches("pub(crate) ");
                if below != "src" && line.starts_with("mod ") && line.ends_with('{') {
                    inner = format!("::{}", line.trim_start_matches("mod ").trim_end_matches(" {"));
                }
                let line = line.trim();
                if line == "#[test]" || line == "#[tokio::test]" {
                    is_test = true;
                } else if let Some(name) = line.trim_start_matches("async ").strip_prefix("fn ").filter(|_| is_test) {
                    found.insert(format!("{module}{inner}::{}", name.split('(').next().unwrap()));
                    is_test = false;
                } else if line.ends_with("cases! {") || line.contains("on_sqlite") || line.contains("on_postgresql") {
                    is_test = false;
                }
            }
            // What a macro makes of names stands in its call.
            for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
                if word.ends_with("_on_sqlite") || word.ends_with("_on_postgresql") {
                    found.insert(format!("{module}::{word}"));
                }
            }
        }
    }
    found
}

#[test]
fn every_test_that_the_threat_model_names_is_one() {
    let known = tests_of_the_sources();
    assert!(
        known.contains("ops::every_test_that_the_threat_model_names_is_one") && known.len() > 500,
        "{}",
        known.len()
    );
    for page in ["docs/RELIABILITY.md", "docs/SECURITY.md"] {
        let text = read(page);
        let quoted = text.split('`').skip(1).step_by(2).filter(|word| word.contains("::") && !word.contains(' '));
        let missing: Vec<&str> = quoted.clone().filter(|name| !known.contains(*name)).collect();
        assert!(missing.is_empty(), "{page} names tests that there are not: {missing:#?}");
        assert!(quoted.count() > 25, "{page} names its tests");
    }
    let text = read("docs/SECURITY.md");
    for target in text.split("fuzz target `").skip(1).map(|rest| rest.split('`').next().unwrap()) {
        assert!(root().join(format!("fuzz/fuzz_targets/{target}.rs")).exists(), "{target}");
    }
}

/// The figure of ours in a row of a table of docs/PERFORMANCE.md: the `n`th cell behind its name.
fn measured(text: &str, row: &str, n: usize) -> f64 {
    let begins = format!("| {row} |");
    let line = text.lines().find(|line| line.starts_with(&begins)).unwrap_or_else(|| panic!("nobody measured {row}"));
    let cell = line.split('|').nth(n + 1).unwrap().trim();
    cell.split(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{row} has no number in cell {n}: {line}"))
}

/// Numbers on which a capacity model stands grow old in silence: they may be rounded, and no more.
#[test]
fn the_capacity_model_is_made_of_what_was_measured() {
    let (model, report) = (read("docs/SCALING.md"), read("docs/PERFORMANCE.md"));
    let table = model.split("| measured | |").nth(1).unwrap().split("\n\n").next().unwrap();
    let rows: [(&str, &[(&str, usize)]); 7] = [
        ("CPU for a segment of 192 KiB", &[("192 KiB segment", 2), ("192 KiB segment, TLS", 2)]),
        ("CPU for a playlist", &[("playlist", 2), ("16 KiB segment, TLS", 2)]),
        ("CPU for a cold piece of 192 KiB", &[("192 KiB piece, cold", 2)]),
        ("memory of an idle connection", &[("10000 idle connections", 2)]),
        ("CPU to transcode 240 s", &[("CPU time (Q10)", 1)]),
        ("memory of a transcode's child", &[("largest process (Q12)", 1)]),
        ("start to ready with 100,000 versions", &[("start, 100000 versions", 2)]),
    ];
    let lines: Vec<&str> = table.lines().filter(|line| line.starts_with("| ") && !line.contains("---")).collect();
    assert_eq!(lines.len(), rows.len(), "a row of docs/SCALING.md is compared with nothing");
    for ((row, of), line) in rows.into_iter().zip(lines) {
        assert!(line.starts_with(&format!("| {row}")), "{line}");
        let said = line.rsplit('|').nth(1).unwrap();
        for (said, (name, cell)) in said.split('·').zip(of) {
            let said: f64 = said.trim().split(' ').next().unwrap().parse().unwrap();
            let ratio = said / measured(&report, name, *cell);
            assert!(
                (0.95..1.05).contains(&ratio),
                "{row}: docs/SCALING.md says {said}, {ratio:.2} × what was measured"
            );
        }
    }
}

/// Each is the work of strangers that is compiled, trusted and kept up to date. Who adds some raises the number, and says why.
#[test]
fn the_number_of_dependencies_is_watched() {
    let crates = read("Cargo.lock").matches("[[package]]\n").count();
    assert!((100..=462).contains(&crates), "Cargo.lock has {crates} crates");
}
