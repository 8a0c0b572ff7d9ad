//! What a server answers about money is what docs/openapi.json says that it answers: every answer of a shop from outside,
//! and at least one full one of every route.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use segue::base::clock::Clock;
use segue::ledger::order::{LicenceKind, PRICE_MINOR_MAX};
use segue::ledger::subscription::InvoiceStatus;
use segue::ledger::{AccountKind, MINOR_MAX, dispute, order, refund, subscription, transfer};
use serde_json::{Value, json};

use super::api::Site;
use super::fakes::{STRIPE_SECRET, signed_256};
use crate::support::said;

const DOCUMENT: &str = include_str!("../../../docs/openapi.json");

/// One answer of a server.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) status: u16,
    pub(super) content_type: String,
    pub(super) body: Vec<u8>,
}

/// Reads pairs of a schema and an answer, and says which do not fit. No object has a field that is not described: for
/// clients that may change, here it is what somebody forgot.
const CHECK: &str = r#"
import json, sys
import jsonschema_rs

given = json.load(sys.stdin)
def closed(schema):
    if isinstance(schema, dict):
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            closed(value)
    elif isinstance(schema, list):
        for value in schema:
            closed(value)
closed(given["components"])
wrong = 0
for answer in given["answers"]:
    schema = {**answer["schema"], "components": given["components"]}
    validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
    for error in validator.iter_errors(answer["body"]):
        wrong += 1
        print(answer["here"], "/".join(map(str, error.instance_path)), error.message)
sys.exit(1 if wrong else 0)
"#;

/// Whether a path is of this template.
fn fits(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    template.len() == path.len() && template.iter().zip(&path).all(|(t, p)| t.starts_with('{') || t == p)
}

/// Each answer fits its schema, and every route of money was answered in each way in which it can succeed.
pub(super) fn check(answers: &[Answered]) {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let (mut pairs, mut full) = (Vec::new(), BTreeSet::new());
    for answer in answers {
        let path = answer.path.split('?').next().unwrap();
        let templates = paths.keys().filter(|template| fits(template, path));
        let template = templates.min_by_key(|template| template.matches('{').count());
        let template = template.unwrap_or_else(|| panic!("{path} is not described"));
        let method = answer.method.to_lowercase();
        let operation = &paths[template][&method];
        if operation["tags"][0] != "money" {
            continue;
        }
        let (status, text) = (answer.status.to_string(), String::from_utf8_lossy(&answer.body));
        let here = format!("{} {} {status}: {text}", answer.method, answer.path);
        // By its number, not by its class.
        let described = &operation["responses"][&status];
        assert!(described.is_object(), "{here} is not described");
        let Some(content) = described["content"].as_object() else {
            assert!(answer.body.is_empty(), "{here} has a body");
            full.insert((template.clone(), method, status));
            continue;
        };
        let schema = content.get(&answer.content_type).unwrap_or_else(|| panic!("{here} is {}", answer.content_type));
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{here} is no JSON"));
        if ["items", "balances", "accounts"].iter().all(|list| body[list] != json!([])) {
            full.insert((template.clone(), method, status));
        }
        pairs.push(json!({ "here": here, "schema": schema["schema"], "body": body }));
    }
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().unwrap() {
            let responses = operation["responses"].as_object().unwrap();
            let done =
                responses.iter().filter(|(status, _)| operation["tags"][0] == "money" && status.starts_with('2'));
            for (status, response) in done {
                let here = format!("{method} {path} {status}");
                assert!(full.contains(&(path.clone(), method.clone(), status.clone())), "nothing answered {here}");
                let schema = &response["content"]["application/json"]["schema"];
                assert!(status == "204" || schema.is_object(), "{here} has no schema");
            }
        }
    }
    let (fit, said) = fitting(&document["components"], &pairs);
    assert!(fit, "{said}");
}

/// Whether these answers fit their schemas, and what is said where they do not.
fn fitting(components: &Value, answers: &[Value]) -> (bool, String) {
    let given = json!({ "components": components, "answers": answers }).to_string();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/openapi/python");
    let mut python = Command::new("python3");
    python.args(["-c", CHECK]).env("PYTHONPATH", root);
    let mut python = python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    python.stdin.take().unwrap().write_all(given.as_bytes()).unwrap();
    let checked = python.wait_with_output().unwrap();
    (checked.status.success(), said(&checked))
}

#[test]
fn the_check_can_fail() {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let refund = json!({
        "id": format!("ref_{}", "0".repeat(26)), "order": format!("ord_{}", "z".repeat(26)), "status": "pending",
        "amount": { "minor": 1, "currency": "USD", "exponent": 2 }, "created": "2026-11-21T12:00:00.000Z", "settled": null,
    });
    let fits = |body: &Value| {
        let schema = json!({ "$ref": "#/components/schemas/Refund" });
        fitting(&document["components"], &[json!({ "here": "a refund", "schema": schema, "body": body })])
    };
    assert_eq!(fits(&refund), (true, String::new()));
    for (field, value) in [
        ("id", json!("ref_0")),
        ("order", json!(null)),
        ("status", json!("done")),
        ("amount", json!({ "minor": 0, "currency": "USD", "exponent": 2 })),
        ("amount", json!({ "minor": 1, "currency": "USD", "exponent": 2, "more": 1 })),
        ("created", json!("yesterday")),
        ("settled", json!("")),
        ("reason", json!("nobody described it")),
    ] {
        let mut wrong = refund.clone();
        wrong[field] = value;
        let (fits, said) = fits(&wrong);
        assert!(!fits && said.starts_with("a refund"), "{field}: {said}");
    }
    let mut less = refund.clone();
    less.as_object_mut().unwrap().remove("settled");
    assert!(!fits(&less).0, "null is not absent");
}

#[test]
fn the_words_and_bounds_are_those_of_the_ledger() {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let schemas = &document["components"]["schemas"];
    macro_rules! same {
        ($($name:literal: $words:ty),*) => {
            $({
                let words: Vec<&str> = <$words>::ALL.iter().map(|word| word.as_str()).collect();
                assert_eq!(schemas[$name]["enum"], json!(words), $name);
            })*
        };
    }
    same!(
        "OrderStatus": order::Status, "RefundStatus": refund::Status, "TransferStatus": transfer::Status,
        "SubscriptionStatus": subscription::Status, "InvoiceStatus": InvoiceStatus, "DisputeStatus": dispute::Status,
        "LicenceKind": LicenceKind, "AccountKind": AccountKind
    );
    assert_eq!(schemas["Money"]["properties"]["minor"]["maximum"], MINOR_MAX);
    assert_eq!(schemas["OfferedLicence"]["properties"]["price_minor"]["maximum"], PRICE_MINOR_MAX);
}

/// Asks for what nobody asks for in a shop's daily business: lists, and what admins see and do. `product` is on sale,
/// and `order` of it is paid.
pub(super) fn ask_for_the_rest(site: &Site, product: &str, order: &str) {
    let (buyer, seller) = (site.buyer.as_str(), site.seller.as_str());
    let admin = crate::auth::admin_bearer(site.server.addr, site.data.path());
    let (product, order) = (format!("/api/v1/products/{product}"), format!("/api/v1/orders/{order}"));
    let answered = |method: &str, path: &str, who: Option<&str>, key: Option<&str>, body: &Value, status: u16| {
        let said = site.ask(method, path, who, key, body);
        assert_eq!(said.status, status, "{method} {path}: {}", said.body);
        said.body
    };
    let get = |path: &str, who: &str| answered("GET", path, Some(who), None, &Value::Null, 200);
    // Everybody.
    answered("GET", "/api/v1/plans", None, None, &Value::Null, 200);
    answered("GET", "/api/v1/products?limit=1", None, None, &Value::Null, 200);
    answered("GET", "/api/v1/products?mine=true", None, None, &Value::Null, 401);
    answered("GET", "/api/v1/products?limit=x", None, None, &Value::Null, 400);
    // Sellers.
    get("/api/v1/products?mine=true", seller);
    answered("PATCH", &product, Some(seller), None, &json!({ "title": "Second light" }), 200);
    answered("PATCH", &product, Some(seller), None, &json!({ "title": "" }), 422);
    assert_eq!(get("/api/v1/sellers/me/account", buyer)["destination"], Value::Null);
    assert_eq!(get("/api/v1/sellers/me/account", seller)["destination"], "acct_1seller");
    // Buyers, and who subscribes to what costs nothing.
    get("/api/v1/orders?limit=1", buyer);
    get("/api/v1/subscriptions", buyer);
    let free = answered("POST", "/api/v1/subscriptions", Some(seller), Some("f"), &json!({ "plan": "free" }), 201);
    assert_eq!((&free["price"], &free["payment"]), (&Value::Null, &Value::Null));
    // Admins: an order as a whole, what was paid elsewhere, and what banks take.
    assert_eq!(get(&order, &admin)["buyer"], "buyer");
    let desk = order.replace("/v1/", "/v1/admin/");
    let until = json!({ "refund_until": "2099-12-31T00:00:00Z" });
    answered("PATCH", &desk, Some(&admin), None, &until, 200);
    answered("PATCH", &desk, Some(&admin), None, &json!({ "refund_until": "soon" }), 422);
    answered("PATCH", &desk, Some(buyer), None, &until, 403);
    answered("PATCH", "/api/v1/admin/orders/ord_1", Some(&admin), None, &until, 404);
    let fee = json!({ "reference": "2026-11", "amount_minor": 30, "currency": "USD" });
    let by_hand = json!({ "reference": "by-hand-1", "seller": "seller", "amount_minor": 100, "currency": "USD",
        "reason": "their bank was closed" });
    for (key, body) in [("provider-fees", &fee), ("hand-payouts", &by_hand)] {
        let path = format!("/api/v1/admin/ledger/{key}");
        for (who, status) in [(admin.as_str(), 201), (admin.as_str(), 200), (buyer, 403)] {
            answered("POST", &path, Some(who), Some(key), body, status);
        }
        answered("POST", &path, Some(&admin), None, body, 400);
        let mut wrong = body.clone();
        wrong["reference"] = json!("another");
        let reused = answered("POST", &path, Some(&admin), Some(key), &wrong, 422);
        assert_eq!(reused["type"], "/problems/idempotency-key-reused");
        wrong["currency"] = json!("usd");
        answered("POST", &path, Some(&admin), Some("w"), &wrong, 422);
    }
    let payment = get(&order, buyer)["payment"]["id"].as_str().unwrap().to_owned();
    let dispute = site.world.with(|world| world.dispute(&payment, 1000));
    site.deliver();
    let give_up = Instant::now() + Duration::from_secs(60);
    while get("/api/v1/admin/disputes?status=open", &admin)["items"] == json!([]) {
        assert!(Instant::now() < give_up, "nobody heard of {dispute}");
        std::thread::sleep(Duration::from_millis(50));
    }
    answered("GET", "/api/v1/admin/disputes?status=odd", Some(&admin), None, &Value::Null, 422);
    get("/api/v1/admin/ledger", &admin);
    // Stripe, and what it would have made by now: a seller waits for a minute.
    let event = json!({ "id": "evt_s1", "type": "transfer.reversed", "data": { "object": { "id": "tr_1" } } });
    let event = event.to_string();
    let signature = signed_256(&event, &format!("{STRIPE_SECRET}-first"), Clock::System.unix_s());
    let told = |signature: &str| {
        site.send("POST", "/api/v1/webhooks/stripe", &[("stripe-signature", signature)], event.as_bytes()).status
    };
    assert_eq!((told(&signature), told("t=1,v1=00")), (200, 401));
    site.sql(
        "update transfer set status = 'completed', provider_transfer_id = 'tr_2', next_attempt_at_us = null, error = 'once'
         where id = (select max(id) from transfer)",
    );
    assert_eq!(get("/api/v1/sellers/me/transfers", seller)["items"][0]["status"], "completed");
}
