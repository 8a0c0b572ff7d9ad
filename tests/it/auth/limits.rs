//! Limits: growing waits without a lock-out, quotas of keys, and two nodes that share one database.

use std::io::Write as _;
use std::net::TcpStream;

use serde_json::json;

use super::{Api, OTHER_PASSWORD, PASSWORD, Site, Tokens, is, json_of, on_both};
use crate::support::{Reply, answer};

fn try_login(api: &Api, email: &str, password: &str) -> Reply {
    api.post("auth/login", json!({ "email": email, "password": password }))
}

#[test]
fn guessing_waits_longer_and_longer_and_locks_nobody_out() {
    on_both(|site| {
        let api = site.serve();
        let at_home = api.member("a@example.org");
        // Waits grow, so that a machine that hashes for a second meets one, too.
        let guesses = |email: &str| {
            let mut statuses = Vec::<u16>::new();
            while statuses.last() != Some(&429) && statuses.len() < 12 {
                statuses.push(try_login(&api, email, &format!("guess {}", statuses.len())).status);
            }
            assert_eq!(statuses[..5], [401; 5], "{statuses:?}");
            assert_eq!(statuses.last(), Some(&429), "{statuses:?}");
        };
        guesses("a@example.org");
        let refused = try_login(&api, "a@example.org", PASSWORD);
        is(&refused, 429, "rate-limit");
        assert_eq!(json_of(&refused)["violated-policies"], json!(["login"]));
        let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=32).contains(&wait), "{wait}");
        assert!(refused.header("ratelimit").unwrap().starts_with("\"login\";r=0;t="));
        // Nobody's account is refused in the same way.
        guesses("b@example.org");
        // Who is logged in already goes on, and the right password in time is let in.
        assert_eq!(api.me(&at_home.access), 200);
        std::thread::sleep(std::time::Duration::from_secs(wait));
        api.login("a@example.org", PASSWORD);
        assert_eq!(try_login(&api, "a@example.org", "guess").status, 401, "and what was guessed before is forgotten");
    });
}

#[test]
fn mails_are_not_asked_for_without_end() {
    let site = Site::embedded();
    let api = site.serve();
    let ask = || api.post("auth/password/reset-request", json!({ "email": "a@example.org" }));
    let statuses: Vec<u16> = (0..4).map(|_| ask().status).collect();
    assert_eq!(statuses, [200, 200, 200, 429]);
    let refused = ask();
    is(&refused, 429, "rate-limit");
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() > 30);
    // Registering with the address asks for a mail to it too.
    is(&api.post("auth/register", json!({ "email": "A@example.org", "password": OTHER_PASSWORD })), 429, "rate-limit");
}

/// RFC 9110 §15.5.9: whoever sends too slowly is told so, and not that the request was wrong.
#[test]
fn a_body_that_does_not_come_in_time_is_408() {
    let site = Site::embedded().with("SEGUE_SERVER__BODY_TIMEOUT_S", "1");
    let api = site.serve();
    let bearer = api.member("a@example.org").access;
    assert_eq!(api.by(&bearer, "PATCH", "users/me", Some(json!({ "role": "creator" }))).status, 200);
    // One route reads JSON by its type, the other looks at its bytes.
    for path in ["/api/v1/auth/login", "/api/v1/tracks"] {
        let mut stream = TcpStream::connect(api.addr).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer {bearer}\r\n\
             Content-Length: 100\r\n\r\n{{\"email\""
        );
        stream.write_all(head.as_bytes()).unwrap();
        is(&answer(stream), 408, "body-timeout");
    }
}

#[test]
fn a_key_writes_so_many_times_an_hour_and_still_reads() {
    let site = Site::embedded();
    let api = site.serve();
    let tokens = api.member("a@example.org");
    let made = api.by(&tokens.access, "POST", "api-keys", Some(json!({ "name": "x", "scopes": ["read", "write"] })));
    let key = json_of(&made)["key"].as_str().unwrap().to_owned();
    // What is refused further in counts all the same.
    let write = || api.by(&key, "DELETE", "uploads/upl_none", None);
    let first = write();
    assert_eq!(first.header("ratelimit-policy"), Some("\"key-write\";q=200;w=3600"));
    assert!(first.header("ratelimit").unwrap().starts_with("\"key-write\";r=199;t="), "{}", first.head);
    for _ in 1..200 {
        assert_eq!(write().status, 403);
    }
    let refused = write();
    is(&refused, 429, "rate-limit");
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() > 3_000);
    assert_eq!(api.me(&key), 200);
    let again = api.by(&tokens.access, "GET", "users/me", None);
    assert!(again.header("ratelimit").unwrap().starts_with("\"user\";"), "a session has another limit: {}", again.head);
}

#[test]
fn two_nodes_share_what_is_left() {
    let site = Site::on_postgresql();
    let (one, two) = (site.serve_as("one"), site.serve_as("two"));
    let made = site.user(&["create", "a@example.org"]);
    let password = made.lines().find_map(|line| line.strip_prefix("password, shown once: ")).unwrap();
    let tokens = one.login("a@example.org", password);
    assert_eq!(two.me(&tokens.access), 200, "each knows the other's sessions");
    // Guesses count together.
    let guess = |n: usize| {
        try_login(if n.is_multiple_of(2) { &one } else { &two }, "a@example.org", &format!("guess {n}")).status
    };
    assert_eq!((0..5).map(guess).collect::<Vec<_>>(), [401; 5]);
    assert!((5..12).map(guess).any(|status| status == 429), "waits grow until a busy machine meets one");
    is(&try_login(&one, "a@example.org", password), 429, "rate-limit");
    // A quota is one number.
    let made = one.by(&tokens.access, "POST", "api-keys", Some(json!({ "name": "x", "scopes": ["write"] })));
    let key = json_of(&made)["key"].as_str().unwrap().to_owned();
    let left: Vec<String> = (0..4)
        .map(|n| {
            let api = if n % 2 == 0 { &one } else { &two };
            let reply = api.by(&key, "DELETE", "uploads/upl_none", None);
            reply.header("ratelimit").unwrap().split(';').nth(1).unwrap().to_owned()
        })
        .collect();
    assert_eq!(left, ["r=199", "r=198", "r=197", "r=196"]);
    // What ends on one has ended on the other, and a refresh token is used up everywhere.
    let next = Tokens::of(&two.post("auth/refresh", json!({ "refresh_token": tokens.refresh })));
    is(&one.post("auth/refresh", json!({ "refresh_token": tokens.refresh })), 401, "refresh-invalid");
    assert_eq!((one.me(&next.access), two.me(&next.access)), (401, 401));
}
