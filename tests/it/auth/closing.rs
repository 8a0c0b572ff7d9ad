//! An account that an operator closes (ASVS 7.4.2), and where a key may stand in a request (ASVS 14.2.1).

use serde_json::json;

use super::{PASSWORD, Site, is, json_of, on_both};

#[test]
fn a_closed_account_opens_by_nothing_until_it_is_opened_again() {
    on_both(|site| {
        let api = site.serve();
        let tokens = api.member("a@example.org");
        let other = api.member("b@example.org");
        let made = api.by(&tokens.access, "POST", "api-keys", Some(json!({ "name": "x", "scopes": ["read"] })));
        let key = json_of(&made)["key"].as_str().unwrap().to_owned();
        assert_eq!((api.me(&tokens.access), api.me(&key)), (200, 200));
        let said = site.user(&["close", "A@example.org"]);
        assert!(said.contains("segue user open"), "{said}");
        assert_eq!((api.me(&tokens.access), api.me(&key), api.me(&other.access)), (401, 401, 200));
        is(&api.post("auth/refresh", json!({ "refresh_token": tokens.refresh })), 401, "refresh-invalid");
        let login = |password: &str| api.post("auth/login", json!({ "email": "a@example.org", "password": password }));
        is(&login(PASSWORD), 403, "account-closed");
        is(&login("not it"), 401, "credentials");
        site.user(&["open", "a@example.org"]);
        assert_eq!(api.me(&tokens.access), 401, "what has ended has ended");
        api.login("a@example.org", PASSWORD);
        assert_eq!(api.me(&key), 200, "a key is its owner's to end");
    });
}

#[test]
fn a_key_in_an_address_opens_nothing() {
    let site = Site::embedded();
    let api = site.serve();
    let tokens = api.member("a@example.org");
    let made = api.by(&tokens.access, "POST", "api-keys", Some(json!({ "name": "x", "scopes": ["read"] })));
    let key = json_of(&made)["key"].as_str().unwrap().to_owned();
    for name in ["api_key", "key", "access_token", "token", "x-api-key", "authorization"] {
        for secret in [&key, &tokens.access] {
            is(&api.send("GET", &format!("/api/v1/users/me?{name}={secret}"), &[], None), 401, "unauthorized");
        }
    }
    assert_eq!(api.me(&key), 200);
}
