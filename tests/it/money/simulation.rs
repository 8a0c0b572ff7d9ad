//! Random people, providers in bad moods, a clock that jumps, and a crash at any place; then everything comes back to its
//! senses, and an auditor who knows nothing of our rows says what there must be: from what the providers have, and what
//! was in the shop. The seed is in every complaint: the same seed is the same story.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use segue::base::clock::Clock;
use segue::base::{chance, crash};
use segue::db::ledger::AsOf;
use segue::db::money::{Claim, Request};
use segue::db::products::Product;
use segue::db::refunds::{By, Requested, Wanted};
use segue::db::subscriptions::Subscription;
use segue::db::transfers::Transfer;
use segue::db::{Db, Place};
use segue::ledger::dispute::Status as DisputeStatus;
use segue::ledger::order::{LicenceKind, OrderId, Split, Status as OrderStatus, Terms};
use segue::ledger::refund::Status as RefundStatus;
use segue::ledger::subscription::{InvoiceStatus, Status as SubscriptionStatus, SubscriptionId};
use segue::ledger::transfer::Status as TransferStatus;
use segue::ledger::{Amount, Currency, Draft, Posted};
use segue::payments::Payments;
use segue::payments::checkout::{Joined, Ordered};
use segue::payments::webhook::{Envelope, Received, Sender};

use serde_json::Value;

use super::fakes::{HYPERSWITCH_SECRET, Payment, STRIPE_SECRET, Shared, World, signed_256, signed_512};
use super::flows::{new_product, options};
use super::shelf::offered;
use super::slate::Slate;
use crate::postgres::{Postgres, ready};
use crate::support::Random;

pub(super) const SELLERS: [&str; 3] = ["s0", "s1", "s2"];
pub(super) const BUYERS: [&str; 3] = ["b0", "b1", "b2"];
const START_S: u64 = 1_700_000_000;

/// How long `make test` may spend on it.
const BUDGET: Duration = Duration::from_secs(90);

pub(super) struct Story {
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
    /// Refunds and disputes may be about a part.
    parts: bool,
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
        for plan in &mut options.plans {
            plan.period_days = [1, 2, 30][random.below(3)]; // so that some are renewed before the story ends
        }
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
                products.push(offered(db, &new, request, clock.unix_us()).await);
            }
        }
        let whims = (Random(random.next()), 3 + random.below(8));
        world.with(|world| world.whims = Some(whims));
        Story::ending(payments, world, products, random)
    }

    /// What was told elsewhere, to be brought to its end and looked at.
    pub(super) fn ending(payments: Payments, world: Shared, products: Vec<Product>, random: Random) -> Story {
        let (wishes, refunds, joins, told) = (vec![], vec![], vec![], vec![]);
        let clock = payments.clock.clone();
        Story { payments, world, clock, random, products, wishes, refunds, joins, keys: 0, told, parts: true }
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
        match self.random.below(22) {
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
                    "conflicted",
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
                        let minor =
                            (self.parts && self.random.below(2) == 0).then(|| 1 + self.random.below(left) as i64);
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
            20 => self.dispute(),
            21 => {
                let ends = ["succeeded", "succeeded", "failed", "processing", "requires_customer_action"];
                let status = self.one_of(&ends).unwrap();
                self.world.with(|world| world.renewals_are = status.into());
                self.until_it_crashes("subscriptions are renewed", payments.renew_due()).await;
                let who = self.one_of(&BUYERS).unwrap();
                let theirs = self.db().subscriptions(who, None, 1).await.unwrap();
                if let (Some(subscription), 0) = (theirs.first(), self.random.below(4)) {
                    let (at_once, now_us) = (self.random.below(2) == 0, self.clock.unix_us());
                    let ends = payments.db.cancel_subscription(&subscription.id, at_once, now_us);
                    self.until_it_crashes(&format!("{who} wants no more"), ends).await;
                    if self.random.below(3) == 0 {
                        self.until_it_crashes(&format!("{who} stays"), payments.resume(&subscription.id)).await;
                    }
                }
            }
            18 => match self.random.below(4) {
                0 => self.world.with(World::land),
                1 => self.world.with(World::forget_late),
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

    /// A buyer goes to their bank, or the bank says something.
    fn dispute(&mut self) {
        let known: Vec<String> = self.world.with(|world| world.disputes.keys().cloned().collect());
        if self.random.below(2) == 0
            && let Some(id) = self.one_of(&known)
        {
            let status = self.one_of(&["won", "lost", "lost", "challenged", "expired", "cancelled"]).unwrap();
            // Where somebody argues again about what was lost, the bank keeps the money.
            let over = self
                .world
                .with(|world| ["lost", "expired"].iter().any(|end| world.disputes[&id].status.ends_with(end)));
            if !(over && status == "challenged") {
                self.world.with(|world| world.decide(&id, status));
                self.told.push(format!("{id} is {status}"));
            }
            return;
        }
        let paid: Vec<(String, i64)> = self.world.with(|world| {
            let of = |id: &str| world.disputes.values().filter(|dispute| dispute.payment == id).count();
            let most = |payment: &Payment| if payment.purpose.starts_with("sub_") { 1 } else { 2 };
            let may = |(id, payment): &(&String, &Payment)| payment.status == "succeeded" && of(id) < most(payment);
            let paid = world.payments.iter().filter(may);
            paid.map(|(id, payment)| (id.clone(), payment.amount)).collect()
        });
        let Some((payment, amount)) = self.one_of(&paid) else { return };
        let minor = if self.parts && self.random.below(2) == 0 {
            1 + self.random.below(amount as usize) as i64
        } else {
            amount
        };
        let id = self.world.with(|world| world.dispute(&payment, minor));
        self.told.push(format!("{minor} of {payment} are disputed ({id})"));
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
        let payments = self.payments.clone();
        let received = self.until_it_crashes("a webhook", hear(&payments, &event, how == 2)).await;
        if let Some(received) = received {
            assert_eq!(received == Received::Unsigned, how == 2);
        }
    }

    /// Every webhook that waits, in order.
    async fn deliver_all(&self) {
        while let Some(event) = self.world.with(|world| world.events.pop_front()) {
            assert_eq!(hear(&self.payments, &event, false).await, Received::Accepted);
        }
    }

    /// Everybody comes to their senses, and the workers run until nothing is open.
    pub(super) async fn recover(&mut self) {
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
                        ["processing", "requires_customer_action", "conflicted"].contains(&payment.status.as_str())
                    })
                    .map(|(id, _)| id.clone())
                    .collect();
                world.correct();
                stuck.iter().for_each(|id| world.pay(id, "failed"));
                let open: Vec<String> = world
                    .disputes
                    .iter()
                    .filter(|(_, dispute)| ["dispute_opened", "dispute_challenged"].contains(&dispute.status.as_str()))
                    .map(|(id, _)| id.clone())
                    .collect();
                open.iter().for_each(|id| world.decide(id, if id.ends_with(['1', '3', '5']) { "won" } else { "lost" }));
                world.events.clear(); // the sweeps have to do without
            });
            // Half days, in which keys of the provider grow old; and once further than any delay of a transfer.
            self.clock.advance(if round == 1 { 86_400 * 4 } else { 43_200 });
            self.payments.process_webhooks().await.unwrap();
            let swept = self.payments.sweep().await.unwrap();
            self.payments.transfer_due().await.unwrap();
            self.payments.reverse_due().await.unwrap();
            let looked = swept.payments.looked + swept.refunds.looked + swept.orphans.looked + swept.disputes.looked;
            let looked = looked + swept.given_back.looked;
            if looked > 0 || self.will_be_tried().await {
                continue;
            }
            // What no row of ours is open for only a comparison finds; what it moves has to be worked off again.
            let now_us = self.clock.unix_us();
            let compared = self.payments.compare(START_S as i64 * 1_000_000 - 1_000_000_000, now_us).await.unwrap();
            assert_eq!((compared.strange, compared.missing), (0, 0));
            if compared.moved == 0 {
                return;
            }
        }
    }

    /// Whether a transfer will be tried; those that wait for money of their sellers, which nobody may ever bring, are not
    /// counted.
    async fn will_be_tried(&self) -> bool {
        for seller in SELLERS {
            let transfers = self.db().transfers(seller, None, 200).await.unwrap();
            let waits = |t: &Transfer| t.error.as_ref().is_some_and(|why| why.contains("not cover"));
            if transfers.iter().any(|transfer| transfer.next_us.is_some() && !waits(transfer)) {
                return true;
            }
        }
        false
    }

    /// What there must be, by what the providers have and what the products cost.
    #[allow(clippy::await_holding_lock)] // at the end nobody asks the providers any more
    pub(super) async fn audit(&self) {
        let report = self.db().verify_ledger().await.unwrap();
        assert_eq!((report.wrong, &report.differences), (0, &vec![]));
        assert!(report.trial.values().all(|sum| *sum == 0), "{:?}", report.trial);
        let off = self.db().clearing_difference().await.unwrap();
        assert!(off.values().all(|minor| *minor == 0), "{off:?}");
        let mut orders = Vec::new();
        let mut licences = BTreeMap::new();
        for buyer in BUYERS {
            orders.extend(self.db().orders(buyer, None, 200).await.unwrap());
            for licence in self.db().licences(buyer, None, 200).await.unwrap() {
                *licences.entry((licence.order.clone(), licence.revoked_us.is_none())).or_insert(0) += 1;
            }
        }
        let world = self.world.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner); // of an audit that failed
        let mut known = 0;
        let (mut clearing, mut tax, mut subscribed, mut losses) = (0, 0, 0, 0);
        let mut sold = Sold::default();
        for order in &orders {
            let payment = world.payments.get(&order.payment.id);
            known += usize::from(payment.is_some());
            let paid = payment.is_some_and(|payment| payment.status == "succeeded");
            let refunds: Vec<_> =
                world.refunds.iter().filter(|(_, refund)| refund.payment == order.payment.id).collect();
            let back: Vec<i64> =
                refunds.iter().filter(|(_, refund)| refund.status == "succeeded").map(|(_, r)| r.amount).collect();
            let refunded = back.iter().sum::<i64>();
            assert!(refunded == 0 || paid && payment.is_some_and(|payment| refunded <= payment.amount));
            let taken = taken_by_banks(&world, &order.payment.id);
            // What an open refund or dispute had reserved may have been split twice.
            let parts = 2 * (back.len() + taken.len()) as i64;
            // Banks do not ask whether it went back before: what is more than there was is our loss.
            let all = refunded + taken.iter().sum::<i64>();
            let back = payment.map_or(0, |payment| all.min(payment.amount));
            losses += all - back;
            clearing -= all - back;
            let whole = payment.is_some_and(|payment| payment.amount == back);
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
        for (id, payment) in world.payments.iter().filter(|(_, payment)| payment.purpose.starts_with("sub_")) {
            subscriptions += 1;
            let refunds: Vec<_> = world.refunds.iter().filter(|(_, refund)| refund.payment == *id).collect();
            let back: i64 =
                refunds.iter().filter(|(_, r)| r.status == "succeeded").map(|(_, refund)| refund.amount).sum();
            if payment.status == "succeeded" {
                let invoice_tax = segue::ledger::allocate(payment.amount as u64, &[10_000, 1_900])[1] as i64;
                let net = payment.amount - invoice_tax;
                // What goes back comes out of our income and the tax; what is more than there was, out of our pocket.
                let all = back + taken_by_banks(&world, id).iter().sum::<i64>();
                let borne = all.min(payment.amount);
                let parts = segue::ledger::allocate(borne as u64, &[net as u64, invoice_tax as u64]);
                clearing += payment.amount - all;
                losses += all - borne;
                subscribed += net - parts[0] as i64;
                tax += invoice_tax - parts[1] as i64;
            }
            let invoices = self.db().invoices(&payment.purpose.parse().unwrap()).await.unwrap();
            let its: Vec<_> = invoices.iter().filter(|invoice| invoice.payment == *id).collect();
            let paid = payment.status == "succeeded";
            assert_eq!((its.len(), its[0].status == InvoiceStatus::Paid), (1, paid), "{id}");
            // What bought a period is kept; what bought nothing goes back, or somebody is told that it cannot.
            let bought = its[0].from_us.is_some();
            assert!(back <= payment.amount && (refunds.is_empty() || paid && !bought), "{id} {refunds:?}");
            if paid && !bought && back == 0 {
                let mut told = 0;
                for (refund, _) in &refunds {
                    let ours = self.db().refund(&refund.parse().unwrap()).await.unwrap().unwrap();
                    told += usize::from(ours.alarm.is_some());
                }
                assert!(told > 0 || !taken_by_banks(&world, id).is_empty(), "{id} was paid for nothing");
            }
        }
        for subscriber in BUYERS {
            for subscription in self.db().subscriptions(subscriber, None, 200).await.unwrap() {
                self.audit_periods(&subscription, &world).await;
            }
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
                // What is not made waits for the seller's own debts, whatever it met before, or is not owed any more.
                let waits = [TransferStatus::Pending, TransferStatus::Failed].contains(&ours.status)
                    && ours.next_us.is_some()
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
        assert_eq!(on("platform:losses:USD").await, losses, "what went back twice");
        assert_eq!(on("disputes:held:USD").await, 0, "no bank is undecided");
        // Every dispute of the provider is one of ours, and stands as it says.
        for (id, dispute) in &world.disputes {
            let ours = self.db().dispute(id).await.unwrap().expect("a dispute that nobody knows");
            let lost = is_lost(&dispute.status);
            assert_eq!((ours.status == DisputeStatus::Lost, ours.amount.minor()), (lost, dispute.amount), "{id}");
            assert!(ours.status != DisputeStatus::Open, "{id}");
        }
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
        for (id, dispute) in &world.disputes {
            let turns = |word: &str| {
                let own = |source: &&String| source.starts_with(&format!("hs:{id}:")) && source.ends_with(word);
                sources.keys().filter(own).count()
            };
            let (opened, won, lost) = (turns(":open"), turns(":won"), turns(":lost"));
            assert!(opened > 0 && sources.iter().all(|(_, times)| *times == 1), "{id}");
            // Each loss but the one that stands was won back, and each opening ended.
            let stands = usize::from(is_lost(&dispute.status));
            assert!(lost >= stands && won + stands == opened, "{id}: {opened} {won} {lost}");
        }
        // What came back of a transfer is booked to the unit, however many times it came.
        for (id, transfer) in &world.transfers {
            let own = format!("st:{}:reversed:", transfer.operation);
            let booked = sources.keys().filter_map(|source| source.strip_prefix(&own)?.parse::<i64>().ok()).max();
            assert_eq!(booked.unwrap_or(0), transfer.reversed, "{id}");
        }
        // And no journal without an object: each names one that there is, or is between ourselves because of one.
        for source in sources.keys() {
            let mut words = source.split(':');
            let (first, second) = (words.next().unwrap(), words.next().unwrap_or_default());
            let there = match first {
                "hs" => {
                    world.payments.contains_key(second)
                        || world.refunds.contains_key(second)
                        || world.disputes.contains_key(second)
                }
                "st" => made.contains_key(second),
                cause => {
                    world.payments.contains_key(cause)
                        || world.refunds.contains_key(cause)
                        || world.disputes.contains_key(cause)
                        || made.contains_key(cause)
                        || cause.starts_with("trf_")
                }
            };
            assert!(there, "the journal of {source} is about nothing");
        }
        let events =
            sources.keys().filter(|source| source.ends_with(":succeeded") || source.ends_with(":created")).count();
        let paid = world.payments.values().filter(|payment| payment.status == "succeeded").count();
        let back = world.refunds.values().filter(|refund| refund.status == "succeeded").count();
        assert_eq!(events, paid + back + world.transfers.len(), "and no journal without an object");
    }

    /// Journals by the event that caused them.
    /// Every period was paid for, once, and lasts as long as the plan says; nobody has more.
    async fn audit_periods(&self, subscription: &Subscription, world: &World) {
        let mut invoices = self.db().invoices(&subscription.id).await.unwrap();
        invoices.retain(|invoice| {
            let paid = world.payments.get(&invoice.payment).is_some_and(|payment| payment.status == "succeeded");
            assert_eq!(paid, invoice.status == InvoiceStatus::Paid, "{invoice:?}");
            assert!(paid || invoice.from_us.is_none(), "{invoice:?}");
            invoice.from_us.is_some()
        });
        let plan = self.payments.options.plans.iter().find(|plan| plan.id == subscription.plan).unwrap();
        let mut periods: Vec<(i64, i64)> =
            invoices.iter().map(|invoice| (invoice.from_us.unwrap(), invoice.until_us.unwrap())).collect();
        periods.sort_unstable();
        assert!(periods.iter().all(|(from_us, until_us)| until_us - from_us == plan.period_days * 86_400_000_000));
        assert!(periods.windows(2).all(|two| two[0].1 <= two[1].0), "{periods:?}");
        let last_us = periods.last().map(|(_, until_us)| *until_us);
        // A bank that takes the money ends it, and one that brings it back begins nothing anew.
        let sources = self.sources().await;
        let taken = |id: &str| {
            let own = format!("hs:{id}:");
            sources.keys().any(|source| source.starts_with(&own) && source.ends_with(":lost"))
        };
        let lost = invoices
            .iter()
            .any(|invoice| world.disputes.iter().any(|(id, dispute)| dispute.payment == invoice.payment && taken(id)));
        let cancelled = subscription.status == SubscriptionStatus::Cancelled;
        assert!(subscription.ends_us == last_us || lost || cancelled, "{subscription:?} {periods:?}");
    }

    async fn sources(&self) -> BTreeMap<String, usize> {
        let mut sources = BTreeMap::new();
        for source in self.db().ledger_sources().await.unwrap() {
            *sources.entry(source).or_insert(0) += 1;
        }
        sources
    }
}

/// A webhook comes in, signed; or forged, with a signature of what it was.
async fn hear(payments: &Payments, event: &Value, forged: bool) -> Received {
    let (mut body, stripe) = (event.to_string(), event["type"].is_string());
    let signature = match stripe {
        true => signed_256(&body, STRIPE_SECRET, payments.clock.unix_s()),
        false => signed_512(&body, HYPERSWITCH_SECRET),
    };
    if forged {
        body = body.replace("failed", "succeeded").replace("evt_", "evt_x");
    }
    let sender = if stripe { Sender::Stripe } else { Sender::Hyperswitch };
    let (signature, body) = (Some(signature.as_str()), body.as_bytes());
    let envelope = Envelope { sender, signature, body, source_ip: None, user_agent: None, request_id: "r" };
    payments.receive(envelope).await.unwrap()
}

fn is_lost(status: &str) -> bool {
    ["dispute_lost", "dispute_expired", "dispute_accepted"].contains(&status)
}

/// What banks took from a payment, each time.
fn taken_by_banks(world: &World, payment: &str) -> Vec<i64> {
    let of = |dispute: &&super::fakes::Dispute| dispute.payment == payment && is_lost(&dispute.status);
    world.disputes.values().filter(of).map(|dispute| dispute.amount).collect()
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

/// Flows that die at each of their places, one after the other, each time about something new. What they leave behind is
/// mended by what comes later, or in the end.
impl Story {
    async fn dies_everywhere<T, V>(
        &mut self,
        what: &str,
        mut before: impl AsyncFnMut(&mut Story, u32) -> V,
        flow: impl AsyncFn(&Payments, &V, u32) -> T,
    ) {
        let payments = self.payments.clone();
        for place in 1..200 {
            self.clock.advance(400); // what a process that died had taken is free again
            let about = before(self, place).await;
            self.told.push(format!("{what}, up to its place {place}"));
            if crash::within(place, flow(&payments, &about, place)).await.is_some() {
                assert!(place > 2, "{what} has no place to die at");
                return;
            }
        }
        panic!("{what} comes to no end");
    }

    /// Somebody buys something else each time.
    async fn ordered(&mut self) -> (OrderId, String) {
        self.keys += 1;
        let (buyer, key) = (BUYERS[self.keys as usize % BUYERS.len()], format!("every-{}", self.keys));
        let wanted = [(self.products[self.keys as usize % self.products.len()].id.clone(), LicenceKind::Personal)];
        let request = Request { subject: buyer, key: &key, fingerprint: &key };
        let Ordered::Ready(order) = self.payments.order(buyer, &wanted, request).await.unwrap() else { panic!() };
        (order.id, order.payment.id)
    }

    async fn paid(&mut self) -> (OrderId, String) {
        let (order, payment) = self.ordered().await;
        self.world.with(|world| world.pay(&payment, "succeeded"));
        self.heard().await;
        (order, payment)
    }

    /// Everything that providers told of is processed.
    async fn heard(&self) {
        self.deliver_all().await;
        while self.payments.process_webhooks().await.unwrap() > 0 {}
    }

    /// A sale whose sellers were paid, and of which `minor` units, or all, are to go back.
    async fn going_back(&mut self, minor: Option<i64>) -> String {
        let (order, _) = self.paid().await;
        self.payments.transfer_due().await.unwrap();
        self.ask_back(&order, minor).await.unwrap()
    }

    async fn ask_back(&self, order: &OrderId, minor: Option<i64>) -> Option<String> {
        ask_back(&self.payments, order, minor).await
    }

    async fn subscribed(&mut self, place: u32) -> SubscriptionId {
        let (who, key) = (format!("u{place}-{}", self.keys), format!("sub-{place}"));
        self.keys += 1;
        let Joined::Pay(subscription, _, _) = join(&self.payments, &who, &key).await else { panic!() };
        self.world.with(|world| world.pay(subscription.id.as_str(), "succeeded"));
        subscription.id
    }
}

async fn ask_back(payments: &Payments, order: &OrderId, minor: Option<i64>) -> Option<String> {
    let key = format!("back-{order}");
    let request = Request { subject: "admin", key: &key, fingerprint: "f" };
    let by = By { subject: "admin", admin: true };
    match payments.refund(order, by, Wanted { minor, reason: None }, request).await.unwrap() {
        Requested::Claimed(Claim::New(refund) | Claim::Known(refund)) => Some(refund.id.to_string()),
        _ => None,
    }
}

async fn join(payments: &Payments, who: &str, key: &str) -> Joined {
    payments.subscribe(who, "pro", Request { subject: who, key, fingerprint: "pro" }).await.unwrap()
}

async fn die_at_every_place(db: &Db) {
    let mut story = Story::begin(db, 1).await;
    story.world.with(|world| world.whims = None);
    story.payments.options.transfer_delay = Duration::ZERO;
    story.payments.options.terms = Terms { fee_bps: 1000, tax_bps: 1900 };
    story.payments.options.plans.iter_mut().for_each(|plan| plan.period_days = 1);
    for seller in SELLERS {
        db.set_seller_account(seller, &format!("acct_{seller}"), story.clock.unix_us()).await.unwrap();
    }
    let product = story.products[0].id.clone();
    let order = async |payments: &Payments, key: String| {
        let (wanted, request) =
            ([(product.clone(), LicenceKind::Personal)], Request { subject: "b0", key: &key, fingerprint: "f" });
        payments.order("b0", &wanted, request).await.unwrap();
    };
    let nothing = async |_: &mut Story, _: u32| ();
    let process = async |payments: &Payments, (): &(), _: u32| {
        payments.process_webhooks().await.unwrap();
    };
    let first = async |payments: &Payments, (): &(), place: u32| order(payments, format!("once-{place}")).await;
    story.dies_everywhere("an order", nothing, first).await;
    let died = async |story: &mut Story, place: u32| {
        crash::within(1 + place % 5, order(&story.payments, format!("twice-{place}"))).await;
    };
    let again = async |payments: &Payments, (): &(), place: u32| order(payments, format!("twice-{place}")).await;
    story.dies_everywhere("an order that died, again", died, again).await;

    let paid_there = async |story: &mut Story, _: u32| {
        let (_, payment) = story.ordered().await;
        story.world.with(|world| {
            world.pay(&payment, "succeeded");
            world.events.pop_back().unwrap()
        })
    };
    let webhook = async |payments: &Payments, event: &Value, _: u32| hear(payments, event, false).await;
    story.dies_everywhere("a webhook", paid_there, webhook).await;
    let told = async |story: &mut Story, place: u32| {
        let event = paid_there(story, place).await;
        hear(&story.payments, &event, false).await;
    };
    story.dies_everywhere("a payment", told, process).await;
    let untold = async |story: &mut Story, place: u32| {
        paid_there(story, place).await;
        story.clock.advance(40 * 60);
    };
    let sweep = async |payments: &Payments, (): &(), _: u32| {
        payments.sweep().await.unwrap();
    };
    story.dies_everywhere("the sweep", untold, sweep).await;
    story.heard().await;

    let sold = async |story: &mut Story, _: u32| {
        story.paid().await;
    };
    let pay_out = async |payments: &Payments, (): &(), _: u32| {
        payments.transfer_due().await.unwrap();
    };
    story.dies_everywhere("a transfer", sold, pay_out).await;
    let sale = async |story: &mut Story, _: u32| story.paid().await.0;
    let refund = async |payments: &Payments, order: &OrderId, _: u32| ask_back(payments, order, None).await;
    story.dies_everywhere("a refund", sale, refund).await;
    for minor in [None, Some(1)] {
        for end in ["succeeded", "failed"].into_iter().filter(|end| minor.is_none() || *end == "succeeded") {
            let decided = async |story: &mut Story, _: u32| {
                let refund = story.going_back(minor).await;
                story.world.with(|world| world.settle_refund(&refund, end));
                story.deliver_all().await;
            };
            story.dies_everywhere(&format!("a refund of {minor:?} that {end}"), decided, process).await;
        }
        let gone = async |story: &mut Story, _: u32| {
            let refund = story.going_back(minor).await;
            story.world.with(|world| world.settle_refund(&refund, "succeeded"));
            story.heard().await;
        };
        let back = async |payments: &Payments, (): &(), _: u32| {
            payments.reverse_due().await.unwrap();
        };
        story.dies_everywhere(&format!("a reversal of {minor:?}"), gone, back).await;
    }
    for turns in [&[][..], &["lost"], &["won"], &["lost", "won"]] {
        let disputed = async |story: &mut Story, _: u32| {
            let (_, payment) = story.paid().await;
            let id = story.world.with(|world| world.dispute(&payment, 1));
            for turn in turns {
                story.heard().await;
                story.world.with(|world| world.decide(&id, turn));
            }
            story.deliver_all().await;
        };
        story.dies_everywhere(&format!("a dispute that is {turns:?}"), disputed, process).await;
    }
    let subscribe = async |payments: &Payments, (): &(), place: u32| {
        join(payments, &format!("u{place}"), "first").await;
    };
    story.dies_everywhere("a subscription", nothing, subscribe).await;
    let joined = async |story: &mut Story, place: u32| {
        story.subscribed(place).await;
        story.deliver_all().await;
    };
    story.dies_everywhere("a subscription that is paid", joined, process).await;
    let ended = async |story: &mut Story, place: u32| {
        let subscription = story.subscribed(place).await;
        let now_us = story.clock.unix_us();
        assert!(story.db().cancel_subscription(&subscription, true, now_us).await.unwrap());
        story.deliver_all().await;
    };
    story.dies_everywhere("a payment after the end", ended, process).await;
    for end in ["succeeded", "failed"] {
        let due = async |story: &mut Story, place: u32| {
            story.world.with(|world| world.renewals_are = end.into());
            story.subscribed(place).await;
            story.heard().await;
            story.clock.advance(18 * 3_600);
        };
        let renew = async |payments: &Payments, (): &(), _: u32| {
            payments.renew_due().await.unwrap();
        };
        story.dies_everywhere(&format!("a renewal that {end}"), due, renew).await;
    }
    let lost = async |story: &mut Story, place: u32| {
        paid_there(story, place).await;
    };
    let compare = async |payments: &Payments, (): &(), _: u32| {
        let now_us = payments.clock.unix_us();
        payments.compare(now_us - 3_600_000_000, now_us + 1).await.unwrap();
    };
    story.dies_everywhere("a comparison", lost, compare).await;
    story.recover().await;
    story.audit().await;
}

/// What came of a story.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    /// What happened.
    said: Vec<String>,
    /// What the providers were asked.
    asked: Vec<String>,
    journals: u64,
    /// The seal of the last journal: over all of them, with their ids and times.
    head: String,
}

async fn tell(db: &Db, seed: u64) -> Told {
    chance::seeded(seed, async {
        let mut story = Story::begin(db, seed).await;
        let chapters = 20 + story.random.below(50);
        for _ in 0..chapters {
            story.chapter().await;
        }
        story.recover().await;
        story.audit().await;
        let report = db.verify_ledger().await.unwrap();
        let asked = story.world.with(|world| std::mem::take(&mut world.asked));
        Told { said: std::mem::take(&mut story.told), asked, journals: report.journals, head: report.head }
    })
    .await
}

/// A directory where nothing waits for a disk: no story depends on one, as a crash here is the end of a flow, not of a machine.
fn in_memory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    dir.unwrap()
}

/// A migrated database, to be copied.
struct Shelf {
    dir: tempfile::TempDir,
    blank: PathBuf,
}

impl Shelf {
    fn new() -> Shelf {
        let dir = in_memory();
        let blank = dir.path().join("blank.db");
        runtime().block_on(async {
            let db = ready(Place::Sqlite(blank.clone())).await;
            db.close().await;
        });
        Shelf { dir, blank }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Says which seed it was when it goes wrong.
async fn told<T>(seed: u64, story: impl Future<Output = T>) -> T {
    struct Complains(u64);
    impl Drop for Complains {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("the story of seed {} went wrong: make simulate SEED={} SEEDS=1", self.0, self.0);
            }
        }
    }
    let complains = Complains(seed);
    let told = story.await;
    drop(complains);
    told
}

/// A chapter keeps the futures of all that could happen in it, each in a place of its own as long as nothing is optimised: more
/// than half of what a thread gets for its stack.
const STACK_BYTES: usize = 16 << 20;

fn on_a_large_stack(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work).unwrap();
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Keeps a thread, and those that it starts, on one core. A story asks its database, waits, and is woken by another thread,
/// two thousand times: to wake a thread on another core takes longer than to do what it was asked.
fn stay_on_core(number: usize) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let allowed = sched_getaffinity(None).unwrap();
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
    let mut one = CpuSet::new();
    one.set(cores[number % cores.len()]);
    sched_setaffinity(None, &one).unwrap();
}

/// Stories from `first` on, on as many threads as there are cores, each in a database of its own, until there were `most`
/// or the time is over.
fn stories(first: u64, most: u64, budget: Duration, place: impl Fn(usize) -> Place + Sync) -> u64 {
    let next = std::sync::atomic::AtomicU64::new(first);
    let begun = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let tell_many = async |number: usize| {
        let mut slate = Slate::new(place(number)).await;
        while begun.elapsed() < budget {
            let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if seed >= first + most {
                break;
            }
            told(seed, tell(&slate.db, seed)).await;
            slate.wipe().await;
        }
        slate.db.close().await;
    };
    let (tell_many, threads) = (&tell_many, 0..threads);
    std::thread::scope(|scope| {
        let teller = |number| {
            move || {
                stay_on_core(number);
                on_a_large_stack(|| runtime().block_on(tell_many(number)));
            }
        };
        let tellers: Vec<_> = threads.map(|number| scope.spawn(teller(number))).collect();
        for teller in tellers {
            if let Err(panic) = teller.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    next.load(std::sync::atomic::Ordering::Relaxed).min(first + most) - first
}

/// A way to go wrong that balances: what a bug in our own bookings would post, or do to a row.
enum Wrong {
    /// So much from one account to another, in a journal like any other.
    Books(&'static str, &'static str, i64),
    /// A statement on a table.
    Row(&'static str),
}

/// Each of them has to be noticed by the auditor of the stories, although the ledger itself finds nothing wrong.
const WRONG: &[(&str, Wrong)] = &[
    ("a unit of a seller's is ours", Wrong::Books("seller:s1:payable:USD", "platform:fees:USD", 1)),
    ("a unit of ours is a seller's", Wrong::Books("platform:fees:USD", "seller:s1:payable:USD", 1)),
    ("a unit of the tax is ours", Wrong::Books("platform:tax:USD", "platform:fees:USD", 1)),
    ("a seller gets another one's", Wrong::Books("platform:fees:USD", "seller:s2:payable:USD", 1)),
    ("money came that nobody paid", Wrong::Books("psp:clearing:USD", "platform:fees:USD", 1)),
    ("money went that nobody got", Wrong::Books("platform:fees:USD", "psp:clearing:USD", 1)),
    ("a seller owes what they do not", Wrong::Books("seller:s1:receivable:USD", "platform:fees:USD", 1)),
    ("a subscription is counted as a sale", Wrong::Books("platform:subscriptions:USD", "platform:fees:USD", 1)),
    ("a loss that nobody had", Wrong::Books("platform:losses:USD", "platform:fees:USD", 1)),
    ("something is kept for ever", Wrong::Books("platform:fees:USD", "disputes:held:USD", 1)),
    (
        "a licence is revoked",
        Wrong::Row(
            "update licence set revoked_us = 1 where id = (select min(id) from licence where revoked_us is null)",
        ),
    ),
    (
        "a licence is left",
        Wrong::Row(
            "update licence set revoked_us = null where id = (select min(id) from licence where revoked_us is not null)",
        ),
    ),
    ("a licence is missing", Wrong::Row("delete from licence where id = (select min(id) from licence)")),
    (
        "a paid order is refunded",
        Wrong::Row(
            "update sale_order set status = 'refunded' where id = (select min(id) from sale_order where status = 'paid')",
        ),
    ),
    (
        "a refunded order is paid",
        Wrong::Row(
            "update sale_order set status = 'paid' where id = (select min(id) from sale_order where status = 'refunded')",
        ),
    ),
    (
        "a refund failed that did not",
        Wrong::Row(
            "update refund set status = 'failed' where id = (select min(id) from refund where status = 'succeeded')",
        ),
    ),
    (
        "what a refund took is forgotten",
        Wrong::Row("delete from order_return where cause = (select min(cause) from order_return)"),
    ),
    (
        "a dispute is won that is lost",
        Wrong::Row("update dispute set status = 'won' where id = (select min(id) from dispute where status = 'lost')"),
    ),
    (
        "a reversal is forgotten",
        Wrong::Row(
            "update transfer set status = 'completed', reversed_minor = 0 where id = (select min(id) from transfer where status = 'reversed')",
        ),
    ),
    (
        "a transfer was never made",
        Wrong::Row(
            "update transfer set status = 'pending', provider_transfer_id = null where id = (select min(id) from transfer where status = 'completed')",
        ),
    ),
    (
        "a day is given away",
        Wrong::Row(
            "update subscription set ends_us = ends_us + 86400000000 where id = (select min(s.id) from subscription s where s.ends_us is not null and not exists (select 1 from dispute d join invoice i on i.payment_id = d.payment_id where i.subscription_id = s.id))",
        ),
    ),
    (
        "an invoice is open that was paid",
        Wrong::Row(
            "update invoice set status = 'open', paid_us = null where id = (select min(id) from invoice where status = 'paid')",
        ),
    ),
];

/// Whether a story has something of everything that `WRONG` changes.
async fn is_rich(db: &Db) -> bool {
    let mut tx = db.begin_read().await.unwrap();
    let on = async |tx: &mut segue::db::Tx, code: &str| {
        segue::db::ledger::balance(tx, &code.parse().unwrap()).await.unwrap().is_some()
    };
    let mut all = true;
    for code in [
        "seller:s1:payable:USD",
        "seller:s1:receivable:USD",
        "seller:s2:payable:USD",
        "platform:fees:USD",
        "platform:tax:USD",
        "platform:subscriptions:USD",
        "platform:losses:USD",
        "disputes:held:USD",
    ] {
        all &= on(&mut tx, code).await;
    }
    all
}

#[test]
fn the_auditor_notices_whatever_our_bookings_could_get_wrong() {
    on_a_large_stack(look_for_wrong_bookings);
}

fn look_for_wrong_bookings() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let shelf = Shelf::new();
    let mut noticed = BTreeMap::new();
    for seed in 1..400u64 {
        if noticed.len() == WRONG.len() {
            break;
        }
        let file = shelf.dir.path().join(format!("rich{seed}.db"));
        fs::copy(&shelf.blank, &file).unwrap();
        let runtime = runtime();
        let (mut story, rich) = runtime.block_on(chance::seeded(seed, async {
            let options = crate::postgres::at(Place::Sqlite(file.clone()));
            let db = Db::open(&options).await.unwrap();
            let mut story = Story::begin(&db, seed).await;
            story.parts = false; // so that every share is known to the unit
            story.payments.options.terms = Terms { fee_bps: 1234, tax_bps: 1900 };
            for _ in 0..90 {
                story.chapter().await;
            }
            story.recover().await;
            story.audit().await;
            let rich = is_rich(&db).await;
            db.close().await;
            (story, rich)
        }));
        if !rich {
            continue;
        }
        for (number, (what, wrong)) in
            WRONG.iter().enumerate().filter(|(number, _)| !noticed.contains_key(number)).collect::<Vec<_>>()
        {
            // One file for each: an audit that failed leaves its connections open.
            let copy = shelf.dir.path().join(format!("wrong{seed}-{number}.db"));
            fs::copy(&file, &copy).unwrap();
            let changed = match wrong {
                Wrong::Row(sql) => {
                    let sql = format!("{sql}; select changes()");
                    let done =
                        std::process::Command::new("sqlite3").arg("-bail").arg(&copy).arg(&sql).output().unwrap();
                    assert!(done.status.success(), "{what}: {}", String::from_utf8_lossy(&done.stderr));
                    String::from_utf8_lossy(&done.stdout).trim() != "0"
                }
                Wrong::Books(..) => true,
            };
            if !changed {
                continue; // another story has one
            }
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                runtime.block_on(async {
                    let db = Db::open(&crate::postgres::at(Place::Sqlite(copy.clone()))).await.unwrap();
                    story.payments.db = db.clone();
                    if let Wrong::Books(from, to, minor) = wrong {
                        let amount = Amount::new(*minor, Currency::decode("USD").unwrap()).unwrap();
                        let draft = Draft::new("wrong".parse().unwrap(), "wrong", "wrong", story.clock.unix_us());
                        let draft = draft.debit(&from.parse().unwrap(), amount).credit(&to.parse().unwrap(), amount);
                        let journal = draft.balance().unwrap();
                        let posted = db.post_journals(&[&journal], story.clock.unix_us()).await.unwrap();
                        if !matches!(posted[..], [Posted::Created(_)]) {
                            return false; // this story's seller has nothing to lose
                        }
                    }
                    assert_eq!(db.verify_ledger().await.unwrap().wrong, 0, "{what}: to the ledger it is a journal");
                    story.audit().await;
                    panic!("nobody noticed: {what}");
                })
            }));
            let said = match &outcome {
                Ok(_) => continue,
                Err(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_default(),
            };
            assert!(!said.starts_with("nobody noticed"), "seed {seed}: {said}");
            assert!(!said.contains("to the ledger it is") && !said.contains("the database"), "seed {seed}: {said}");
            noticed.insert(number, said);
        }
        let _ = fs::remove_file(&file);
    }
    let missed: Vec<_> =
        WRONG.iter().enumerate().filter(|(n, _)| !noticed.contains_key(n)).map(|(_, (what, _))| what).collect();
    assert!(missed.is_empty(), "no story could show these: {missed:?}");
}

/// As many as fit, at least some; `make simulate` tells as many as asked for.
#[test]
fn whatever_happens_the_books_are_right_in_the_end() {
    let dir = in_memory();
    let place = |number| Place::Sqlite(dir.path().join(format!("{number}.db")));
    let asked = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let told = match asked("MONEY_SEEDS") {
        Some(seeds) => stories(asked("MONEY_SEED").unwrap_or(1), seeds, Duration::from_secs(7 * 86_400), place),
        None => stories(1, 4_000, BUDGET, place),
    };
    eprintln!("{told} stories");
    assert!(told > 0);
}

/// Other seeds than those on SQLite.
#[test]
fn whatever_happens_the_books_are_right_on_postgresql_too() {
    let server = Postgres::start();
    let place = |number| Place::Postgres(server.database(&format!("stories{number}")));
    let told = stories(100_001, 4_000, BUDGET, place);
    eprintln!("{told} stories");
    assert!(told > 0);
}

/// A story that can be told again can be looked at: the same seed makes the same journals, under the same ids and at the
/// same times, on both databases.
#[test]
fn a_seed_is_one_story_whenever_and_wherever_it_is_told() {
    let (dir, server) = (in_memory(), Postgres::start());
    on_a_large_stack(|| {
        runtime().block_on(async {
            let mut lite = Slate::new(Place::Sqlite(dir.path().join("story.db"))).await;
            let mut postgres = Slate::new(Place::Postgres(server.database("story"))).await;
            for seed in 1..=6 {
                let first = told(seed, tell(&lite.db, seed)).await;
                lite.wipe().await;
                for slate in [&mut lite, &mut postgres] {
                    let again = told(seed, tell(&slate.db, seed)).await;
                    slate.wipe().await;
                    let differ = first.said.iter().zip(&again.said).find(|(one, other)| one != other);
                    assert_eq!(differ, None, "seed {seed} on {:?}", slate.db.dialect());
                    assert_eq!(first, again, "seed {seed} on {:?}", slate.db.dialect());
                }
                assert!(first.journals > 0 || seed > 1);
            }
            lite.db.close().await;
            postgres.db.close().await;
        });
    });
}

#[test]
fn a_crash_at_every_place_is_mended() {
    let shelf = Shelf::new();
    let db = Place::Sqlite(shelf.blank.clone());
    on_a_large_stack(|| {
        runtime().block_on(async {
            let db = ready(db).await;
            chance::seeded(1, die_at_every_place(&db)).await;
            db.close().await;
        });
    });
}

#[test]
fn a_crash_at_every_place_is_mended_on_postgresql_too() {
    let server = Postgres::start();
    on_a_large_stack(|| {
        runtime().block_on(async {
            let db = ready(Place::Postgres(server.database("places"))).await;
            chance::seeded(1, die_at_every_place(&db)).await;
            db.close().await;
        });
    });
}
