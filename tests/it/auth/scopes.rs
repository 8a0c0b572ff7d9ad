//! API keys: what each scope opens, and how keys of people and keys of the configuration stand beside each other.

use serde_json::{Value, json};

use super::{Api, Site, Tokens, is, json_of, on_both};
use crate::support::Reply;

fn key(api: &Api, tokens: &Tokens, scopes: Value) -> (String, String) {
    let made = api.by(&tokens.access, "POST", "api-keys", Some(json!({ "name": "player", "scopes": scopes })));
    assert_eq!(made.status, 201, "{}", made.text());
    let body = json_of(&made);
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    assert_eq!(made.header("location"), Some(format!("/api/v1/api-keys/{}", text("id")).as_str()));
    assert_eq!(text("key")[4..14], text("id")[4..], "the key names itself");
    (text("key"), text("id"))
}

fn creator(api: &Api, address: &str) -> Tokens {
    let tokens = api.member(address);
    let changed = api.by(&tokens.access, "PATCH", "users/me", Some(json!({ "role": "creator" })));
    assert_eq!(changed.status, 200);
    tokens
}

fn announce(api: &Api, bearer: &str) -> Reply {
    api.by(bearer, "POST", "uploads", Some(json!({ "kind": "audio", "bytes": 100 })))
}

#[test]
fn each_scope_opens_its_methods_and_no_other() {
    on_both(|site| {
        let api = site.serve();
        let tokens = creator(&api, "a@example.org");
        let (read, _) = key(&api, &tokens, json!(["read"]));
        let (write, _) = key(&api, &tokens, json!(["write"]));
        let (both, id) = key(&api, &tokens, json!(["read", "write"]));
        let upload = announce(&api, &both);
        assert_eq!(upload.status, 201, "{}", upload.text());
        let upload = format!("uploads/{}", json_of(&upload)["id"].as_str().unwrap());
        let status = |bearer: &str, method: &str| api.by(bearer, method, &upload, None).status;
        assert_eq!((status(&read, "GET"), status(&write, "GET"), status(&both, "GET")), (200, 403, 200));
        // What is refused counts, and says so.
        let refused = announce(&api, &read);
        is(&refused, 403, "insufficient-scope");
        assert!(refused.header("ratelimit").unwrap().starts_with("\"key-write\";r=199;"), "{}", refused.head);
        assert!(announce(&api, &read).header("ratelimit").unwrap().starts_with("\"key-write\";r=198;"));
        assert_eq!(announce(&api, &write).status, 201);
        is(&api.by(&read, "DELETE", &upload, None), 403, "insufficient-scope");
        // What a request means counts, not what it says it is.
        let means = |method: &str, header: &str| {
            let bearer = format!("Bearer {read}");
            let fields =
                [("Authorization", bearer.as_str()), ("X-HTTP-Method-Override", header), ("Tus-Resumable", "1.0.0")];
            let path = upload.replace("uploads/", "/api/v1/uploads/tus/");
            api.send(method, &path, &fields, None).status
        };
        assert_eq!((means("GET", "DELETE"), means("POST", "HEAD"), means("GET", "HEAD")), (403, 403, 200));
        assert_eq!(status(&both, "GET"), 200, "it is still there");
        // In its own header, and whose it is.
        let me = api.send("GET", "/api/v1/users/me", &[("X-Api-Key", &read)], None);
        assert_eq!(json_of(&me)["email"], "a@example.org");
        // No key makes, sees or ends what belongs to a person.
        for (method, path, body) in [
            ("POST", "api-keys", Some(json!({ "name": "more", "scopes": ["read"] }))),
            ("GET", "api-keys", None),
            ("DELETE", "auth/sessions", None),
            ("POST", "auth/logout", None),
            ("PATCH", "users/me", Some(json!({ "name": "x" }))),
            ("POST", "auth/mfa/enrol", Some(json!({ "password": super::PASSWORD }))),
        ] {
            is(&api.by(&both, method, path, body), 403, "session-needed");
        }
        let bad = |body| api.by(&tokens.access, "POST", "api-keys", Some(body));
        is(&bad(json!({ "name": "x", "scopes": [] })), 422, "api-key");
        is(&bad(json!({ "name": "x", "scopes": ["admin", "read"] })), 403, "admin-needed");
        is(&bad(json!({ "name": "x", "scopes": ["root"] })), 400, "body-invalid");
        is(&bad(json!({ "name": "", "scopes": ["read"] })), 422, "api-key");
        is(&bad(json!({ "name": "x", "scopes": ["read"], "expires_in_days": 0 })), 422, "api-key");
        // Revoked is revoked.
        let listed = json_of(&api.by(&tokens.access, "GET", "api-keys", None));
        assert_eq!(listed["items"].as_array().unwrap().len(), 3);
        assert!(!listed.to_string().contains(&both), "a key is shown once");
        assert_eq!(api.by(&tokens.access, "DELETE", &format!("api-keys/{id}"), None).status, 204);
        is(&api.by(&both, "GET", &upload, None), 401, "credentials-unknown");
        is(&api.by(&tokens.access, "DELETE", &format!("api-keys/{id}"), None), 404, "not-found");
    });
}

#[test]
fn a_key_that_was_changed_by_a_letter_opens_nothing() {
    let site = Site::embedded();
    let api = site.serve();
    let tokens = creator(&api, "a@example.org");
    let (real, _) = key(&api, &tokens, json!(["read"]));
    // The same name with another secret, whose check fits: only the hash tells.
    let other = segue::auth::api_key::make().key;
    let mixed = format!("{}{}", &real[..14], &other[14..]);
    for wrong in [other.as_str(), &mixed, &real[..real.len() - 1], "sgk_", "sgk_0", "not.a.token", "x"] {
        is(&api.by(wrong, "GET", "users/me", None), 401, "credentials-unknown");
    }
    assert_eq!(api.me(&real), 200);
    assert_eq!(api.send("GET", "/api/v1/users/me", &[("Authorization", &format!("Basic {real}"))], None).status, 401);
}

#[test]
fn nobody_sees_what_is_not_theirs_and_listeners_do_not_publish() {
    on_both(|site| {
        let (program, sha256) = segue::api::keys::make();
        let site = site.with("SEGUE_API__KEYS", &format!("[{{ id = \"ci\", sha256 = \"{sha256}\" }}]"));
        let api = site.serve();
        let (one, two) = (creator(&api, "a@example.org"), creator(&api, "b@example.org"));
        let listener = api.member("c@example.org");
        is(&announce(&api, &listener.access), 403, "creator-needed");
        let made = api.by(&listener.access, "POST", "tracks", Some(json!({ "title": "Mine" })));
        is(&made, 403, "creator-needed");
        let mine = announce(&api, &one.access);
        assert_eq!(mine.status, 201, "{}", mine.text());
        let path = format!("uploads/{}", json_of(&mine)["id"].as_str().unwrap());
        assert_eq!(api.by(&one.access, "GET", &path, None).status, 200);
        for other in [&two.access, &program] {
            is(&api.by(other, "GET", &path, None), 404, "not-found");
            is(&api.by(other, "DELETE", &path, None), 404, "not-found");
        }
        is(&api.send("GET", &format!("/api/v1/{path}"), &[], None), 401, "unauthorized");
        assert_eq!(json_of(&api.by(&two.access, "GET", "uploads", None))["items"], json!([]));
        // A program of the operator is nobody's account, and works as before.
        assert_eq!(announce(&api, &program).status, 201);
        is(&api.by(&program, "GET", "users/me", None), 404, "not-found");
        is(&api.by(&program, "GET", "api-keys", None), 403, "session-needed");
        // Files of the server are the operator's to name, and tracks their owner's.
        let transcode = |bearer: &str, body: Value| {
            let bearer = format!("Bearer {bearer}");
            let fields = [("Authorization", bearer.as_str()), ("Idempotency-Key", "\"k\"")];
            api.send("POST", "/api/v1/transcodes", &fields, Some(&body))
        };
        is(&transcode(&one.access, json!({ "source": "/etc/passwd" })), 422, "source");
        let theirs = json!({ "source": "https://example.org/x.wav", "track": "trk_somebodys" });
        is(&transcode(&one.access, theirs), 422, "track");
    });
}
