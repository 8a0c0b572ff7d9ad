//! Another address: asked for with the password, proved by a link in a mail to it, told to the old one.

use serde_json::{Value, json};

use super::{Api, PASSWORD, is, json_of, on_both};

fn ask(api: &Api, bearer: &str, body: Value) -> crate::support::Reply {
    api.by(bearer, "POST", "users/me/email", Some(body))
}

fn follow(api: &Api, token: &str) -> crate::support::Reply {
    api.send("POST", "/api/v1/users/me/email/confirm", &[("X-Verify-Token", token)], None)
}

#[test]
fn an_account_moves_to_an_address_that_was_proved_and_not_before() {
    on_both(|site| {
        let api = site.serve();
        let tokens = api.member("old@example.org");
        api.member("other@example.org");
        is(&ask(&api, &tokens.access, json!({ "email": "new@example.org" })), 403, "again");
        let wrong = json!({ "email": "new@example.org", "password": "not it" });
        is(&ask(&api, &tokens.access, wrong), 403, "password-wrong");
        is(&ask(&api, &tokens.access, json!({ "email": "nobody", "password": PASSWORD })), 422, "email");
        // An address that has an account: the same words, and no link.
        let taken = ask(&api, &tokens.access, json!({ "email": "other@example.org", "password": PASSWORD }));
        let asked = ask(&api, &tokens.access, json!({ "email": "New@example.org", "password": PASSWORD }));
        assert_eq!((taken.status, asked.status), (202, 202), "{}", asked.text());
        assert_eq!(taken.text(), asked.text());
        assert!(api.mail("other@example.org", 1).contains("has an account already"));
        assert!(api.mail("old@example.org", 1).contains("is to move to another address"));
        let first = api.link("New@example.org", 0);
        api.login("old@example.org", PASSWORD);
        // A newer wish replaces it.
        assert_eq!(ask(&api, &tokens.access, json!({ "email": "new@example.org", "password": PASSWORD })).status, 202);
        let token = api.link("new@example.org", 0);
        is(&follow(&api, &first), 400, "token-invalid");
        is(&follow(&api, "nothing"), 400, "token-invalid");
        let moved = follow(&api, &token);
        assert_eq!(moved.status, 204, "{}", moved.text());
        is(&follow(&api, &token), 400, "token-invalid");
        assert!(api.mail("old@example.org", 4).contains("has moved to another address"));
        let me = json_of(&api.by(&tokens.access, "GET", "users/me", None));
        assert_eq!(me["email"], "new@example.org", "{me:#}");
        api.login("new@example.org", PASSWORD);
        let gone = api.post("auth/login", json!({ "email": "old@example.org", "password": PASSWORD }));
        is(&gone, 401, "credentials");
        // Who registered for the address in the meantime, and followed the link first, keeps it.
        assert_eq!(ask(&api, &tokens.access, json!({ "email": "late@example.org", "password": PASSWORD })).status, 202);
        let late = api.link("late@example.org", 0);
        site.user(&["create", "late@example.org"]);
        is(&follow(&api, &late), 409, "email-taken");
    });
}
