//! Random people, providers in bad moods, a clock that jumps, and a crash at any place; then everything comes back to its
//! senses, and an auditor who knows nothing of our rows says what there must be: from what the providers have, and what
//! was in the shop. The seed is in every complaint: the same seed is the same story.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use segue::base::clock::Clock;
use segue::base::crash;
use segue::db::ledger::AsOf;
use segue::db::money::{Claim, Request};
use segue::db::products::Product;
use segue::db::refunds::{By, Wanted};
use segue::db::transfers::Transfer;
use segue::db::{Db, Place};
use segue::ledger::order::{LicenceKind, OrderId, Split, Status as OrderStatus, Terms};
use segue::ledger::refund::Status as RefundStatus;
use segue::ledger::subscription::InvoiceStatus;
use segue::ledger::transfer::Status as TransferStatus;
use segue::payments::Payments;
use segue::payments::webhook::{Envelope, Received, Sender};

use super::fakes::{HYPERSWITCH_SECRET, STRIPE_SECRET, Shared, signed_256, signed_512};
use super::flows::{new_product, options};
use crate::postgres::{Postgres, ready};
use crate::support::Random;

const SELLERS: [&str; 3] = ["s0", "s1", "s2"];
const BUYERS: [&str; 3] = ["b0", "b1", "b2"];
const START_S: u64 = 1_700_000_000;

/// How long `make test` may spend on it.
const BUDGET: Duration = Duration::from_secs(60);

struct Story {
    payments: Payments,
    world: Shared,
    clock: Clock,
    random: Random,
    products: Vec<Product>,
    /// (buyer, key, products): what was asked for, to be asked again.
    wishes: Vec<(&'static str, String, Vec<usize>)>,
    refunds: Vec<(OrderId, &'static str, String, Option<i64>)>,
    joins: Vec<(&'static str, String)>,
    keys: u32,
    told: Vec<String>,
}

impl Drop for Story {
    /// A story that goes wrong is told.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.told.join("\n"));
        }
    }
}

impl Story {
    async fn begin(db: &Db, seed: u64) -> Story {
        let clock = Clock::sim(START_S);
        let world = Shared::new(clock.clone());
        let (hyperswitch, stripe) = world.clients();
        let mut options = options();
        let mut random = Random(seed);
        options.transfer_delay = Duration::from_secs([0, 0, 3600, 86_400 * 3][random.below(4)]);
        let (fee_bps, tax_bps) = ([0, 1000, 1234, 10_000][random.below(4)], [0, 1900, 777][random.below(3)]);
        options.terms = Terms { fee_bps, tax_bps };
        let (hyperswitch, stripe) = (Some(hyperswitch), Some(stripe));
        let payments = Payments { db: db.clone(), hyperswitch, stripe, options, clock: clock.clone() };
        let mut products = Vec::new();
        for (number, seller) in SELLERS.iter().enumerate() {
            // One of them says only later where to be paid.
            if number > 0 || random.below(2) == 0 {
                db.set_seller_account(seller, &format!("acct_{seller}"), clock.unix_us()).await.unwrap();
            }
            for nth in 0..2 {
                let key = format!("{seller}-{nth}");
                let new = new_product(seller, &key.replace('-', ""), 1 + random.below(5_000) as i64);
                let request = Request { subject: seller, key: &key, fingerprint: "f" };
                let Claim::New(product) = db.create_product(&new, request, clock.unix_us()).await.unwrap() else {
                    panic!()
                };
                products.push(product);
            }
        }
        let whims = (Random(random.next()), 3 + random.below(8));
        world.with(|world| world.whims = Some(whims));
        let (wishes, refunds, joins, told) = (vec![], vec![], vec![], vec![]);
        Story { payments, world, clock, random, products, wishes, refunds, joins, keys: 0, told }
    }

    fn db(&self) -> &Db {
        &self.payments.db
    }

    fn one_of<T: Clone>(&mut self, list: &[T]) -> Option<T> {
        list.get(self.random.below(list.len())).cloned()
    }

    fn key(&mut self) -> String {
        self.keys += 1;
        format!("key-{}", self.keys)
    }

    /// Does something that may end anywhere, as a process that dies: at a place that the seed says.
    async fn until_it_crashes<T>(&mut self, what: &str, work: impl Future<Output = T>) -> Option<T> {
        let places = match self.random.below(3) {
            0 => 1 + self.random.below(12) as u32,
            _ => u32::MAX,
        };
        let done = crash::within(places, work).await;
        self.told
            .push(format!("{what}{}", if done.is_none() { format!(" (died at {places})") } else { String::new() }));
        done
    }

    async fn chapter(&mut self) {
        let payments = self.payments.clone();
        match self.random.below(20) {
            0..=3 => {
                let wish = match self.random.below(4) {
                    0 => self.one_of(&self.wishes.clone()),
                    _ => None,
                };
                let (buyer, key, picked) = match wish {
                    Some(again) => again,
                    None => {
                        let picked =
                            (0..=self.random.below(3)).map(|_| self.random.below(self.products.len())).collect();
                        let new = (self.one_of(&BUYERS).unwrap(), self.key(), picked);
                        self.wishes.push(new.clone());
                        new
                    }
                };
                let wanted: Vec<_> =
                    picked.iter().map(|at| (self.products[*at].id.clone(), LicenceKind::Personal)).collect();
                let request = Request { subject: buyer, key: &key, fingerprint: &key };
                self.until_it_crashes(&format!("{buyer} orders ({key})"), payments.order(buyer, &wanted, request))
                    .await;
            }
            4..=7 => {
                let open: Vec<String> = self.world.with(|world| world.payments.keys().cloned().collect());
                let Some(id) = self.one_of(&open) else { return };
                let ends = [
                    "succeeded",
                    "succeeded",
                    "succeeded",
                    "succeeded",
                    "failed",
                    "processing",
                    "requires_customer_action",
                    "expired",
                ];
                let status = self.one_of(&ends).unwrap();
                self.world.with(|world| world.pay(&id, status));
                self.told.push(format!("{id} is {status}"));
            }
            8..=9 => {
                let again = if self.random.below(3) == 0 { self.one_of(&self.refunds.clone()) } else { None };
                let (order, buyer, key, minor) = match again {
                    Some(again) => again,
                    None => {
                        let buyer = self.one_of(&BUYERS).unwrap();
                        let orders = self.db().orders(buyer, None, 100).await.unwrap();
                        let Some(order) = self.one_of(&orders) else { return };
                        let left = (order.total.minor() - order.returned_minor).max(1) as usize;
                        let minor = (self.random.below(2) == 0).then(|| 1 + self.random.below(left) as i64);
                        let new = (order.id, buyer, self.key(), minor);
                        self.refunds.push(new.clone());
                        new
                    }
                };
                let by = By { subject: buyer, admin: false };
                let request = Request { subject: buyer, key: &key, fingerprint: order.as_str() };
                let asks = payments.refund(&order, by, Wanted { minor, reason: None }, request);
                self.until_it_crashes(&format!("{buyer} wants {minor:?} of {order} back"), asks).await;
            }
            10 => {
                let open: Vec<String> = self.world.with(|world| world.refunds.keys().cloned().collect());
                let Some(id) = self.one_of(&open) else { return };
                let status = self.one_of(&["succeeded", "succeeded", "succeeded", "failed", "review"]).unwrap();
                self.world.with(|world| world.settle_refund(&id, status));
                self.told.push(format!("{id} is {status}"));
            }
            11..=12 => self.deliver().await,
            13 => {
                self.until_it_crashes("deliveries are processed", payments.process_webhooks()).await;
            }
            14 => {
                self.until_it_crashes("sellers are paid", payments.transfer_due()).await;
            }
            15 => {
                self.until_it_crashes("transfers come back", payments.reverse_due()).await;
            }
            16 => {
                self.until_it_crashes("the sweep", payments.sweep()).await;
            }
            17 => {
                let step = self.one_of(&[1, 40, 70, 400, 2_000, 4_000, 100_000]).unwrap();
                self.clock.advance(step);
                if let (Clock::Sim(now), 0) = (&self.clock, self.random.below(6)) {
                    now.fetch_sub(step.min(90), std::sync::atomic::Ordering::Relaxed); // somebody sets the clock
                }
            }
            18 => match self.random.below(4) {
                0 => self.world.with(super::fakes::World::land),
                1 => self.world.with(super::fakes::World::forget_late),
                2 => {
                    // A seller spends what they have, or somebody takes a part back by hand.
                    let seller = self.one_of(&SELLERS).unwrap();
                    self.world.with(|world| world.accounts.insert(format!("acct_{seller}"), 0));
                }
                _ => {
                    let seller = self.one_of(&SELLERS).unwrap();
                    let transfers = self.db().transfers(seller, None, 100).await.unwrap();
                    let back = |t: &Transfer| t.provider_id.is_some() && t.due_back_minor > t.reversed_minor;
                    let Some(transfer) = transfers.into_iter().find(back) else { return };
                    let minor =
                        1 + self.random.below((transfer.due_back_minor - transfer.reversed_minor) as usize) as i64;
                    self.world.with(|world| world.reverse(transfer.provider_id.as_ref().unwrap(), minor));
                }
            },
            _ => {
                let again = if self.random.below(3) == 0 { self.one_of(&self.joins.clone()) } else { None };
                let (who, key) = match again {
                    Some(again) => again,
                    None => {
                        let new = (self.one_of(&BUYERS).unwrap(), self.key());
                        self.joins.push(new.clone());
                        new
                    }
                };
                let request = Request { subject: who, key: &key, fingerprint: "pro" };
                self.until_it_crashes(&format!("{who} subscribes"), payments.subscribe(who, "pro", request)).await;
            }
        }
    }

    /// One webhook: in any order, several times, never, or forged.
    async fn deliver(&mut self) {
        let waiting = self.world.with(|world| world.events.len());
        let at = self.random.below(waiting);
        let how = self.random.below(6);
        let event = self.world.with(|world| match how {
            0 => world.events.get(at).cloned(), // and once more later
            _ => world.events.remove(at),
        });
        let Some(event) = event else { return };
        if how == 1 {
            return; // lost
        }
        let (mut body, stripe) = (event.to_string(), event["type"].is_string());
        let now_s = self.clock.unix_s();
        let signature = match stripe {
            true => signed_256(&body, STRIPE_SECRET, now_s),
            false => signed_512(&body, HYPERSWITCH_SECRET),
        };
        if how == 2 {
            body = body.replace("failed", "succeeded").replace("evt_", "evt_x"); // forged
        }
        let sender = if stripe { Sender::Stripe } else { Sender::Hyperswitch };
        let envelope = Envelope {
            sender,
            signature: Some(&signature),
            body: body.as_bytes(),
            source_ip: None,
            user_agent: None,
            request_id: "r",
        };
        let payments = self.payments.clone();
        let received = self.until_it_crashes("a webhook", payments.receive(envelope)).await;
        if let Some(received) = received {
            assert_eq!(received.unwrap() == Received::Unsigned, how == 2);
        }
    }

    /// Everybody comes to their senses, and the workers run until nothing is open.
    async fn recover(&mut self) {
        self.world.with(|world| {
            world.whims = None;
            match self.random.below(2) {
                0 => world.land(),
                _ => world.forget_late(),
            }
        });
        for seller in SELLERS {
            self.db().set_seller_account(seller, &format!("acct_{seller}"), self.clock.unix_us()).await.unwrap();
        }
        for round in 0..40 {
            self.world.with(|world| {
                let refunds: Vec<String> = world.refunds.keys().cloned().collect();
                refunds
                    .iter()
                    .for_each(|id| world.settle_refund(id, if round % 2 == 0 { "succeeded" } else { "failed" }));
                let stuck: Vec<String> = world
                    .payments
                    .iter()
                    .filter(|(_, payment)| {
                        ["processing", "requires_customer_action"].contains(&payment.status.as_str())
                    })
                    .map(|(id, _)| id.clone())
                    .collect();
                stuck.iter().for_each(|id| world.pay(id, "failed"));
                world.events.clear(); // the sweeps have to do without
            });
            self.clock.advance(43_200);
            self.payments.process_webhooks().await.unwrap();
            let swept = self.payments.sweep().await.unwrap();
            if round % 4 == 0 {
                let now_us = self.clock.unix_us();
                let compared = self.payments.compare(START_S as i64 * 1_000_000 - 1_000_000_000, now_us).await.unwrap();
                assert_eq!((compared.strange, compared.missing), (0, 0));
            }
            let moved = self.payments.transfer_due().await.unwrap() + self.payments.reverse_due().await.unwrap();
            if round > 9 && moved == 0 && swept.payments.looked + swept.refunds.looked + swept.orphans.looked == 0 {
                return;
            }
        }
    }

    /// What there must be, by what the providers have and what the products cost.
    #[allow(clippy::await_holding_lock)] // at the end nobody asks the providers any more
    async fn audit(&self) {
        let report = self.db().verify_ledger().await.unwrap();
        assert_eq!((report.wrong, &report.differences), (0, &vec![]));
        assert!(report.trial.values().all(|sum| *sum == 0), "{:?}", report.trial);
        let mut orders = Vec::new();
        let mut licences = BTreeMap::new();
        for buyer in BUYERS {
            orders.extend(self.db().orders(buyer, None, 200).await.unwrap());
            for licence in self.db().licences(buyer, None, 200).await.unwrap() {
                *licences.entry((licence.order.clone(), licence.revoked_us.is_none())).or_insert(0) += 1;
            }
        }
        let world = self.world.0.lock().unwrap();
        let mut known = 0;
        let (mut clearing, mut tax, mut subscribed) = (0, 0, 0);
        let mut sold = Sold::default();
        for order in &orders {
            let payment = world.payments.get(&order.payment.id);
            known += usize::from(payment.is_some());
            let paid = payment.is_some_and(|payment| payment.status == "succeeded");
            let refunds: Vec<_> =
                world.refunds.iter().filter(|(_, refund)| refund.payment == order.payment.id).collect();
            let back: Vec<i64> =
                refunds.iter().filter(|(_, refund)| refund.status == "succeeded").map(|(_, r)| r.amount).collect();
            let (parts, back) = (back.len() as i64, back.iter().sum::<i64>());
            let whole = payment.is_some_and(|payment| payment.amount == back);
            assert!(back == 0 || paid && payment.is_some_and(|payment| back <= payment.amount));
            let expected = match (paid, whole) {
                (true, false) => OrderStatus::Paid,
                (true, true) => OrderStatus::Refunded,
                (false, _) => order.status,
            };
            assert_eq!((order.status, order.returned_minor), (expected, back), "{}", order.id);
            assert!(paid || [OrderStatus::Failed, OrderStatus::Expired].contains(&order.status), "{order:?}");
            // A licence for each item, in force while the money is ours.
            let has = |live: bool| licences.get(&(order.id.clone(), live)).copied().unwrap_or(0);
            let items = order.items.len();
            assert_eq!(
                (has(true), has(false)),
                match (paid, whole) {
                    (true, false) => (items, 0),
                    (true, true) => (0, items),
                    (false, _) => (0, 0),
                },
                "{}",
                order.id
            );
            if !paid {
                continue;
            }
            // The prices as the shop had them, and not as the order says.
            let mut total = 0;
            for item in &order.items {
                let product = self.products.iter().find(|product| product.id == item.product).unwrap();
                total += product.licences[0].1;
            }
            assert_eq!(payment.unwrap().amount, total);
            clearing += total - back;
            for item in &order.items {
                let product = self.products.iter().find(|product| product.id == item.product).unwrap();
                sold.add(
                    item.seller.as_str(),
                    product.licences[0].1,
                    self.payments.options.terms,
                    (back, total),
                    parts,
                );
            }
        }
        let mut subscriptions = 0;
        for (id, payment) in world.payments.iter().filter(|(id, _)| id.starts_with("sub_")) {
            subscriptions += 1;
            if payment.status == "succeeded" {
                let invoice_tax = segue::ledger::allocate(payment.amount as u64, &[10_000, 1_900])[1] as i64;
                clearing += payment.amount;
                tax += invoice_tax;
                subscribed += payment.amount - invoice_tax;
            }
            let invoices = self.db().invoices(&id.parse().unwrap()).await.unwrap();
            assert_eq!((invoices.len(), invoices[0].status == InvoiceStatus::Paid), (1, payment.status == "succeeded"));
        }
        assert_eq!(world.payments.len(), known + subscriptions, "no payment that nobody knows");
        // Every refund of the provider is one of ours, and stands as it says.
        for (id, refund) in &world.refunds {
            let ours = self.db().refund(&id.parse().unwrap()).await.unwrap().expect("a refund that nobody knows");
            let expected = if refund.status == "succeeded" { RefundStatus::Succeeded } else { RefundStatus::Failed };
            assert_eq!(ours.status, expected, "{id}");
        }
        // Every transfer of the provider is one of ours, and nobody is paid twice.
        let mut made = BTreeMap::new();
        for (id, transfer) in &world.transfers {
            assert!(
                made.insert(transfer.operation.clone(), id.clone()).is_none(),
                "{} was made twice",
                transfer.operation
            );
            let ours = self.db().transfer(&transfer.operation.parse().unwrap()).await.unwrap().unwrap();
            assert_eq!(ours.provider_id.as_deref(), Some(id.as_str()));
            assert_eq!((ours.amount.minor(), ours.reversed_minor), (transfer.amount, transfer.reversed), "{ours:?}");
            let left = transfer.amount - transfer.reversed;
            clearing -= left;
            sold.pay(ours.seller.as_str(), left);
            let order = orders.iter().find(|order| order.id == ours.order).unwrap();
            let (refunded, due) = (order.status == OrderStatus::Refunded, ours.due_back_minor);
            assert!(!refunded || due == transfer.amount, "{ours:?}");
            let fine = match ours.status {
                // All that had to come back did, or the seller has spent it, and owes it.
                TransferStatus::Completed => {
                    due < transfer.amount && (transfer.reversed >= due || ours.error.is_some())
                }
                TransferStatus::Reversed => left == 0,
                TransferStatus::PermanentlyFailed => due == transfer.amount && left > 0, // likewise
                _ => false,
            };
            assert!(fine && ours.next_us.is_none(), "{ours:?} refunded {refunded}");
        }
        for seller in SELLERS {
            for ours in self.db().transfers(seller, None, 200).await.unwrap() {
                let there = made.contains_key(ours.id.as_str());
                assert_eq!(ours.provider_id.is_some(), there, "{ours:?}");
                // What is not made waits for the seller's own debts, or is not owed any more.
                let waits = ours.status == TransferStatus::Pending
                    && ours.error.as_ref().is_some_and(|why| why.contains("not cover"));
                assert!(there || waits || ours.status == TransferStatus::PermanentlyFailed, "{ours:?}");
            }
            let balances = self.db().seller_balances(seller).await.unwrap();
            let (payable, reserved, receivable) =
                balances.first().map_or((0, 0, 0), |(_, payable, reserved, owed)| (*payable, *reserved, *owed));
            sold.check(seller, payable - receivable);
            assert!(payable >= 0 && receivable >= 0 && reserved == 0, "{seller}: {payable} {reserved} {receivable}");
        }
        let on = async |code: &str| {
            let sums = self.db().balance_as_of(&code.parse().unwrap(), AsOf::Now).await.unwrap().unwrap_or_default();
            sums.0 - sums.1
        };
        assert_eq!(on("psp:clearing:USD").await, clearing, "what the providers hold for us");
        sold.check("fees", -on("platform:fees:USD").await);
        sold.check("tax", -on("platform:tax:USD").await - tax);
        assert_eq!(on("platform:losses:USD").await, 0, "nobody gave back more than there was");
        assert_eq!(on("platform:subscriptions:USD").await, -subscribed);
        // One journal for each object, by its event.
        let sources = self.sources().await;
        for (id, payment) in &world.payments {
            let journals = sources.get(&format!("hs:{id}:succeeded")).copied().unwrap_or(0);
            assert_eq!(journals, usize::from(payment.status == "succeeded"), "{id}");
        }
        for (id, refund) in &world.refunds {
            let journals = sources.get(&format!("hs:{id}:succeeded")).copied().unwrap_or(0);
            assert_eq!(journals, usize::from(refund.status == "succeeded"), "{id}");
        }
        for operation in made.keys() {
            assert_eq!(sources.get(&format!("st:{operation}:created")), Some(&1), "{operation}");
        }
        let events =
            sources.keys().filter(|source| source.ends_with(":succeeded") || source.ends_with(":created")).count();
        let paid = world.payments.values().filter(|payment| payment.status == "succeeded").count();
        let back = world.refunds.values().filter(|refund| refund.status == "succeeded").count();
        assert_eq!(events, paid + back + world.transfers.len(), "and no journal without an object");
    }

    /// Journals by the event that caused them.
    async fn sources(&self) -> BTreeMap<String, usize> {
        let mut sources = BTreeMap::new();
        for source in self.db().ledger_sources().await.unwrap() {
            *sources.entry(source).or_insert(0) += 1;
        }
        sources
    }
}

/// What everybody has of what was sold, computed from prices alone: a name and its share, in minor units. Of an order
/// that went back in part nobody but the one who split it knows the last unit: a share is off by less than one for each
/// part of each item, and all shares together are exact, because every journal balances and the clearing is exact.
#[derive(Default)]
struct Sold {
    shares: BTreeMap<String, (f64, i64)>,
}

impl Sold {
    fn add(&mut self, seller: &str, price: i64, terms: Terms, (back, total): (i64, i64), parts: i64) {
        let split = Split::of(price, terms);
        for (name, minor) in [(seller, split.seller_minor), ("fees", split.fee_minor), ("tax", split.tax_minor)] {
            let share = self.shares.entry(name.to_owned()).or_default();
            if back == 0 || minor == 0 {
                share.0 += minor as f64;
            } else if back < total {
                share.0 += minor as f64 * (total - back) as f64 / total as f64;
                share.1 += parts;
            }
        }
    }

    fn pay(&mut self, seller: &str, minor: i64) {
        self.shares.entry(seller.to_owned()).or_default().0 -= minor as f64;
    }

    fn check(&self, name: &str, has: i64) {
        let (expected, off) = self.shares.get(name).copied().unwrap_or_default();
        let fine = (has as f64 - expected).abs() < off as f64 + 0.001;
        assert!(fine, "{name} has {has} and should have {expected}, give or take {off}");
    }
}

async fn tell(db: &Db, seed: u64) {
    let mut story = Story::begin(db, seed).await;
    let chapters = 20 + story.random.below(50);
    for _ in 0..chapters {
        story.chapter().await;
    }
    story.recover().await;
    story.audit().await;
}

/// A fresh copy of a migrated database, where nothing waits for a disk.
struct Shelf {
    dir: tempfile::TempDir,
    blank: PathBuf,
}

impl Shelf {
    fn new() -> Shelf {
        let memory = Path::new("/dev/shm");
        let dir = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let dir = dir.unwrap();
        let blank = dir.path().join("blank.db");
        runtime().block_on(async {
            let db = ready(Place::Sqlite(blank.clone())).await;
            db.close().await;
        });
        Shelf { dir, blank }
    }

    fn tell(&self, seed: u64) {
        let file = self.dir.path().join(format!("{seed}.db"));
        fs::copy(&self.blank, &file).unwrap();
        runtime().block_on(async {
            let options = crate::postgres::at(Place::Sqlite(file.clone()));
            let db = Db::open(&options).await.unwrap();
            told(seed, tell(&db, seed)).await;
            db.close().await;
        });
        for end in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{end}", file.display()));
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Says which seed it was when it goes wrong.
async fn told(seed: u64, story: impl Future<Output = ()>) {
    struct Complains(u64);
    impl Drop for Complains {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("the story of seed {} went wrong: make simulate SEED={} SEEDS=1", self.0, self.0);
            }
        }
    }
    let complains = Complains(seed);
    story.await;
    drop(complains);
}

/// Stories from `first` on, on as many threads as there are cores, until there were `most` or the time is over.
fn stories(first: u64, most: u64, budget: Duration) -> u64 {
    let shelf = Shelf::new();
    let next = std::sync::atomic::AtomicU64::new(first);
    let begun = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let tellers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    while begun.elapsed() < budget {
                        let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        if seed >= first + most {
                            return;
                        }
                        shelf.tell(seed);
                    }
                })
            })
            .collect();
        for teller in tellers {
            if let Err(panic) = teller.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    next.load(std::sync::atomic::Ordering::Relaxed).min(first + most) - first
}

/// As many as fit, at least some; `make simulate` tells as many as asked for.
#[test]
fn whatever_happens_the_books_are_right_in_the_end() {
    let asked = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let told = match asked("MONEY_SEEDS") {
        Some(seeds) => stories(asked("MONEY_SEED").unwrap_or(1), seeds, Duration::from_secs(7 * 86_400)),
        None => stories(1, 4_000, BUDGET),
    };
    eprintln!("{told} stories");
    assert!(told > 0);
}

#[test]
fn whatever_happens_the_books_are_right_on_postgresql_too() {
    let server = Postgres::start();
    runtime().block_on(async {
        for seed in 1..=8u64 {
            let db = ready(Place::Postgres(server.database(&format!("seed{seed}")))).await;
            told(seed, tell(&db, seed)).await;
            db.close().await;
        }
    });
}
