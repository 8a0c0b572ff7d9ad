//! What a collector and a log get of an upload's way to a track, and what they do not.

use std::fs::{self, File};

use serde_json::json;

use super::{Api, MIB, Site, form_body, send, wav};
use crate::http::seeing::spans::Collector;
use crate::support::Server;

/// Personal: the name of a person and their address, wherever a sender may put them.
const PERSON: &str = "ann.example@mail.example";

#[test]
fn the_way_from_an_upload_to_a_track_has_spans_and_no_person_in_them() {
    let site = Site::local();
    let collector = Collector::start();
    let endpoint = collector.url();
    let log = site.directory.path().join("log");
    let more = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("SEGUE_LOG__FILTER", "debug"),
        ("SEGUE_LOG__ACCESS", "all"),
    ];
    let env: Vec<_> = site.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(more).collect();
    let server = Server::start_logging_to(File::create(&log).unwrap().into(), &site.data(), &[], &env);
    let api = Api { addr: server.addr, bearer: format!("Bearer {}", site.key), server };

    // In the name of the file, in tus' metadata, in a title, in a query, in headers that are not ours.
    let name = format!("{PERSON}.wav");
    let (status, upload) = api.form(&[("kind", "audio")], Some((&name, &wav(MIB, 1))), &[]);
    assert_eq!(status, 201, "{upload:#}");
    let id = upload["id"].as_str().unwrap();
    assert_eq!(api.until(id, "ready")["name"], name, "its owner is told");
    let metadata = format!("filename {}", base64(&name));
    api.announce(1_000, &[("Upload-Metadata", &metadata)]);
    let asks = json!({ "source": { "upload": id }, "title": format!("By {PERSON}") }).to_string();
    let headers = [("Idempotency-Key", PERSON), ("From", PERSON), ("Content-Type", "application/json")];
    let reply = api.send("POST", &format!("/api/v1/transcodes?who={PERSON}"), &headers, asks.as_bytes());
    assert_eq!(reply.status, 202, "{}", reply.text());
    let job = api.transcode(id);
    // And what is refused.
    let (content_type, body) = form_body(&[("kind", PERSON)], Some((&name, b"x")));
    assert!(api.send("POST", "/api/v1/uploads", &[("Content-Type", &content_type)], &body).status >= 400);
    let broken = send(api.addr, "POST", "/api/v1/transcodes", &[("Authorization", &api.bearer)], PERSON.as_bytes());
    assert!(broken.status >= 400);

    let mut server = api.server;
    server.signal("TERM"); // what waits is sent when the server stops
    assert!(server.child.wait().unwrap().success());
    let spans = collector.spans();
    let has = |name: &str| spans.iter().any(|span| span.name == name);
    for name in [
        "POST /api/v1/uploads",
        "announce_upload",
        "verify_upload",
        "POST /api/v1/transcodes",
        "job",
        "transcode",
        "publish",
    ] {
        assert!(has(name), "no span {name}: {:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>());
    }
    assert!(collector.carries(job["id"].as_str().unwrap()), "spans say which job");
    assert!(!collector.carries(PERSON), "a span names a person");
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("POST /api/v1/transcodes"), "it was a talkative log");
    let told = log.lines().find(|line| line.contains(PERSON));
    assert_eq!(told, None, "the log names a person");
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
