//! Registering, logging in and out, sessions, other passwords, cookies.

use segue::providers::mail::RESET_US;
use serde_json::json;

use super::{Browser, OTHER_PASSWORD, PASSWORD, Site, is, json_of, on_both};

#[test]
fn somebody_registers_follows_the_link_logs_in_and_out() {
    on_both(|site| {
        let api = site.serve();
        let wish = json!({ "email": "Maria@Example.org", "password": PASSWORD, "name": "Maria" });
        let registered = api.post("auth/register", wish);
        assert_eq!(registered.status, 202);
        assert_eq!(json_of(&registered)["verification_required"], true);
        assert!(
            registered.header("set-cookie").is_none() && !registered.text().contains("usr_"),
            "{}",
            registered.text()
        );
        // Before the link: the wrong password says nothing, the right one says why.
        let login = |password| api.post("auth/login", json!({ "email": "maria@example.org", "password": password }));
        is(&login("not it at all"), 401, "credentials");
        is(&login(PASSWORD), 403, "email-unverified");
        let token = api.link("Maria@Example.org", 0);
        let verify = |token: &str| api.send("POST", "/api/v1/auth/verify-email", &[("X-Verify-Token", token)], None);
        is(&verify("nothing"), 400, "token-invalid");
        let verified = verify(&token);
        assert_eq!(verified.status, 200, "{}", verified.text());
        assert_eq!(json_of(&verified)["user"]["name"], "Maria");
        assert!(verified.header("set-cookie").is_none() && json_of(&verified).get("access_token").is_none());
        is(&verify(&token), 400, "token-invalid");

        let tokens = api.login("MARIA@example.org", PASSWORD);
        let me = api.by(&tokens.access, "GET", "users/me", None);
        assert_eq!((me.status, json_of(&me)["role"].as_str()), (200, Some("listener")));
        assert_eq!(api.by(&tokens.access, "POST", "auth/logout", None).status, 204);
        is(&api.by(&tokens.access, "GET", "users/me", None), 401, "session-ended");
        is(&api.post("auth/refresh", json!({ "refresh_token": tokens.refresh })), 401, "refresh-invalid");
    });
}

#[test]
fn a_link_in_a_query_still_opens_and_says_that_it_should_not() {
    let site = Site::embedded();
    let api = site.serve();
    api.post("auth/register", json!({ "email": "a@example.org", "password": PASSWORD }));
    let token = api.link("a@example.org", 0);
    let verified = api.send("POST", &format!("/api/v1/auth/verify-email?token={token}"), &[], None);
    assert_eq!(verified.status, 200, "{}", verified.text());
    assert!(verified.header("deprecation").unwrap().starts_with('@'));
    api.until_logged("a verification token came in a query");
}

#[test]
fn what_cannot_be_an_account_is_refused_with_a_reason() {
    let site = Site::embedded();
    let api = site.serve();
    let register = |body| api.post("auth/register", body);
    is(&register(json!({ "email": "nobody", "password": PASSWORD })), 422, "email");
    is(&register(json!({ "email": "a@b.example\r\nBcc: c@d.example", "password": PASSWORD })), 422, "email");
    is(&register(json!({ "email": "a@b.example", "password": "short" })), 422, "password");
    is(&register(json!({ "email": "a@b.example", "password": "password1" })), 422, "password");
    is(&register(json!({ "email": "maria.curie@b.example", "password": "maria.curie@b.example" })), 422, "password");
    is(&register(json!({ "email": "a@b.example", "password": "x".repeat(2000) })), 422, "password");
    is(&register(json!({ "email": "a@b.example", "password": PASSWORD, "name": "a\nb" })), 422, "name");
    is(&register(json!({ "email": "a@b.example", "password": PASSWORD, "role": "admin" })), 400, "body-invalid");
    is(&register(json!([])), 400, "body-invalid");
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    is(&api.raw("POST", "/api/v1/auth/register", &form, b"email=a@b.example"), 415, "content-type");
    let huge = json!({ "email": "a@b.example", "password": "x".repeat(70_000) });
    is(&register(huge), 413, "too-large");
    let closed = Site::embedded().with("SEGUE_AUTH__REGISTRATION", "false");
    is(
        &closed.serve().post("auth/register", json!({ "email": "a@b.example", "password": PASSWORD })),
        403,
        "registration-closed",
    );
    let none = Site::embedded().with("SEGUE_AUTH__ACCOUNTS", "false");
    is(&none.serve().post("auth/register", json!({})), 404, "not-found");
}

#[test]
fn a_refresh_token_that_comes_back_ends_the_session_everywhere() {
    on_both(|site| {
        let api = site.serve();
        let first = api.member("a@example.org");
        let refresh = |token: &str| api.post("auth/refresh", json!({ "refresh_token": token }));
        let second = super::Tokens::of(&refresh(&first.refresh));
        assert_eq!(second.session, first.session);
        assert_ne!(second.refresh, first.refresh);
        assert_eq!((api.me(&first.access), api.me(&second.access)), (200, 200));
        // The thief, or the owner, comes second.
        is(&refresh(&first.refresh), 401, "refresh-invalid");
        is(&refresh(&second.refresh), 401, "refresh-invalid");
        assert_eq!((api.me(&first.access), api.me(&second.access)), (401, 401));
        is(&refresh("not a token"), 401, "refresh-invalid");
        is(&api.send("POST", "/api/v1/auth/refresh", &[], None), 401, "refresh-invalid");
    });
}

#[test]
fn sessions_are_listed_and_ended() {
    on_both(|site| {
        let api = site.serve();
        let here = api.member("a@example.org");
        let there = api.login("a@example.org", PASSWORD);
        let stranger = api.member("b@example.org");
        let list = json_of(&api.by(&here.access, "GET", "auth/sessions", None));
        let items = list["items"].as_array().unwrap();
        assert_eq!(items.len(), 2);
        assert_eq!(items.iter().filter(|item| item["current"] == true).count(), 1);
        assert!(items.iter().any(|item| item["id"] == there.session.as_str() && item["via"] == "password"));
        let page = json_of(&api.by(&here.access, "GET", "auth/sessions?limit=1", None));
        let next = format!("auth/sessions?limit=1&before={}", page["next"].as_str().unwrap());
        assert_eq!(json_of(&api.by(&here.access, "GET", &next, None))["items"][0]["id"], here.session.as_str());
        is(&api.by(&here.access, "GET", "auth/sessions?before=x", None), 400, "query-invalid");
        // Nobody ends somebody else's.
        is(&api.by(&stranger.access, "DELETE", &format!("auth/sessions/{}", there.session), None), 404, "not-found");
        assert_eq!(api.me(&there.access), 200);
        assert_eq!(api.by(&here.access, "DELETE", &format!("auth/sessions/{}", there.session), None).status, 204);
        assert_eq!((api.me(&there.access), api.me(&here.access)), (401, 200));
        let third = api.login("a@example.org", PASSWORD);
        assert_eq!(api.by(&third.access, "DELETE", "auth/sessions", None).status, 204);
        assert_eq!((api.me(&here.access), api.me(&third.access), api.me(&stranger.access)), (401, 200, 200));
    });
}

#[test]
fn another_password_by_mail_ends_every_session_and_logs_nobody_in() {
    on_both(|site| {
        let api = site.serve();
        let tokens = api.member("a@example.org");
        let ask = |email: &str| api.post("auth/password/reset-request", json!({ "email": email }));
        let (known, unknown) = (ask("a@example.org"), ask("nobody@example.org"));
        assert_eq!((known.status, unknown.status), (200, 200));
        assert_eq!(known.text(), unknown.text());
        let mail = api.mail("a@example.org", 1);
        assert!(mail.contains("within 30 minutes") && RESET_US == 30 * 60_000_000, "{mail}");
        let token = api.link("a@example.org", 1);
        let reset = |token: &str, password: &str| {
            api.post("auth/password/reset", json!({ "token": token, "password": password }))
        };
        is(&reset("nothing", OTHER_PASSWORD), 400, "token-invalid");
        is(&reset(&token, "12345678"), 422, "password");
        let done = reset(&token, OTHER_PASSWORD);
        assert_eq!((done.status, done.body.len()), (204, 0));
        assert!(done.header("set-cookie").is_none());
        is(&reset(&token, PASSWORD), 400, "token-invalid");
        assert_eq!(api.me(&tokens.access), 401);
        is(&api.post("auth/refresh", json!({ "refresh_token": tokens.refresh })), 401, "refresh-invalid");
        is(&api.post("auth/login", json!({ "email": "a@example.org", "password": PASSWORD })), 401, "credentials");
        api.login("a@example.org", OTHER_PASSWORD);
        assert!(api.mail("a@example.org", 2).contains("was changed"));
        let log = api.logged();
        assert!(!log.contains("nobody@example.org"), "nobody's mail is sent to nobody");
        // A token of a registration sets no password.
        api.post("auth/register", json!({ "email": "c@example.org", "password": PASSWORD }));
        is(&reset(&api.link("c@example.org", 0), OTHER_PASSWORD), 400, "token-invalid");
    });
}

#[test]
fn whoever_is_logged_in_changes_the_password_with_the_old_one() {
    let site = Site::embedded();
    let api = site.serve();
    let here = api.member("a@example.org");
    let there = api.login("a@example.org", PASSWORD);
    let change = |current: &str, password: &str| {
        let body = json!({ "current_password": current, "password": password });
        api.by(&here.access, "POST", "users/me/password", Some(body))
    };
    is(&change("not it", OTHER_PASSWORD), 403, "password-wrong");
    is(&change(PASSWORD, "aaaaaaaa"), 422, "password");
    assert_eq!(change(PASSWORD, OTHER_PASSWORD).status, 204);
    assert_eq!((api.me(&here.access), api.me(&there.access)), (200, 401));
    api.login("a@example.org", OTHER_PASSWORD);
}

#[test]
fn nobody_becomes_more_than_they_may_by_asking() {
    let site = Site::embedded();
    let api = site.serve();
    let tokens = api.member("a@example.org");
    let change = |body| api.by(&tokens.access, "PATCH", "users/me", Some(body));
    is(&change(json!({ "role": "admin" })), 400, "body-invalid");
    is(&change(json!({ "second_factor": false })), 400, "body-invalid");
    let changed = json_of(&change(json!({ "name": "  Maria ", "role": "creator" })));
    assert_eq!((changed["name"].as_str(), changed["role"].as_str()), (Some("Maria"), Some("creator")));
    assert_eq!(json_of(&change(json!({ "name": "" })))["name"], json!(null));
    assert_eq!(json_of(&change(json!({})))["role"], "creator");
}

#[test]
fn browsers_get_cookies_and_other_sites_get_nothing() {
    on_both(|site| {
        let api = site.serve();
        api.member("a@example.org");
        let browser = Browser::of(&api);
        let login = json!({ "email": "a@example.org", "password": PASSWORD, "cookies": true });
        let from_elsewhere = [("Sec-Fetch-Site", "cross-site")];
        is(&browser.send("POST", "/api/v1/auth/login", &from_elsewhere, Some(&login)), 403, "csrf");
        let own = ("Sec-Fetch-Site", "same-origin");
        let logged_in = browser.send("POST", "/api/v1/auth/login", &[own], Some(&login));
        let body = json_of(&logged_in);
        assert_eq!(logged_in.status, 200, "{body:#}");
        // No script can read what opens.
        assert!(body.get("access_token").is_none() && body.get("refresh_token").is_none(), "{body:#}");
        for name in ["__Host-segue_access", "__Host-segue_refresh"] {
            let set = logged_in.head.lines().find(|line| line.contains(name)).unwrap();
            assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict"), "{set}");
        }
        let csrf = browser.cookie("__Host-segue_csrf").unwrap();
        assert_eq!(body["csrf_token"], csrf.as_str());
        // Reading needs the cookies alone, changing also what only our pages can read.
        assert_eq!(browser.send("GET", "/api/v1/users/me", &[], None).status, 200);
        let name = json!({ "name": "Maria" });
        let change = |headers: &[(&str, &str)]| browser.send("PATCH", "/api/v1/users/me", headers, Some(&name));
        is(&change(&[]), 403, "csrf");
        is(&change(&[("X-CSRF-Token", "guessed")]), 403, "csrf");
        is(&change(&[("X-CSRF-Token", &csrf), ("Sec-Fetch-Site", "same-site")]), 403, "csrf");
        assert_eq!(change(&[("X-CSRF-Token", &csrf), own]).status, 200);
        // A method that is only meant is meant.
        let meant = [("X-HTTP-Method-Override", "DELETE")];
        is(&browser.send("GET", "/api/v1/users/me", &meant, None), 403, "csrf");
        // Another session's token is no token of this one.
        let other = Browser::of(&api);
        other.send("POST", "/api/v1/auth/login", &[own], Some(&login));
        let theirs = other.cookie("__Host-segue_csrf").unwrap();
        assert_ne!(theirs, csrf);
        is(&change(&[("X-CSRF-Token", &theirs)]), 403, "csrf");
        // The cookies refresh, with the token; what was there before opens nothing.
        let refresh = |headers: &[(&str, &str)]| browser.send("POST", "/api/v1/auth/refresh", headers, None);
        is(&refresh(&[]), 403, "csrf");
        let old = browser.cookie("__Host-segue_refresh").unwrap();
        assert_eq!(refresh(&[("X-CSRF-Token", &csrf)]).status, 200);
        assert_ne!(browser.cookie("__Host-segue_refresh").unwrap(), old);
        assert_eq!(browser.cookie("__Host-segue_csrf").unwrap(), csrf, "the session is the same");
        let gone = browser.send("POST", "/api/v1/auth/logout", &[("X-CSRF-Token", &csrf)], None);
        assert_eq!(gone.status, 204);
        assert!(browser.jar.borrow().is_empty(), "{:?}", browser.jar);
    });
}

#[test]
fn every_answer_of_the_api_is_guarded_and_says_what_is_left() {
    let site = Site::embedded().with("SEGUE_SERVER__PUBLIC_BASE_URL", "https://music.example.org");
    let api = site.serve();
    for (method, path) in [
        ("GET", "/api/v1/users/me"),
        ("POST", "/api/v1/auth/login"),
        ("GET", "/api/v1/nowhere"),
        ("GET", "/api/v1/openapi.json"),
        ("DELETE", "/api/v1/users/me"),
        ("GET", "/api/v1/upload/limits"),
        ("POST", "/api/v1/uploads"),
    ] {
        let reply = api.send(method, path, &[], None);
        let field = |name| reply.header(name).unwrap_or_else(|| panic!("{method} {path} lacks {name}: {}", reply.head));
        assert_eq!(field("x-content-type-options"), "nosniff");
        assert!(field("content-security-policy").contains("frame-ancestors 'none'"));
        assert_eq!(field("referrer-policy"), "no-referrer");
        assert!(field("strict-transport-security").starts_with("max-age=31536000"));
        assert!(field("ratelimit").starts_with("\"anonymous\";r="), "{}", reply.head);
        assert!(field("ratelimit-policy").contains(";q="));
        assert!(!field("cache-control").contains("public"));
        assert!(reply.status < 500);
        if reply.status >= 400 {
            super::problem(&reply);
        }
    }
    // Pages too: only an embed may stand in a frame.
    for (path, frames) in [
        ("/", "'none'"),
        ("/watch/nothing", "'none'"),
        ("/account/verify", "'none'"),
        ("/api/docs", "'none'"),
        ("/embed/track/nothing", "*"),
    ] {
        let reply = api.send("GET", path, &[], None);
        let field = |name| reply.header(name).unwrap_or_else(|| panic!("{path} lacks {name}: {}", reply.head));
        assert!(field("strict-transport-security").starts_with("max-age=31536000"), "{}", reply.head);
        assert_eq!(field("x-content-type-options"), "nosniff");
        assert!(field("content-security-policy").contains(&format!("frame-ancestors {frames}")), "{}", reply.head);
        assert!(reply.status < 500 && reply.header("set-cookie").is_none(), "{}", reply.head);
    }
    // Without TLS in front nobody is told to ask for it.
    let plain = Site::embedded();
    let reply = plain.serve().send("GET", "/", &[], None);
    assert_eq!(reply.header("strict-transport-security"), None, "{}", reply.head);
}
