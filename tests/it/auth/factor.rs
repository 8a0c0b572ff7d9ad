//! Second factors: enrolling, logging in with them, replays, the day when the phone is lost, and what only admins may.

use serde_json::{Value, json};

use super::{
    Api, Authenticator, Browser, OTHER_PASSWORD, PASSWORD, Site, Tokens, early_in_a_step, is, json_of, on_both,
};
use crate::support::Reply;

/// Adds a second factor by the code of the step before, so that the one of now is still good for a login.
pub(super) fn enrolled(api: &Api, tokens: &Tokens) -> (Authenticator, Vec<String>) {
    let enrol = api.by(&tokens.access, "POST", "auth/mfa/enrol", Some(json!({ "password": PASSWORD })));
    assert_eq!(enrol.status, 200, "{}", enrol.text());
    let body = json_of(&enrol);
    assert!(body["otpauth_url"].as_str().unwrap().starts_with("otpauth://totp/"));
    let authenticator = Authenticator::of(body["secret"].as_str().unwrap());
    let confirm = |code: &str| api.by(&tokens.access, "POST", "auth/mfa/confirm", Some(json!({ "code": code })));
    is(&confirm("000000"), 403, "code-wrong");
    // Nothing between this and the code: on a busy machine every request may take a while.
    early_in_a_step();
    let confirmed = confirm(&authenticator.code(1));
    assert_eq!(confirmed.status, 200, "{}", confirmed.text());
    let codes = json_of(&confirmed)["recovery_codes"].as_array().unwrap().clone();
    (authenticator, codes.iter().map(|code| code.as_str().unwrap().to_owned()).collect())
}

/// The first half of a login.
fn ticket(api: &Api, password: &str) -> String {
    let half = api.post("auth/login", json!({ "email": "a@example.org", "password": password }));
    let body = json_of(&half);
    assert_eq!((half.status, &body["mfa_required"]), (200, &Value::Bool(true)), "{body:#}");
    assert!(body.get("access_token").is_none() && body.get("refresh_token").is_none(), "{body:#}");
    body["ticket"].as_str().unwrap().to_owned()
}

fn verify(api: &Api, ticket: &str, code: &str) -> Reply {
    api.post("auth/mfa/verify", json!({ "ticket": ticket, "code": code }))
}

#[test]
fn a_code_opens_once_and_a_password_alone_opens_nothing() {
    on_both(|site| {
        let api = site.serve();
        let here = api.member("a@example.org");
        let there = api.login("a@example.org", PASSWORD);
        let wrong = api.by(&here.access, "POST", "auth/mfa/enrol", Some(json!({ "password": "not it" })));
        is(&wrong, 403, "password-wrong");
        is(&api.by(&here.access, "POST", "auth/mfa/confirm", Some(json!({ "code": "123456" }))), 409, "mfa-not-begun");
        let (authenticator, _) = enrolled(&api, &here);
        assert_eq!((api.me(&here.access), api.me(&there.access)), (200, 401), "what had no second factor has ended");
        let again = api.by(&here.access, "POST", "auth/mfa/enrol", Some(json!({ "password": PASSWORD })));
        is(&again, 409, "mfa-exists");

        let (one, two) = (ticket(&api, PASSWORD), ticket(&api, PASSWORD));
        let code = authenticator.code(0);
        is(&verify(&api, &one, &authenticator.code(1)), 403, "code-wrong"); // it confirmed the factor
        let logged_in = verify(&api, &one, &code);
        assert_eq!(logged_in.status, 200, "{}", logged_in.text());
        assert_eq!(api.me(&Tokens::of(&logged_in).access), 200);
        // The same code again (RFC 6238 §5.2), the same ticket again, no ticket at all.
        is(&verify(&api, &two, &code), 403, "code-wrong");
        is(&verify(&api, &one, &code), 401, "ticket-invalid");
        is(&verify(&api, "nothing", &code), 401, "ticket-invalid");
        // A ticket is no access token, and no refresh token.
        assert_eq!(api.me(&two), 401);
        is(&api.post("auth/refresh", json!({ "refresh_token": two })), 401, "refresh-invalid");
        // The secret lies sealed: nobody reads it from the rows.
        if !site.env.iter().any(|(name, _)| name == "DATABASE_URL") {
            let rows = ["segue.db", "segue.db-wal"]
                .map(|name| std::fs::read(site.data().join(name)).unwrap_or_default())
                .concat();
            let holds = |text: &str| rows.windows(text.len()).any(|bytes| bytes == text.as_bytes());
            assert!(holds("a@example.org") && holds("v1."), "the rows are read");
            for secret in [one.as_str(), two.as_str(), here.refresh.as_str(), PASSWORD] {
                assert!(!holds(secret), "what opens something lies in the database");
            }
        }
    });
}

#[test]
fn codes_are_not_guessed() {
    let site = Site::embedded();
    let api = site.serve();
    let tokens = api.member("a@example.org");
    let (authenticator, _) = enrolled(&api, &tokens);
    let one = ticket(&api, PASSWORD);
    // One try of five went into the confirmation.
    let answers: Vec<u16> = (0..6).map(|n| verify(&api, &one, &format!("00000{n}")).status).collect();
    assert_eq!(answers[..3], [403, 403, 403], "{answers:?}");
    assert!(answers[3..].iter().all(|status| [401, 429].contains(status)), "{answers:?}");
    // Another ticket does not bring more tries.
    let refused = verify(&api, &ticket(&api, PASSWORD), &authenticator.code(0));
    is(&refused, 429, "rate-limit");
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() > 60);
    assert_eq!(json_of(&refused)["violated-policies"], json!(["second-factor"]));
}

#[test]
fn recovery_codes_open_once_and_new_ones_replace_them() {
    on_both(|site| {
        let api = site.serve();
        let tokens = api.member("a@example.org");
        let (authenticator, codes) = enrolled(&api, &tokens);
        assert_eq!(codes.len(), 10);
        let recover =
            |ticket: &str, code: &str| api.post("auth/mfa/verify", json!({ "ticket": ticket, "recovery_code": code }));
        let typed = codes[0].to_uppercase().replace('-', " ");
        assert_eq!(recover(&ticket(&api, PASSWORD), &typed).status, 200);
        is(&recover(&ticket(&api, PASSWORD), &codes[0]), 403, "code-wrong");
        assert!(api.mail("a@example.org", 2).contains("recovery code"), "its owner hears of it");
        let both = json!({ "ticket": ticket(&api, PASSWORD), "code": "123456", "recovery_code": codes[1] });
        is(&api.post("auth/mfa/verify", both), 400, "body-invalid");
        let new = json!({ "password": PASSWORD, "code": authenticator.code(0) });
        let new = json_of(&api.by(&tokens.access, "POST", "auth/mfa/recovery-codes", Some(new)));
        assert_eq!(new["recovery_codes"].as_array().unwrap().len(), 10, "{new:#}");
        is(&recover(&ticket(&api, PASSWORD), &codes[1]), 403, "code-wrong");
        let fresh = new["recovery_codes"][0].as_str().unwrap();
        assert_eq!(recover(&ticket(&api, PASSWORD), fresh).status, 200);
    });
}

#[test]
fn another_password_does_not_skip_the_second_factor_and_an_operator_can_remove_it() {
    let site = Site::embedded();
    let api = site.serve();
    let tokens = api.member("a@example.org");
    enrolled(&api, &tokens);
    let half = ticket(&api, PASSWORD);
    api.post("auth/password/reset-request", json!({ "email": "a@example.org" }));
    let token = api.link("a@example.org", 2);
    let reset = api.post("auth/password/reset", json!({ "token": token, "password": OTHER_PASSWORD }));
    assert_eq!(reset.status, 204, "{}", reset.text());
    is(&verify(&api, &half, "123456"), 401, "ticket-invalid"); // half a login with the old password
    ticket(&api, OTHER_PASSWORD);
    site.user(&["reset-mfa", "a@example.org"]);
    api.login("a@example.org", OTHER_PASSWORD);
}

#[test]
fn its_owner_removes_it_by_password_and_code() {
    on_both(|site| {
        let api = site.serve();
        let tokens = api.member("a@example.org");
        let remove = |bearer: &str, body: Value| api.by(bearer, "POST", "auth/mfa/remove", Some(body));
        is(&remove(&tokens.access, json!({ "password": PASSWORD, "code": "123456" })), 409, "mfa-none");
        let (authenticator, codes) = enrolled(&api, &tokens);
        let elsewhere = Tokens::of(&verify(&api, &ticket(&api, PASSWORD), &authenticator.code(0)));
        is(&remove(&tokens.access, json!({ "code": authenticator.code(0) })), 403, "again");
        is(&remove(&tokens.access, json!({ "password": "not it", "recovery_code": codes[0] })), 403, "password-wrong");
        is(&remove(&tokens.access, json!({ "password": PASSWORD })), 400, "body-invalid");
        is(&remove(&tokens.access, json!({ "password": PASSWORD, "code": authenticator.code(0) })), 403, "code-wrong");
        let half = ticket(&api, PASSWORD);
        let removed = remove(&tokens.access, json!({ "password": PASSWORD, "recovery_code": codes[0] }));
        assert_eq!(removed.status, 204, "{}", removed.text());
        assert_eq!((api.me(&tokens.access), api.me(&elsewhere.access)), (200, 401), "every other session ended");
        is(&verify(&api, &half, &authenticator.code(0)), 401, "ticket-invalid");
        let me = json_of(&api.by(&tokens.access, "GET", "users/me", None));
        assert_eq!(me["second_factor"], false, "{me:#}");
        api.login("a@example.org", PASSWORD);
        // Register, factor, recovery, and now this one.
        assert!(api.mail("a@example.org", 3).contains("second factor of your account was removed"));
    });
}

#[test]
fn nothing_of_an_admins_opens_before_a_second_factor_was_shown() {
    on_both(|site| {
        let api = site.serve();
        api.member("a@example.org");
        site.user(&["grant", "a@example.org", "admin"]);
        let before = api.login("a@example.org", PASSWORD);
        let key = |bearer: &str| {
            let body = json!({ "name": "x", "scopes": ["read", "admin"] });
            api.by(bearer, "POST", "api-keys", Some(body))
        };
        is(&key(&before.access), 403, "admin-needed");
        let (authenticator, _) = enrolled(&api, &before);
        assert_eq!(key(&before.access).status, 201, "this session has shown it");
        let logged_in = verify(&api, &ticket(&api, PASSWORD), &authenticator.code(0));
        assert_eq!(key(&Tokens::of(&logged_in).access).status, 201);
        // Refreshing keeps what was shown.
        let refresh = Tokens::of(&logged_in).refresh;
        let next = api.post("auth/refresh", json!({ "refresh_token": refresh }));
        assert_eq!(key(&Tokens::of(&next).access).status, 201);
        site.user(&["grant", "a@example.org", "creator"]);
        assert_eq!(key(&Tokens::of(&next).access).status, 401);
    });
}

#[test]
fn browsers_show_it_with_a_cookie_between_the_halves() {
    let site = Site::embedded();
    let api = site.serve();
    let tokens = api.member("a@example.org");
    let (authenticator, _) = enrolled(&api, &tokens);
    let browser = Browser::of(&api);
    let login = json!({ "email": "a@example.org", "password": PASSWORD, "cookies": true });
    let half = browser.send("POST", "/api/v1/auth/login", &[], Some(&login));
    assert_eq!(json_of(&half)["mfa_required"], true);
    assert!(json_of(&half).get("ticket").is_none());
    assert!(browser.cookie("__Host-segue_ticket").is_some() && browser.cookie("__Host-segue_access").is_none());
    assert_eq!(browser.send("GET", "/api/v1/users/me", &[], None).status, 401);
    let code = json!({ "code": authenticator.code(0) });
    let elsewhere = [("Sec-Fetch-Site", "cross-site")];
    is(&browser.send("POST", "/api/v1/auth/mfa/verify", &elsewhere, Some(&code)), 403, "csrf");
    let whole = browser.send("POST", "/api/v1/auth/mfa/verify", &[], Some(&code));
    assert_eq!(whole.status, 200, "{}", whole.text());
    assert!(browser.cookie("__Host-segue_ticket").is_none() && browser.cookie("__Host-segue_access").is_some());
    assert_eq!(browser.send("GET", "/api/v1/users/me", &[], None).status, 200);
}
