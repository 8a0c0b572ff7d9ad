//! A shop from outside: a server, its buyers and sellers over HTTP, and providers on loopback.

use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use segue::base::clock::Clock;
use serde_json::{Value, json};

use super::described::{self, Answered};
use super::fakes::{
    HYPERSWITCH_KEY, HYPERSWITCH_SECRET, Mood, STRIPE_KEY, STRIPE_SECRET, Shared, signed_256, signed_512,
};
use crate::support::{Server, run, said, segue};

pub(super) struct Site {
    pub(super) server: Server,
    pub(super) world: Shared,
    pub(super) buyer: String,
    pub(super) seller: String,
    pub(super) data: tempfile::TempDir,
    env: Vec<(String, String)>,
    /// What it answered.
    answered: Mutex<Vec<Answered>>,
}

pub(super) struct Said {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl Site {
    fn start(more: &[(&str, &str)]) -> Site {
        Site::start_logging_to(Stdio::inherit(), more)
    }

    pub(super) fn start_logging_to(log: Stdio, more: &[(&str, &str)]) -> Site {
        Site::start_in(Shared::new(Clock::System), log, more)
    }

    /// Among these providers.
    pub(super) fn start_in(world: Shared, log: Stdio, more: &[(&str, &str)]) -> Site {
        let data = tempfile::tempdir().unwrap();
        let url = world.serve();
        let ((buyer, one), (seller, two)) = (segue::api::keys::make(), segue::api::keys::make());
        let keys = format!("[{{ id = \"buyer\", sha256 = \"{one}\" }}, {{ id = \"seller\", sha256 = \"{two}\" }}]");
        let plans = "[{ id = \"pro\", title = \"Pro\", price_minor = 1190, currency = \"USD\", period_days = 30 }, \
                     { id = \"free\", title = \"Free\", price_minor = 0, currency = \"USD\", period_days = 0 }]";
        let mut env = vec![
            ("SEGUE_API__KEYS", keys.as_str()),
            ("SEGUE_PAYMENTS__ENABLED", "true"),
            ("SEGUE_PAYMENTS__HYPERSWITCH_URL", &url),
            ("SEGUE_PAYMENTS__HYPERSWITCH_API_KEY", HYPERSWITCH_KEY),
            ("SEGUE_PAYMENTS__HYPERSWITCH_WEBHOOK_SECRET", HYPERSWITCH_SECRET),
            ("SEGUE_PAYMENTS__STRIPE_URL", &url),
            ("SEGUE_PAYMENTS__STRIPE_API_KEY", STRIPE_KEY),
            ("SEGUE_PAYMENTS__TRANSFER_DELAY_S", "0"),
            ("SEGUE_PAYMENTS__PLANS", plans),
        ];
        let secrets = format!("[\"{STRIPE_SECRET}-first\"]");
        env.push(("SEGUE_PAYMENTS__STRIPE_WEBHOOK_SECRETS", &secrets));
        env.extend_from_slice(more);
        let server = Server::start_logging_to(log, data.path(), &[], &env);
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Site { server, world, buyer, seller, data, env, answered: Mutex::default() }
    }

    /// SIGKILL, and another server for the same people.
    pub(super) fn kill(&mut self) {
        self.server.child.kill().unwrap();
        self.server.child.wait().unwrap();
        let env: Vec<_> = self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.server = Server::start(self.data.path(), &[], &env);
    }

    pub(super) fn ask(&self, method: &str, path: &str, who: Option<&str>, key: Option<&str>, body: &Value) -> Said {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let auth = who.map(|key| format!("Bearer {key}"));
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(auth.as_deref().map(|value| ("authorization", value)));
        headers.extend(key.map(|value| ("idempotency-key", value)));
        self.send(method, path, &headers, body.as_bytes())
    }

    pub(super) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Said {
        let reply = crate::support::send(self.server.addr, method, path, headers, body);
        let said = Said { status: reply.status, body: serde_json::from_slice(&reply.body).unwrap_or(Value::Null) };
        self.answered.lock().unwrap().push(Answered {
            method: method.into(),
            path: path.into(),
            status: reply.status,
            content_type: reply.header("content-type").unwrap_or_default().into(),
            body: reply.body,
        });
        said
    }

    /// What the command line of SQLite says about its database.
    pub(super) fn sql(&self, sql: &str) -> String {
        let file = self.data.path().join("segue.db");
        let tool = std::process::Command::new("sqlite3").args(["-cmd", ".timeout 5000"]).arg(file).arg(sql).output();
        let tool = tool.unwrap();
        assert!(tool.status.success(), "{}", said(&tool));
        String::from_utf8(tool.stdout).unwrap().trim().to_owned()
    }

    fn get(&self, path: &str, who: &str) -> Value {
        let said = self.ask("GET", path, Some(who), None, &Value::Null);
        assert_eq!(said.status, 200, "{path}: {}", said.body);
        said.body
    }

    /// Tells the server what the world has told nobody yet.
    pub(super) fn deliver(&self) {
        while let Some(event) = self.world.with(|world| world.events.pop_front()) {
            let (path, (name, value), body) = signed(&event);
            let said = self.send("POST", path, &[(name, value.as_str())], body.as_bytes());
            assert_eq!(said.status, 200, "{}", said.body);
        }
    }

    /// Waits until an order stands like that.
    pub(super) fn until(&self, path: &str, who: &str, status: &str) -> Value {
        let give_up = Instant::now() + Duration::from_secs(60);
        loop {
            let body = self.get(path, who);
            if body["status"] == status {
                return body;
            }
            assert!(Instant::now() < give_up, "{path} never was {status}: {body}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Where a webhook goes, its signature, and its body.
pub(super) fn signed(event: &Value) -> (&'static str, (&'static str, String), String) {
    let body = event.to_string();
    if body.contains("evt_h") {
        let header = ("x-webhook-signature-512", signed_512(&body, HYPERSWITCH_SECRET));
        return ("/api/v1/webhooks/hyperswitch", header, body);
    }
    let signature = signed_256(&body, &format!("{STRIPE_SECRET}-first"), Clock::System.unix_s());
    ("/api/v1/webhooks/stripe", ("stripe-signature", signature), body)
}

#[test]
fn a_shop_from_outside() {
    let site = Site::start(&[]);
    let (buyer, seller) = (site.buyer.as_str(), site.seller.as_str());
    // Selling.
    let product = json!({ "title": "First light", "currency": "USD", "preview_enabled": true,
        "licences": [{ "kind": "personal", "price_minor": 1000 }], "images": ["https://img.test/a.jpg"] });
    let problem = |said: &Said| said.body["type"].as_str().unwrap_or_default().to_owned();
    let without = site.ask("POST", "/api/v1/products", Some(seller), None, &product);
    assert_eq!((without.status, problem(&without).as_str()), (400, "/problems/idempotency-key-missing"));
    assert_eq!(site.ask("POST", "/api/v1/products", None, Some("p"), &product).status, 401);
    let made = site.ask("POST", "/api/v1/products", Some(seller), Some("p"), &product);
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(site.ask("POST", "/api/v1/products", Some(seller), Some("p"), &product).status, 200);
    let id = made.body["id"].as_str().unwrap();
    for (field, value) in [
        ("currency", json!("usd")),
        ("licences", json!([])),
        ("licences", json!([{ "kind": "personal", "price_minor": 0 }])),
        ("licences", json!([{ "kind": "odd", "price_minor": 1 }])),
        ("images", json!(["http://img.test/a.jpg"])),
        ("track", json!("trk_nobodys")),
    ] {
        let mut wrong = product.clone();
        wrong[field] = value;
        let said = site.ask("POST", "/api/v1/products", Some(seller), Some("w"), &wrong);
        assert_eq!(said.status, 422, "{field}: {}", said.body);
    }
    assert_eq!(site.ask("GET", &format!("/api/v1/products/{id}"), None, None, &Value::Null).status, 200);
    assert_eq!(site.ask("PATCH", &format!("/api/v1/products/{id}"), Some(buyer), None, &json!({})).status, 404);
    let account =
        |to: &str| site.ask("PUT", "/api/v1/sellers/me/account", Some(seller), None, &json!({ "destination": to }));
    assert_eq!((account("nowhere").status, account("acct_1seller").status), (422, 200));
    // Buying.
    let wish = json!({ "items": [{ "product": id, "licence": "personal" }] });
    let ordered = site.ask("POST", "/api/v1/orders", Some(buyer), Some("o"), &wish);
    assert_eq!((ordered.status, ordered.body["status"].as_str()), (201, Some("pending_payment")), "{}", ordered.body);
    let order = format!("/api/v1/orders/{}", ordered.body["id"].as_str().unwrap());
    let payment = ordered.body["payment"]["id"].as_str().unwrap();
    assert!(ordered.body["payment"]["client_secret"].as_str().unwrap().starts_with(payment));
    let again = site.ask("POST", "/api/v1/orders", Some(buyer), Some("o"), &wish);
    assert_eq!((again.status, &again.body["id"]), (200, &ordered.body["id"]));
    let other =
        json!({ "items": [{ "product": id, "licence": "personal" }, { "product": id, "licence": "personal" }] });
    let reused = site.ask("POST", "/api/v1/orders", Some(buyer), Some("o"), &other);
    assert_eq!((reused.status, problem(&reused).as_str()), (422, "/problems/idempotency-key-reused"));
    assert_eq!(site.ask("POST", "/api/v1/orders", Some(seller), Some("o"), &wish).status, 422, "one's own");
    // A provider that does not answer: the same request again finds out.
    site.world.with(|world| world.script.push_back(Mood::Mute));
    let silent = site.ask("POST", "/api/v1/orders", Some(buyer), Some("s"), &wish);
    assert_eq!((silent.status, problem(&silent).as_str()), (503, "/problems/provider-silent"));
    assert_eq!(site.ask("POST", "/api/v1/orders", Some(buyer), Some("s"), &wish).status, 200);
    // Paying, and what the webhook does.
    site.world.with(|world| world.pay(payment, "succeeded"));
    site.deliver();
    let paid = site.until(&order, buyer, "paid");
    assert_eq!(paid["payment"]["client_secret"], Value::Null);
    assert_eq!(site.get("/api/v1/licences", buyer)["items"][0]["revoked"], Value::Null);
    let balances = site.get("/api/v1/sellers/me/balance", seller);
    assert_eq!(balances["balances"][0]["payable_minor"], 850, "15 % are ours");
    let sold = site.get(&order, seller);
    assert_eq!((&sold["buyer"], &sold["items"][0]["seller_minor"]), (&Value::Null, &json!(850)));
    assert_eq!(site.get("/api/v1/sellers/me/transfers", seller)["items"][0]["status"], "pending");
    for odd in ["/api/v1/licences?before=x%00", "/api/v1/products?track=%00", "/api/v1/orders?before=ord_1"] {
        assert_eq!(site.ask("GET", odd, Some(buyer), None, &Value::Null).status, 404, "{odd}");
    }
    // Giving back.
    let refund =
        |who: &str, key: &str| site.ask("POST", &format!("{order}/refund"), Some(who), Some(key), &Value::Null);
    let asked = refund(buyer, "r");
    assert_eq!((asked.status, asked.body["status"].as_str()), (202, Some("pending")), "{}", asked.body);
    assert_eq!(refund(buyer, "r").status, 200);
    let twice = refund(buyer, "r2");
    assert_eq!((twice.status, problem(&twice).as_str()), (409, "/problems/refund-already-requested"));
    assert_eq!(site.get(&order, buyer)["status"], "refund_pending");
    site.world.with(|world| world.settle_refund(asked.body["id"].as_str().unwrap(), "succeeded"));
    site.deliver();
    let refunded = site.until(&order, buyer, "refunded");
    assert_eq!(refunded["refunds"][0]["status"], "succeeded");
    assert_ne!(site.get("/api/v1/licences", buyer)["items"][0]["revoked"], Value::Null);
    // Subscribing.
    let join = |plan: &str, key: &str| {
        site.ask("POST", "/api/v1/subscriptions", Some(buyer), Some(key), &json!({ "plan": plan }))
    };
    assert_eq!(join("none", "n").status, 422);
    let joined = join("pro", "j");
    assert_eq!((joined.status, joined.body["status"].as_str()), (201, Some("pending_payment")), "{}", joined.body);
    let again = join("pro", "j");
    assert_eq!((again.status, again.body), (200, joined.body.clone()));
    let subscription = format!("/api/v1/subscriptions/{}", joined.body["id"].as_str().unwrap());
    let complete = |who: &str| site.ask("POST", &format!("{subscription}/complete"), Some(who), None, &Value::Null);
    assert_eq!(complete(buyer).body["payment"], joined.body["payment"]);
    assert_eq!((complete(seller).status, join("free", "f").status), (404, 409));
    let access = |who: &str| {
        let said = site.ask("GET", "/api/v1/subscriptions/access", Some(who), None, &Value::Null);
        (said.status, problem(&said))
    };
    assert_eq!(access(buyer), (403, "/problems/payment-incomplete".to_owned()));
    assert_eq!(access(seller), (403, "/problems/upgrade-needed".to_owned()));
    site.world.with(|world| world.pay(joined.body["payment"]["id"].as_str().unwrap(), "succeeded"));
    site.deliver();
    let active = site.until(&subscription, buyer, "active");
    assert_eq!(active["invoices"][0]["status"], "paid");
    assert_eq!(access(buyer).0, 204);
    assert_eq!(complete(buyer).status, 409);
    // It goes on by itself; whoever ends it has what they paid for, or nothing at once.
    assert_eq!((&active["renews"], &active["invoices"][0]["until"]), (&json!(true), &active["ends"]));
    assert!(active["next_payment"].as_str().unwrap() < active["ends"].as_str().unwrap(), "{active}");
    let end = |query: &str| site.ask("DELETE", &format!("{subscription}{query}"), Some(buyer), None, &Value::Null);
    assert_eq!(site.ask("DELETE", &subscription, Some(seller), None, &Value::Null).status, 404);
    let ending = end("").body;
    assert_eq!(
        (&ending["status"], &ending["renews"], &ending["next_payment"]),
        (&json!("active"), &json!(false), &Value::Null)
    );
    assert_eq!((&ending["ends"], access(buyer).0, join("free", "g").status), (&active["ends"], 204, 409));
    // It may be taken back, by whom it belongs to.
    let resume = |who: &str| site.ask("POST", &format!("{subscription}/resume"), Some(who), None, &Value::Null);
    assert_eq!(resume(seller).status, 404);
    let (resumed, again) = (resume(buyer), resume(buyer));
    assert_eq!((resumed.status, &resumed.body["renews"]), (200, &json!(true)), "{}", resumed.body);
    assert_eq!((&again.body, &resumed.body["next_payment"]), (&resumed.body, &active["next_payment"]));
    assert_eq!(end("").body["renews"], false);
    assert_eq!(end("?now=perhaps").status, 400);
    assert_eq!((end("?now=true").body["status"].clone(), access(buyer).0), (json!("cancelled"), 403));
    let over = resume(buyer);
    assert_eq!((over.status, problem(&over).as_str()), (409, "/problems/subscription-not-resumable"));
    assert_eq!(site.ask("GET", "/api/v1/admin/disputes", Some(buyer), None, &Value::Null).status, 403);
    // Nobody who is no admin sees the books; the command beside the server does.
    assert_eq!(site.ask("GET", "/api/v1/admin/ledger", Some(buyer), None, &Value::Null).status, 403);
    let data = site.data.path().to_str().unwrap();
    let verified = run(["ledger", "verify", "--json", "--data", data]);
    assert!(verified.status.success(), "{}", said(&verified));
    let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!(
        (&verified["wrong"], &verified["differences"], &verified["trial"]),
        (&json!(0), &json!([]), &json!({ "USD": 0 }))
    );
    assert!(verified["journals"].as_u64() > Some(3) && verified["head"].as_str().unwrap().len() == 64, "{verified}");
    // An order that nobody pays, and half an hour.
    let idle = site.ask("POST", "/api/v1/orders", Some(buyer), Some("idle"), &wish).body;
    let payment = idle["payment"]["id"].as_str().unwrap();
    site.sql(&format!("update payment set created_us = created_us - 3600000000 where id = '{payment}'"));
    let reconcile = |more: &[&str], url: Option<&str>| {
        let envs = site.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let url = url.map(|url| ("SEGUE_PAYMENTS__HYPERSWITCH_URL", url));
        segue().args(["reconcile", "--once", "--data", data]).args(more).envs(envs).envs(url).output().unwrap()
    };
    let silent = reconcile(&[], Some("http://127.0.0.1:1"));
    let (out, err) = (String::from_utf8_lossy(&silent.stdout), String::from_utf8_lossy(&silent.stderr));
    assert_eq!(silent.status.code(), Some(1), "{out}{err}");
    assert!(out.starts_with("payments: 1 looked at, 0 moved, 1 not read\n"), "{out}");
    assert!(err.contains("segue: 1 rows could not be looked at: the provider did not answer; they wait"), "{err}");
    assert!(err.contains("WARN") && err.contains(payment), "which one, and why: {err}");
    for moved in [1, 0] {
        let swept = reconcile(&["--json"], None);
        assert!(swept.status.success(), "{}", said(&swept));
        let swept: Value = serde_json::from_slice(&swept.stdout).unwrap();
        assert_eq!(swept["payments"], json!({ "looked": moved, "moved": moved, "unread": 0 }), "{swept}");
    }
    let order = format!("/api/v1/orders/{}", idle["id"].as_str().unwrap());
    assert_eq!(site.get(&order, buyer)["status"], "expired");
    // One that failed here and succeeded there, of which nobody was told: no sweep looks at it, and a comparison does.
    let late = site.ask("POST", "/api/v1/orders", Some(buyer), Some("late"), &wish).body;
    let (payment, order) = (late["payment"]["id"].as_str().unwrap(), late["id"].as_str().unwrap());
    let path = format!("/api/v1/orders/{order}");
    site.world.with(|world| world.pay(payment, "failed"));
    site.deliver();
    site.until(&path, buyer, "failed");
    site.world.with(|world| {
        world.pay(payment, "succeeded");
        world.events.clear();
    });
    let compared: Value = serde_json::from_slice(&reconcile(&["--json"], None).stdout).unwrap();
    assert_eq!((&compared["payments"]["looked"], &compared["compared"]["moved"]), (&json!(0), &json!(1)), "{compared}");
    assert_eq!(site.get(&path, buyer)["status"], "paid");
    described::ask_for_the_rest(&site, id, order);
    described::check(&site.answered.lock().unwrap());
}

#[test]
fn webhooks_from_outside() {
    let site = Site::start(&[]);
    let path = "/api/v1/webhooks/hyperswitch";
    let post = |path: &str, body: &[u8], signature: Option<&str>| {
        let headers: Vec<_> = signature.map(|text| ("x-webhook-signature-512", text)).into_iter().collect();
        site.send("POST", path, &headers, body).status
    };
    let event =
        r#"{"event_id":"evt_1","event_type":"payment_succeeded","content":{"object":{"payment_id":"pay_none"}}}"#;
    let good = signed_512(event, HYPERSWITCH_SECRET);
    assert_eq!(post(path, event.as_bytes(), Some(&good)), 200, "of a payment that is not ours");
    assert_eq!(post("/webhooks/hyperswitch", event.as_bytes(), Some(&good)), 200, "the address that people know");
    assert_eq!(post(path, event.as_bytes(), None), 401);
    assert_eq!(post(path, event.replace("pay_none", "pay_nine").as_bytes(), Some(&good)), 401);
    assert_eq!(post(path, b"not json", Some(&signed_512("not json", HYPERSWITCH_SECRET))), 400);
    let no_id = r#"{"event_type":"refund_succeeded","content":{"object":{}}}"#;
    assert_eq!(post(path, no_id.as_bytes(), Some(&signed_512(no_id, HYPERSWITCH_SECRET))), 400);
    let most = "x".repeat(256 << 10);
    assert_eq!(post(path, most.as_bytes(), None), 401);
    let more = format!("{most}x");
    assert_eq!(post(path, more.as_bytes(), Some(&signed_512(&more, HYPERSWITCH_SECRET))), 413);
    // Every delivery is logged but the one that was too large; of strangers' only the beginning is kept.
    let sql = "select count(*), sum(signature_valid), max(length(payload)), count(source_ip), count(request_id) from webhook_delivery";
    let tool = |sql: &str| site.sql(sql);
    assert_eq!(tool(sql), "7|4|4096|7|7");
    // A log that takes nothing keeps no event of the provider's back; of strangers it knows nothing.
    tool("create trigger full before insert on webhook_delivery begin select raise(abort, 'no room'); end");
    assert_eq!(post(path, event.as_bytes(), Some(&good)), 200);
    assert!(post(path, event.as_bytes(), None) >= 500);
    tool("drop trigger full");
    assert_eq!(tool("select count(*) from webhook_delivery"), "7");
}

#[test]
fn without_a_provider_nothing_is_sold_and_nothing_is_given_away() {
    let site = Site::start(&[("SEGUE_PAYMENTS__ENABLED", "false")]);
    let ask = |path: &str, body: Value| site.ask("POST", path, Some(&site.buyer), Some("k"), &body).status;
    assert_eq!(ask("/api/v1/orders", json!({ "items": [] })), 503);
    assert_eq!(ask("/api/v1/subscriptions", json!({ "plan": "pro" })), 503);
    assert_eq!(ask("/api/v1/subscriptions", json!({ "plan": "free" })), 201);
    assert_eq!(site.send("POST", "/webhooks/hyperswitch", &[], b"{}").status, 401);
    let swept = run(["reconcile", "--once", "--data", site.data.path().to_str().unwrap()]);
    assert_eq!(swept.status.code(), Some(2));
    assert!(said(&swept).contains("payments.enabled"), "{}", said(&swept));
}
