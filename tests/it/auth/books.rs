//! The books, by an admin's account with a second factor, and by a key of theirs; by nobody else.

use segue::base::clock::Clock;
use segue::db::{Place, ledger};
use segue::ledger::order::{self, Share, Split, Terms};
use segue::ledger::{Currency, Posted};
use serde_json::{Value, json};

use super::factor::enrolled;
use super::{Api, PASSWORD, Site, is, json_of, on_both};
use crate::support::Reply;

/// A sale by `s1` of 10.00 USD, of which 8.50 are theirs, as its payment would have booked it.
fn sold(site: &Site) {
    let place = match site.env.iter().find(|(name, _)| name == "DATABASE_URL") {
        Some((_, url)) => Place::Postgres(url.clone()),
        None => Place::Sqlite(site.data().join("segue.db")),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let db = crate::postgres::ready(place).await;
        let share = Share { seller: "s1".into(), split: Split::of(1000, Terms { fee_bps: 1500, tax_bps: 0 }) };
        let now_us = Clock::System.unix_us();
        let booking = order::paid("pay_1", &[share], Currency::decode("USD").unwrap(), now_us).unwrap();
        let mut tx = db.begin().await.unwrap();
        for account in &booking.accounts {
            ledger::open_account(&mut tx, account, now_us).await.unwrap();
        }
        assert!(matches!(ledger::post(&mut tx, &booking.journal, now_us).await.unwrap(), Posted::Created(_)));
        tx.commit().await.unwrap();
        db.close().await;
    });
}

#[test]
fn only_an_admin_with_a_second_factor_sees_and_writes_the_books() {
    on_both(|site| {
        let api = site.serve();
        sold(&site);
        let buyer = api.member("b@example.org");
        api.member("a@example.org");
        site.user(&["grant", "a@example.org", "admin"]);
        let admin = api.login("a@example.org", PASSWORD);
        let payout = |minor: i64, reference: &str, reason: &str| json!({ "reference": reference, "seller": "s1", "amount_minor": minor, "currency": "USD", "reason": reason });
        const WHY: &str = "the seller's account was closed; paid by bank, see ticket 17";
        let send = |bearer: &str, method: &str, path: &str, body: Option<&Value>| -> Reply {
            let bearer = format!("Bearer {bearer}");
            let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", "k")];
            api.send(method, &format!("/api/v1/admin/{path}"), &headers, body)
        };
        let fee = json!({ "reference": "st_1", "amount_minor": 33, "currency": "USD" });
        let deadline = json!({ "refund_until": "2030-01-01T00:00:00Z" });
        let order = "orders/ord_00000000000000000000000000";
        let routes = |bearer: &str| -> Vec<u16> {
            [
                ("GET", "ledger", None),
                ("POST", "ledger/provider-fees", Some(&fee)),
                ("POST", "ledger/hand-payouts", Some(&payout(100, "tr_1", WHY))),
                ("PATCH", order, Some(&deadline)),
            ]
            .into_iter()
            .map(|(method, path, body)| send(bearer, method, path, body).status)
            .collect()
        };
        assert_eq!(routes("nonsense"), [401; 4]);
        assert_eq!(routes(&buyer.access), [403; 4]);
        assert_eq!(routes(&admin.access), [403; 4], "before the second factor");
        enrolled(&api, &admin);
        assert_eq!(routes(&admin.access), [200, 201, 201, 404]);
        // The same again is the same; something else under its name is not.
        assert_eq!(routes(&admin.access), [200, 200, 200, 404]);
        let book = |body: &Value| send(&admin.access, "POST", "ledger/hand-payouts", Some(body));
        is(&book(&payout(101, "tr_1", WHY)), 422, "idempotency-key-reused");
        is(&book(&payout(751, "tr_2", WHY)), 422, "not-owed");
        is(&book(&payout(1, "tr_2", "because")), 422, "payout");
        is(&book(&payout(0, "tr_2", WHY)), 422, "payout");
        is(&book(&payout(1, "tr:2", WHY)), 422, "payout");
        let mut nobody = payout(1, "tr_2", WHY);
        nobody["seller"] = json!("s2");
        is(&book(&nobody), 422, "not-owed");
        assert_eq!(book(&payout(750, "tr_2", WHY)).status, 201, "to the last unit");
        let balances = balances(&api, &admin.access);
        assert_eq!(balances["seller:s1:payable:USD"], json!([850, 850]));
        assert_eq!(balances["psp:clearing:USD"], json!([1000, 883]));
        assert_eq!(balances["platform:provider_fees:USD"], json!([33, 0]));
        // A key of theirs may too, with the scope.
        let key = |scopes: Value| {
            let made = api.by(&admin.access, "POST", "api-keys", Some(json!({ "name": "books", "scopes": scopes })));
            assert_eq!(made.status, 201, "{}", made.text());
            json_of(&made)["key"].as_str().unwrap().to_owned()
        };
        assert_eq!(routes(&key(json!(["read", "write", "admin"]))), [200, 200, 200, 404]);
        assert_eq!(routes(&key(json!(["read", "write"]))), [403; 4]);
        site.user(&["grant", "a@example.org", "creator"]);
        assert!(routes(&admin.access).iter().all(|status| [401, 403].contains(status)), "no admin any more");
    });
}

/// Debits and credits of every account.
fn balances(api: &Api, bearer: &str) -> Value {
    let books = api.by(bearer, "GET", "admin/ledger", None);
    assert_eq!(books.status, 200, "{}", books.text());
    let books = json_of(&books);
    assert_eq!(books["totals"]["USD"]["debits"], books["totals"]["USD"]["credits"]);
    let one = |line: &Value| (line["account"].as_str().unwrap().to_owned(), json!([line["debits"], line["credits"]]));
    books["accounts"].as_array().unwrap().iter().map(one).collect::<serde_json::Map<_, _>>().into()
}
