//! SIGKILL at any moment while people buy, pay, want their money back, subscribe and go to their banks, with providers in
//! bad moods; then everybody comes to their senses, and the auditor of the stories says what there must be.
//!
//! A few rounds in `make test`; `make kills ROUNDS=200` for many.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use segue::base::clock::Clock;
use segue::db::{Db, Place};
use segue::ledger::order::Terms;
use segue::payments::Payments;
use serde_json::{Value, json};

use super::api::{Site, signed};
use super::fakes::Shared;
use super::flows::options;
use super::simulation::{BUYERS, SELLERS, Story};
use crate::kills;
use crate::postgres::{Postgres, at};
use crate::support::{Random, Reply, try_send};

#[test]
fn a_shop_that_is_killed_at_any_moment_owes_nobody_anything() {
    let postgres = Postgres::start();
    let url = postgres.database("shop");
    for (number, database) in [None, Some(url.as_str())].into_iter().enumerate() {
        survives(database, kills::rounds().div_ceil(2), kills::random(40 + number as u64));
    }
}

/// Kills so many times, and then looks at what is left.
fn survives(database: Option<&str>, rounds: usize, mut random: Random) {
    let clock = Clock::sim(Clock::System.unix_s());
    let people: Vec<(&str, (String, String))> =
        BUYERS.into_iter().chain(SELLERS).map(|name| (name, segue::api::keys::make())).collect();
    let keys: Vec<_> =
        people.iter().map(|(name, (_, hash))| format!("{{ id = \"{name}\", sha256 = \"{hash}\" }}")).collect();
    let keys = format!("[{}]", keys.join(", "));
    let mut env = vec![
        ("SEGUE_API__KEYS", keys.as_str()),
        ("SEGUE_PAYMENTS__FEE_BPS", "1000"),
        ("SEGUE_PAYMENTS__TAX_BPS", "1900"),
    ];
    env.extend(database.map(|url| ("DATABASE_URL", url)));
    let mut site = Site::start_in(Shared::new(clock.clone()), Stdio::null(), &env);
    let key_of = |name: &str| people.iter().find(|(one, _)| *one == name).unwrap().1.0.clone();
    let products = goods(&site, &key_of);
    let whims = (Random(random.next()), 6);
    site.world.with(|world| world.whims = Some(whims));

    let (at_now, over) = (Mutex::new(site.server.addr), AtomicBool::new(false));
    let seed = random.next();
    let world = site.world.clone();
    let bought = std::thread::scope(|scope| {
        let buyers: Vec<_> = BUYERS
            .iter()
            .enumerate()
            .map(|(number, name)| {
                let mut buyer = Buyer {
                    at: &at_now,
                    world: &world,
                    bearer: format!("Bearer {}", key_of(name)),
                    products: &products,
                    random: Random(seed ^ (number as u64) << 32),
                    orders: Vec::new(),
                    payments: Vec::new(),
                    subscriptions: Vec::new(),
                };
                let over = &over;
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        buyer.one();
                    }
                    buyer.orders.len()
                })
            })
            .collect();
        for _ in 0..rounds {
            std::thread::sleep(Duration::from_millis(random.below(1_500) as u64));
            site.kill();
            *at_now.lock().unwrap() = site.server.addr;
        }
        over.store(true, Ordering::Relaxed);
        buyers.into_iter().map(|buyer| buyer.join().unwrap()).sum::<usize>()
    });
    site.server.child.kill().unwrap();
    site.server.child.wait().unwrap();

    let place = match database {
        Some(url) => Place::Postgres(url.to_owned()),
        None => Place::Sqlite(site.data.path().join("segue.db")),
    };
    // The futures of a story are large as long as nothing is optimised.
    let ended = std::thread::Builder::new().stack_size(16 << 20).spawn(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(ends(place, world, clock, random))
    });
    let (paid, back) = ended.unwrap().join().unwrap();
    eprintln!("{rounds} kills: {bought} orders answered, {paid} payments, {back} refunds");
    assert!(bought > 0 && paid > 0, "nothing was sold");
}

/// Nobody is killed any more; how many payments and refunds there are.
async fn ends(place: Place, world: Shared, clock: Clock, random: Random) -> (usize, usize) {
    let db = Db::open(&at(place)).await.unwrap();
    let (hyperswitch, stripe) = world.clients();
    let mut options = options();
    options.terms = Terms { fee_bps: 1000, tax_bps: 1900 };
    let payments = Payments { db: db.clone(), hyperswitch: Some(hyperswitch), stripe: Some(stripe), options, clock };
    let mut products = Vec::new();
    for seller in SELLERS {
        products.extend(db.products(Some(seller), None, None, 200).await.unwrap());
    }
    let counts = world.clone();
    let mut story = Story::ending(payments, world, products, random);
    story.recover().await;
    story.audit().await;
    drop(story);
    db.close().await;
    counts.with(|world| {
        let paid = world.payments.values().filter(|payment| payment.status == "succeeded").count();
        (paid, world.refunds.values().filter(|refund| refund.status == "succeeded").count())
    })
}

/// What is sold, and where two of the three sellers are paid.
fn goods(site: &Site, key_of: &dyn Fn(&str) -> String) -> Vec<String> {
    let mut products = Vec::new();
    for (number, seller) in SELLERS.iter().enumerate() {
        let key = key_of(seller);
        if number > 0 {
            let account = json!({ "destination": format!("acct_{seller}") });
            assert_eq!(site.ask("PUT", "/api/v1/sellers/me/account", Some(&key), None, &account).status, 200);
        }
        for price in [1, 999, 4_321] {
            let product = json!({ "title": format!("{seller} {price}"), "currency": "USD",
                "licences": [{ "kind": "personal", "price_minor": price }] });
            let made = site.ask("POST", "/api/v1/products", Some(&key), Some(&format!("p{price}")), &product);
            assert_eq!(made.status, 201, "{}", made.body);
            products.push(made.body["id"].as_str().unwrap().to_owned());
        }
    }
    products
}

/// Somebody who goes on whatever happens, and asks a few times for what was not answered, as the same.
struct Buyer<'a> {
    at: &'a Mutex<SocketAddr>,
    world: &'a Shared,
    bearer: String,
    products: &'a [String],
    random: Random,
    orders: Vec<String>,
    payments: Vec<String>,
    subscriptions: Vec<String>,
}

impl Buyer<'_> {
    fn one(&mut self) {
        match self.random.below(14) {
            0..=3 => {
                let items: Vec<Value> = (0..=self.random.below(2))
                    .filter_map(|_| self.one_of(self.products))
                    .map(|product| json!({ "product": product, "licence": "personal" }))
                    .collect();
                if let Some(order) = self.ask("POST", "/api/v1/orders", &json!({ "items": items })) {
                    self.orders.extend(order["id"].as_str().map(str::to_owned));
                    self.payments.extend(order["payment"]["id"].as_str().map(str::to_owned));
                }
            }
            4..=6 => {
                let Some(payment) = self.one_of(&self.payments.clone()) else { return };
                let status = if self.random.below(5) == 0 { "failed" } else { "succeeded" };
                self.world.with(|world| world.pay(&payment, status));
            }
            7 => {
                let Some(order) = self.one_of(&self.orders.clone()) else { return };
                let wish = match self.random.below(2) {
                    0 => json!({}),
                    _ => json!({ "amount_minor": 1 + self.random.below(900) }),
                };
                self.ask("POST", &format!("/api/v1/orders/{order}/refund"), &wish);
            }
            8 => {
                let open: Vec<String> = self.world.with(|world| world.refunds.keys().cloned().collect());
                let Some(refund) = self.one_of(&open) else { return };
                let status = if self.random.below(4) == 0 { "failed" } else { "succeeded" };
                self.world.with(|world| world.settle_refund(&refund, status));
            }
            9 => {
                if let Some(joined) = self.ask("POST", "/api/v1/subscriptions", &json!({ "plan": "pro" })) {
                    self.subscriptions.extend(joined["id"].as_str().map(str::to_owned));
                    self.payments.extend(joined["payment"]["id"].as_str().map(str::to_owned));
                }
            }
            10 => {
                let Some(subscription) = self.one_of(&self.subscriptions.clone()) else { return };
                let now = self.random.below(2) == 0;
                self.ask("DELETE", &format!("/api/v1/subscriptions/{subscription}?now={now}"), &Value::Null);
            }
            11 => {
                let paid: Vec<(String, i64)> = self.world.with(|world| {
                    let taken = |id: &str| world.disputes.values().any(|dispute| dispute.payment == id);
                    let paid = world.payments.iter().filter(|(id, one)| one.status == "succeeded" && !taken(id));
                    paid.map(|(id, one)| (id.clone(), one.amount)).collect()
                });
                let Some((payment, amount)) = self.one_of(&paid) else { return };
                let minor = 1 + self.random.below(amount as usize) as i64;
                let end = self.one_of(&["won", "lost", "challenged"]).unwrap();
                self.world.with(|world| {
                    let id = world.dispute(&payment, minor);
                    world.decide(&id, end);
                });
            }
            _ => {
                let Some(event) = self.world.with(|world| world.events.pop_front()) else { return };
                let (path, (name, value), body) = signed(&event);
                let heard = try_send(*self.at.lock().unwrap(), "POST", path, &[(name, &value)], body.as_bytes());
                let heard = heard.is_some_and(|reply| expected(&reply, path) == 200);
                // Providers send again what was not taken; now and then they do not.
                if !heard && self.random.below(3) > 0 {
                    self.world.with(|world| world.events.push_back(event));
                }
            }
        }
    }

    fn one_of<T: Clone>(&mut self, list: &[T]) -> Option<T> {
        list.get(self.random.below(list.len())).cloned()
    }

    /// What was answered, if it was taken.
    fn ask(&mut self, method: &str, path: &str, body: &Value) -> Option<Value> {
        let key = format!("{:x}", self.random.next());
        let body = if body.is_null() { String::new() } else { body.to_string() };
        for _ in 0..=self.random.below(6) {
            let headers = [
                ("Authorization", self.bearer.as_str()),
                ("Content-Type", "application/json"),
                ("Idempotency-Key", key.as_str()),
            ];
            let reply = try_send(*self.at.lock().unwrap(), method, path, &headers, body.as_bytes());
            match reply.map(|reply| (expected(&reply, path), reply)) {
                Some((200..=299, reply)) => return serde_json::from_slice(&reply.body).ok(),
                Some((429 | 503, _)) | None => std::thread::sleep(Duration::from_millis(100)),
                Some(_) => return None,
            }
        }
        None
    }
}

/// The status, which has to be one that a shop may answer: no fault of its own.
fn expected(reply: &Reply, path: &str) -> u16 {
    let fine = [200, 201, 202, 204, 404, 409, 422, 429, 503].contains(&reply.status);
    assert!(fine, "{path}: {} {}", reply.head, reply.text());
    reply.status
}
