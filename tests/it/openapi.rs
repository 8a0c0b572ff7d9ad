//! The API's description: what is printed, served and committed is the same, every route that it names is there, and every
//! route that is there it names.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Server, request, run, said, send};

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

/// Routes below `/api/` and `/webhooks/` that the description does not have: it does not describe itself, the other name of tus is
/// for clients that add a slash, and webhooks are also where the platform before this one had them.
const UNDESCRIBED: [&str; 7] = [
    "/webhooks/hyperswitch",
    "/webhooks/stripe",
    "/api/{*rest}",
    "/api/v1/uploads/tus/",
    "/api/v1/openapi.json",
    "/api/docs",
    "/api/docs/{file}",
];

/// Every source of the API, with its text.
fn sources() -> Vec<(PathBuf, String)> {
    let (mut found, mut dirs) = (Vec::new(), vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api")]);
    while let Some(dir) = dirs.pop() {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((path.clone(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(found.len() > 30, "only {} sources of the API", found.len());
    found
}

#[test]
fn no_route_is_forgotten_in_the_description() {
    let document: Value = serde_json::from_str(&printed()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let (mut plain, mut annotated) = (BTreeSet::new(), 0);
    for (file, text) in sources() {
        // A route without a description is registered by `.route("…"`, one with it by `routes!`.
        for (at, _) in text.match_indices(".route(") {
            let path =
                text[at..].split('"').nth(1).unwrap_or_else(|| panic!("{}: a route names its path", file.display()));
            if path.starts_with("/api/") || path.starts_with("/webhooks/") {
                plain.insert(path.to_owned());
            }
        }
        annotated += text.matches("#[utoipa::path(").count();
    }
    // What is described and left out of `routes!`, or out of `openapi::document`, is there and in no list.
    let operations: usize = paths.values().map(|item| item.as_object().unwrap().len()).sum();
    // The comment at the top of openapi.rs has one.
    assert_eq!(operations, annotated - 1, "a handler says what it does, and is in no router that is described");
    for path in &plain {
        let known = paths.contains_key(path) || UNDESCRIBED.contains(&path.as_str());
        assert!(known, "{path} is in no description: use `routes!`");
    }
    for path in UNDESCRIBED {
        assert!(plain.contains(path), "{path} is no route any more");
    }
    // Each refuses with a problem, and says what else it answers in a schema.
    for (path, methods) in paths {
        let is_api = path.starts_with("/api/") || path.starts_with("/webhooks/");
        for (method, operation) in methods.as_object().unwrap() {
            let here = format!("{method} {path}");
            assert!(operation["tags"][0].is_string() && operation["summary"].is_string(), "{here}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.contains_key("4XX") && responses.contains_key("5XX"), "{here}");
            // Who may be told to log in knows how; what takes its own proof says that it asks for no other.
            let says = operation["security"].is_array();
            assert!(says || !responses.contains_key("401"), "{here} answers 401, and says nothing of `security`");
            // What players and people open refuses in their words.
            for (status, response) in responses.iter().filter(|(status, _)| is_api && status.starts_with(['4', '5'])) {
                let content = &response["content"]["application/problem+json"]["schema"]["$ref"];
                assert_eq!(content, "#/components/schemas/Problem", "{here} {status}");
            }
        }
    }
}

/// The table of names, as it is written.
const NAMES: &str = include_str!("../../src/api/operations.rs");

#[test]
fn every_operation_has_a_name_of_its_own() {
    let document: Value = serde_json::from_str(&printed()).unwrap();
    let (mut names, mut operations) = (BTreeSet::new(), 0);
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let name = operation["operationId"].as_str();
            let name = name.unwrap_or_else(|| panic!("{method} {path} has no name in api/operations.rs"));
            let camel =
                name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(|b| b.is_ascii_alphanumeric());
            assert!(camel, "{method} {path}: {name}");
            assert!(names.insert(name), "two operations are called {name}");
            operations += 1;
        }
    }
    assert_eq!(
        NAMES.matches("\n    (\"").count(),
        operations,
        "a name in api/operations.rs is no operation's any more"
    );
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

/// What of the API is about tracks and what is ruled on them: it is fuzzed with things that there are.
const CATALOGUE: &str = "^/(api/v1/(tracks|shares|dmca|admin/(dmca|jobs|workers))|tracks|watch|embed)";
/// What is not fuzzed here: a 501 is what oEmbed wants for formats that are not spoken (`oembed_answers_to_the_letter`),
/// tus answers every method on its paths, and its bytes have an order that a fuzzer does not keep (`uploads::tus` has it,
/// and clients of others), and whoever fuzzes stays logged in.
const NOT_FUZZED: &str = "^/oembed|uploads/tus|auth/(logout|sessions)";

/// Schemathesis against a part of the description, some examples of each operation: it makes requests that fit and requests
/// that do not, and looks for answers that are 5xx or not described. More by hand: `SCHEMATHESIS_EXAMPLES=500`.
fn fuzzed(server: &Server, name: &str, part: &[&str], headers: &[String], config: Option<&Path>) {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/openapi/python");
    let examples = std::env::var("SCHEMATHESIS_EXAMPLES").unwrap_or_else(|_| "12".into());
    let mut command = Command::new("timeout");
    command.args(["240", "python3", "-c", "from schemathesis.cli import schemathesis; schemathesis()"]);
    if let Some(config) = config {
        command.arg("--config-file").arg(config);
    }
    command
        .arg("run")
        .arg(format!("http://{}/api/v1/openapi.json", server.addr))
        .args(["--phases", "examples,coverage,fuzzing", "--seed", "1", "--generation-deterministic", "--no-color"])
        .args(["--max-examples", &examples, "--suppress-health-check", "all", "--warnings", "off"])
        .args(["--request-timeout", "30", "--continue-on-failure"])
        // What a server answers, not what it should: 4xx for what fits the description is our right.
        .args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance"])
        .args(["--checks", "response_schema_conformance,response_headers_conformance,unsupported_method"])
        .args(part)
        .args(headers.iter().flat_map(|header| ["-H", header.as_str()]))
        .env("PYTHONPATH", root)
        .current_dir(env!("CARGO_TARGET_TMPDIR"));
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{name}: {}", said(&output));
    assert!(said(&output).contains("No issues found"), "{name}: {}", said(&output));
}

/// A server that nobody outside answers, and the key of a program.
fn fuzzed_server(data: &Path) -> (Server, String) {
    let (key, sha256) = segue::api::keys::make();
    let keys = format!("[{{ id = \"fuzz\", sha256 = \"{sha256}\" }}]");
    let env = [
        ("SEGUE_API__KEYS", keys.as_str()),
        ("SEGUE_LOG__FILTER", "error"),
        ("SEGUE_SOURCES__ALLOW_HOSTS", "[\"none.invalid\"]"),
    ];
    (Server::start(data, &[], &env), key)
}

#[test]
fn a_fuzzer_finds_no_failure_and_nothing_that_is_not_described() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let (server, key) = fuzzed_server(&data);
    // Tracks have a test of their own.
    let part = ["--exclude-path-regex", &format!("{NOT_FUZZED}|{CATALOGUE}")];
    // A program, so that most of the routes open and its limit is never reached; then nobody at all.
    fuzzed(&server, "a program", &part, &[format!("Authorization: Bearer {key}")], None);
    fuzzed(&server, "nobody", &part, &[], None);
    let bearer = crate::auth::creator_bearer(server.addr, &data);
    fuzzed(&server, "a person", &part, &[format!("Authorization: Bearer {bearer}")], None);
}

#[test]
fn a_fuzzer_finds_no_failure_in_tracks_notices_and_the_desk() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    // One that is heard, for what players ask for.
    let song = directory.path().join("song.wav");
    fs::write(&song, crate::tracks::site::wav(2, 440.0)).unwrap();
    let published = run(["publish", "--json", "--data", data.to_str().unwrap(), song.to_str().unwrap()]);
    assert!(published.status.success(), "{}", said(&published));
    let published: Value = serde_json::from_slice(&published.stdout).unwrap();
    let (server, key) = fuzzed_server(&data);
    let bearer = format!("Bearer {key}");
    let made = |path: &str, body: Value| {
        let fields = [
            ("Authorization", bearer.as_str()),
            ("Content-Type", "application/json"),
            ("Idempotency-Key", &format!("{path} {body}").len().to_string()),
        ];
        let reply = send(server.addr, "POST", path, &fields, body.to_string().as_bytes());
        let made: Value = serde_json::from_slice(&reply.body).unwrap_or_else(|_| panic!("{}", reply.text()));
        made["id"].as_str().unwrap_or_else(|| panic!("{path}: {made:#}")).to_owned()
    };
    let track = made("/api/v1/tracks", json!({ "title": "Kept" }));
    let lost = made("/api/v1/tracks", json!({ "title": "To be deleted" }));
    let accused = made("/api/v1/tracks", json!({ "title": "To be taken down" }));
    let job = made("/api/v1/transcodes", json!({ "source": "https://none.invalid/a.flac" }));
    let notice = json!({
        "signature": "Ada Lovelace", "work": "Notes on the Engine", "location": accused, "name": "Ada Lovelace",
        "address": "12 St James's Square, London", "phone": "+44 20 0000 0000", "email": "ada@example.com",
        "good_faith_statement": true, "sworn_statement": true, "on_behalf_of": "",
    });
    let notice = made("/api/v1/dmca/notice", notice);
    // Random ids are nobody's: with these the requests get behind the first look.
    let config = directory.path().join("schemathesis.toml");
    let known = |path: &str, id: &str| {
        format!("[[operations]]\ninclude-path-regex = \"{path}\"\nparameters = {{ \"path.id\" = \"{id}\" }}\n\n")
    };
    let only = format!(
        "[[operations]]\ninclude-name = \"DELETE /api/v1/tracks/{{id}}\"\nparameters = {{ \"path.id\" = \"{lost}\" }}\n\n"
    );
    let text = only
        + &known("^/api/v1/tracks/", &track)
        + &known("^/(tracks|watch|embed)/", published["track_id"].as_str().unwrap())
        + &known("^/api/v1/admin/dmca/", &notice)
        + &known("^/api/v1/admin/jobs/", &job);
    fs::write(&config, text).unwrap();
    let part = ["--include-path-regex", CATALOGUE];
    fuzzed(&server, "their owner", &part, &[format!("Authorization: {bearer}")], Some(&config));
    fuzzed(&server, "nobody", &part, &[], Some(&config));
    let shown = request(server.addr, "GET", &format!("/api/v1/tracks/{track}"), &[("Authorization", &bearer)]);
    assert_eq!(shown.status, 200, "it was fuzzed, and is there: {}", shown.text());
    // Below the limit of a person, so that the routes answer and not the door.
    let admin = crate::auth::admin_bearer(server.addr, &data);
    let part = ["--include-path-regex", "^/api/v1/admin/(dmca|jobs|workers)", "--rate-limit", "15/s"];
    fuzzed(&server, "an admin", &part, &[format!("Authorization: Bearer {admin}")], Some(&config));
    let ruled = request(
        server.addr,
        "GET",
        &format!("/api/v1/admin/dmca/notices/{notice}"),
        &[("Authorization", &format!("Bearer {admin}"))],
    );
    let ruled: Value = serde_json::from_slice(&ruled.body).unwrap();
    assert!(ruled["log"].as_array().is_some_and(|log| log.len() > 1), "a ruling got through: {ruled:#}");
}
