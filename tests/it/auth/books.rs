//! The books, by an admin's account with a second factor, and by a key of theirs; by nobody else.

use segue::base::clock::Clock;
use segue::db::disputes::Seen;
use segue::db::money::{Claim, Request};
use segue::db::orders::{Applied, Seen as Paid, Standing};
use segue::db::products::NewProduct;
use segue::db::{Db, Place, ledger};
use segue::ledger::dispute::Status;
use segue::ledger::order::{self, LicenceKind, Share, Split, Terms};
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
        for (number, standing) in [(1, Status::Lost), (2, Status::Open), (3, Status::Won)] {
            disputed(&db, number, standing, now_us).await;
        }
        // What a subscriber is told whose renewal failed.
        let about = json!({ "plan": "pro", "ends_us": 1_893_456_000_000_000_i64, "next_us": Value::Null });
        db.put_mail("renewal-failed", "sub@example.org", &about.to_string(), now_us).await.unwrap();
        db.close().await;
    });
}

/// A sale for 5.00 USD by `s3`, about which its buyer's bank says this.
async fn disputed(db: &Db, number: i64, standing: Status, now_us: i64) {
    let usd = Currency::decode("USD").unwrap();
    let key = format!("k{number}");
    let request = Request { subject: "s3", key: &key, fingerprint: "f" };
    let new = NewProduct {
        seller: "s3".into(),
        track: None,
        title: "Disputed".into(),
        currency: usd,
        preview_enabled: false,
        licences: vec![(LicenceKind::Personal, 500)],
        images: vec![],
    };
    let product = crate::money::shelf::offered(db, &new, request, now_us).await;
    let (wanted, terms) = ([(product.id, LicenceKind::Personal)], Terms { fee_bps: 0, tax_bps: 0 });
    let request = Request { subject: "b3", key: &key, fingerprint: "f" };
    let order = db.create_order("b3", &wanted, terms, request, now_us).await.unwrap().unwrap();
    let Claim::New(order) = order else { panic!() };
    let (state, currency, payment) = ("succeeded".to_owned(), "USD".to_owned(), order.payment.id);
    let paid = Paid { standing: Standing::Paid, state, amount_minor: 500, currency, client_secret: None, method: None };
    assert_eq!(db.apply_payment(&payment, &paid, 0, now_us).await.unwrap(), Applied::Changed("paid"));
    let (id, state) = (format!("dp_{number}"), format!("dispute_{}", standing.as_str()));
    let seen = Seen { id, payment, standing, state, amount_minor: 200, currency: "USD".into() };
    assert!(matches!(db.apply_dispute(&seen, now_us + number).await.unwrap(), Applied::Changed(_)));
}

#[test]
fn only_an_admin_with_a_second_factor_sees_and_writes_the_books() {
    on_both(|site| {
        let api = site.serve();
        sold(&site);
        let told = api.mail("sub@example.org", 0);
        assert!(told.contains("\"pro\" failed; it is paid for until 2030-01-01T00:00:00"), "{told}");
        assert!(told.contains("do not ask again"), "{told}");
        let buyer = api.member("b@example.org");
        api.member("a@example.org");
        site.user(&["grant", "a@example.org", "admin"]);
        let admin = api.login("a@example.org", PASSWORD);
        let payout = |minor: i64, reference: &str, reason: &str| json!({ "reference": reference, "seller": "s1", "amount_minor": minor, "currency": "USD", "reason": reason });
        const WHY: &str = "the seller's account was closed; paid by bank, see ticket 17";
        let send = |bearer: &str, method: &str, path: &str, body: Option<&Value>| -> Reply {
            let bearer = format!("Bearer {bearer}");
            // Another for whatever is another wish.
            let of = |field: &str| body.map_or(Value::Null, |body| body[field].clone());
            let key = format!("{}-{}", of("reference").as_str().unwrap_or_default(), of("amount_minor"));
            let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", &key)];
            api.send(method, &format!("/api/v1/admin/{path}"), &headers, body)
        };
        let fee = json!({ "reference": "st_1", "amount_minor": 33, "currency": "USD" });
        let deadline = json!({ "refund_until": "2030-01-01T00:00:00Z" });
        let order = "orders/ord_00000000000000000000000000";
        let routes = |bearer: &str| -> Vec<u16> {
            [
                ("GET", "ledger", None),
                ("GET", "disputes", None),
                ("POST", "ledger/provider-fees", Some(&fee)),
                ("POST", "ledger/hand-payouts", Some(&payout(100, "tr_1", WHY))),
                ("PATCH", order, Some(&deadline)),
            ]
            .into_iter()
            .map(|(method, path, body)| send(bearer, method, path, body).status)
            .collect()
        };
        assert_eq!(routes("nonsense"), [401; 5]);
        assert_eq!(routes(&buyer.access), [403; 5]);
        assert_eq!(routes(&admin.access), [403; 5], "before the second factor");
        enrolled(&api, &admin);
        assert_eq!(routes(&admin.access), [200, 200, 201, 201, 404]);
        // The same again is the same; something else under its name is not.
        assert_eq!(routes(&admin.access), [200, 200, 200, 200, 404]);
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
        // Three sales for 5.00 beside the first, and 2.00 of one of them is gone.
        assert_eq!(balances["psp:clearing:USD"], json!([2500, 1083]));
        let disputes = |query: &str| {
            let said = send(&admin.access, "GET", &format!("disputes{query}"), None);
            assert_eq!(said.status, 200, "{}", said.text());
            json_of(&said)
        };
        let ids = |page: &Value| -> Vec<String> {
            page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
        };
        let all = disputes("");
        assert_eq!((ids(&all), &all["next"]), (vec!["dp_3".into(), "dp_2".into(), "dp_1".into()], &Value::Null));
        let open = &all["items"][1];
        assert_eq!((&open["status"], &open["provider_state"]), (&json!("open"), &json!("dispute_open")));
        assert_eq!(open["amount"], json!({ "minor": 200, "currency": "USD", "exponent": 2 }));
        assert!(open["order"].as_str().unwrap().starts_with("ord_") && open["settled"].is_null(), "{open:#}");
        assert!(all["items"][2]["settled"].is_string(), "{all:#}");
        assert_eq!(ids(&disputes("?status=open")), ["dp_2"]);
        let page = disputes("?limit=2");
        assert_eq!((ids(&page).len(), &page["next"]), (2, &json!("dp_2")));
        assert_eq!(ids(&disputes("?limit=2&before=dp_2")), ["dp_1"]);
        assert_eq!(ids(&disputes("?before=dp_9")), [""; 0], "behind what there is not is nothing");
        is(&send(&admin.access, "GET", "disputes?status=lsot", None), 422, "status");
        assert_eq!(balances["platform:provider_fees:USD"], json!([33, 0]));
        // A key of theirs may too, with the scope.
        let key = |scopes: Value| {
            let made = api.by(&admin.access, "POST", "api-keys", Some(json!({ "name": "books", "scopes": scopes })));
            assert_eq!(made.status, 201, "{}", made.text());
            json_of(&made)["key"].as_str().unwrap().to_owned()
        };
        assert_eq!(routes(&key(json!(["read", "write", "admin"]))), [200, 200, 200, 200, 404]);
        assert_eq!(routes(&key(json!(["read", "write"]))), [403; 5]);
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
