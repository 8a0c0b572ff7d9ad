//! The API's description: what is printed, served and committed is the same, and every route that it names is there.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Server, request, run, said};

/// The committed one: what changes in the API shows in a review.
const COMMITTED: &str = include_str!("../../docs/openapi.json");

fn printed() -> String {
    let printed = run(["openapi"]);
    assert!(printed.status.success(), "{}", said(&printed));
    String::from_utf8(printed.stdout).unwrap()
}

#[test]
fn the_committed_description_is_the_printed_one() {
    assert!(
        printed() == COMMITTED,
        "docs/openapi.json is old; look at what `segue openapi > docs/openapi.json` changes"
    );
}

#[test]
fn the_served_description_is_the_printed_one_and_every_route_in_it_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("data"), &[], &[("SEGUE_LOG__FILTER", "warn")]);
    let served = server.get("/api/v1/openapi.json");
    assert_eq!((served.status, served.header("content-type")), (200, Some("application/json")));
    assert!(
        served.text() == printed(),
        "a module is merged in app/pages.rs and not in api/openapi.rs, or the other way"
    );
    let etag = served.header("etag").unwrap();
    assert_eq!(request(server.addr, "GET", "/api/v1/openapi.json", &[("If-None-Match", etag)]).status, 304);

    let described: Value = serde_json::from_slice(&served.body).unwrap();
    for (path, methods) in described["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            // Nobody has this id and nobody is logged in: whatever comes back, it is the route's own answer.
            let asked = path.replace(['{', '}'], "");
            let reply = request(server.addr, &method.to_uppercase(), &asked, &[("Content-Length", "0")]);
            let here = format!("{method} {path}: {} {}", reply.status, reply.text());
            assert!(reply.status != 405 && reply.status < 500, "{here}");
            assert!(!reply.text().contains("/problems/not-found") || path.contains('{'), "{here}");
            let known = operation["responses"].as_object().unwrap();
            let class = format!("{}XX", reply.status / 100);
            assert!(
                known.contains_key(&reply.status.to_string()) || known.contains_key(&class),
                "not described: {here}"
            );
        }
    }
}

#[test]
fn the_page_for_people_has_nothing_from_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("data"), &[], &[("SEGUE_LOG__FILTER", "warn")]);
    for (path, content_type) in [
        ("/api/docs", "text/html; charset=utf-8"),
        ("/api/docs/docs.js", "text/javascript; charset=utf-8"),
        ("/api/docs/docs.css", "text/css; charset=utf-8"),
    ] {
        let reply = server.get(path);
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(content_type)), "{path}");
        let policy = reply.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        let text = reply.text();
        for elsewhere in ["http://", "https://", "<style", " style=", "onclick", "eval("] {
            assert!(!text.contains(elsewhere), "{path} has {elsewhere}");
        }
    }
    assert_eq!(server.get("/api/docs/other.js").status, 404);
}

/// Schemathesis against the whole description, some examples of each operation: it makes requests that fit and requests
/// that do not, and looks for answers that are 5xx or not described. More by hand: `SCHEMATHESIS_EXAMPLES=500`.
fn fuzzed(server: &Server, name: &str, headers: &[String]) {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/openapi/python");
    let examples = std::env::var("SCHEMATHESIS_EXAMPLES").unwrap_or_else(|_| "12".into());
    let mut command = Command::new("timeout");
    command
        .args(["240", "python3", "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"])
        .arg(format!("http://{}/api/v1/openapi.json", server.addr))
        .args(["--phases", "examples,coverage,fuzzing", "--seed", "1", "--generation-deterministic", "--no-color"])
        .args(["--max-examples", &examples, "--suppress-health-check", "all", "--warnings", "off"])
        .args(["--request-timeout", "30", "--continue-on-failure"])
        // What a server answers, not what it should: 4xx for what fits the description is our right.
        .args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance"])
        .args(["--checks", "response_schema_conformance,response_headers_conformance,unsupported_method"])
        // Whoever fuzzes stays logged in.
        .args(["--exclude-path-regex", "auth/(logout|sessions)"])
        .args(headers.iter().flat_map(|header| ["-H", header.as_str()]))
        .env("PYTHONPATH", root)
        .current_dir(env!("CARGO_TARGET_TMPDIR"));
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{name}: {}", said(&output));
    assert!(said(&output).contains("No issues found"), "{name}: {}", said(&output));
}

#[test]
fn a_fuzzer_finds_no_failure_and_nothing_that_is_not_described() {
    let directory = tempfile::tempdir().unwrap();
    let (key, sha256) = segue::api::keys::make();
    let keys = format!("[{{ id = \"fuzz\", sha256 = \"{sha256}\" }}]");
    // A program, so that most of the routes open and its limit is never reached; then nobody at all.
    let env = [
        ("SEGUE_API__KEYS", keys.as_str()),
        ("SEGUE_LOG__FILTER", "error"),
        ("SEGUE_SOURCES__ALLOW_HOSTS", "[\"none.invalid\"]"),
    ];
    let server = Server::start(&directory.path().join("data"), &[], &env);
    fuzzed(&server, "a program", &[format!("Authorization: Bearer {key}")]);
    fuzzed(&server, "nobody", &[]);
    let bearer = crate::auth::creator_bearer(server.addr, &directory.path().join("data"));
    fuzzed(&server, "a person", &[format!("Authorization: Bearer {bearer}")]);
}
