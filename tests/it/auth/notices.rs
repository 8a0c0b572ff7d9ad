//! Mails about notices of infringement, to whoever sent one and to the owner of the track; and the track comes back by itself
//! when the clock of the counter-notice has run.

use segue::db::dmca::{self, By};
use segue::tracks::dmca::{Counter, NoticeId};
use serde_json::{Value, json};

use super::{Api, Authenticator, PASSWORD, Site, Tokens, early_in_a_step, json_of, on_both};

/// Logged in with a second factor, so that what only admins may opens.
fn admin(site: &Site, api: &Api) -> Tokens {
    api.member("root@example.org");
    site.user(&["grant", "root@example.org", "admin"]);
    let tokens = api.login("root@example.org", PASSWORD);
    let enrolled = json_of(&api.by(&tokens.access, "POST", "auth/mfa/enrol", Some(json!({ "password": PASSWORD }))));
    let authenticator = Authenticator::of(enrolled["secret"].as_str().unwrap());
    early_in_a_step();
    let code = json!({ "code": authenticator.code(0) });
    assert_eq!(api.by(&tokens.access, "POST", "auth/mfa/confirm", Some(code)).status, 200);
    tokens
}

fn notice(location: &str, phone: &str) -> Value {
    json!({
        "signature": "Ada Lovelace", "work": "Notes on the Engine", "location": location, "name": "Ada Lovelace",
        "address": "12 St James's Square, London", "phone": phone, "email": "Ada@complainant.example",
        "good_faith_statement": true, "sworn_statement": true, "on_behalf_of": "",
    })
}

#[test]
fn both_sides_of_a_notice_hear_of_it_and_an_undisputed_counter_notice_brings_the_track_back() {
    on_both(|site| {
        let site = site.with("SEGUE_WORKER__LEASE_S", "3");
        let api = site.serve();
        let owner = api.member("owner@example.org");
        assert_eq!(api.by(&owner.access, "PATCH", "users/me", Some(json!({ "role": "creator" }))).status, 200);
        let track = json_of(&api.by(&owner.access, "POST", "tracks", Some(json!({ "title": "Song" }))));
        let track = track["id"].as_str().unwrap_or_else(|| panic!("{track:#}")).to_owned();
        let state = || json_of(&api.by(&owner.access, "GET", &format!("tracks/{track}"), None))["state"].clone();

        // Something is missing: its sender is asked for it, three times a day at most.
        for _ in 0..5 {
            let receipt = api.post("dmca/notice", notice(&track, ""));
            assert_eq!((receipt.status, &json_of(&receipt)["standing"]), (201, &json!("incomplete")));
        }
        assert!(api.mail("ada@complainant.example", 2).contains("also asks for: phone."));
        let filed = json_of(&api.post("dmca/notice", notice(&track, "+44 20 0000 0000")));
        let filed = filed["id"].as_str().unwrap().to_owned();

        let admin = admin(&site, &api);
        let down = api.by(&admin.access, "POST", &format!("admin/dmca/notices/{filed}/takedown"), Some(json!({})));
        assert_eq!(down.status, 200, "{}", down.text());
        let told = api.mail("owner@example.org", 1);
        assert!(told.contains(&track) && told.contains(&filed) && told.contains("512(g)(3)"), "{told}");
        assert_eq!(state(), "blocked");

        // A counter-notice that came a month ago, of which nobody told a court.
        let counter = Counter {
            signature: "Grace Hopper".into(),
            name: "Grace Hopper".into(),
            address: "Arlington".into(),
            phone: "1".into(),
            good_faith_statement: true,
            consents_to_jurisdiction: true,
        };
        let url = site.env.iter().find(|(name, _)| name == "DATABASE_URL");
        let place = match url {
            Some((_, url)) => segue::db::Place::Postgres(url.clone()),
            None => segue::db::Place::Sqlite(site.data().join("segue.db")),
        };
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let db = crate::postgres::ready(place).await;
            let mut tx = db.begin().await.unwrap();
            let now_us = super::now_s() as i64 * 1_000_000 - 30 * 86_400_000_000;
            let by = By { actor: "usr_admin", now_us };
            dmca::dispute(&mut tx, &NoticeId::decode(&filed).unwrap(), &counter, by).await.unwrap();
            tx.commit().await.unwrap();
            db.close().await;
        });
        let copy = api.mail("Ada@complainant.example", 0);
        assert!(copy.contains("Name: Grace Hopper") && copy.contains("Address: Arlington"), "{copy}");
        for (who, number) in [("owner@example.org", 2), ("Ada@complainant.example", 1)] {
            let back = api.mail(who, number);
            assert!(back.contains(&track) && back.contains("was put back"), "{back}");
        }
        while state() == "blocked" {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert_eq!(state(), "draft", "what it was");
        let log = json_of(&api.by(&admin.access, "GET", &format!("admin/dmca/notices/{filed}"), None));
        let last = log["log"].as_array().unwrap().last().unwrap();
        assert_eq!((&last["action"], &last["actor"]), (&json!("dmca.restore"), &json!("janitor")), "{log:#}");
    });
}
