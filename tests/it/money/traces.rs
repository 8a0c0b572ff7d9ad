//! What a collector and a log get of money that moves: which order, which refund, what a provider said. Never who bought.

use std::fs::{self, File};

use serde_json::{Value, json};

use super::api::Site;
use super::fakes::{HYPERSWITCH_SECRET, signed_512};
use crate::http::seeing::spans::{Collector, Span};

/// Personal: whatever a provider or a buyer writes into their texts.
const PERSON: &str = "ann.example@mail.example";

#[test]
fn a_refund_and_its_webhook_have_spans_and_no_person_in_them() {
    let (collector, directory) = (Collector::start(), tempfile::tempdir().unwrap());
    let (endpoint, log) = (collector.url(), directory.path().join("log"));
    let more = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("SEGUE_LOG__FILTER", "debug"),
        ("SEGUE_LOG__ACCESS", "all"),
    ];
    let mut site = Site::start_logging_to(File::create(&log).unwrap().into(), &more);
    let (buyer, seller) = (site.buyer.clone(), site.seller.clone());
    let post = |path: &str, who: &str, key: &str, body: Value| {
        let said = site.ask("POST", path, Some(who), Some(key), &body);
        assert!(said.status < 300, "{path}: {} {}", said.status, said.body);
        said.body
    };
    let product = post(
        "/api/v1/products",
        &seller,
        "p",
        json!({ "title": "First light", "currency": "USD", "licences": [{ "kind": "personal", "price_minor": 1000 }] }),
    );
    let wish = json!({ "items": [{ "product": product["id"], "licence": "personal" }] });
    let ordered = post("/api/v1/orders", &buyer, "o", wish);
    let order = format!("/api/v1/orders/{}", ordered["id"].as_str().unwrap());
    site.world.with(|world| world.pay(ordered["payment"]["id"].as_str().unwrap(), "succeeded"));
    site.deliver();
    site.until(&order, &buyer, "paid");
    let refund = post(&format!("{order}/refund"), &buyer, "r", json!({ "reason": format!("tell {PERSON}") }));
    let refund = refund["id"].as_str().unwrap();
    site.world.with(|world| world.settle_refund(refund, "succeeded"));
    // As Hyperswitch sends it: with whose card it was, and from a stranger too.
    let mut event = site.world.with(|world| world.events.pop_front()).unwrap();
    event["content"]["object"]["email"] = json!(PERSON);
    event["content"]["object"]["billing"] = json!({ "address": { "first_name": PERSON } });
    let body = event.to_string();
    let deliver = |signature: &str| {
        let headers = [("x-webhook-signature-512", signature), ("user-agent", PERSON)];
        site.send("POST", "/api/v1/webhooks/hyperswitch", &headers, body.as_bytes()).status
    };
    assert_eq!(deliver(&signed_512(&body, "not theirs")), 401);
    assert_eq!(deliver(&signed_512(&body, HYPERSWITCH_SECRET)), 200);
    site.until(&order, &buyer, "refunded");
    site.server.signal("TERM"); // what waits is sent when the server stops
    assert!(site.server.child.wait().unwrap().success());

    let spans = collector.spans();
    let has = |span: &Span, name: &str, text: &str| span.attributes.get(name).is_some_and(|value| value == text);
    let one = |name: &str, key: &str, text: &str| {
        let mut found = spans.iter().filter(|span| span.name == name && has(span, key, text));
        found.next().unwrap_or_else(|| panic!("no span {name} with {key} {text}: {spans:#?}"))
    };
    let asked = one("refund", "refund", refund);
    assert!(has(asked, "status", "pending") && has(asked, "order", ordered["id"].as_str().unwrap()), "{asked:?}");
    assert_eq!(asked.parent, one("POST /api/v1/orders/{id}/refund", "http.response.status_code", "202").id);
    one("webhook", "result", "unsigned");
    one("webhook", "result", "accepted");
    let looked = one("look_at_refund", "refund", refund);
    let processed = spans.iter().find(|span| span.id == looked.parent).unwrap();
    assert_eq!(processed.name, "process_webhook");
    assert!(has(processed, "kind", "refund_succeeded"), "{processed:?}");
    assert!(!collector.carries(PERSON), "a span names a person");
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("POST /api/v1/webhooks/hyperswitch"), "it was a talkative log");
    assert_eq!(log.lines().find(|line| line.contains(PERSON)), None, "the log names a person");
}
