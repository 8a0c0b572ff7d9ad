//! A notice from outside, and what admins rule on it; every origin is told.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request};
use http_body_util::BodyExt as _;
use segue::api::{self, App, Salt};
use segue::auth::principal::{Principal, Role, Scopes};
use segue::base::clock::Clock;
use segue::base::shutdown;
use segue::cdn::playback::Links;
use segue::cdn::{Verifier, bunny};
use segue::origin::{Options, Origin};
use segue::store::{LocalStore, Store};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tower::ServiceExt as _;

use super::site::{Site, Who};

fn notice(location: &str) -> Value {
    json!({
        "signature": "Ada Lovelace", "work": "Notes on the Engine", "location": location, "name": "Ada Lovelace",
        "address": "12 St James's Square, London", "phone": "+44 20 0000 0000", "email": "ada@example.com",
        "good_faith_statement": true, "sworn_statement": true, "on_behalf_of": "Example Ltd",
    })
}

#[test]
fn anybody_sends_a_notice_and_hears_what_is_wrong_with_it() {
    let site = Site::new();
    let api = site.serve();
    let send = |notice: &Value| api.json(Who::Nobody, "POST", "/api/v1/dmca/notice", notice);
    let (status, receipt) = send(&notice("https://music.example/watch/trk_never"));
    assert_eq!((status, receipt["standing"].as_str()), (201, Some("received")), "{receipt}");
    assert!(receipt["id"].as_str().unwrap().starts_with("dmc_"));
    let without = |field: &str| {
        let mut less = notice("x");
        less.as_object_mut().unwrap().remove(field);
        less
    };
    for statement in ["sworn_statement", "good_faith_statement"] {
        let (status, problem) = send(&without(statement));
        assert_eq!((status, problem["type"].as_str()), (400, Some("/problems/statement-missing")), "{problem}");
    }
    // What can be completed is kept; what names nothing cannot.
    for field in ["phone", "address", "signature", "name"] {
        let (status, receipt) = send(&without(field));
        assert_eq!(
            (status, receipt["standing"].as_str(), &receipt["missing"]),
            (201, Some("incomplete"), &json!([field]))
        );
    }
    for field in ["work", "location", "email"] {
        assert_eq!(send(&without(field)).0, 400, "{field}");
    }
    let mut long = notice("x");
    long["work"] = "x".repeat(2_001).into();
    assert_eq!(send(&long).0, 400);
    long["work"] = "x".repeat(70_000).into();
    assert_eq!(send(&long).0, 413, "never read to its end");
    let mut more = notice("x");
    more["nonsense"] = json!(1);
    assert_eq!(send(&more).0, 400);
    // The queue is for admins with a second factor, and a key of the configuration is none.
    let id = receipt["id"].as_str().unwrap();
    for (method, path) in [
        ("GET", "/api/v1/admin/dmca/notices".to_owned()),
        ("GET", format!("/api/v1/admin/dmca/notices/{id}")),
        ("POST", format!("/api/v1/admin/dmca/notices/{id}/takedown")),
        ("POST", format!("/api/v1/admin/dmca/notices/{id}/dismiss")),
        ("POST", format!("/api/v1/admin/dmca/notices/{id}/counter-notice")),
        ("POST", format!("/api/v1/admin/dmca/notices/{id}/court-action")),
        ("POST", format!("/api/v1/admin/dmca/notices/{id}/restore")),
    ] {
        assert_eq!(api.send(Who::Nobody, method, &path, &[], b"{}").status, 401, "{path}");
        assert_eq!(api.send(Who::One, method, &path, &[], b"{}").status, 403, "{path}");
    }
}

/// The API of another node on the same store and database, with an admin at it.
struct Desk {
    routes: axum::Router,
    runtime: tokio::runtime::Runtime,
    _trigger: shutdown::Trigger,
}

impl Desk {
    fn open(site: &Site) -> Desk {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store: Store = LocalStore::open(&site.data().join("store")).unwrap().into();
        let origin = Origin::new(Options::default(), store.clone(), Verifier::default(), Clock::System).unwrap();
        let db = runtime.block_on(crate::postgres::ready(site.place()));
        let (trigger, shutdown) = shutdown::channel();
        let app = App {
            links: Links::new(None, None::<bunny::Key>, 60),
            valid: api::playback::Valid::default(),
            blocks: origin.blocks(),
            store,
            origin,
            db,
            base: None,
            purges: true,
            failures_max: 3,
            pictures: Arc::new(Semaphore::new(1)),
            streams: Arc::new(Semaphore::new(1)),
            shutdown,
            salt: Salt::default(),
            clock: Clock::System,
            media_clock: Clock::System,
            demo: None,
        };
        let admin = Principal {
            subject: "usr_admin".into(),
            role: Role::Admin,
            scopes: Scopes { read: true, write: true, admin: true },
            ..Principal::program("x")
        };
        let app = Arc::new(app);
        let (rulings, _) = api::catalogue(Arc::clone(&app)).split_for_parts();
        let routes = api::routes(app).merge(rulings).layer(axum::Extension(admin));
        Desk { routes, runtime, _trigger: trigger }
    }

    fn ask(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request = request.body(Body::from(body.to_string())).unwrap();
        self.runtime.block_on(async {
            let response = self.routes.clone().oneshot(request).await.unwrap();
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
        })
    }

    fn rule(&self, id: &str, verb: &str, body: &Value) -> (u16, Value) {
        self.ask(Method::POST, &format!("/api/v1/admin/dmca/notices/{id}/{verb}"), body)
    }
}

#[test]
fn a_takedown_goes_dark_on_every_node_and_comes_back_on_sqlite() {
    a_takedown_goes_dark_on_every_node_and_comes_back(&Site::new());
}

#[test]
fn a_takedown_goes_dark_on_every_node_and_comes_back_on_postgresql() {
    a_takedown_goes_dark_on_every_node_and_comes_back(&Site::on_postgresql());
}

fn a_takedown_goes_dark_on_every_node_and_comes_back(site: &Site) {
    let api = site.serve();
    let id = api.track(&json!({}), "published");
    let media = api.get(Who::Nobody, &format!("/tracks/{id}/master.m3u8")).header("location").unwrap().to_owned();
    let location = format!("http://{}/watch/{id}", api.addr);
    let (_, receipt) = api.json(Who::Nobody, "POST", "/api/v1/dmca/notice", &notice(&location));
    let filed = receipt["id"].as_str().unwrap();
    let desk = Desk::open(site);
    let (status, queue) = desk.ask(Method::GET, "/api/v1/admin/dmca/notices?standing=received", &Value::Null);
    assert_eq!(
        (status, queue["items"][0]["id"].as_str(), queue["items"][0]["track"].as_str()),
        (200, Some(filed), Some(&*id))
    );
    assert_eq!(desk.ask(Method::GET, "/api/v1/admin/dmca/notices?standing=x", &Value::Null).0, 400);

    let (status, ruled) = desk.rule(filed, "takedown", &json!({}));
    assert_eq!((status, ruled["standing"].as_str()), (200, Some("taken_down")), "{ruled}");
    assert!(ruled["dark_after_ms"].is_u64(), "the node that ruled is dark when it answers: {ruled}");
    while api.get(Who::Nobody, &media).status != 451 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let watch = api.get(Who::One, &format!("/watch/{id}"));
    assert!(watch.status == 451 && watch.text().contains("Example Ltd, 17 USC 512(c)"), "{}", watch.text());
    let frame = api.get(Who::Nobody, &format!("/embed/track/{id}"));
    assert!(frame.status == 451 && frame.text().contains("Unavailable for legal reasons"));
    assert_eq!(api.shown(Who::One, &format!("/api/v1/tracks/{id}"))["state"], "blocked");
    assert_eq!(
        api.json(Who::One, "POST", &format!("/api/v1/tracks/{id}/publish"), &json!({})).0,
        409,
        "not its owner's to lift"
    );
    // A wish that the CDN forgets it, due when every origin is dark.
    desk.runtime.block_on(async {
        let db = crate::postgres::ready(site.place()).await;
        let wishes = db.purges(10).await.unwrap();
        assert_eq!((&wishes[0]["kind"], &wishes[0]["value"]), (&json!("tag"), &json!(id)));
        assert!(wishes[0]["next_us"].as_i64() >= wishes[0]["created_us"].as_i64().map(|at| at + 2_000_000));
        db.close().await;
    });
    assert_eq!(desk.rule(filed, "takedown", &json!({})).0, 409);
    assert_eq!(desk.rule(filed, "dismiss", &json!({ "reason": "late" })).0, 409);
    assert_eq!(desk.rule("dmc_00000000000000000000000000", "takedown", &json!({})).0, 404);

    let counter = json!({
        "signature": "Grace", "name": "Grace", "address": "x", "phone": "1", "good_faith_statement": true,
        "consents_to_jurisdiction": true,
    });
    let (status, problem) = desk.rule(filed, "counter-notice", &json!({ "signature": "Grace" }));
    assert!(status == 422 && problem["detail"].as_str().unwrap().contains("consents_to_jurisdiction"), "{problem}");
    let (status, waiting) = desk.rule(filed, "counter-notice", &counter);
    assert_eq!((status, waiting["standing"].as_str()), (200, Some("waiting")), "{waiting}");
    assert!(waiting["restore_from"].is_string() && waiting["restore_by"].is_string());
    let (status, early) = desk.rule(filed, "restore", &json!({}));
    assert!(status == 409 && early["detail"].as_str().unwrap().contains("512(g)(2)(C)"), "{early}");
    let (status, back) = desk.rule(filed, "restore", &json!({ "reason": "the complainant withdrew" }));
    assert_eq!((status, back["standing"].as_str()), (200, Some("restored")), "{back}");
    while api.get(Who::Nobody, &media).status != 200 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(api.shown(Who::One, &format!("/api/v1/tracks/{id}"))["state"], "published");
    let (_, shown) = desk.ask(Method::GET, &format!("/api/v1/admin/dmca/notices/{filed}"), &Value::Null);
    let log: Vec<_> = shown["log"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (line["action"].as_str().unwrap(), line["actor"].as_str().unwrap()))
        .collect();
    assert_eq!(
        log,
        [
            ("dmca.notice", "public"),
            ("dmca.takedown", "usr_admin"),
            ("dmca.counter_notice", "usr_admin"),
            ("dmca.restore", "usr_admin")
        ]
    );
    // A track that its owner deleted, and a notice that names none.
    let (_, late) = api.json(Who::Nobody, "POST", "/api/v1/dmca/notice", &notice(&location));
    api.send(Who::One, "DELETE", &format!("/api/v1/tracks/{id}"), &[], b"");
    assert_eq!(desk.rule(late["id"].as_str().unwrap(), "takedown", &json!({})).0, 410);
    assert_eq!(desk.rule(late["id"].as_str().unwrap(), "dismiss", &json!({})).0, 422, "a reason is needed");
    assert_eq!(desk.rule(late["id"].as_str().unwrap(), "dismiss", &json!({ "reason": "gone" })).0, 200);
    let (_, vague) = api.json(Who::Nobody, "POST", "/api/v1/dmca/notice", &notice("that song about the sea"));
    assert_eq!(desk.rule(vague["id"].as_str().unwrap(), "takedown", &json!({})).0, 422);
}
