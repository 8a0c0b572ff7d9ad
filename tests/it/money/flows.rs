//! Every flow of money, with providers in every mood: what is bought is paid once, licensed once, passed on once, and
//! given back once.

use std::time::Duration;

use segue::auth::UserId;
use segue::auth::email::Email;
use segue::auth::principal::Role;
use segue::base::Kind;
use segue::base::clock::Clock;
use segue::base::id::TrackId;
use segue::base::secret::Secret;
use segue::db::Db;
use segue::db::ledger::AsOf;
use segue::db::money::{Claim, HandBooked, HandPayout, Request};
use segue::db::orders::{Applied, Order, Refusal};
use segue::db::products::{NewProduct, Product};
use segue::db::refunds::{By, Refund, Requested, Wanted};
use segue::db::subscriptions::{Plan, Subscription};
use segue::db::tracks::{self, has_licence};
use segue::db::transfers::Transfer;
use segue::db::users::Registration;
use segue::jobs::backoff::Backoff;
use segue::ledger::dispute::Status as DisputeStatus;
use segue::ledger::order::{LicenceKind, OrderId, ProductId, Status as OrderStatus, Terms};
use segue::ledger::refund::Status as RefundStatus;
use segue::ledger::subscription::{Gate, InvoiceStatus, Status as SubStatus};
use segue::ledger::transfer::Status as TransferStatus;
use segue::ledger::{Amount, Currency, Posted};
use segue::payments::checkout::{Completed, Joined, Ordered};
use segue::payments::webhook::{Envelope, Received, Sender};
use segue::payments::{BACKOFF, Options, Payments};
use serde_json::Value;

use super::fakes::{HYPERSWITCH_SECRET, Mood, STRIPE_SECRET, Shared, signed_256, signed_512};
use super::shelf::{changed, offered};
use crate::databases::{self, Case, cases};

const CASES: &[Case] = cases![around whole:
    a_purchase_is_licensed_and_passed_on,
    what_is_asked_twice_is_done_once,
    orders_that_cannot_be_are_refused,
    whatever_the_first_call_meets_there_is_one_payment,
    what_the_provider_has_must_be_what_we_asked_for,
    what_the_provider_takes_back_is_not_passed_on,
    what_is_booked_by_hand_is_booked_once,
    a_clock_that_is_behind_the_closed_books_is_told_from_a_fault,
    a_failed_payment_may_still_be_paid,
    what_nobody_pays_expires,
    a_refund_takes_everything_back,
    refunds_have_rules,
    a_failed_refund_leaves_everything_as_it_was,
    whatever_a_refund_meets_it_is_made_at_most_once,
    a_refund_that_was_given_up_may_still_happen,
    parts_that_go_back_are_the_whole_in_the_end,
    a_part_of_a_transfer_comes_back_once_whatever_it_meets,
    a_part_goes_back_while_a_transfer_is_in_flight,
    a_part_that_was_given_up_may_still_go_back,
    a_dispute_keeps_what_the_bank_may_take,
    a_lost_dispute_takes_the_sale_back_until_it_is_won,
    what_a_bank_takes_twice_is_our_loss,
    disputes_of_subscriptions_end_them,
    a_dispute_is_found_whoever_tells,
    whatever_a_transfer_meets_it_is_made_once,
    a_transfer_that_is_refused_is_given_up_after_five_tries,
    a_transfer_waits_for_an_account_and_for_money,
    a_reversal_takes_what_there_is,
    a_reversal_ends_whatever_it_finds,
    a_transfer_in_flight_is_taken_back_when_it_lands,
    debts_are_paid_by_later_sales,
    a_comparison_finds_what_nobody_told,
    subscriptions_let_in_whoever_paid,
    subscriptions_go_on_by_what_was_saved,
    a_renewal_that_fails_is_tried_again_until_the_end,
    whatever_a_renewal_meets_it_is_paid_once,
    what_is_paid_after_the_end_goes_back,
    banks_and_refunds_take_an_invoice_once,
    an_end_is_taken_back_as_long_as_it_is_paid_for,
    who_leaves_is_not_charged,
    what_arrives_twice_is_one_object,
    webhooks_in_any_order_come_to_the_same_end,
    webhooks_are_logged_and_believed_only_as_hints,
    products_are_changed_by_their_sellers,
    an_alarm_about_a_refund_goes_when_the_provider_corrects_it,
    a_list_of_money_costs_as_many_statements_for_many_as_for_few,
];

#[test]
fn money_keeps_its_word_on_sqlite() {
    databases::on_sqlite(CASES);
}

#[test]
fn money_keeps_its_word_on_postgresql() {
    databases::on_postgresql(CASES);
}

/// docs/OPERATIONS.md: a role that cannot change the past is enough for all of it.
#[test]
fn money_keeps_its_word_for_a_role_that_cannot_change_the_past() {
    databases::as_a_server_of_postgresql(CASES);
}

#[test]
fn money_keeps_its_word_behind_pgbouncer() {
    databases::behind_pgbouncer(&CASES[..6]);
}

/// A case, and then the proof that everything still adds up.
async fn whole(db: Db, case: impl Future<Output = ()>) {
    case.await;
    let report = db.verify_ledger().await.unwrap();
    assert_eq!((report.wrong, report.differences), (0, vec![]));
}

const START_S: u64 = 1_700_000_000;

/// A shop with two sellers, and a world of providers.
pub(super) struct Shop {
    pub(super) payments: Payments,
    pub(super) world: Shared,
    pub(super) clock: Clock,
    keys: std::cell::Cell<u32>,
}

pub(super) fn usd() -> Currency {
    Currency::decode("USD").unwrap()
}

pub(super) fn options() -> Options {
    let plan = |id: &str, minor: i64, period_days, trial_days| Plan {
        id: id.into(),
        price: (minor > 0).then(|| Amount::new(minor, usd()).unwrap()),
        currency: usd(),
        period_days,
        trial_days,
        tax_bps: 1900,
        renews: true,
    };
    Options {
        terms: Terms { fee_bps: 1000, tax_bps: 0 },
        refund_days: 14,
        transfer_delay: Duration::ZERO,
        return_url: None,
        plans: vec![plan("free", 0, 0, 0), plan("pro", 1190, 30, 0), plan("try", 500, 30, 7)],
        hyperswitch_secret: Some(Secret::new(HYPERSWITCH_SECRET.as_bytes())),
        stripe_secrets: vec![Secret::new(STRIPE_SECRET.as_bytes())],
        backoff: BACKOFF,
        sweep_every: Duration::from_secs(3600),
    }
}

pub(super) fn new_product(seller: &str, title: &str, minor: i64) -> NewProduct {
    NewProduct {
        seller: seller.into(),
        track: Some(format!("trk_{title}")),
        title: title.into(),
        currency: usd(),
        preview_enabled: false,
        licences: vec![(LicenceKind::Personal, minor), (LicenceKind::Commercial, minor * 10)],
        images: vec![],
    }
}

impl Shop {
    pub(super) fn new(db: &Db) -> Shop {
        let clock = Clock::sim(START_S);
        let world = Shared::new(clock.clone());
        let (hyperswitch, stripe) = world.clients();
        let payments = Payments {
            db: db.clone(),
            hyperswitch: Some(hyperswitch),
            stripe: Some(stripe),
            options: options(),
            clock: clock.clone(),
        };
        Shop { payments, world, clock, keys: std::cell::Cell::new(0) }
    }

    fn db(&self) -> &Db {
        &self.payments.db
    }

    fn now_us(&self) -> i64 {
        self.clock.unix_us()
    }

    fn key(&self) -> String {
        self.keys.set(self.keys.get() + 1);
        format!("key-{}", self.keys.get())
    }

    /// A product of a seller who can be paid.
    pub(super) async fn product(&self, seller: &str, minor: i64) -> Product {
        let now_us = self.now_us();
        self.db().set_seller_account(seller, &format!("acct_{seller}"), now_us).await.unwrap();
        let key = self.key();
        let request = Request { subject: seller, key: &key, fingerprint: "f" };
        let new = new_product(seller, &format!("{seller}{minor}"), minor);
        offered(self.db(), &new, request, now_us).await
    }

    async fn order_of(&self, products: &[&Product]) -> Ordered {
        self.clock.advance(1); // so that ids sort by their order
        let key = self.key();
        let wanted: Vec<_> = products.iter().map(|product| (product.id.clone(), LicenceKind::Personal)).collect();
        let request = Request { subject: "usr_buyer", key: &key, fingerprint: "f" };
        self.payments.order("usr_buyer", &wanted, request).await.unwrap()
    }

    /// An order whose payment the provider has.
    async fn ordered(&self, products: &[&Product]) -> Order {
        match self.order_of(products).await {
            Ordered::Ready(order) => order,
            other => panic!("{other:?}"),
        }
    }

    /// The same, paid.
    async fn paid(&self, products: &[&Product]) -> Order {
        let order = self.ordered(products).await;
        self.world.with(|world| world.pay(&order.payment.id, "succeeded"));
        assert_eq!(self.payments.look_at_payment(&order.payment.id).await.unwrap(), Applied::Changed("paid"));
        self.order(&order.id).await
    }

    async fn order(&self, id: &OrderId) -> Order {
        self.db().order(id).await.unwrap().unwrap()
    }

    async fn ask_refund(&self, order: &OrderId, subject: &str, key: &str) -> Requested {
        self.ask_part(order, subject, key, None).await
    }

    async fn ask_part(&self, order: &OrderId, subject: &str, key: &str, minor: Option<i64>) -> Requested {
        let (by, request) = (By { subject, admin: false }, Request { subject, key, fingerprint: order.as_str() });
        let wanted = Wanted { minor, reason: Some("I did not like it") };
        self.payments.refund(order, by, wanted, request).await.unwrap()
    }

    async fn refunding_part(&self, order: &OrderId, minor: i64) -> Refund {
        match self.ask_part(order, "usr_buyer", &self.key(), Some(minor)).await {
            Requested::Claimed(Claim::New(refund)) => refund,
            other => panic!("{other:?}"),
        }
    }

    /// So much of an order goes back; how it stands then.
    async fn part_back(&self, order: &OrderId, minor: i64) -> Order {
        let refund = self.refunding_part(order, minor).await;
        assert_eq!(refund.amount.minor(), minor);
        self.world.with(|world| world.settle_refund(refund.id.as_str(), "succeeded"));
        assert_eq!(self.payments.look_at_refund(&refund.id).await.unwrap(), Applied::Changed("refunded"));
        self.order(order).await
    }

    async fn refunding(&self, order: &OrderId) -> Refund {
        match self.ask_refund(order, "usr_buyer", &self.key()).await {
            Requested::Claimed(Claim::New(refund)) => refund,
            other => panic!("{other:?}"),
        }
    }

    async fn transfer_of(&self, seller: &str) -> Transfer {
        self.db().transfers(seller, None, 10).await.unwrap().into_iter().next().unwrap()
    }

    /// (payable, reserved, receivable) of a seller.
    async fn balance(&self, seller: &str) -> (i64, i64, i64) {
        let balances = self.db().seller_balances(seller).await.unwrap();
        balances.first().map_or((0, 0, 0), |(_, payable, reserved, receivable)| (*payable, *reserved, *receivable))
    }

    async fn on_account(&self, code: &str) -> i64 {
        let sums = self.db().balance_as_of(&code.parse().unwrap(), AsOf::Now).await.unwrap().unwrap_or_default();
        sums.0 - sums.1
    }

    async fn licences(&self) -> Vec<bool> {
        let licences = self.db().licences("usr_buyer", None, 100).await.unwrap();
        licences.into_iter().map(|licence| licence.revoked_us.is_none()).collect()
    }

    async fn may_hear(&self, product: &Product) -> bool {
        let track = product.track.as_ref().unwrap().parse().unwrap();
        has_licence(&mut self.db().begin_read().await.unwrap(), "usr_buyer", track).await.unwrap()
    }

    /// The transfer of a seller's latest order, made.
    async fn transferred(&self, seller: &str) -> Transfer {
        assert!(self.payments.transfer_due().await.unwrap() > 0);
        let transfer = self.transfer_of(seller).await;
        assert_eq!(transfer.status, TransferStatus::Completed, "{transfer:?}");
        transfer
    }

    fn deliver(&self) -> Option<Value> {
        self.world.with(|world| world.events.pop_front())
    }

    async fn receive(&self, body: &str, signature: Option<&str>, sender: Sender) -> Received {
        let (source_ip, user_agent) = (Some("203.0.113.7"), Some("hyperswitch"));
        let envelope =
            Envelope { sender, signature, body: body.as_bytes(), source_ip, user_agent, request_id: "req-1" };
        self.payments.receive(envelope).await.unwrap()
    }
}

async fn a_purchase_is_licensed_and_passed_on(db: Db) {
    let shop = Shop::new(&db);
    let (a, b) = (shop.product("a", 1000).await, shop.product("b", 333).await);
    let order = shop.ordered(&[&a, &b]).await;
    assert_eq!((order.status, order.total.minor()), (OrderStatus::PendingPayment, 1333));
    assert!(order.payment.client_secret.is_some());
    assert_eq!(order.payment.id.len(), 30);
    assert!(shop.licences().await.is_empty(), "nothing before the money");
    shop.world.with(|world| world.pay(&order.payment.id, "succeeded"));
    assert_eq!(shop.payments.look_at_payment(&order.payment.id).await.unwrap(), Applied::Changed("paid"));
    let paid = shop.order(&order.id).await;
    assert_eq!((paid.status, paid.paid_us), (OrderStatus::Paid, Some(shop.now_us())));
    assert_eq!(shop.licences().await, [true, true]);
    assert!(shop.may_hear(&a).await && shop.may_hear(&b).await);
    // 10 % of 333 are 33.3: the largest remainder is the seller's.
    assert_eq!((shop.balance("a").await, shop.balance("b").await), ((900, 0, 0), (300, 0, 0)));
    assert_eq!(shop.on_account("psp:clearing:USD").await, 1333);
    assert_eq!(shop.on_account("platform:fees:USD").await, -133);
    assert_eq!(shop.payments.transfer_due().await.unwrap(), 2);
    for (seller, minor) in [("a", 900), ("b", 300)] {
        let transfer = shop.transfer_of(seller).await;
        assert_eq!((transfer.status, transfer.amount.minor()), (TransferStatus::Completed, minor));
        assert_eq!(shop.balance(seller).await, (0, 0, 0));
        let there = shop.world.with(|world| world.transfers[transfer.provider_id.as_ref().unwrap()].clone());
        assert_eq!(
            (there.amount, there.operation, there.group),
            (minor, transfer.id.to_string(), format!("order_{}", order.id))
        );
        assert_eq!(there.destination, format!("acct_{seller}"));
    }
    assert_eq!(shop.on_account("psp:clearing:USD").await, 133);
    assert_eq!(shop.payments.transfer_due().await.unwrap(), 0);
}

async fn what_is_asked_twice_is_done_once(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    let wanted = [(product.id.clone(), LicenceKind::Personal)];
    let ask = |fingerprint: &'static str| {
        shop.payments.order("usr_buyer", &wanted, Request { subject: "usr_buyer", key: "k", fingerprint })
    };
    let Ordered::Ready(first) = ask("f").await.unwrap() else { panic!() };
    let Ordered::Again(again) = ask("f").await.unwrap() else { panic!() };
    assert_eq!(first, again);
    assert!(matches!(ask("g").await.unwrap(), Ordered::Conflict(id) if id == first.id.as_str()));
    // The same key of somebody else is another key.
    let other = Request { subject: "usr_other", key: "k", fingerprint: "f" };
    let Ordered::Ready(other) = shop.payments.order("usr_other", &wanted, other).await.unwrap() else { panic!() };
    assert_ne!(other.id, first.id);
    assert_eq!(shop.world.with(|world| world.payments.len()), 2);
    shop.world.with(|world| world.pay(&first.payment.id, "succeeded"));
    assert_eq!(shop.payments.look_at_payment(&first.payment.id).await.unwrap(), Applied::Changed("paid"));
    let before = shop.order(&first.id).await;
    shop.clock.advance(60);
    assert_eq!(shop.payments.look_at_payment(&first.payment.id).await.unwrap(), Applied::Nothing);
    assert_eq!(shop.order(&first.id).await, before, "not even a time changes");
    assert_eq!(shop.balance("a").await, (900, 0, 0));
    assert_eq!(shop.payments.look_at_payment("pay_of_somebody_else").await.unwrap(), Applied::Unknown);
}

async fn orders_that_cannot_be_are_refused(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    let refused = async |buyer: &str, wanted: &[(ProductId, LicenceKind)]| {
        let key = shop.key();
        let request = Request { subject: buyer, key: &key, fingerprint: "f" };
        match shop.payments.order(buyer, wanted, request).await.unwrap() {
            Ordered::Refused(why) => why,
            other => panic!("{other:?}"),
        }
    };
    let (personal, extended) = (LicenceKind::Personal, LicenceKind::Extended);
    let id = || product.id.clone();
    assert_eq!(refused("x", &[]).await, Refusal::Items);
    assert_eq!(refused("x", &vec![(id(), personal); 21]).await, Refusal::Items);
    assert_eq!(refused("x", &[(id(), extended)]).await, Refusal::Licence(id(), extended));
    assert_eq!(refused("a", &[(id(), personal)]).await, Refusal::Own(id()));
    let unknown = ProductId::new(1);
    assert_eq!(refused("x", &[(unknown.clone(), personal)]).await, Refusal::Product(unknown));
    let yen = NewProduct { currency: Currency::decode("JPY").unwrap(), ..new_product("b", "yen", 500) };
    let request = Request { subject: "b", key: "yen", fingerprint: "f" };
    let yen = offered(&db, &yen, request, shop.now_us()).await;
    assert_eq!(refused("x", &[(id(), personal), (yen.id, personal)]).await, Refusal::Currencies);
    assert!(shop.world.with(|world| world.asked.is_empty()), "nobody was asked for anything");
}

async fn whatever_the_first_call_meets_there_is_one_payment(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    let wanted = [(product.id.clone(), LicenceKind::Personal)];
    for mood in [Mood::Deaf, Mood::Mute, Mood::Fails, Mood::FailsAfter, Mood::Busy, Mood::Locked, Mood::Late] {
        let key = shop.key();
        let ask =
            || shop.payments.order("usr_buyer", &wanted, Request { subject: "usr_buyer", key: &key, fingerprint: "f" });
        shop.world.with(|world| world.script.push_back(mood));
        let Ordered::Unknown(first, why) = ask().await.unwrap() else { panic!("{mood:?}") };
        assert_eq!(
            (first.status, first.payment.client_secret.clone()),
            (OrderStatus::Created, None),
            "{mood:?}: {why}"
        );
        if mood == Mood::Late {
            shop.world.with(|world| world.land());
        }
        let Ordered::Again(order) = ask().await.unwrap() else { panic!("{mood:?}") };
        assert_eq!((&order.id, order.status), (&first.id, OrderStatus::PendingPayment), "{mood:?}");
        assert!(order.payment.client_secret.is_some());
    }
    assert_eq!(shop.world.with(|world| world.payments.len()), 7, "one for each order");
    // Refused outright: by a provider that does not take what we send.
    shop.world.with(|world| world.payments.clear());
    let order = shop.ordered(&[&product]).await;
    shop.world.with(|world| world.script.extend([Mood::Deaf]));
    let Ordered::Unknown(lost, _) = shop.order_of(&[&product]).await else { panic!() };
    // It never arrived: the sweep expires what the provider does not know, and ends what nobody began to pay.
    shop.clock.advance(31 * 60);
    let swept = shop.payments.sweep().await.unwrap();
    assert_eq!(shop.order(&lost.id).await.status, OrderStatus::Expired);
    assert_eq!(shop.order(&order.id).await.status, OrderStatus::Expired);
    assert_eq!(shop.world.with(|world| world.payments[&order.payment.id].status.clone()), "cancelled");
    assert_eq!((swept.payments.looked, swept.payments.moved), (9, 9));
    assert_eq!(shop.payments.sweep().await.unwrap().payments.looked, 0);
}

async fn what_the_provider_has_must_be_what_we_asked_for(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    for (status, amount, currency) in [
        ("succeeded", 999, "USD"),
        ("succeeded", 1000, "EUR"),
        ("conflicted", 1000, "USD"),
        ("partially_captured", 1000, "USD"),
    ] {
        let order = shop.ordered(&[&product]).await;
        shop.world.with(|world| {
            world.pay(&order.payment.id, status);
            let payment = world.payments.get_mut(&order.payment.id).unwrap();
            (payment.amount, payment.currency) = (amount, currency.into());
        });
        let applied = shop.payments.look_at_payment(&order.payment.id).await.unwrap();
        assert!(matches!(&applied, Applied::Alarm(why) if why.contains(status)), "{applied:?}");
        let now = shop.order(&order.id).await;
        assert_eq!(now.status, OrderStatus::PendingPayment);
        assert!(now.payment.alarm.is_some());
        // What the provider corrects is believed.
        shop.world.with(|world| {
            let payment = world.payments.get_mut(&order.payment.id).unwrap();
            (payment.amount, payment.currency, payment.status) = (1000, "USD".into(), "succeeded".into());
        });
        assert_eq!(shop.payments.look_at_payment(&order.payment.id).await.unwrap(), Applied::Changed("paid"));
        assert_eq!(shop.order(&order.id).await.payment.alarm, None);
    }
    assert_eq!(shop.licences().await.len(), 4);
}

/// The provider voids a payment after it was captured, or loses it: an alarm, and nobody is paid; what is then given back goes
/// through our books alone, because the buyer has it already.
async fn what_the_provider_takes_back_is_not_passed_on(db: Db) {
    let shop = Shop::new(&db);
    for (number, state) in ["cancelled_post_capture", "cancelled", "failed", "expired"].into_iter().enumerate() {
        let seller = format!("s{number}");
        let product = shop.product(&seller, 1000).await;
        let order = shop.paid(&[&product]).await;
        let says = |state: &str| {
            shop.world.with(|world| world.payments.get_mut(&order.payment.id).unwrap().status = state.into());
        };
        let look = async || shop.payments.look_at_payment(&order.payment.id).await.unwrap();
        says(state);
        assert!(matches!(look().await, Applied::Alarm(why) if why.contains(state)), "{state}");
        assert_eq!(shop.payments.health().await.unwrap().alarms, 1);
        // It was further than that, and an old answer takes no alarm back.
        says("processing");
        assert_eq!(look().await, Applied::Nothing);
        says(state);
        let now = shop.order(&order.id).await;
        assert!(now.status == OrderStatus::Paid && now.payment.alarm.is_some(), "{now:?}");
        assert_eq!(shop.payments.transfer_due().await.unwrap(), 1);
        let waits = shop.transfer_of(&seller).await;
        assert_eq!((waits.status, waits.tries), (TransferStatus::Pending, 0));
        assert!(waits.error.unwrap().contains(state), "its reason");
        assert!(shop.world.with(|world| world.transfers.is_empty()), "nobody is paid");
        if number == 0 {
            // The provider says that it was a mistake.
            says("succeeded");
            assert_eq!(look().await, Applied::Nothing);
            assert_eq!(shop.payments.health().await.unwrap().alarms, 0);
            says(state);
            assert!(matches!(look().await, Applied::Alarm(_)));
        }
        // A part of it, and then the rest: nothing is asked of the provider, which would refuse it.
        let asked = shop.world.with(|world| world.refunds.len());
        for minor in [Some(400), None] {
            let refund = match shop.ask_part(&order.id, "usr_buyer", &shop.key(), minor).await {
                Requested::Claimed(Claim::New(refund)) => refund,
                other => panic!("{other:?}"),
            };
            assert_eq!(refund.status, RefundStatus::Succeeded);
        }
        assert_eq!(shop.world.with(|world| world.refunds.len()), asked);
        let now = shop.order(&order.id).await;
        assert_eq!((now.status, now.payment.alarm), (OrderStatus::Refunded, None));
        assert_eq!(shop.balance(&seller).await, (0, 0, 0));
        assert_eq!(look().await, Applied::Nothing, "all of it is back: nothing is wrong");
        assert_eq!(shop.payments.health().await.unwrap().alarms, 0);
    }
    assert!(shop.licences().await.iter().all(|valid| !valid));
    // An invoice that was paid likewise.
    let subscription = shop.subscribed("usr_sub").await;
    let payment = shop.db().invoices(&subscription.id).await.unwrap()[0].payment.clone();
    shop.world.with(|world| world.payments.get_mut(&payment).unwrap().status = "cancelled_post_capture".into());
    assert!(matches!(shop.payments.look_at_payment(&payment).await.unwrap(), Applied::Alarm(_)));
}

/// What an admin books from a statement: one for each reference, and a key means one thing.
async fn what_is_booked_by_hand_is_booked_once(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    shop.paid(&[&product]).await;
    let request = |key: &'static str, fingerprint: &'static str| Request { subject: "usr_admin", key, fingerprint };
    let amount = |minor| Amount::new(minor, usd()).unwrap();
    let pay = async |reference: &'static str, minor: i64, request: Request<'_>| {
        let (seller, reason, by) = ("a", "by bank transfer", "usr_admin");
        let payout = HandPayout { reference, seller, amount: amount(minor), reason, by };
        db.book_hand_payout(payout, request, shop.now_us()).await.unwrap()
    };
    assert_eq!(pay("h0", 901, request("k0", "h0")).await, HandBooked::Owes(900));
    assert_eq!(pay("h1", 100, request("k0", "h1")).await, HandBooked::New, "what was refused has used no key");
    assert_eq!(pay("h1", 100, request("k0", "h1")).await, HandBooked::Known);
    assert_eq!(pay("h1", 100, request("k1", "h1")).await, HandBooked::Known, "the reference makes it one, too");
    assert_eq!(pay("h1", 101, request("k2", "h1b")).await, HandBooked::Taken);
    assert_eq!(pay("h2", 1, request("k0", "h2")).await, HandBooked::KeyUsed("h1".into()));
    assert_eq!(shop.balance("a").await, (800, 0, 0));
    let fee = async |reference: &'static str, minor: i64, request: Request<'_>| {
        db.book_provider_fee(reference, amount(minor), request, shop.now_us()).await.unwrap()
    };
    assert!(matches!(fee("g1", 1, request("f0", "g1")).await, Ok(Posted::Created(_))));
    assert!(matches!(fee("g1", 1, request("f0", "g1")).await, Ok(Posted::Exists(_))));
    assert_eq!(fee("g2", 7, request("f0", "g2")).await, Err("g1".into()));
    assert!(matches!(fee("g1", 7, request("f1", "g1b")).await, Ok(Posted::IdTaken | Posted::SourceTaken(_))));
}

/// The books of a day are closed, and then the clock goes back: whoever asks may ask again, and a webhook waits.
async fn a_clock_that_is_behind_the_closed_books_is_told_from_a_fault(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    let order = shop.paid(&[&product]).await;
    let until_us = shop.now_us() + 86_400_000_000;
    let mut tx = db.begin().await.unwrap();
    match segue::db::ledger::close_period(&mut tx, until_us, until_us).await {
        Ok(()) => tx.commit().await.unwrap(),
        // A role that cannot change the past cannot close it, either.
        Err(error) => return assert!(error.chain().contains("permission denied"), "{error}"),
    }
    let (by, key) = (By { subject: "usr_buyer", admin: false }, shop.key());
    let request = Request { subject: "usr_buyer", key: &key, fingerprint: order.id.as_str() };
    let wanted = Wanted { minor: None, reason: None };
    let error = shop.payments.refund(&order.id, by, wanted, request).await.unwrap_err();
    assert!(error.kind() == Kind::Unavailable && error.chain().contains("clock"), "{error}");
    shop.clock.advance(86_401);
    shop.refunding(&order.id).await;
}

async fn a_failed_payment_may_still_be_paid(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    let order = shop.ordered(&[&product]).await;
    for (status, expected) in [
        ("processing", OrderStatus::PendingPayment),
        ("requires_customer_action", OrderStatus::PendingPayment),
        ("invented_in_2030", OrderStatus::PendingPayment),
        ("failed", OrderStatus::Failed),
        ("processing", OrderStatus::Failed),
        ("succeeded", OrderStatus::Paid),
    ] {
        shop.world.with(|world| world.pay(&order.payment.id, status));
        shop.payments.look_at_payment(&order.payment.id).await.unwrap();
        assert_eq!(shop.order(&order.id).await.status, expected, "{status}");
    }
    assert_eq!(shop.licences().await, [true]);
}

async fn what_nobody_pays_expires(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    let (idle, busy, quick) =
        (shop.ordered(&[&product]).await, shop.ordered(&[&product]).await, shop.ordered(&[&product]).await);
    shop.world.with(|world| world.pay(&busy.payment.id, "requires_customer_action"));
    shop.world.with(|world| world.pay(&quick.payment.id, "succeeded")); // and its webhook is lost
    shop.clock.advance(29 * 60);
    assert_eq!(shop.payments.sweep().await.unwrap().payments.looked, 0);
    shop.clock.advance(2 * 60);
    // A provider that does not answer leaves the row for the next sweep.
    shop.world.with(|world| world.script.extend([Mood::Deaf, Mood::Deaf, Mood::Deaf]));
    assert_eq!(shop.payments.sweep().await.unwrap().payments.unread, 3);
    shop.payments.sweep().await.unwrap();
    assert_eq!(shop.order(&idle.id).await.status, OrderStatus::Expired);
    assert_eq!(shop.order(&busy.id).await.status, OrderStatus::PendingPayment, "somebody is at it");
    assert_eq!(shop.order(&quick.id).await.status, OrderStatus::Paid);
    shop.world.with(|world| world.pay(&busy.payment.id, "expired"));
    shop.payments.sweep().await.unwrap();
    assert_eq!(shop.order(&busy.id).await.status, OrderStatus::Expired);
}

async fn a_refund_takes_everything_back(db: Db) {
    let shop = Shop::new(&db);
    let (a, b) = (shop.product("a", 1000).await, shop.product("b", 500).await);
    let order = shop.paid(&[&a, &b]).await;
    let other = shop.paid(&[&b]).await;
    let refund = shop.refunding(&order.id).await;
    assert_eq!((refund.status, refund.known_us.is_some()), (RefundStatus::Pending, true));
    assert_eq!(shop.order(&order.id).await.status, OrderStatus::RefundPending);
    assert_eq!(shop.balance("a").await, (900, 900, 0), "reserved, not taken");
    assert_eq!(shop.licences().await, [true; 3], "until the money is back");
    // Nobody is paid for an order while its refund is open.
    shop.payments.transfer_due().await.unwrap();
    let paid = shop.world.with(|world| world.transfers.values().map(|t| t.group.clone()).collect::<Vec<_>>());
    assert_eq!(paid, [format!("order_{}", other.id)]);
    shop.world.with(|world| world.settle_refund(refund.id.as_str(), "succeeded"));
    assert_eq!(shop.payments.look_at_refund(&refund.id).await.unwrap(), Applied::Changed("refunded"));
    let after = shop.order(&order.id).await;
    assert_eq!((after.status, after.refunded_us), (OrderStatus::Refunded, Some(shop.now_us())));
    assert_eq!(shop.licences().await, [true, false, false]);
    assert!(!shop.may_hear(&a).await && shop.may_hear(&b).await, "bought twice, given back once");
    for seller in ["a", "b"] {
        assert_eq!(shop.balance(seller).await, (0, 0, 0));
        let of =
            shop.db().transfers(seller, None, 10).await.unwrap().into_iter().find(|t| t.order == order.id).unwrap();
        assert_eq!(of.status, TransferStatus::PermanentlyFailed);
    }
    assert_eq!((shop.on_account("psp:clearing:USD").await, shop.on_account("platform:fees:USD").await), (50, -50));
    shop.clock.advance(7200);
    let again = (shop.db().refund(&refund.id).await.unwrap(), shop.order(&order.id).await);
    assert_eq!(shop.payments.look_at_refund(&refund.id).await.unwrap(), Applied::Nothing);
    assert_eq!((shop.db().refund(&refund.id).await.unwrap(), shop.order(&order.id).await), again);
    assert_eq!(shop.payments.transfer_due().await.unwrap(), 0);
}

async fn refunds_have_rules(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    let unpaid = shop.ordered(&[&product]).await;
    assert_eq!(shop.ask_refund(&unpaid.id, "usr_buyer", "r0").await, Requested::Not(OrderStatus::PendingPayment));
    let order = shop.paid(&[&product]).await;
    assert_eq!(shop.ask_refund(&order.id, "usr_stranger", "r1").await, Requested::NoOrder);
    assert_eq!(shop.ask_refund(&OrderId::new(1), "usr_buyer", "r1").await, Requested::NoOrder);
    shop.clock.advance(14 * 86_400 + 1);
    let until_us = order.paid_us.unwrap() + 14 * 86_400_000_000;
    assert_eq!(shop.ask_refund(&order.id, "usr_buyer", "r2").await, Requested::Closed(until_us));
    // Its own deadline goes before.
    shop.db().set_refund_deadline(&order.id, shop.now_us(), shop.now_us()).await.unwrap();
    let Requested::Claimed(Claim::New(refund)) = shop.ask_refund(&order.id, "a", "r3").await else { panic!() };
    assert_eq!(refund.requested_by, "a", "the seller may");
    assert_eq!(shop.ask_refund(&order.id, "usr_buyer", "r4").await, Requested::Already);
    let again = shop.ask_refund(&order.id, "a", "r3").await;
    assert!(matches!(&again, Requested::Claimed(Claim::Known(known)) if known.id == refund.id), "{again:?}");
    assert_eq!(shop.world.with(|world| world.refunds.len()), 1);
    let admin = By { subject: "usr_admin", admin: true };
    let request = Request { subject: "usr_admin", key: "r5", fingerprint: "f" };
    let other = shop.paid(&[&product]).await;
    let asked = shop.payments.refund(&other.id, admin, Wanted::default(), request).await.unwrap();
    assert!(matches!(asked, Requested::Claimed(Claim::New(_))));
}

async fn a_failed_refund_leaves_everything_as_it_was(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    let order = shop.paid(&[&product]).await;
    let refund = shop.refunding(&order.id).await;
    shop.world.with(|world| world.settle_refund(refund.id.as_str(), "review")); // no event for it
    assert_eq!(shop.payments.look_at_refund(&refund.id).await.unwrap(), Applied::Nothing);
    shop.world.with(|world| world.settle_refund(refund.id.as_str(), "failed"));
    shop.clock.advance(31 * 60);
    assert_eq!(shop.payments.sweep().await.unwrap().refunds.moved, 1);
    let failed = shop.db().refund(&refund.id).await.unwrap().unwrap();
    assert_eq!((failed.status, failed.error.as_deref()), (RefundStatus::Failed, Some("the bank said no")));
    assert_eq!(shop.order(&order.id).await.status, OrderStatus::Paid);
    assert_eq!((shop.balance("a").await, shop.licences().await), ((900, 0, 0), vec![true]));
    // And so it can be asked for again.
    let second = shop.refunding(&order.id).await;
    shop.world.with(|world| world.settle_refund(second.id.as_str(), "succeeded"));
    assert_eq!(shop.payments.look_at_refund(&second.id).await.unwrap(), Applied::Changed("refunded"));
    assert_eq!(shop.on_account("psp:clearing:USD").await, 0);
}

async fn whatever_a_refund_meets_it_is_made_at_most_once(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    for mood in [Mood::Deaf, Mood::Mute, Mood::Fails, Mood::FailsAfter, Mood::Busy, Mood::Locked] {
        let order = shop.paid(&[&product]).await;
        shop.world.with(|world| world.script.push_back(mood));
        let refund = shop.refunding(&order.id).await;
        let there = shop.world.with(|world| world.refunds.contains_key(refund.id.as_str()));
        if mood == Mood::Locked {
            // It certainly was not done.
            assert_eq!((refund.status, there), (RefundStatus::Failed, false));
            assert_eq!(shop.order(&order.id).await.status, OrderStatus::Paid);
            continue;
        }
        assert_eq!((refund.status, refund.known_us), (RefundStatus::Pending, None), "{mood:?}");
        assert!(refund.error.is_some());
        // Nobody knew: the sweep looks for it by our own id, and only what is not there has failed.
        shop.clock.advance(5 * 60 + 1);
        let swept = shop.payments.sweep().await.unwrap();
        assert_eq!(swept.orphans.looked, 1, "{mood:?}");
        let refund = shop.db().refund(&refund.id).await.unwrap().unwrap();
        match there {
            true => assert_eq!((refund.status, refund.known_us.is_some()), (RefundStatus::Pending, true), "{mood:?}"),
            false => assert_eq!(refund.status, RefundStatus::Failed, "{mood:?}"),
        }
        let order = shop.order(&order.id).await;
        assert_eq!(order.status == OrderStatus::RefundPending, there, "{mood:?}");
        if there {
            shop.world.with(|world| world.settle_refund(refund.id.as_str(), "succeeded"));
            assert_eq!(shop.payments.look_at_refund(&refund.id).await.unwrap(), Applied::Changed("refunded"));
        }
    }
    // The same key again, before the sweep: it looks, and asks once more for what is not there.
    let order = shop.paid(&[&product]).await;
    shop.world.with(|world| world.script.push_back(Mood::Deaf));
    let _ = shop.ask_refund(&order.id, "usr_buyer", "again").await;
    let Requested::Claimed(Claim::Known(refund)) = shop.ask_refund(&order.id, "usr_buyer", "again").await else {
        panic!()
    };
    assert!(refund.known_us.is_some());
    // What is not what we asked for is not believed.
    shop.world.with(|world| {
        let there = world.refunds.get_mut(refund.id.as_str()).unwrap();
        (there.amount, there.status) = (1, "succeeded".into());
    });
    assert!(matches!(shop.payments.look_at_refund(&refund.id).await.unwrap(), Applied::Alarm(_)));
    assert_eq!(shop.order(&order.id).await.status, OrderStatus::RefundPending);
}

async fn a_refund_that_was_given_up_may_still_happen(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    let order = shop.paid(&[&product]).await;
    shop.world.with(|world| world.script.push_back(Mood::Late));
    let refund = shop.refunding(&order.id).await;
    shop.clock.advance(5 * 60 + 1);
    shop.payments.sweep().await.unwrap();
    assert_eq!(shop.order(&order.id).await.status, OrderStatus::Paid);
    let transfer = shop.transferred("a").await;
    // Now the request arrives after all, and the buyer asks for another refund, which the provider refuses.
    shop.world.with(|world| world.land());
    let second = shop.refunding(&order.id).await;
    assert_eq!(second.status, RefundStatus::Failed, "more than was captured");
    shop.world.with(|world| world.settle_refund(refund.id.as_str(), "succeeded"));
    assert_eq!(shop.payments.look_at_refund(&refund.id).await.unwrap(), Applied::Changed("refunded"));
    assert_eq!((shop.order(&order.id).await.status, shop.licences().await), (OrderStatus::Refunded, vec![false]));
    assert_eq!(shop.balance("a").await, (0, 0, 900), "the seller was paid, and owes it");
    assert_eq!(shop.db().transfer(&transfer.id).await.unwrap().unwrap().status, TransferStatus::ReversalPending);
}

async fn parts_that_go_back_are_the_whole_in_the_end(db: Db) {
    let shop = Shop::new(&db);
    let (a, b) = (shop.product("a", 1000).await, shop.product("b", 333).await);
    let order = shop.paid(&[&a, &b]).await;
    // Before anybody is paid: sellers get less.
    let after = shop.part_back(&order.id, 101).await;
    assert_eq!((after.status, after.returned_minor, after.refunded_us), (OrderStatus::Paid, 101, None));
    assert_eq!(shop.licences().await, [true, true], "a part is given back, not the licence");
    // 900, 100, 300 and 33 of 1333: 68.19, 7.58, 22.73 and 2.50 of 101.
    assert_eq!((shop.balance("a").await, shop.balance("b").await), ((832, 0, 0), (277, 0, 0)));
    assert_eq!(shop.on_account("platform:fees:USD").await, -123);
    assert_eq!(shop.payments.transfer_due().await.unwrap(), 2);
    for (seller, minor) in [("a", 832), ("b", 277)] {
        let transfer = shop.transfer_of(seller).await;
        let made = shop.world.with(|world| world.transfers[transfer.provider_id.as_ref().unwrap()].amount);
        assert_eq!((transfer.status, transfer.amount.minor(), made), (TransferStatus::Completed, minor, minor));
    }
    // Afterwards: a part of each transfer comes back, and it stays completed.
    let after = shop.part_back(&order.id, 500).await;
    assert_eq!((after.status, after.returned_minor), (OrderStatus::Paid, 601));
    let owed = (shop.balance("a").await.2, shop.balance("b").await.2);
    assert_eq!(shop.payments.reverse_due().await.unwrap(), 2);
    for (seller, minor) in [("a", owed.0), ("b", owed.1)] {
        let transfer = shop.transfer_of(seller).await;
        let back = shop.world.with(|world| world.transfers[transfer.provider_id.as_ref().unwrap()].reversed);
        assert_eq!((transfer.status, transfer.reversed_minor, back), (TransferStatus::Completed, minor, minor));
        assert_eq!((shop.balance(seller).await, transfer.next_us), ((0, 0, 0), None));
    }
    assert_eq!(shop.payments.reverse_due().await.unwrap(), 0);
    // Never more than is left, and never nothing.
    for minor in [733, 0, -1, i64::MAX] {
        let asked = shop.ask_part(&order.id, "usr_buyer", &shop.key(), Some(minor)).await;
        assert_eq!(asked, Requested::Left(732), "{minor}");
    }
    let open = shop.refunding_part(&order.id, 1).await;
    assert_eq!(shop.ask_part(&order.id, "usr_buyer", &shop.key(), Some(1)).await, Requested::Already);
    shop.world.with(|world| world.settle_refund(open.id.as_str(), "failed"));
    assert_eq!(shop.payments.look_at_refund(&open.id).await.unwrap(), Applied::Changed("refund_failed"));
    assert_eq!(
        (shop.order(&order.id).await.status, shop.order(&order.id).await.returned_minor),
        (OrderStatus::Paid, 601)
    );
    // All that is left: without an amount.
    let rest = shop.refunding(&order.id).await;
    assert_eq!(rest.amount.minor(), 732);
    shop.world.with(|world| world.settle_refund(rest.id.as_str(), "succeeded"));
    assert_eq!(shop.payments.look_at_refund(&rest.id).await.unwrap(), Applied::Changed("refunded"));
    let after = shop.order(&order.id).await;
    assert_eq!((after.status, after.returned_minor, after.refunded_us.is_some()), (OrderStatus::Refunded, 1333, true));
    assert_eq!(shop.licences().await, [false, false]);
    assert_eq!(shop.payments.reverse_due().await.unwrap(), 2);
    for seller in ["a", "b"] {
        let transfer = shop.transfer_of(seller).await;
        assert_eq!((transfer.status, transfer.reversed_minor), (TransferStatus::Reversed, transfer.amount.minor()));
        assert_eq!(shop.balance(seller).await, (0, 0, 0));
    }
    assert_eq!((shop.on_account("psp:clearing:USD").await, shop.on_account("platform:fees:USD").await), (0, 0));
    assert_eq!(shop.ask_part(&order.id, "usr_buyer", &shop.key(), Some(1)).await, Requested::Already);
    assert_eq!(shop.world.with(|world| world.platform), 0);
}

async fn a_part_of_a_transfer_comes_back_once_whatever_it_meets(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    for at in 0..3 {
        for mood in [Mood::Deaf, Mood::Mute, Mood::Fails, Mood::FailsAfter, Mood::Busy, Mood::Locked, Mood::Late] {
            let order = shop.paid(&[&product]).await;
            let transfer = shop.transferred("a").await;
            shop.part_back(&order.id, 100).await;
            shop.world.with(|world| world.script.extend(std::iter::repeat_n(Mood::Fine, at).chain([mood])));
            shop.payments.reverse_due().await.unwrap();
            // More has to come back while nobody knows of the first: twice the same amount is not once.
            shop.part_back(&order.id, 100).await;
            shop.world.with(|world| world.land());
            for _ in 0..3 {
                shop.clock.advance(301);
                shop.payments.reverse_due().await.unwrap();
            }
            let now = shop.db().transfer(&transfer.id).await.unwrap().unwrap();
            let back = shop.world.with(|world| world.transfers[now.provider_id.as_ref().unwrap()].reversed);
            assert_eq!(
                (now.status, now.reversed_minor, now.due_back_minor, back),
                (TransferStatus::Completed, 180, 180, 180),
                "{at} {mood:?}"
            );
            assert_eq!(shop.balance("a").await, (0, 0, 0), "{at} {mood:?}");
        }
    }
    // The seller has spent it: after five tries they owe it, and what they were paid stays paid.
    let order = shop.paid(&[&product]).await;
    let transfer = shop.transferred("a").await;
    shop.part_back(&order.id, 500).await;
    shop.world.with(|world| world.accounts.insert("acct_a".into(), 0));
    for _ in 0..5 {
        assert_eq!(shop.payments.reverse_due().await.unwrap(), 1);
        shop.clock.advance(3601);
    }
    assert_eq!(shop.payments.reverse_due().await.unwrap(), 0);
    let now = shop.db().transfer(&transfer.id).await.unwrap().unwrap();
    assert_eq!((now.status, now.reversed_minor, now.refusals), (TransferStatus::Completed, 0, 5));
    assert_eq!(shop.balance("a").await, (0, 0, 450));
    assert_eq!(shop.payments.health().await.unwrap().failed_transfers_at_max_retry, 1);
    // Another refund tries again, and takes it all.
    shop.world.with(|world| world.accounts.insert("acct_a".into(), 10_000));
    shop.part_back(&order.id, 100).await;
    assert_eq!(shop.payments.reverse_due().await.unwrap(), 1);
    let now = shop.db().transfer(&transfer.id).await.unwrap().unwrap();
    assert_eq!((now.reversed_minor, shop.balance("a").await), (540, (0, 0, 0)));
    // Somebody takes more back by hand than anybody wanted: it is theirs again.
    shop.world.with(|world| world.reverse(now.provider_id.as_ref().unwrap(), 60));
    assert!(shop.payments.look_at_transfer(now.provider_id.as_ref().unwrap()).await.unwrap());
    assert_eq!(shop.balance("a").await, (60, 0, 0));
}

async fn a_part_goes_back_while_a_transfer_is_in_flight(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    // It was made: a part of it comes back when that is known.
    let order = shop.paid(&[&product]).await;
    shop.world.with(|world| world.script.push_back(Mood::Mute));
    shop.payments.transfer_due().await.unwrap();
    shop.part_back(&order.id, 400).await;
    assert_eq!(shop.balance("a").await, (900, 900, 360));
    shop.clock.advance(61);
    let landed = shop.transferred("a").await;
    assert_eq!((landed.due_back_minor, landed.next_us), (360, Some(shop.now_us())));
    assert_eq!(shop.payments.reverse_due().await.unwrap(), 1);
    assert_eq!((shop.transfer_of("a").await.reversed_minor, shop.balance("a").await), (360, (0, 0, 0)));
    // It was not: less is asked for.
    let order = shop.paid(&[&product]).await;
    shop.world.with(|world| world.script.push_back(Mood::Deaf));
    shop.payments.transfer_due().await.unwrap();
    shop.part_back(&order.id, 400).await;
    shop.world.with(|world| world.poor = true);
    shop.clock.advance(61);
    shop.payments.transfer_due().await.unwrap();
    let less = shop.transfer_of("a").await;
    assert_eq!((less.status, less.amount.minor(), less.due_back_minor), (TransferStatus::Failed, 540, 0));
    assert_eq!(shop.balance("a").await, (540, 0, 0), "what they have paid what they owed");
    shop.world.with(|world| world.poor = false);
    shop.clock.advance(301);
    assert_eq!(shop.transferred("a").await.amount.minor(), 540);
    assert_eq!(shop.balance("a").await, (0, 0, 0));
}

async fn a_part_that_was_given_up_may_still_go_back(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    let order = shop.paid(&[&product]).await;
    shop.world.with(|world| world.script.push_back(Mood::Late));
    let late = shop.refunding_part(&order.id, 300).await;
    shop.clock.advance(5 * 60 + 1);
    shop.payments.sweep().await.unwrap();
    assert_eq!(shop.order(&order.id).await.status, OrderStatus::Paid);
    // Another one is on its way when the first arrives after all.
    let second = shop.refunding_part(&order.id, 700).await;
    assert!(second.known_us.is_some());
    shop.world.with(|world| {
        world.land();
        world.settle_refund(late.id.as_str(), "succeeded");
    });
    assert_eq!(shop.payments.look_at_refund(&late.id).await.unwrap(), Applied::Changed("refunded"));
    let between = shop.order(&order.id).await;
    assert_eq!((between.status, between.returned_minor), (OrderStatus::RefundPending, 300));
    assert_eq!(shop.licences().await, [true]);
    shop.world.with(|world| world.settle_refund(second.id.as_str(), "succeeded"));
    assert_eq!(shop.payments.look_at_refund(&second.id).await.unwrap(), Applied::Changed("refunded"));
    assert_eq!((shop.order(&order.id).await.status, shop.licences().await), (OrderStatus::Refunded, vec![false]));
    assert_eq!((shop.balance("a").await, shop.on_account("psp:clearing:USD").await), ((0, 0, 0), 0));
    assert_eq!(shop.on_account("platform:fees:USD").await, 0);
}

async fn a_dispute_keeps_what_the_bank_may_take(db: Db) {
    let shop = Shop::new(&db);
    let (a, b) = (shop.product("a", 1000).await, shop.product("b", 500).await);
    let order = shop.paid(&[&a, &b]).await;
    let id = shop.world.with(|world| world.dispute(&order.payment.id, 1500));
    assert_eq!(shop.payments.look_at_dispute(&id).await.unwrap(), Applied::Changed("dispute_opened"));
    assert_eq!(shop.payments.look_at_dispute(&id).await.unwrap(), Applied::Nothing);
    assert_eq!((shop.balance("a").await, shop.balance("b").await), ((0, 0, 0), (0, 0, 0)));
    assert_eq!((shop.on_account("disputes:held:USD").await, shop.on_account("psp:clearing:USD").await), (-1500, 1500));
    assert_eq!((shop.order(&order.id).await.status, shop.licences().await), (OrderStatus::Paid, vec![true, true]));
    // Nobody is paid meanwhile, and nobody asks for a refund.
    shop.payments.transfer_due().await.unwrap();
    let waits = shop.transfer_of("a").await;
    assert_eq!((waits.status, waits.tries), (TransferStatus::Pending, 0));
    assert!(waits.error.unwrap().contains("dispute"));
    assert_eq!(shop.ask_refund(&order.id, "usr_buyer", "r").await, Requested::Disputed);
    shop.world.with(|world| world.decide(&id, "challenged"));
    assert_eq!(shop.payments.look_at_dispute(&id).await.unwrap(), Applied::Nothing);
    shop.world.with(|world| world.decide(&id, "won"));
    assert_eq!(shop.payments.look_at_dispute(&id).await.unwrap(), Applied::Changed("dispute_won"));
    assert_eq!(shop.on_account("disputes:held:USD").await, 0);
    assert_eq!(shop.on_account("platform:fees:USD").await, -150);
    shop.clock.advance(601);
    assert_eq!(shop.payments.transfer_due().await.unwrap(), 2);
    assert_eq!((shop.balance("a").await, shop.balance("b").await), ((0, 0, 0), (0, 0, 0)));
    assert_eq!(shop.world.with(|world| world.platform), 150);
    // One about less, when sellers were paid: they owe their part of it; what is left can be refunded when it is lost.
    let small = shop.world.with(|world| world.dispute(&order.payment.id, 300));
    shop.payments.look_at_dispute(&small).await.unwrap();
    assert_eq!((shop.balance("a").await, shop.balance("b").await), ((0, 0, 180), (0, 0, 90)));
    shop.world.with(|world| world.decide(&small, "lost"));
    assert_eq!(shop.payments.look_at_dispute(&small).await.unwrap(), Applied::Changed("dispute_lost"));
    assert_eq!((shop.order(&order.id).await.status, shop.licences().await), (OrderStatus::Paid, vec![true, true]));
    assert_eq!(shop.payments.reverse_due().await.unwrap(), 2);
    assert_eq!((shop.balance("a").await, shop.balance("b").await), ((0, 0, 0), (0, 0, 0)));
    let asked = shop.ask_part(&order.id, "usr_buyer", "r2", Some(1201)).await;
    assert_eq!(asked, Requested::Left(1200));
    assert_eq!(shop.on_account("psp:clearing:USD").await, shop.world.with(|world| world.platform));
}

async fn a_lost_dispute_takes_the_sale_back_until_it_is_won(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    let order = shop.paid(&[&product]).await;
    let transfer = shop.transferred("a").await;
    let id = shop.world.with(|world| {
        let id = world.dispute(&order.payment.id, 1000);
        world.decide(&id, "lost");
        id
    });
    // Heard of for the first time when it is over.
    assert_eq!(shop.payments.look_at_dispute(&id).await.unwrap(), Applied::Changed("dispute_lost"));
    let dispute = shop.db().dispute(&id).await.unwrap().unwrap();
    assert_eq!((dispute.status, dispute.settled_us), (DisputeStatus::Lost, Some(shop.now_us())));
    let after = shop.order(&order.id).await;
    assert_eq!((after.status, after.returned_minor), (OrderStatus::Refunded, 1000));
    assert_eq!((shop.licences().await, shop.may_hear(&product).await), (vec![false], false));
    assert_eq!(shop.db().transfer(&transfer.id).await.unwrap().unwrap().status, TransferStatus::ReversalPending);
    shop.payments.reverse_due().await.unwrap();
    assert_eq!((shop.balance("a").await, shop.on_account("psp:clearing:USD").await), ((0, 0, 0), 0));
    // Opened again it stays lost; won after all, the buyer has paid and has what they paid for.
    shop.world.with(|world| world.decide(&id, "lost"));
    assert_eq!(shop.payments.look_at_dispute(&id).await.unwrap(), Applied::Nothing);
    shop.world.with(|world| world.decide(&id, "won"));
    assert_eq!(shop.payments.look_at_dispute(&id).await.unwrap(), Applied::Changed("dispute_won"));
    let again = shop.order(&order.id).await;
    assert_eq!((again.status, again.returned_minor, again.refunded_us), (OrderStatus::Paid, 0, None));
    assert_eq!((shop.licences().await, shop.may_hear(&product).await), (vec![true], true));
    assert_eq!((shop.balance("a").await, shop.on_account("psp:clearing:USD").await), ((900, 0, 0), 1000));
    // And lost again: opened and lost, each with its journal.
    shop.world.with(|world| world.decide(&id, "accepted"));
    assert_eq!(shop.payments.look_at_dispute(&id).await.unwrap(), Applied::Changed("dispute_lost"));
    assert_eq!(shop.order(&order.id).await.status, OrderStatus::Refunded);
    assert_eq!((shop.balance("a").await, shop.on_account("psp:clearing:USD").await), ((0, 0, 0), 0));
    let of = |source: &String| source.starts_with(&format!("hs:{id}:"));
    let turns: Vec<_> = db.ledger_sources().await.unwrap().into_iter().filter(of).collect();
    let named: Vec<_> = turns.iter().map(|source| source.rsplit(':').next().unwrap()).collect();
    assert_eq!(named, ["open", "lost", "won", "open", "lost"]);
}

async fn what_a_bank_takes_twice_is_our_loss(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    // Refunded, and disputed all the same.
    let order = shop.paid(&[&product]).await;
    let gone = shop.part_back(&order.id, 400).await;
    let id = shop.world.with(|world| world.dispute(&order.payment.id, 1000));
    shop.payments.look_at_dispute(&id).await.unwrap();
    assert_eq!(shop.db().dispute(&id).await.unwrap().unwrap().loss_minor, 400);
    assert_eq!(shop.on_account("platform:losses:USD").await, 400);
    shop.world.with(|world| world.decide(&id, "lost"));
    shop.payments.look_at_dispute(&id).await.unwrap();
    let after = shop.order(&order.id).await;
    assert_eq!((gone.status, after.status, after.returned_minor), (OrderStatus::Paid, OrderStatus::Refunded, 1000));
    assert_eq!((shop.on_account("psp:clearing:USD").await, shop.balance("a").await), (-400, (0, 0, 0)));
    shop.world.with(|world| world.decide(&id, "won"));
    shop.payments.look_at_dispute(&id).await.unwrap();
    assert_eq!(shop.on_account("platform:losses:USD").await, 0);
    assert_eq!((shop.on_account("psp:clearing:USD").await, shop.balance("a").await), (600, (540, 0, 0)));
    // A refund is on its way when the dispute opens: a loss, until the refund fails; then it is everybody's.
    let product = shop.product("b", 1000).await;
    for lost in [false, true] {
        let order = shop.paid(&[&product]).await;
        let before = shop.on_account("psp:clearing:USD").await;
        let refund = shop.refunding_part(&order.id, 300).await;
        let id = shop.world.with(|world| world.dispute(&order.payment.id, 1000));
        shop.payments.look_at_dispute(&id).await.unwrap();
        assert_eq!(shop.on_account("platform:losses:USD").await, 300);
        if lost {
            shop.world.with(|world| world.decide(&id, "lost"));
            shop.payments.look_at_dispute(&id).await.unwrap();
            assert_eq!(shop.order(&order.id).await.status, OrderStatus::RefundPending);
        }
        shop.world.with(|world| world.settle_refund(refund.id.as_str(), "failed"));
        assert_eq!(shop.payments.look_at_refund(&refund.id).await.unwrap(), Applied::Changed("refund_failed"));
        assert_eq!(shop.on_account("platform:losses:USD").await, 0, "lost first: {lost}");
        if !lost {
            shop.world.with(|world| world.decide(&id, "lost"));
            shop.payments.look_at_dispute(&id).await.unwrap();
        }
        assert_eq!(shop.order(&order.id).await.status, OrderStatus::Refunded, "lost first: {lost}");
        assert_eq!(shop.on_account("psp:clearing:USD").await, before - 1000, "lost first: {lost}");
        assert_eq!(shop.balance("b").await, (0, 0, 0), "lost first: {lost}");
    }
    // Of what was never paid there is nothing to dispute.
    let unpaid = shop.ordered(&[&product]).await;
    let id = shop.world.with(|world| world.dispute(&unpaid.payment.id, 1000));
    assert!(matches!(shop.payments.look_at_dispute(&id).await.unwrap(), Applied::Alarm(_)));
    assert_eq!(shop.db().dispute(&id).await.unwrap(), None);
}

async fn disputes_of_subscriptions_end_them(db: Db) {
    let shop = Shop::new(&db);
    let join = async |key: &str| {
        let request = Request { subject: "u", key, fingerprint: "pro" };
        let Joined::Pay(sub, payment, _) = shop.payments.subscribe("u", "pro", request).await.unwrap() else {
            panic!()
        };
        shop.world.with(|world| world.pay(&payment.id, "succeeded"));
        assert_eq!(shop.payments.look_at_payment(&payment.id).await.unwrap(), Applied::Changed("paid"));
        (sub.id, payment.id)
    };
    let status = async |id| shop.db().subscription(id).await.unwrap().unwrap().status;
    let (sub, payment) = join("k1").await;
    let id = shop.world.with(|world| world.dispute(&payment, 1190));
    shop.payments.look_at_dispute(&id).await.unwrap();
    let accounts = async || {
        let mut on = vec![];
        for code in ["platform:subscriptions:USD", "platform:tax:USD", "disputes:held:USD", "psp:clearing:USD"] {
            on.push(shop.on_account(code).await);
        }
        on
    };
    assert_eq!(accounts().await, [0, 0, -1190, 1190]);
    assert_eq!(status(&sub).await, SubStatus::Active, "until it is lost");
    shop.world.with(|world| world.decide(&id, "won"));
    shop.payments.look_at_dispute(&id).await.unwrap();
    assert_eq!(accounts().await, [-1000, -190, 0, 1190]);
    let id = shop.world.with(|world| world.dispute(&payment, 595));
    shop.world.with(|world| world.decide(&id, "lost"));
    shop.payments.look_at_dispute(&id).await.unwrap();
    assert_eq!((accounts().await, status(&sub).await), (vec![-500, -95, 0, 595], SubStatus::Expired));
    assert_eq!(shop.db().gate("u", shop.now_us()).await.unwrap(), Gate::Upgrade);
    let id = shop.world.with(|world| world.dispute(&payment, 1190));
    shop.payments.look_at_dispute(&id).await.unwrap();
    assert_eq!((accounts().await, shop.on_account("platform:losses:USD").await), (vec![0, 0, -1190, 595], 595));
}

async fn a_dispute_is_found_whoever_tells(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    let (told, listed) = (shop.paid(&[&product]).await, shop.paid(&[&product]).await);
    shop.world.with(|world| world.events.clear());
    // By a webhook, which is believed only as a hint.
    let one = shop.world.with(|world| world.dispute(&told.payment.id, 1000));
    let event = shop.deliver().unwrap().to_string();
    let lie = event.replace("dispute_opened", "dispute_lost");
    for body in [&lie, &event] {
        let signature = signed_512(body, HYPERSWITCH_SECRET);
        assert_eq!(shop.receive(body, Some(&signature), Sender::Hyperswitch).await, Received::Accepted);
    }
    shop.payments.process_webhooks().await.unwrap();
    assert_eq!(shop.db().dispute(&one).await.unwrap().unwrap().status, DisputeStatus::Open);
    // Its end by the sweep, which looks at what is open.
    shop.world.with(|world| world.decide(&one, "expired"));
    shop.world.with(|world| world.script.push_back(Mood::Deaf));
    assert_eq!(shop.payments.sweep().await.unwrap().disputes.unread, 1);
    assert_eq!(shop.payments.sweep().await.unwrap().disputes.moved, 1);
    assert_eq!(shop.payments.sweep().await.unwrap().disputes.looked, 0);
    assert_eq!(shop.order(&told.id).await.status, OrderStatus::Refunded);
    // One of which nobody told by the daily comparison.
    let two = shop.world.with(|world| world.dispute(&listed.payment.id, 10));
    shop.clock.advance(60);
    let compared = shop.payments.compare(shop.now_us() - 86_400_000_000, shop.now_us()).await.unwrap();
    assert_eq!((compared.moved, compared.strange), (1, 0));
    assert_eq!(shop.db().dispute(&two).await.unwrap().unwrap().status, DisputeStatus::Open);
    assert_eq!(shop.payments.look_at_dispute("dp_none").await.unwrap(), Applied::Unknown);
    let nothing = r#"{"event_id":"e3","event_type":"dispute_opened","content":{"object":{"payment_id":"pay_1"}}}"#;
    let signature = signed_512(nothing, HYPERSWITCH_SECRET);
    assert_eq!(shop.receive(nothing, Some(&signature), Sender::Hyperswitch).await, Received::Malformed);
}

async fn whatever_a_transfer_meets_it_is_made_once(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    let moods =
        [Mood::Deaf, Mood::Mute, Mood::Fails, Mood::FailsAfter, Mood::Busy, Mood::Locked, Mood::Nameless, Mood::Late];
    for mood in moods {
        shop.paid(&[&product]).await;
        shop.world.with(|world| world.script.push_back(mood));
        assert_eq!(shop.payments.transfer_due().await.unwrap(), 1);
        let transfer = shop.transfer_of("a").await;
        assert_eq!((transfer.status, transfer.submitted_us.is_some()), (TransferStatus::Pending, true), "{mood:?}");
        assert_eq!(shop.balance("a").await, (900, 900, 0), "{mood:?}: reserved while nobody knows");
        assert_eq!(shop.payments.transfer_due().await.unwrap(), 0, "not at once");
        if mood == Mood::Late {
            shop.world.with(|world| world.land());
        }
        shop.clock.advance(120);
        let transfer = shop.transferred("a").await;
        let made: Vec<_> = shop.world.with(|world| {
            world
                .transfers
                .iter()
                .filter(|(_, t)| t.operation == transfer.id.as_str())
                .map(|(id, _)| id.clone())
                .collect()
        });
        assert_eq!(made, [transfer.provider_id.clone().unwrap()], "{mood:?}");
        assert_eq!(shop.balance("a").await, (0, 0, 0), "{mood:?}");
    }
    // A saved failure answers under its key for a day: another key is needed, after a look.
    shop.paid(&[&product]).await;
    for tries in 0..7 {
        // From the second time on it looks before it asks.
        let looks = usize::from(tries > 0);
        shop.world.with(|world| world.script.extend(std::iter::repeat_n(Mood::Fine, looks).chain([Mood::Fails])));
        shop.payments.transfer_due().await.unwrap();
        shop.clock.advance(3600);
    }
    assert_eq!(shop.transfer_of("a").await.status, TransferStatus::Pending, "what may have been done is not given up");
    shop.world.with(|world| world.script.clear());
    shop.transferred("a").await;
    // Silence for longer than a key is good for.
    shop.paid(&[&product]).await;
    shop.world.with(|world| world.script.push_back(Mood::Deaf));
    shop.payments.transfer_due().await.unwrap();
    let before = shop.transfer_of("a").await.generation;
    shop.clock.advance(23 * 3600 + 1);
    assert_eq!(shop.transferred("a").await.tries, 0);
    assert_eq!(before, 0);
}

async fn a_transfer_that_is_refused_is_given_up_after_five_tries(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    shop.paid(&[&product]).await;
    shop.world.with(|world| world.closed.push("acct_a".into()));
    for attempt in 1..=5 {
        assert_eq!(shop.payments.transfer_due().await.unwrap(), 1, "{attempt}");
        let transfer = shop.transfer_of("a").await;
        assert_eq!((transfer.refusals, transfer.submitted_us), (attempt, None));
        let expected = if attempt < 5 { TransferStatus::Failed } else { TransferStatus::PermanentlyFailed };
        assert_eq!(transfer.status, expected);
        assert!(transfer.error.unwrap().contains("transfers_not_allowed"));
        assert_eq!(shop.balance("a").await, (900, 0, 0), "it is theirs again");
        // 1 min × 2ⁿ: half of it at least, and all of it at most.
        let minute = 60u64 << (attempt - 1);
        shop.clock.advance(minute / 2 - 1);
        assert_eq!(shop.payments.transfer_due().await.unwrap(), 0, "{attempt}");
        shop.clock.advance(minute / 2 + 2);
    }
    assert_eq!(shop.payments.transfer_due().await.unwrap(), 0);
    assert!(shop.world.with(|world| world.transfers.is_empty()));
}

async fn a_transfer_waits_for_an_account_and_for_money(db: Db) {
    let shop = Shop::new(&db);
    let key = shop.key();
    let request = Request { subject: "late", key: &key, fingerprint: "f" };
    let product = offered(&db, &new_product("late", "l", 1000), request, shop.now_us()).await;
    shop.paid(&[&product]).await;
    assert_eq!(shop.payments.transfer_due().await.unwrap(), 1);
    let waiting = shop.transfer_of("late").await;
    assert_eq!((waiting.status, waiting.tries), (TransferStatus::Pending, 0), "no try is lost to that");
    assert!(waiting.error.unwrap().contains("no account"));
    shop.db().set_seller_account("late", "acct_late", shop.now_us()).await.unwrap();
    shop.world.with(|world| world.poor = true);
    assert_eq!(shop.payments.transfer_due().await.unwrap(), 1);
    assert_eq!(shop.transfer_of("late").await.status, TransferStatus::Failed);
    shop.world.with(|world| world.poor = false);
    shop.clock.advance(61);
    shop.transferred("late").await;
}

/// A refunded order whose transfer has to come back.
async fn to_come_back(shop: &Shop, product: &Product) -> Transfer {
    let order = shop.paid(&[product]).await;
    shop.transferred(&product.seller).await;
    let refund = shop.refunding(&order.id).await;
    shop.world.with(|world| world.settle_refund(refund.id.as_str(), "succeeded"));
    assert_eq!(shop.payments.look_at_refund(&refund.id).await.unwrap(), Applied::Changed("refunded"));
    let transfer = shop.transfer_of(&product.seller).await;
    assert_eq!((transfer.status, transfer.next_us), (TransferStatus::ReversalPending, Some(shop.now_us())));
    transfer
}

async fn a_reversal_takes_what_there_is(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    let transfer = to_come_back(&shop, &product).await;
    assert_eq!(shop.balance("a").await, (0, 0, 900));
    let provider_id = transfer.provider_id.unwrap();
    // Somebody took a part back by hand, and the seller has spent the rest.
    shop.world.with(|world| {
        world.reverse(&provider_id, 300);
        world.accounts.insert("acct_a".into(), 100);
    });
    assert_eq!(shop.payments.reverse_due().await.unwrap(), 1);
    let blocked = shop.transfer_of("a").await;
    assert_eq!((blocked.status, blocked.reversed_minor, blocked.refusals), (TransferStatus::ReversalPending, 300, 1));
    assert!(blocked.error.unwrap().contains("not enough money"));
    assert_eq!(shop.balance("a").await, (0, 0, 600), "what came back is booked at once");
    shop.world.with(|world| world.accounts.insert("acct_a".into(), 5000));
    shop.clock.advance(61);
    assert_eq!(shop.payments.reverse_due().await.unwrap(), 1);
    let back = shop.transfer_of("a").await;
    assert_eq!((back.status, back.reversed_minor, back.next_us), (TransferStatus::Reversed, 900, None));
    assert_eq!(shop.balance("a").await, (0, 0, 0));
    assert_eq!(shop.on_account("psp:clearing:USD").await, 0);
    assert_eq!(shop.world.with(|world| world.transfers[&provider_id].reversed), 900);
}

async fn a_reversal_ends_whatever_it_finds(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    // Before the request, at it, and at the look after it.
    for at in 0..3 {
        for mood in [Mood::Deaf, Mood::Mute, Mood::Fails, Mood::FailsAfter, Mood::Busy, Mood::Locked, Mood::Late] {
            let transfer = to_come_back(&shop, &product).await;
            shop.world.with(|world| world.script.extend(std::iter::repeat_n(Mood::Fine, at).chain([mood])));
            shop.payments.reverse_due().await.unwrap();
            shop.world.with(|world| world.land());
            shop.clock.advance(61);
            shop.payments.reverse_due().await.unwrap();
            let back = shop.db().transfer(&transfer.id).await.unwrap().unwrap();
            assert_eq!((back.status, back.reversed_minor), (TransferStatus::Reversed, 900), "{at} {mood:?}");
            assert_eq!(shop.balance("a").await, (0, 0, 0), "{at} {mood:?}");
        }
    }
    // All of it came back by somebody's hand: no request of ours.
    let transfer = to_come_back(&shop, &product).await;
    shop.world.with(|world| {
        world.reverse(transfer.provider_id.as_ref().unwrap(), 900);
        world.asked.clear();
    });
    shop.payments.reverse_due().await.unwrap();
    assert_eq!(shop.transfer_of("a").await.status, TransferStatus::Reversed);
    assert!(shop.world.with(|world| world.asked.iter().all(|asked| asked.starts_with("GET"))));
    // The provider does not know it.
    let lost = to_come_back(&shop, &product).await;
    shop.world.with(|world| {
        world.transfers.remove(lost.provider_id.as_ref().unwrap());
        world.platform += 900;
    });
    shop.payments.reverse_due().await.unwrap();
    assert_eq!(shop.transfer_of("a").await.status, TransferStatus::PermanentlyFailed);
    assert_eq!(shop.balance("a").await, (0, 0, 900), "they owe it");
    // The seller never has it again.
    let product = shop.product("b", 1000).await;
    let poor = to_come_back(&shop, &product).await;
    shop.world.with(|world| world.accounts.insert("acct_b".into(), 0));
    for _ in 0..5 {
        assert_eq!(shop.payments.reverse_due().await.unwrap(), 1);
        shop.clock.advance(3601);
    }
    let poor = shop.db().transfer(&poor.id).await.unwrap().unwrap();
    assert_eq!((poor.status, poor.refusals), (TransferStatus::PermanentlyFailed, 5));
    assert_eq!(shop.payments.reverse_due().await.unwrap(), 0);
}

async fn a_transfer_in_flight_is_taken_back_when_it_lands(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    let order = shop.paid(&[&product]).await;
    shop.world.with(|world| world.script.push_back(Mood::Mute));
    shop.payments.transfer_due().await.unwrap();
    let refund = shop.refunding(&order.id).await;
    shop.world.with(|world| world.settle_refund(refund.id.as_str(), "succeeded"));
    assert_eq!(shop.payments.look_at_refund(&refund.id).await.unwrap(), Applied::Changed("refunded"));
    assert_eq!(shop.transfer_of("a").await.status, TransferStatus::Pending, "nobody knows yet");
    assert_eq!(shop.balance("a").await, (900, 900, 900));
    shop.clock.advance(61);
    shop.payments.transfer_due().await.unwrap();
    assert_eq!(shop.transfer_of("a").await.status, TransferStatus::ReversalPending);
    shop.payments.reverse_due().await.unwrap();
    assert_eq!(shop.transfer_of("a").await.status, TransferStatus::Reversed);
    assert_eq!(shop.balance("a").await, (0, 0, 0));
    // The other way: it turns out that it was never made. What they have pays what they owe.
    let order = shop.paid(&[&product]).await;
    shop.world.with(|world| world.script.push_back(Mood::Deaf));
    shop.payments.transfer_due().await.unwrap();
    let refund = shop.refunding(&order.id).await;
    shop.world.with(|world| world.settle_refund(refund.id.as_str(), "succeeded"));
    shop.payments.look_at_refund(&refund.id).await.unwrap();
    shop.world.with(|world| world.poor = true);
    shop.clock.advance(61);
    shop.payments.transfer_due().await.unwrap();
    assert_eq!(shop.transfer_of("a").await.status, TransferStatus::PermanentlyFailed);
    assert_eq!(shop.balance("a").await, (0, 0, 0));
}

async fn debts_are_paid_by_later_sales(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    let transfer = to_come_back(&shop, &product).await;
    assert_eq!(shop.balance("a").await, (0, 0, 900));
    shop.paid(&[&product]).await;
    assert_eq!(shop.balance("a").await, (0, 0, 0), "the next sale pays");
    shop.payments.transfer_due().await.unwrap();
    let uncovered = shop.transfer_of("a").await;
    assert_eq!((uncovered.status, uncovered.tries), (TransferStatus::Pending, 0));
    assert!(uncovered.error.unwrap().contains("does not cover"));
    shop.payments.reverse_due().await.unwrap();
    assert_eq!(shop.db().transfer(&transfer.id).await.unwrap().unwrap().status, TransferStatus::Reversed);
    assert_eq!(shop.balance("a").await, (900, 0, 0), "what came back after all is theirs again");
    shop.clock.advance(3601);
    shop.transferred("a").await;
}

async fn a_comparison_finds_what_nobody_told(db: Db) {
    const HOUR: i64 = 3_600_000_000;
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    let (late, refunded, lost) =
        (shop.paid(&[&product]).await, shop.paid(&[&product]).await, shop.paid(&[&product]).await);
    let failed = shop.ordered(&[&product]).await;
    shop.world.with(|world| world.pay(&failed.payment.id, "failed"));
    shop.payments.look_at_payment(&failed.payment.id).await.unwrap();
    // A refund that was given up arrives after all, another one succeeds, a failed payment is paid; no webhook tells.
    shop.world.with(|world| world.script.push_back(Mood::Late));
    let given_up = shop.refunding(&late.id).await;
    let known = shop.refunding(&refunded.id).await;
    shop.clock.advance(5 * 60 + 1);
    shop.payments.sweep().await.unwrap();
    assert_eq!(shop.db().refund(&given_up.id).await.unwrap().unwrap().status, RefundStatus::Failed);
    shop.world.with(|world| {
        world.land();
        for refund in [&given_up, &known] {
            world.settle_refund(refund.id.as_str(), "succeeded");
        }
        world.pay(&failed.payment.id, "succeeded");
        // And the provider has lost one, and has one that is not ours.
        let payment = world.payments.remove(&lost.payment.id).unwrap();
        world.payments.insert("pay_somebody_elses_1234567890a".into(), payment);
    });
    shop.clock.advance(2 * 3600);
    let day = |hours: i64| shop.payments.compare(shop.now_us() - hours * HOUR, shop.now_us());
    let compared = day(24).await.unwrap();
    assert_eq!((compared.looked, compared.moved, compared.strange, compared.missing), (6, 3, 1, 1));
    for (order, status) in
        [(&late, OrderStatus::Refunded), (&refunded, OrderStatus::Refunded), (&failed, OrderStatus::Paid)]
    {
        assert_eq!(shop.order(&order.id).await.status, status);
    }
    assert_eq!(day(24).await.unwrap().moved, 0);
    assert_eq!(day(1).await.unwrap().looked, 0, "only of that time");
    shop.world.with(|world| world.script.push_back(Mood::Deaf));
    assert!(day(24).await.is_err());
}

async fn subscriptions_let_in_whoever_paid(db: Db) {
    let mut shop = Shop::new(&db);
    let join = async |shop: &Shop, who: &str, plan: &str, key: &str| {
        shop.payments.subscribe(who, plan, Request { subject: who, key, fingerprint: plan }).await.unwrap()
    };
    let gate = async |shop: &Shop, who: &str| shop.db().gate(who, shop.now_us()).await.unwrap();
    assert!(matches!(join(&shop, "u", "none", "k0").await, Joined::NoPlan));
    // No provider: nothing is given away, and nothing is left behind.
    let provider = shop.payments.hyperswitch.take();
    assert!(matches!(join(&shop, "u", "pro", "k1").await, Joined::NoProvider));
    assert_eq!(gate(&shop, "u").await, Gate::Upgrade);
    assert!(matches!(join(&shop, "f", "free", "k1").await, Joined::InForce(s, _) if s.status == SubStatus::Active));
    assert_eq!(gate(&shop, "f").await, Gate::Open);
    shop.payments.hyperswitch = provider;
    let Joined::Pay(sub, payment, _) = join(&shop, "u", "pro", "k2").await else { panic!() };
    assert_eq!((sub.status, payment.id.as_str()), (SubStatus::PendingPayment, sub.id.as_str()));
    assert_eq!(gate(&shop, "u").await, Gate::CompletePayment);
    assert!(matches!(join(&shop, "u", "try", "k3").await, Joined::Live(id) if id == sub.id));
    let Completed::Pay(_, again) = shop.payments.complete("u", &sub.id).await.unwrap() else { panic!() };
    assert_eq!(again.client_secret, payment.client_secret);
    assert!(payment.client_secret.is_some());
    assert!(matches!(shop.payments.complete("f", &sub.id).await.unwrap(), Completed::NoSubscription));
    shop.world.with(|world| world.pay(&payment.id, "succeeded"));
    assert_eq!(shop.payments.look_at_payment(&payment.id).await.unwrap(), Applied::Changed("paid"));
    assert_eq!(shop.payments.look_at_payment(&payment.id).await.unwrap(), Applied::Nothing);
    assert_eq!(gate(&shop, "u").await, Gate::Open);
    assert!(matches!(shop.payments.complete("u", &sub.id).await.unwrap(), Completed::Not(SubStatus::Active)));
    let invoices = shop.db().invoices(&sub.id).await.unwrap();
    assert_eq!(
        (invoices[0].status, invoices[0].tax_minor, invoices[0].paid_us),
        (InvoiceStatus::Paid, 190, Some(shop.now_us()))
    );
    assert_eq!(shop.on_account("platform:subscriptions:USD").await, -1000);
    assert_eq!(shop.on_account("platform:tax:USD").await, -190);
    shop.clock.advance(30 * 86_400);
    assert_eq!(gate(&shop, "u").await, Gate::Upgrade, "at once, whenever the sweep comes");
    assert_eq!(shop.payments.sweep().await.unwrap().subscriptions, 1);
    assert_eq!(shop.db().subscription(&sub.id).await.unwrap().unwrap().status, SubStatus::Expired);
    // A trial, once in a life.
    assert!(matches!(join(&shop, "t", "try", "k4").await, Joined::InForce(s, _) if s.status == SubStatus::Trialing));
    assert_eq!(gate(&shop, "t").await, Gate::Open);
    shop.clock.advance(7 * 86_400);
    assert_eq!(gate(&shop, "t").await, Gate::Upgrade);
    shop.payments.sweep().await.unwrap();
    let Joined::Pay(second, payment, _) = join(&shop, "t", "try", "k5").await else { panic!() };
    // A payment that fails, and is paid after all: the invoice follows, the subscription has ended.
    shop.world.with(|world| world.pay(&payment.id, "failed"));
    assert_eq!(shop.payments.look_at_payment(&payment.id).await.unwrap(), Applied::Changed("failed"));
    assert_eq!(shop.db().subscription(&second.id).await.unwrap().unwrap().status, SubStatus::Expired);
    shop.world.with(|world| world.pay(&payment.id, "succeeded"));
    assert_eq!(shop.payments.look_at_payment(&payment.id).await.unwrap(), Applied::Changed("paid_too_late"));
    assert_eq!(shop.db().invoices(&second.id).await.unwrap()[0].status, InvoiceStatus::Paid);
    assert_eq!(gate(&shop, "t").await, Gate::Upgrade);
    // The first call meets every mood.
    for (n, mood) in [Mood::Deaf, Mood::Mute, Mood::FailsAfter, Mood::Busy].into_iter().enumerate() {
        let (who, key) = (format!("m{n}"), format!("k{n}"));
        shop.world.with(|world| world.script.push_back(mood));
        let Joined::Unknown(sub, _) = join(&shop, &who, "pro", &key).await else { panic!("{mood:?}") };
        let Completed::Pay(_, payment) = shop.payments.complete(&who, &sub.id).await.unwrap() else {
            panic!("{mood:?}")
        };
        assert!(payment.client_secret.is_some(), "{mood:?}");
    }
    let Joined::Pay(left, _, _) = join(&shop, "leaves", "pro", "k").await else { panic!() };
    assert!(shop.db().cancel_subscription(&left.id, false, shop.now_us()).await.unwrap());
    assert!(!shop.db().cancel_subscription(&left.id, false, shop.now_us()).await.unwrap());
    // Its payment is ended too, so that nobody pays for what they left.
    shop.clock.advance(40 * 60);
    shop.payments.sweep().await.unwrap();
    assert_eq!(shop.world.with(|world| world.payments[left.id.as_str()].status.clone()), "cancelled");
    assert_eq!(shop.db().invoices(&left.id).await.unwrap()[0].status, InvoiceStatus::Failed);
}

const DAY_S: u64 = 86_400;

impl Shop {
    /// Somebody with the plan "pro" (30 days), which they have paid for.
    async fn subscribed(&self, who: &str) -> Subscription {
        let request = Request { subject: who, key: "sub", fingerprint: "pro" };
        let Joined::Pay(sub, payment, _) = self.payments.subscribe(who, "pro", request).await.unwrap() else {
            panic!()
        };
        assert!(sub.renews, "{sub:?}");
        self.world.with(|world| world.pay(&payment.id, "succeeded"));
        assert_eq!(self.payments.look_at_payment(&payment.id).await.unwrap(), Applied::Changed("paid"));
        self.subscription(&sub).await
    }

    async fn subscription(&self, of: &Subscription) -> Subscription {
        self.db().subscription(&of.id).await.unwrap().unwrap()
    }

    /// Its invoices, the first one first.
    async fn billed(&self, of: &Subscription) -> Vec<InvoiceStatus> {
        let mut invoices = self.db().invoices(&of.id).await.unwrap();
        invoices.reverse();
        // What was paid for is in one piece.
        let paid: Vec<_> = invoices.iter().filter_map(|invoice| Some((invoice.from_us?, invoice.until_us?))).collect();
        assert!(paid.windows(2).all(|two| two[0].1 <= two[1].0), "{invoices:?}");
        invoices.iter().map(|invoice| invoice.status).collect()
    }

    fn renewals_are(&self, status: &str) {
        self.world.with(|world| world.renewals_are = status.into());
    }

    async fn lets_in(&self, who: &str) -> bool {
        self.db().gate(who, self.now_us()).await.unwrap() == Gate::Open
    }
}

/// Days after the start, as microseconds since 1970.
fn day(n: u64) -> Option<i64> {
    Some((START_S + n * DAY_S) as i64 * 1_000_000)
}

async fn subscriptions_go_on_by_what_was_saved(db: Db) {
    use InvoiceStatus::Paid;
    let mut shop = Shop::new(&db);
    let sub = shop.subscribed("u").await;
    assert_eq!((sub.status, sub.ends_us, sub.renew_next_us), (SubStatus::Active, day(30), day(27)));
    shop.clock.advance(27 * DAY_S - 1);
    assert_eq!(shop.payments.renew_due().await.unwrap(), 0, "three days before the end");
    shop.clock.advance(1);
    assert_eq!(shop.payments.renew_due().await.unwrap(), 1);
    assert_eq!(shop.payments.renew_due().await.unwrap(), 0);
    let renewed = shop.subscription(&sub).await;
    assert_eq!((renewed.ends_us, renewed.renew_next_us), (day(60), day(57)), "behind what was paid before");
    assert_eq!(shop.billed(&sub).await, [Paid, Paid]);
    assert_eq!(shop.on_account("platform:subscriptions:USD").await, -2000);
    assert_eq!(shop.on_account("platform:tax:USD").await, -380);
    shop.clock.advance(3 * DAY_S);
    assert!(shop.lets_in("u").await);
    assert_eq!(shop.payments.sweep().await.unwrap().subscriptions, 0);
    // Whoever ends it has what they paid for; nobody is asked for more.
    assert!(shop.db().cancel_subscription(&sub.id, false, shop.now_us()).await.unwrap());
    assert!(!shop.db().cancel_subscription(&sub.id, false, shop.now_us()).await.unwrap());
    let ending = shop.subscription(&sub).await;
    assert_eq!((ending.status, ending.renews, ending.renew_next_us), (SubStatus::Active, false, None));
    shop.clock.advance(29 * DAY_S);
    assert_eq!(shop.payments.renew_due().await.unwrap(), 0);
    assert!(shop.lets_in("u").await, "day 59");
    shop.clock.advance(DAY_S);
    assert!(!shop.lets_in("u").await);
    assert_eq!(shop.payments.sweep().await.unwrap().subscriptions, 1);
    assert_eq!(shop.subscription(&sub).await.status, SubStatus::Expired);
    // Or at once.
    let hasty = shop.subscribed("h").await;
    assert!(shop.db().cancel_subscription(&hasty.id, true, shop.now_us()).await.unwrap());
    assert_eq!((shop.subscription(&hasty).await.status, shop.lets_in("h").await), (SubStatus::Cancelled, false));
    // A plan that is not renewed any more; one that never was; and somebody who goes to their bank.
    let old = shop.subscribed("o").await;
    let angry = shop.subscribed("a").await;
    let dispute = shop.world.with(|world| world.dispute(angry.id.as_str(), 1190));
    shop.payments.look_at_dispute(&dispute).await.unwrap();
    shop.clock.advance(28 * DAY_S);
    shop.payments.options.plans.iter_mut().for_each(|plan| plan.renews = false);
    assert_eq!(shop.payments.renew_due().await.unwrap(), 2);
    let ending = shop.subscription(&old).await;
    assert_eq!((ending.status, ending.renews, shop.billed(&old).await), (SubStatus::Active, false, vec![Paid]));
    let request = Request { subject: "n", key: "n", fingerprint: "pro" };
    let Joined::Pay(never, payment, _) = shop.payments.subscribe("n", "pro", request).await.unwrap() else { panic!() };
    shop.world.with(|world| world.pay(&payment.id, "succeeded"));
    shop.payments.look_at_payment(&payment.id).await.unwrap();
    let never = shop.subscription(&never).await;
    assert_eq!((never.status, never.renews, never.renew_next_us), (SubStatus::Active, false, None));
    shop.payments.options.plans.iter_mut().for_each(|plan| plan.renews = true);
    let disputed = shop.subscribed("d").await;
    shop.clock.advance(27 * DAY_S);
    let dispute = shop.world.with(|world| world.dispute(disputed.id.as_str(), 100));
    shop.payments.look_at_dispute(&dispute).await.unwrap();
    assert_eq!(shop.payments.renew_due().await.unwrap(), 1);
    assert_eq!(shop.billed(&disputed).await, [Paid], "while the bank decides nobody is asked");
    shop.world.with(|world| world.decide(&dispute, "won"));
    shop.payments.look_at_dispute(&dispute).await.unwrap();
    shop.clock.advance(3_600);
    assert_eq!(shop.payments.renew_due().await.unwrap(), 1);
    assert_eq!(shop.billed(&disputed).await, [Paid, Paid]);
}

async fn a_renewal_that_fails_is_tried_again_until_the_end(db: Db) {
    use InvoiceStatus::{Failed, Open, Paid};
    let shop = Shop::new(&db);
    let sub = shop.subscribed("u").await;
    shop.clock.advance(27 * DAY_S);
    shop.renewals_are("failed");
    assert_eq!(shop.payments.renew_due().await.unwrap(), 1);
    assert_eq!((shop.billed(&sub).await, shop.subscription(&sub).await.renew_next_us), (vec![Paid, Failed], day(28)));
    assert_eq!(shop.payments.renew_due().await.unwrap(), 0, "not before a day has passed");
    shop.clock.advance(DAY_S);
    shop.renewals_are("succeeded");
    assert_eq!(shop.payments.renew_due().await.unwrap(), 1);
    let renewed = shop.subscription(&sub).await;
    assert_eq!((renewed.ends_us, renewed.renew_next_us), (day(60), day(57)));
    // A payment that had failed and is made after all is another period, and not lost.
    let failed = shop.db().invoices(&sub.id).await.unwrap()[1].clone();
    shop.world.with(|world| world.pay(&failed.payment, "succeeded"));
    assert_eq!(shop.payments.look_at_payment(&failed.payment).await.unwrap(), Applied::Changed("paid"));
    assert_eq!(shop.subscription(&sub).await.ends_us, day(90));
    assert_eq!(shop.db().invoices(&sub.id).await.unwrap().iter().filter(|invoice| invoice.status == Paid).count(), 3);
    // Three tries, and it ends.
    shop.renewals_are("failed");
    shop.clock.advance(59 * DAY_S);
    for (tried, next) in [(4, day(88)), (5, day(89)), (6, None)] {
        assert_eq!(shop.payments.renew_due().await.unwrap(), 1, "{tried}");
        let sub = shop.subscription(&sub).await;
        assert_eq!((shop.db().invoices(&sub.id).await.unwrap().len(), sub.renew_next_us), (tried, next));
        shop.clock.advance(DAY_S);
    }
    assert_eq!(shop.payments.renew_due().await.unwrap(), 0);
    assert_eq!(shop.payments.sweep().await.unwrap().subscriptions, 1);
    assert_eq!((shop.subscription(&sub).await.status, shop.lets_in("u").await), (SubStatus::Expired, false));
    assert_eq!(shop.on_account("platform:subscriptions:USD").await, -3000);
    // A bank that takes its time: nobody is asked twice, nobody is let in for free, and nothing ends before it is said.
    shop.renewals_are("processing");
    let slow = shop.subscribed("s").await;
    shop.clock.advance(27 * DAY_S);
    assert_eq!(shop.payments.renew_due().await.unwrap(), 1);
    shop.clock.advance(DAY_S);
    assert_eq!(shop.payments.renew_due().await.unwrap(), 1);
    assert_eq!(shop.billed(&slow).await, [Paid, Open]);
    shop.clock.advance(3 * DAY_S);
    assert_eq!(shop.payments.sweep().await.unwrap().subscriptions, 0);
    assert_eq!((shop.subscription(&slow).await.status, shop.lets_in("s").await), (SubStatus::Active, false));
    let payment = shop.db().invoices(&slow.id).await.unwrap()[0].payment.clone();
    shop.world.with(|world| world.pay(&payment, "succeeded"));
    assert_eq!(shop.payments.look_at_payment(&payment).await.unwrap(), Applied::Changed("paid"));
    assert!(shop.lets_in("s").await);
    let ends_us = shop.subscription(&slow).await.ends_us;
    assert_eq!(
        ends_us,
        Some(shop.now_us() + 30 * DAY_S as i64 * 1_000_000),
        "from now on: yesterday nobody was let in"
    );
    // Whoever is a person hears of it, as often as it fails.
    shop.renewals_are("failed");
    let person = Registration {
        id: UserId::new(shop.now_us()),
        email: Email::decode("u@example.org").unwrap(),
        name: None,
        password: "hash".into(),
    };
    assert!(shop.db().create_user(&person, Role::Listener, shop.now_us()).await.unwrap());
    let theirs = shop.subscribed(person.id.as_str()).await;
    let ends_us = shop.subscription(&theirs).await.ends_us;
    shop.clock.advance(27 * DAY_S);
    shop.payments.renew_due().await.unwrap();
    let mails = shop.db().take_mails(9, shop.now_us(), shop.now_us() + 1).await.unwrap();
    assert_eq!((mails.len(), mails[0].kind.as_str(), mails[0].email.as_str()), (1, "renewal-failed", "u@example.org"));
    let about: Value = serde_json::from_str(&mails[0].about).unwrap();
    assert_eq!((&about["plan"], about["ends_us"].as_i64()), (&Value::from("pro"), ends_us));
    assert!(about["next_us"].as_i64().is_some_and(|next_us| Some(next_us) < ends_us), "{about}");
    for done in [&slow, &theirs] {
        assert!(shop.db().cancel_subscription(&done.id, true, shop.now_us()).await.unwrap());
    }
    // One that says nothing for a week is not waited for.
    shop.renewals_are("processing");
    shop.subscribed("w").await;
    shop.clock.advance(27 * DAY_S);
    assert_eq!(shop.payments.renew_due().await.unwrap(), 1);
    shop.clock.advance(9 * DAY_S);
    assert_eq!(shop.payments.sweep().await.unwrap().subscriptions, 0);
    shop.clock.advance(DAY_S);
    assert_eq!(shop.payments.sweep().await.unwrap().subscriptions, 1);
}

async fn whatever_a_renewal_meets_it_is_paid_once(db: Db) {
    let shop = Shop::new(&db);
    let moods = [Mood::Deaf, Mood::Mute, Mood::Late, Mood::Fails, Mood::FailsAfter, Mood::Busy, Mood::Locked];
    for (n, mood) in moods.into_iter().enumerate() {
        let who = format!("u{n}");
        let sub = shop.subscribed(&who).await;
        shop.clock.advance(27 * DAY_S);
        shop.world.with(|world| world.script.push_back(mood));
        assert_eq!(shop.payments.renew_due().await.unwrap(), 1, "{mood:?}");
        shop.world.with(super::fakes::World::land);
        // Nobody asks again before it is known what came of it; then the next try.
        for _ in 0..3 {
            shop.clock.advance(DAY_S - 2_400);
            shop.payments.renew_due().await.unwrap();
            shop.clock.advance(2_400);
            shop.payments.sweep().await.unwrap();
        }
        let now = shop.subscription(&sub).await;
        assert_eq!(
            (now.status, now.ends_us),
            (SubStatus::Active, sub.ends_us.map(|us| us + day(30).unwrap() - day(0).unwrap())),
            "{mood:?}"
        );
        let paid = shop.world.with(|world| {
            let ours =
                |payment: &&super::fakes::Payment| payment.purpose == sub.id.as_str() && payment.status == "succeeded";
            world.payments.values().filter(ours).count()
        });
        assert_eq!(paid, 2, "{mood:?}");
        assert!(shop.db().cancel_subscription(&sub.id, true, shop.now_us()).await.unwrap());
    }
    // A card that was taken back by its owner is a refusal like any other.
    let sub = shop.subscribed("gone").await;
    shop.world.with(|world| world.payments.get_mut(sub.id.as_str()).unwrap().status = "cancelled".into());
    shop.clock.advance(27 * DAY_S);
    assert_eq!(shop.payments.renew_due().await.unwrap(), 1);
    assert_eq!(shop.billed(&sub).await, [InvoiceStatus::Paid, InvoiceStatus::Failed]);
}

/// A subscription that had ended when its payment came.
async fn paid_too_late(shop: &Shop, who: &str) -> String {
    let request = Request { subject: who, key: "late", fingerprint: "pro" };
    let Joined::Pay(sub, payment, _) = shop.payments.subscribe(who, "pro", request).await.unwrap() else { panic!() };
    assert!(shop.db().cancel_subscription(&sub.id, true, shop.now_us()).await.unwrap());
    shop.world.with(|world| world.pay(&payment.id, "succeeded"));
    assert_eq!(shop.payments.look_at_payment(&payment.id).await.unwrap(), Applied::Changed("paid_too_late"));
    assert_eq!(shop.payments.look_at_payment(&payment.id).await.unwrap(), Applied::Nothing);
    payment.id
}

impl Shop {
    /// The refunds of a payment: what the provider has.
    fn refunds_of(&self, payment: &str) -> Vec<(segue::ledger::refund::RefundId, String, i64)> {
        self.world.with(|world| {
            let own = world.refunds.iter().filter(|(_, refund)| refund.payment == payment);
            own.map(|(id, refund)| (id.parse().unwrap(), refund.status.clone(), refund.amount)).collect()
        })
    }

    /// Our income from subscriptions, tax, losses, what is kept for banks, and what the provider holds for us.
    async fn books(&self) -> [i64; 5] {
        let of = async |code: &str| self.on_account(&format!("{code}:USD")).await;
        let (income, tax) = (of("platform:subscriptions").await, of("platform:tax").await);
        [income, tax, of("platform:losses").await, of("disputes:held").await, of("psp:clearing").await]
    }

    async fn settled(&self, refund: &segue::ledger::refund::RefundId, status: &str) -> Applied {
        self.world.with(|world| world.settle_refund(refund.as_str(), status));
        self.payments.look_at_refund(refund).await.unwrap()
    }
}

async fn what_is_paid_after_the_end_goes_back(db: Db) {
    let shop = Shop::new(&db);
    let payment = paid_too_late(&shop, "u").await;
    // Asked for at once, and reserved; it ends as every refund does.
    let [(refund, status, minor)] = &shop.refunds_of(&payment)[..] else { panic!() };
    assert_eq!((status.as_str(), *minor), ("pending", 1190));
    assert_eq!(shop.books().await, [-1000, -190, 0, 0, 1190]);
    assert_eq!(shop.settled(refund, "succeeded").await, Applied::Changed("refunded"));
    assert_eq!(shop.books().await, [0; 5]);
    let sub = payment.parse().unwrap();
    let invoice = shop.db().invoices(&sub).await.unwrap().remove(0);
    assert_eq!(
        (invoice.status, invoice.from_us, invoice.returned_us),
        (InvoiceStatus::Paid, None, Some(shop.now_us()))
    );
    assert_eq!(
        (shop.db().gate("u", shop.now_us()).await.unwrap(), shop.settled(refund, "failed").await),
        (Gate::Upgrade, Applied::Nothing)
    );
    assert_eq!(db.clearing_difference().await.unwrap().values().sum::<i64>(), 0);
    // A renewal that a bank lets through when everything is over.
    shop.renewals_are("processing");
    let slow = shop.subscribed("s").await;
    shop.clock.advance(27 * DAY_S);
    shop.payments.renew_due().await.unwrap();
    let open = shop.payments.health().await.unwrap();
    assert_eq!((open.open_invoices, open.stuck_invoices_open), (1, 0));
    shop.clock.advance(11 * DAY_S);
    assert_eq!(shop.payments.sweep().await.unwrap().subscriptions, 1);
    let open = shop.payments.health().await.unwrap();
    assert_eq!((open.open_invoices, open.stuck_invoices_open), (1, 1), "for longer than a subscription waits");
    let late = shop.db().invoices(&slow.id).await.unwrap().remove(0).payment;
    shop.world.with(|world| world.pay(&late, "succeeded"));
    shop.payments.sweep().await.unwrap();
    assert_eq!(shop.refunds_of(&late).len(), 1);
    assert_eq!(shop.settled(&shop.refunds_of(&late)[0].0, "succeeded").await, Applied::Changed("refunded"));
    assert_eq!(shop.books().await, [-1000, -190, 0, 0, 1190], "the first period was used");
    assert_eq!(shop.payments.health().await.unwrap().open_invoices, 0);
    // Whatever the request meets, it is asked for once: by the sweep, when nobody knows.
    for (n, mood) in
        [Mood::Deaf, Mood::Mute, Mood::Late, Mood::Fails, Mood::FailsAfter, Mood::Busy].into_iter().enumerate()
    {
        let before = shop.books().await;
        let who = format!("m{n}");
        // The payment's look and the refund's are fine; then it is asked for.
        let request = Request { subject: &who, key: "late", fingerprint: "pro" };
        let Joined::Pay(sub, payment, _) = shop.payments.subscribe(&who, "pro", request).await.unwrap() else {
            panic!()
        };
        assert!(shop.db().cancel_subscription(&sub.id, true, shop.now_us()).await.unwrap());
        shop.world.with(|world| {
            world.pay(&payment.id, "succeeded");
            world.script.extend([Mood::Fine, Mood::Fine, mood]);
        });
        shop.payments.look_at_payment(&payment.id).await.unwrap();
        assert_eq!(shop.payments.health().await.unwrap().orphan_refund_rows, 0, "{mood:?}: not yet");
        shop.clock.advance(301);
        assert_eq!(shop.payments.health().await.unwrap().orphan_refund_rows, 1, "{mood:?}");
        assert_eq!(shop.payments.sweep().await.unwrap().orphans.looked, 1, "{mood:?}");
        shop.world.with(super::fakes::World::land);
        let [(refund, _, 1190)] = &shop.refunds_of(&payment.id)[..] else { panic!("{mood:?}") };
        assert_eq!(shop.settled(refund, "succeeded").await, Applied::Changed("refunded"), "{mood:?}");
        assert_eq!(shop.books().await, before, "{mood:?}");
    }
    // A bank that refuses: a person hears of it, and it is tried again, more and more rarely.
    let payment = paid_too_late(&shop, "f").await;
    for (tried, days) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 30), (7, 30)] {
        let all = shop.refunds_of(&payment);
        assert_eq!(all.len(), tried);
        let open = all.iter().find(|(_, status, _)| status == "pending").unwrap();
        assert_eq!(shop.settled(&open.0, "failed").await, Applied::Changed("refund_failed"));
        assert_eq!(shop.payments.health().await.unwrap().alarms, tried as i64);
        shop.clock.advance(days * DAY_S - 60);
        assert_eq!(shop.payments.sweep().await.unwrap().given_back.looked, 0, "not before {days} days have passed");
        shop.clock.advance(60);
        let again = shop.payments.sweep().await.unwrap().given_back;
        assert_eq!((again.looked, again.moved), (1, 1), "{tried}");
    }
    let last = shop.refunds_of(&payment).into_iter().find(|(_, status, _)| status == "pending").unwrap().0;
    assert_eq!(shop.settled(&last, "failed").await, Applied::Changed("refund_failed"));
    assert_eq!(shop.books().await, [-2000, -380, 0, 0, 2380]);
    // One that had failed goes through after all: nobody has to look any more.
    let first = shop.refunds_of(&payment).remove(0).0;
    shop.world.with(|world| {
        world.refunds.get_mut(first.as_str()).unwrap().status = "succeeded".into();
        world.platform -= 1190;
    });
    assert_eq!(shop.payments.look_at_refund(&first).await.unwrap(), Applied::Changed("refunded"));
    assert_eq!(shop.books().await, [-1000, -190, 0, 0, 1190]);
    assert_eq!(shop.payments.health().await.unwrap().alarms, 0);
    assert_eq!(shop.on_account("psp:clearing:USD").await, shop.world.with(|world| world.platform));
}

async fn banks_and_refunds_take_an_invoice_once(db: Db) {
    let shop = Shop::new(&db);
    let dispute = async |payment: &str, minor: i64, status: &str| {
        let id = shop.world.with(|world| world.dispute(payment, minor));
        shop.world.with(|world| world.decide(&id, status));
        shop.payments.look_at_dispute(&id).await.unwrap();
        id
    };
    // Given back, and disputed all the same: our loss, until the bank decides for us.
    let payment = paid_too_late(&shop, "a").await;
    let refund = shop.refunds_of(&payment).remove(0).0;
    let id = dispute(&payment, 300, "lost").await;
    assert_eq!(shop.books().await, [-1000, -190, 300, 0, 890]);
    assert_eq!(shop.settled(&refund, "succeeded").await, Applied::Changed("refunded"));
    assert_eq!(shop.books().await, [0, 0, 300, 0, -300]);
    shop.world.with(|world| world.decide(&id, "won"));
    shop.payments.look_at_dispute(&id).await.unwrap();
    assert_eq!(shop.books().await, [0; 5]);
    // The refund fails: what the bank took is borne by income and tax, and only the rest is given back the next day.
    let payment = paid_too_late(&shop, "b").await;
    let refund = shop.refunds_of(&payment).remove(0).0;
    let id = dispute(&payment, 119, "opened").await;
    assert_eq!(shop.books().await, [-1000, -190, 119, -119, 1190]);
    assert_eq!(shop.settled(&refund, "failed").await, Applied::Changed("refund_failed"));
    assert_eq!(shop.books().await, [-900, -171, 0, -119, 1190]);
    shop.clock.advance(DAY_S);
    assert_eq!(shop.payments.sweep().await.unwrap().given_back.moved, 0, "while the bank decides");
    shop.world.with(|world| world.decide(&id, "lost"));
    let swept = shop.payments.sweep().await.unwrap();
    assert_eq!((swept.disputes.moved, swept.given_back.moved), (1, 1));
    let rest = shop.refunds_of(&payment).into_iter().find(|(_, status, _)| status == "pending").unwrap();
    assert_eq!(rest.2, 1071);
    assert_eq!(shop.settled(&rest.0, "succeeded").await, Applied::Changed("refunded"));
    assert_eq!(shop.books().await, [0; 5]);
    assert_eq!(db.clearing_difference().await.unwrap().values().sum::<i64>(), 0);
}

async fn an_end_is_taken_back_as_long_as_it_is_paid_for(db: Db) {
    use segue::db::subscriptions::{Resumed, Why};
    let mut shop = Shop::new(&db);
    let sub = shop.subscribed("u").await;
    let end = async |shop: &Shop, at_once: bool| {
        assert!(shop.db().cancel_subscription(&sub.id, at_once, shop.now_us()).await.unwrap());
    };
    end(&shop, false).await;
    let Resumed::Renews(renews) = shop.payments.resume(&sub.id).await.unwrap() else { panic!() };
    assert_eq!((renews.renews, renews.renew_next_us, renews.ends_us), (true, day(27), day(30)));
    assert_eq!(shop.payments.resume(&sub.id).await.unwrap(), Resumed::Renews(renews), "twice is once");
    // In its last days: it is due at once, and goes on behind what was paid for.
    end(&shop, false).await;
    shop.clock.advance(29 * DAY_S);
    assert_eq!(shop.payments.renew_due().await.unwrap(), 0);
    assert!(matches!(shop.payments.resume(&sub.id).await.unwrap(), Resumed::Renews(_)));
    assert_eq!(shop.payments.renew_due().await.unwrap(), 1);
    assert_eq!(shop.subscription(&sub).await.ends_us, day(60));
    // Not what is not sold any more, and not what is over.
    end(&shop, false).await;
    shop.payments.options.plans.iter_mut().for_each(|plan| plan.renews = false);
    assert_eq!(shop.payments.resume(&sub.id).await.unwrap(), Resumed::Not(Why::NotSold));
    shop.payments.options.plans.iter_mut().for_each(|plan| plan.renews = true);
    shop.clock.advance(31 * DAY_S);
    assert_eq!(shop.payments.resume(&sub.id).await.unwrap(), Resumed::Not(Why::Over), "whenever the sweep comes");
    end(&shop, true).await;
    assert_eq!(shop.payments.resume(&sub.id).await.unwrap(), Resumed::Not(Why::Over));
    // Nor what was tried as often as it is, nor what nothing is there to pay with.
    shop.renewals_are("failed");
    let failed = shop.subscribed("f").await;
    shop.clock.advance(27 * DAY_S);
    for tried in 0..3 {
        shop.clock.advance(if tried > 0 { DAY_S } else { 0 });
        assert_eq!(shop.payments.renew_due().await.unwrap(), 1);
    }
    assert!(shop.db().cancel_subscription(&failed.id, false, shop.now_us()).await.unwrap());
    assert_eq!(shop.payments.resume(&failed.id).await.unwrap(), Resumed::Not(Why::NothingToPayBy));
}

async fn who_leaves_is_not_charged(db: Db) {
    use segue::db::leaving::TakenBack;
    use segue::db::subscriptions::{Resumed, Why};
    let shop = Shop::new(&db);
    let mut people = Vec::new();
    for name in ["leaves", "stays"] {
        let id = UserId::new(shop.now_us());
        let email = Email::decode(&format!("{name}@example.org")).unwrap();
        let person = Registration { id: id.clone(), email, name: None, password: "hash".into() };
        assert!(db.create_user(&person, Role::Listener, shop.now_us()).await.unwrap());
        people.push((id.clone(), shop.subscribed(id.as_str()).await));
    }
    let ([(leaves, sub), (_, stays)], due_us) = (&people[..], day(60).unwrap()) else { panic!() };
    db.want_erasure(leaves, false, due_us, shop.now_us()).await.unwrap();
    assert_eq!(shop.payments.resume(&sub.id).await.unwrap(), Resumed::Not(Why::Leaves));
    shop.clock.advance(28 * DAY_S);
    assert_eq!(shop.payments.renew_due().await.unwrap(), 1, "of the two, the one who stays");
    assert_eq!(shop.billed(sub).await, [InvoiceStatus::Paid]);
    assert_eq!(shop.billed(stays).await, [InvoiceStatus::Paid, InvoiceStatus::Paid]);
    assert!(shop.lets_in(leaves.as_str()).await, "with what they have paid for");
    // Whoever comes back is asked whether it is to go on, and not charged before they say so.
    assert!(db.take_erasure_back(TakenBack::Owner(leaves), shop.now_us()).await.unwrap().is_some());
    assert_eq!(shop.payments.renew_due().await.unwrap(), 0);
    assert!(matches!(shop.payments.resume(&sub.id).await.unwrap(), Resumed::Renews(_)));
    assert_eq!(shop.payments.renew_due().await.unwrap(), 1);
    assert_eq!(shop.subscription(sub).await.ends_us, day(60));
}

/// Hyperswitch answers the second one with 400 `HE_01`, Stripe with what it answered the first one.
async fn what_arrives_twice_is_one_object(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    let twice = || shop.world.with(|world| world.script.push_back(Mood::Twice));
    twice();
    let order = shop.ordered(&[&product]).await;
    assert_eq!((order.status, order.payment.client_secret.is_some()), (OrderStatus::PendingPayment, true));
    shop.world.with(|world| world.pay(&order.payment.id, "succeeded"));
    twice();
    assert_eq!(shop.payments.look_at_payment(&order.payment.id).await.unwrap(), Applied::Changed("paid"));
    twice();
    let transfer = shop.transferred("a").await;
    assert_eq!(shop.world.with(|world| (world.payments.len(), world.transfers.len())), (1, 1));
    twice();
    let refund = shop.refunding(&order.id).await;
    assert!(refund.known_us.is_some() && refund.error.is_none(), "{refund:?}");
    assert_eq!(shop.settled(&refund.id, "succeeded").await, Applied::Changed("refunded"));
    shop.world.with(|world| world.script.extend([Mood::Fine, Mood::Twice]));
    assert_eq!(shop.payments.reverse_due().await.unwrap(), 1);
    assert_eq!(shop.db().transfer(&transfer.id).await.unwrap().unwrap().reversed_minor, 900);
    assert_eq!(shop.world.with(|world| world.transfers[transfer.provider_id.as_ref().unwrap()].reversed), 900);
    twice();
    let sub = shop.subscribed("u").await;
    shop.clock.advance(27 * DAY_S);
    twice();
    assert_eq!(shop.payments.renew_due().await.unwrap(), 1);
    assert_eq!(shop.billed(&sub).await, [InvoiceStatus::Paid, InvoiceStatus::Paid]);
    assert_eq!(shop.world.with(|world| world.payments.len()), 3);
    // Ended twice: the second time there is nothing to end.
    let idle = shop.ordered(&[&product]).await;
    shop.clock.advance(31 * 60);
    shop.world.with(|world| world.script.extend([Mood::Fine, Mood::Twice]));
    assert_eq!(shop.payments.sweep().await.unwrap().payments.moved, 1);
    assert_eq!(shop.order(&idle.id).await.status, OrderStatus::Expired);
}

async fn webhooks_in_any_order_come_to_the_same_end(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    // What happened to one order, in the order in which it happened.
    let mut numbers: Vec<usize> = (2..6).collect();
    let mut orders = 0;
    loop {
        let order = shop.ordered(&[&product]).await;
        shop.world.with(|world| {
            world.events.clear();
            ["processing", "failed", "succeeded"].iter().for_each(|status| world.pay(&order.payment.id, status));
        });
        shop.payments.look_at_payment(&order.payment.id).await.unwrap();
        let refund = shop.refunding_part(&order.id, 400).await;
        let dispute = shop.world.with(|world| {
            world.settle_refund(refund.id.as_str(), "succeeded");
            world.dispute(&order.payment.id, 600)
        });
        shop.world.with(|world| world.decide(&dispute, "won"));
        let events: Vec<String> =
            shop.world.with(|world| world.events.drain(..).map(|event| event.to_string()).collect());
        assert_eq!(events.len(), 6, "{events:#?}");
        // Two are dropped: a later one of their object tells the same.
        for number in &numbers {
            shop.clock.advance(1);
            let body = &events[*number];
            let signature = signed_512(body, HYPERSWITCH_SECRET);
            assert_eq!(shop.receive(body, Some(&signature), Sender::Hyperswitch).await, Received::Accepted);
        }
        while shop.payments.process_webhooks().await.unwrap() > 0 {}
        let now = shop.order(&order.id).await;
        assert_eq!((now.status, now.returned_minor), (OrderStatus::Paid, 400), "{numbers:?}");
        assert_eq!(shop.db().dispute(&dispute).await.unwrap().unwrap().status, DisputeStatus::Won, "{numbers:?}");
        orders += 1;
        assert_eq!(shop.balance("a").await, (540 * orders, 0, 0), "{numbers:?}");
        assert_eq!(shop.on_account("psp:clearing:USD").await, 600 * orders, "{numbers:?}");
        if !following(&mut numbers) {
            break;
        }
    }
    assert_eq!(orders, 24, "every order of four");
}

/// The next one of all orders of some numbers; false: it was the last one.
fn following(numbers: &mut [usize]) -> bool {
    let Some(at) = numbers.windows(2).rposition(|two| two[0] < two[1]) else { return false };
    let with = numbers.iter().rposition(|number| *number > numbers[at]).unwrap();
    numbers.swap(at, with);
    numbers[at + 1..].reverse();
    true
}

async fn webhooks_are_logged_and_believed_only_as_hints(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    let order = shop.ordered(&[&product]).await;
    // Forged in every way: refused, logged, and nothing else.
    let forged = format!(
        r#"{{"event_id":"evt_f","event_type":"payment_succeeded","content":{{"type":"payment_details","object":{{"payment_id":"{}","status":"succeeded"}}}}}}"#,
        order.payment.id
    );
    let good = signed_512(&forged, HYPERSWITCH_SECRET);
    for signature in [None, Some(""), Some("00"), Some(&good[1..]), Some(signed_512(&forged, "another").as_str())] {
        assert_eq!(shop.receive(&forged, signature, Sender::Hyperswitch).await, Received::Unsigned);
    }
    assert_eq!(shop.payments.process_webhooks().await.unwrap(), 0);
    // Signed, but not true: the object is read again.
    assert_eq!(shop.receive(&forged, Some(&good), Sender::Hyperswitch).await, Received::Accepted);
    assert_eq!(shop.payments.process_webhooks().await.unwrap(), 1);
    assert_eq!(shop.order(&order.id).await.status, OrderStatus::PendingPayment);
    shop.world.with(|world| world.pay(&order.payment.id, "succeeded"));
    let event = shop.deliver().unwrap().to_string();
    let signature = signed_512(&event, HYPERSWITCH_SECRET);
    for _ in 0..3 {
        assert_eq!(shop.receive(&event, Some(&signature), Sender::Hyperswitch).await, Received::Accepted);
    }
    // The provider does not answer at first: the delivery is tried again.
    shop.world.with(|world| world.script.push_back(Mood::Deaf));
    assert_eq!(shop.payments.process_webhooks().await.unwrap(), 1, "the others wait for what becomes of the first");
    assert_eq!(shop.payments.process_webhooks().await.unwrap(), 0, "not at once");
    shop.clock.advance(11);
    assert_eq!(shop.payments.process_webhooks().await.unwrap(), 1);
    assert_eq!(shop.order(&order.id).await.status, OrderStatus::Paid);
    assert_eq!(shop.payments.process_webhooks().await.unwrap(), 0, "and are duplicates then");
    assert_eq!(shop.receive(&event, Some(&signature), Sender::Hyperswitch).await, Received::Accepted);
    shop.clock.advance(1);
    assert_eq!(shop.payments.process_webhooks().await.unwrap(), 0, "a duplicate is none");
    // Unknown kinds and bodies that say nothing.
    for body in [
        "{}",
        "[]",
        "not json",
        r#"{"event_id":"e","event_type":"invented","content":{"object":{"payment_id":"\u0000"}}}"#,
    ] {
        let signature = signed_512(body, HYPERSWITCH_SECRET);
        let expected = if body.starts_with('{') { Received::Accepted } else { Received::Malformed };
        assert_eq!(shop.receive(body, Some(&signature), Sender::Hyperswitch).await, expected);
    }
    let lost = r#"{"event_id":"e2","event_type":"refund_succeeded","content":{"object":{"payment_id":"pay_1"}}}"#;
    let signature = signed_512(lost, HYPERSWITCH_SECRET);
    assert_eq!(shop.receive(lost, Some(&signature), Sender::Hyperswitch).await, Received::Malformed);
    assert_eq!(shop.payments.process_webhooks().await.unwrap(), 5);
    assert_eq!(shop.receive("\0 \u{1f4a9}", None, Sender::Hyperswitch).await, Received::Unsigned);
    // Stripe: somebody took a transfer of a refunded order back.
    let transfer = to_come_back(&shop, &product).await;
    shop.world.with(|world| {
        world.events.clear();
        world.reverse(transfer.provider_id.as_ref().unwrap(), 200);
    });
    let event = shop.deliver().unwrap().to_string();
    let signature = signed_256(&event, STRIPE_SECRET, shop.clock.unix_s());
    assert_eq!(shop.receive(&event, Some(&signature), Sender::Stripe).await, Received::Accepted);
    assert_eq!(shop.payments.process_webhooks().await.unwrap(), 1);
    assert_eq!(shop.db().transfer(&transfer.id).await.unwrap().unwrap().reversed_minor, 200);
    shop.clock.advance(301);
    assert_eq!(shop.receive(&event, Some(&signature), Sender::Stripe).await, Received::Unsigned, "too old");
    // Kept for as long as asked.
    assert_eq!(shop.db().forget_webhooks(shop.now_us() - 200_000_000, 3).await.unwrap(), 3, "in batches");
    assert!(shop.db().forget_webhooks(shop.now_us() - 200_000_000, 10_000).await.unwrap() > 3);
    let _ = Backoff::default();
}

async fn products_are_changed_by_their_sellers(db: Db) {
    use segue::db::products::Change;
    let shop = Shop::new(&db);
    let product = shop.product("a", 1000).await;
    let track = product.track.clone().unwrap();
    let id: TrackId = track.parse().unwrap();
    let costs = async || {
        let row = db.track(id).await.unwrap().unwrap();
        let offer = row.offer.unwrap();
        assert_eq!(offer.currency, "USD");
        (offer.price_minor, row.preview_enabled)
    };
    assert_eq!(costs().await, (1000, false), "what is sold is not free");
    let change = Change {
        preview_enabled: Some(true),
        licences: Some(vec![(LicenceKind::Personal, 700)]),
        images: Some(vec!["https://img.test/1.jpg".into(), "https://img.test/2.jpg".into()]),
        ..Change::default()
    };
    assert_eq!(changed(&db, (&product.id, "b"), &change, shop.now_us()).await, None, "none of theirs");
    let order = shop.ordered(&[&product]).await;
    let after = changed(&db, (&product.id, "a"), &change, shop.now_us()).await.unwrap();
    assert_eq!((after.licences.len(), after.images.len(), after.preview_enabled), (1, 2, true));
    assert_eq!(after.title, product.title);
    assert_eq!(costs().await, (700, true));
    assert_eq!(shop.order(&order.id).await.total.minor(), 1000, "orders keep their price");
    let gone = Change { active: Some(false), ..Change::default() };
    changed(&db, (&product.id, "a"), &gone, shop.now_us()).await.unwrap();
    assert_eq!(costs().await, (700, true), "off sale is not free, either");
    let cannot = async || matches!(shop.order_of(&[&product]).await, Ordered::Refused(Refusal::Product(_)));
    assert!(cannot().await);
    let back = Change { active: Some(true), ..Change::default() };
    changed(&db, (&product.id, "a"), &back, shop.now_us()).await.unwrap();
    assert!(!cannot().await);
    // A preview is one wish, of whichever it was said; what is deleted is not sold.
    let quiet = tracks::Changes { preview_enabled: Some(false), ..tracks::Changes::default() };
    let mut tx = db.begin().await.unwrap();
    tracks::change(&mut tx, &[id], None, &quiet, shop.now_us()).await.unwrap();
    tx.commit().await.unwrap();
    assert!(!db.product(&product.id).await.unwrap().unwrap().preview_enabled);
    db.delete_tracks(&[id], None, shop.now_us()).await.unwrap();
    assert!(cannot().await && !db.product(&product.id).await.unwrap().unwrap().active);
    changed(&db, (&product.id, "a"), &back, shop.now_us()).await.unwrap();
    assert!(cannot().await, "nor when its seller says so");
    changed(&db, (&product.id, "a"), &gone, shop.now_us()).await.unwrap();
    let own = db.products(Some("a"), None, None, 10).await.unwrap();
    assert_eq!((own.len(), db.products(None, None, None, 10).await.unwrap().len()), (1, 0));
}

async fn an_alarm_about_a_refund_goes_when_the_provider_corrects_it(db: Db) {
    let shop = Shop::new(&db);
    let product = shop.product("a", 999).await;
    let order = shop.paid(&[&product]).await;
    let refund = shop.refunding(&order.id).await;
    let there = |minor| shop.world.with(|world| world.refunds.get_mut(refund.id.as_str()).unwrap().amount = minor);
    there(998);
    assert!(matches!(shop.payments.look_at_refund(&refund.id).await.unwrap(), Applied::Alarm(_)));
    assert_eq!(shop.payments.health().await.unwrap().alarms, 1);
    there(999);
    shop.world.with(|world| world.settle_refund(refund.id.as_str(), "succeeded"));
    assert_eq!(shop.payments.look_at_refund(&refund.id).await.unwrap(), Applied::Changed("refunded"));
    assert_eq!(shop.payments.health().await.unwrap().alarms, 0);
}

/// Issue 6 item 8: the lists of money cost a query or a few, however much is in them, and say what single looks say.
async fn a_list_of_money_costs_as_many_statements_for_many_as_for_few(db: Db) {
    use segue::db::counted;
    use segue::db::products::Change;
    let shop = Shop::new(&db);
    let mut products: Vec<Product> = Vec::new();
    for round in 0..4 {
        for number in 0..1 + round * 2 {
            shop.clock.advance(1);
            let product = shop.product("a", 1000 + 100 * round + number).await;
            let other = shop.product("b", 50 + 100 * round + number).await; // between those of the first seller
            let images = (0..number).map(|at| format!("https://img.test/{at}.jpg")).collect();
            let change = Change { images: Some(images), ..Change::default() };
            products.push(changed(&db, (&product.id, "a"), &change, shop.now_us()).await.unwrap());
            let order = shop.paid(&[&product, &other]).await;
            shop.part_back(&order.id, 5).await;
            let id = shop.world.with(|world| world.dispute(&order.payment.id, 10));
            shop.payments.look_at_dispute(&id).await.unwrap();
            shop.world.with(|world| world.decide(&id, "won"));
            shop.payments.look_at_dispute(&id).await.unwrap();
        }
        let one = shop.db().orders("usr_buyer", None, 1).await.unwrap().remove(0);
        for _ in 0..=round {
            let refund = shop.refunding_part(&one.id, 1).await;
            shop.world.with(|world| world.settle_refund(refund.id.as_str(), "failed"));
            shop.payments.look_at_refund(&refund.id).await.unwrap();
        }
        let (orders, statements) = counted(db.orders("usr_buyer", None, 200)).await;
        let orders = orders.unwrap();
        assert_eq!((statements, orders.len()), (2, products.len()));
        for order in &orders {
            assert_eq!((order, order.items.len()), (&shop.order(&order.id).await, 2));
        }
        let (own, statements) = counted(db.products(Some("a"), None, None, 200)).await;
        assert_eq!((statements, own.unwrap()), (3, products.iter().rev().cloned().collect()));
        let (all, statements) = counted(db.products(None, None, None, 200)).await;
        let all = all.unwrap();
        assert_eq!((statements, all.len()), (3, products.len() * 2));
        assert!(all.iter().all(|product| product.licences.len() == 2), "{all:?}");
        let (refunds, statements) = counted(db.refunds(&one.id)).await;
        let refunds = refunds.unwrap();
        assert_eq!((statements, refunds.len()), (1, 2 + round as usize));
        for refund in &refunds {
            assert_eq!(Some(refund), db.refund(&refund.id).await.unwrap().as_ref());
        }
        let (disputes, statements) = counted(db.disputes(None, None, 200)).await;
        let disputes = disputes.unwrap();
        assert_eq!((statements, disputes.len()), (1, products.len()));
        for listed in &disputes {
            assert_eq!(Some(&listed.dispute), db.dispute(&listed.dispute.id).await.unwrap().as_ref());
            assert!(orders.iter().any(|order| listed.order.as_deref() == Some(order.id.as_str())));
        }
        for (statements, what) in [
            (counted(db.licences("usr_buyer", None, 200)).await.1, "licences"),
            (counted(db.transfers("a", None, 200)).await.1, "transfers"),
            (counted(db.subscriptions("usr_buyer", None, 200)).await.1, "subscriptions"),
        ] {
            assert_eq!(statements, 1, "{what}");
        }
    }
    // A page begins behind what the last one ended with.
    let all = db.orders("usr_buyer", None, 200).await.unwrap();
    let second = db.orders("usr_buyer", Some(&all[2].id), 3).await.unwrap();
    assert_eq!(second, all[3..6]);
    let all = db.products(Some("a"), None, None, 200).await.unwrap();
    assert_eq!(db.products(Some("a"), None, Some(&all[2].id), 3).await.unwrap(), all[3..6]);
    assert_eq!(db.products(Some("a"), all[1].track.as_deref(), None, 9).await.unwrap(), all[1..2]);
    assert_eq!(db.orders("usr_nobody", None, 200).await.unwrap(), []);
}
