//! Nobody learns who has an account: not by words, nor by the status, nor by the time.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Api, PASSWORD, Site, is, json_of};
use crate::support::Reply;

/// What a stranger could compare: everything but what differs from one request to the next anyway.
fn seen(reply: &Reply) -> (u16, Vec<String>, String) {
    let changing = ["date", "x-request-id", "ratelimit"];
    let fields = reply.head.lines().skip(1).filter(|line| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        !line.is_empty() && !changing.contains(&name.as_str())
    });
    (reply.status, fields.map(str::to_owned).collect(), reply.text())
}

#[test]
fn known_and_unknown_addresses_are_answered_in_the_same_words() {
    let site = Site::embedded();
    let api = site.serve();
    api.member("known@example.org");
    type Ask = (&'static str, fn(&str) -> Value);
    let asks: [Ask; 3] = [
        ("auth/login", |email| json!({ "email": email, "password": "not the password" })),
        ("auth/register", |email| json!({ "email": email, "password": "another good pass phrase" })),
        ("auth/password/reset-request", |email| json!({ "email": email })),
    ];
    for (path, body) in asks {
        let known = api.post(path, body("known@example.org"));
        let unknown = api.post(path, body("nobody@example.org"));
        assert_eq!(seen(&known), seen(&unknown), "{path}");
    }
    // The mail says what the answer does not: to whoever has the address.
    assert!(api.mail("known@example.org", 1).contains("already"));
    assert!(api.mail("nobody@example.org", 0).contains("within a day"));
    // Neither changed anything.
    api.login("known@example.org", PASSWORD);
    is(&api.post("auth/login", json!({ "email": "nobody@example.org", "password": PASSWORD })), 401, "credentials");
}

/// Times of known and unknown addresses, alternating, each address new: throttles see no pattern.
fn times(api: &Api, known: &[String], ask: impl Fn(&Api, &str) -> Reply, wanted: u16) -> [Vec<Duration>; 2] {
    let mut times = [vec![], vec![]];
    for (n, known) in known.iter().enumerate() {
        let unknown = format!("nobody{n}@example.org");
        for (which, email) in [(0, known.as_str()), (1, &unknown)] {
            let begun = Instant::now();
            let reply = ask(api, email);
            times[which].push(begun.elapsed());
            assert_eq!(reply.status, wanted, "{}", reply.text());
        }
    }
    times
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

/// The medians of many alternating tries differ by less than a factor of two. Without the decoy, a login for an unknown
/// address takes a tenth of the time: the bar is wide, and still far from that. A machine that is busy for one kind alone in
/// every one of several rounds would be needed to fail it by chance.
fn take_as_long(what: &str, mut measure: impl FnMut(usize) -> [Vec<Duration>; 2]) {
    let mut seen = Vec::new();
    for round in 0..4 {
        let [mut known, mut unknown] = measure(round);
        let ratio = median(&mut known) / median(&mut unknown);
        seen.push(ratio);
        if (0.5..2.0).contains(&ratio) {
            return;
        }
    }
    panic!("{what}: known and unknown addresses differ: {seen:?}");
}

#[test]
fn known_and_unknown_addresses_take_as_long() {
    // As behind a proxy, so that each request comes from another place and no wait gets in between.
    let secret = "X-Edge: a-secret-of-some-length";
    let site = Site::embedded().with("SEGUE_ORIGIN__SECRET_HEADER", &format!("[\"{secret}\"]"));
    let api = site.serve();
    let known: Vec<String> = (0..12).map(|n| format!("known{n}@example.org")).collect();
    for email in &known {
        site.user(&["create", email]);
    }
    let mut place = 0u32;
    let mut from = || {
        place += 1;
        format!("10.{}.{}.{}", place >> 16 & 255, place >> 8 & 255, place & 255)
    };
    let counter = std::cell::RefCell::new(&mut from);
    let post = |api: &Api, path: &str, body: Value| {
        let place = (counter.borrow_mut())();
        let fields = [("X-Edge", "a-secret-of-some-length"), ("X-Real-IP", place.as_str())];
        api.send("POST", &format!("/api/v1/{path}"), &fields, Some(&body))
    };
    take_as_long("login", |round| {
        let password = format!("guess {round}");
        let ask = |api: &Api, email: &str| post(api, "auth/login", json!({ "email": email, "password": password }));
        times(&api, &known, ask, 401)
    });
    take_as_long("register", |round| {
        // Each address bears three mails before it waits.
        let ask = |api: &Api, email: &str| {
            let email = email.replace('@', &format!("+{round}@"));
            post(api, "auth/register", json!({ "email": email, "password": "another good pass phrase" }))
        };
        let members: Vec<String> = known.iter().map(|email| email.replace('@', &format!("+{round}@"))).collect();
        for email in &members {
            site.user(&["create", email]);
        }
        times(&api, &known, ask, 202)
    });
    take_as_long("reset", |round| {
        let ask = |api: &Api, email: &str| match round {
            0 | 1 => post(api, "auth/password/reset-request", json!({ "email": email })),
            _ => post(api, "auth/password/reset-request", json!({ "email": format!("{round}{email}") })),
        };
        times(&api, &known, ask, 200)
    });
    let waits = api.post("auth/password/reset-request", json!({ "email": "x" }));
    assert_eq!(json_of(&waits)["status"], 422, "an address that is none is nobody's");
}
