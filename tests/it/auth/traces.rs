//! What is written down of somebody who proves who they are (ASVS 16.3.1): that they tried, from which network, and what
//! came of it, in the log and in spans. Not their address, not what they typed, not what they got.

use serde_json::json;

use super::{Authenticator, OTHER_PASSWORD, PASSWORD, Site, Tokens, is, json_of};
use crate::http::seeing::spans::{Collector, Span};

const ADDRESS: &str = "maria.curie@mail.example";
const GUESS: &str = "guess-of-a-stranger";

#[test]
fn every_try_to_log_in_is_written_down_and_names_nobody() {
    let collector = Collector::start();
    // Mails, which have addresses and links, are off: without `mail.smtp` they are in the log.
    let site = Site::embedded()
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
        .with("SEGUE_LOG__ACCESS", "all")
        .with("SEGUE_LOG__FILTER", "debug,segue::providers::mail=off");
    let mut api = site.serve();
    let made = site.user(&["create", ADDRESS]);
    let first = made.lines().find_map(|line| line.strip_prefix("password, shown once: ")).unwrap();

    let login = |email: &str, password: &str| api.post("auth/login", json!({ "email": email, "password": password }));
    is(&login(ADDRESS, GUESS), 401, "credentials");
    is(&login("nobody@mail.example", GUESS), 401, "credentials");
    let tokens = api.login(ADDRESS, first);
    let change = json!({ "current_password": first, "password": PASSWORD });
    assert_eq!(api.by(&tokens.access, "POST", "users/me/password", Some(change)).status, 204);
    let enrolled = api.by(&tokens.access, "POST", "auth/mfa/enrol", Some(json!({ "password": PASSWORD })));
    let secret = json_of(&enrolled)["secret"].as_str().unwrap().to_owned();
    let confirm = json!({ "code": Authenticator::of(&secret).code(0) });
    let confirmed = api.by(&tokens.access, "POST", "auth/mfa/confirm", Some(confirm));
    let recovery = json_of(&confirmed)["recovery_codes"][0].as_str().unwrap().to_owned();
    let ticket = || json_of(&login(ADDRESS, PASSWORD))["ticket"].as_str().unwrap().to_owned();
    let (one, two) = (ticket(), ticket());
    let verify = |body| api.post("auth/mfa/verify", body);
    is(&verify(json!({ "ticket": one, "recovery_code": "aaaa-aaaa-aaaa-aaaa" })), 403, "code-wrong");
    let whole = verify(json!({ "ticket": two, "recovery_code": recovery }));
    let session = Tokens::of(&whole);
    let refresh = |token: &str| api.post("auth/refresh", json!({ "refresh_token": token }));
    let next = Tokens::of(&refresh(&session.refresh));
    is(&refresh(&session.refresh), 401, "refresh-invalid");
    let waits = (0..12).map(|n| login(ADDRESS, &format!("{GUESS}{n}")).status).find(|status| *status == 429);
    assert_eq!(waits, Some(429), "guesses wait");
    api.post("auth/password/reset-request", json!({ "email": ADDRESS }));
    is(&api.post("auth/password/reset", json!({ "token": GUESS, "password": OTHER_PASSWORD })), 400, "token-invalid");

    for (outcome, what) in [
        ("refused", "login"),
        ("ok", "login"),
        ("ok", "password-changed"),
        ("ok", "mfa-confirmed"),
        ("ok", "first-factor"),
        ("refused", "second-factor"),
        ("refused", "refresh-reused"),
        ("throttled", "login"),
        ("ok", "reset-request"),
    ] {
        api.until_logged(&format!("outcome=\"{outcome}\" what=\"{what}\""));
    }
    api._server.signal("TERM"); // what waits is sent when the server stops
    assert!(api._server.child.wait().unwrap().success());
    let log = std::fs::read_to_string(&api.log).unwrap();
    assert!(log.contains("POST /api/v1/auth/login"), "it was a talkative log");

    let spans = collector.spans();
    let said = |outcome: &str, via: &str| {
        let has = |span: &Span, name: &str, text: &str| span.attributes.get(name).is_some_and(|value| value == text);
        let logins = spans.iter().filter(|span| span.name == "login");
        logins.filter(|span| has(span, "via", via) && has(span, "outcome", outcome)).count()
    };
    assert!(said("ok", "password") > 2, "{spans:#?}");
    assert!(said("refused", "password") > 1 && said("throttled", "password") == 1, "{spans:#?}");
    assert_eq!((said("refused", "second-factor"), said("ok", "second-factor")), (1, 1), "{spans:#?}");
    // A name and a network may be known to whoever reads logs; who it is, and what opens, may not.
    for secret in [
        ADDRESS,
        "maria.curie",
        "nobody@mail.example",
        GUESS,
        first,
        PASSWORD,
        &secret,
        &recovery,
        &one,
        &two,
        &session.access,
        &session.refresh,
        &next.access,
        &next.refresh,
    ] {
        let told = log.lines().find(|line| line.contains(secret));
        assert_eq!(told, None, "the log has {secret}");
        assert!(!collector.carries(secret), "a span has {secret}");
    }
}
