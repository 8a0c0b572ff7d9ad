//! Subscriptions and their invoices. In: a plan, and what the provider says of payments. Out: who is let in, and until when.
//! Each paid invoice buys one period behind what was paid before, so that nothing is ever paid for nothing.

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::conn::{Row, Tx, args};
use super::money::{Claim, Request, book, claim, locked, move_invoice, move_subscription, word};
use super::orders::{Applied, Payment, Seen, Standing as PaymentStanding};
use super::{Db, Dialect, invoices, outbox};
use crate::base::id::sortable;
use crate::base::{Error, Result, hex};
use crate::ledger::subscription::{self, Gate, InvoiceStatus, Standing, Status, SubscriptionId, renewal_at};
use crate::ledger::{Amount, Currency, allocate};

/// Subscriptions in one page of a list.
pub const PAGE_MAX: u32 = 200;
/// What a payment did that comes when its subscription has ended: there is a refund of it, which nobody asked for yet.
pub const PAID_TOO_LATE: &str = "paid_too_late";
/// A day in microseconds.
const DAY_US: i64 = 86_400_000_000;
/// How long a period that is over waits for a payment of which nobody knows the end, as a bank's may take days.
pub const OPEN_MAX_US: i64 = 7 * DAY_US;
/// How long a renewal that cannot be asked for now waits, while a payment is open or disputed.
const AGAIN_US: i64 = 3_600_000_000;

/// A subscription.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    /// Its id; its first payment has it too.
    pub id: SubscriptionId,
    /// Whose it is.
    pub subject: String,
    /// Which plan.
    pub plan: String,
    /// Where it stands.
    pub status: Status,
    /// What a period costs; `None`: nothing.
    pub price: Option<Amount>,
    /// Until when the trial lasts.
    pub trial_until_us: Option<i64>,
    /// Until when it is in force.
    pub ends_us: Option<i64>,
    /// Whether it is to go on after that, paid by what its subscriber saved.
    pub renews: bool,
    /// When the next payment is asked for; `None`: none is.
    pub renew_next_us: Option<i64>,
    /// When it began, in microseconds since 1970.
    pub created_us: i64,
}

/// An invoice.
#[derive(Clone, Debug, PartialEq)]
pub struct Invoice {
    /// Its id.
    pub id: String,
    /// Its payment at the provider.
    pub payment: String,
    /// Where it stands.
    pub status: InvoiceStatus,
    /// How much, tax included.
    pub amount: Amount,
    /// The tax in it, in minor units.
    pub tax_minor: i64,
    /// When it was made, in microseconds since 1970.
    pub created_us: i64,
    /// When it was paid.
    pub paid_us: Option<i64>,
    /// Since when it is what was paid for.
    pub from_us: Option<i64>,
    /// … and until when; `None` too where a period has no end.
    pub until_us: Option<i64>,
    /// When the money went back, because the subscription had ended.
    pub returned_us: Option<i64>,
}

/// What somebody subscribes to.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its id.
    pub id: String,
    /// What a period costs; `None`: nothing.
    pub price: Option<Amount>,
    /// Whether it costs anything or not, its currency.
    pub currency: Currency,
    /// Days of a period; 0: without end.
    pub period_days: i64,
    /// Days that somebody may try it, once in their life; 0: none.
    pub trial_days: i64,
    /// Tax in the price, in hundredths of a percent of the price without it.
    pub tax_bps: u64,
    /// Whether it goes on by itself after a paid period.
    pub renews: bool,
}

/// What is to be done about a subscription whose next payment is due.
#[allow(clippy::large_enum_variant)] // one a renewal
#[derive(Clone, Debug, PartialEq)]
pub enum Renewal {
    /// Ask for this payment, which is stored, by what was saved under this id.
    Ask(Subscription, Payment, String),
    /// Nothing: its plan, this one, is not renewed any more.
    Ends(String),
    /// Nothing now.
    Rest,
}

/// What came of taking an end back.
#[allow(clippy::large_enum_variant)] // one a request
#[derive(Clone, Debug, PartialEq)]
pub enum Resumed {
    /// It goes on by itself, or did.
    Renews(Subscription),
    /// It cannot.
    Not(Why),
}

/// Why a subscription cannot go on by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has ended, or is not in force yet, or has no end.
    Over,
    /// Its plan is not renewed any more.
    NotSold,
    /// Nothing was saved to pay it by, or that failed as often as it is tried.
    NothingToPayBy,
    /// Its subscriber wants to be forgotten.
    Leaves,
}

/// What came of subscribing.
#[derive(Clone, Debug, PartialEq)]
pub enum Subscribed {
    /// It is there, or was before under this key.
    Claimed(Claim<Subscription>),
    /// They have one already.
    Live(SubscriptionId),
}

/// The columns of a subscription, and what follows.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "select id, subject, plan, status, price_minor, currency, trial_until_us, ends_us, renews, renew_next_us, created_us
             from subscription ",
            $rest
        )
    };
}

/// The columns of an invoice, and what follows.
macro_rules! invoice {
    ($rest:literal) => {
        concat!(
            "select id, payment_id, status, amount_minor, tax_minor, currency, created_us, paid_us, from_us, until_us,
               (select max(r.settled_us) from refund r where r.payment_id = invoice.payment_id and r.status = 'succeeded')
                 as returned_us
             from invoice ",
            $rest
        )
    };
}

impl Db {
    /// Subscribes: free plans are in force at once, the first trial too; otherwise the invoice and its payment are stored
    /// before the provider hears of them.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn subscribe(&self, subject: &str, plan: &Plan, request: Request<'_>, now_us: i64) -> Result<Subscribed> {
        let mut tx = self.begin().await?;
        let id = SubscriptionId::new(now_us);
        match claim(&mut tx, request, id.as_str(), now_us).await? {
            Claim::Conflict(id) => return Ok(Subscribed::Claimed(Claim::Conflict(id))),
            Claim::Known(id) => {
                let known = read(&mut tx, &id).await?.ok_or_else(vanished)?;
                return Ok(Subscribed::Claimed(Claim::Known(known)));
            }
            Claim::New(_) => {}
        }
        let live =
            "select id from subscription where subject = $1 and status in ('pending_payment', 'trialing', 'active')";
        if let Some(row) = tx.first(live, args![subject]).await? {
            return Ok(Subscribed::Live(row.text("id")?.parse()?));
        }
        let sql = "select count(*) as n from subscription where subject = $1 and trial_until_us is not null";
        let tried = tx.first(sql, args![subject]).await?.map_or(Ok(0), |row| row.int("n"))? > 0;
        let trial_until_us = (plan.price.is_some() && plan.trial_days > 0 && !tried)
            .then(|| now_us.saturating_add(plan.trial_days.saturating_mul(DAY_US)));
        let status = match (&plan.price, trial_until_us) {
            (None, _) => Status::Active,
            (Some(_), Some(_)) => Status::Trialing,
            (Some(_), None) => Status::PendingPayment,
        };
        let new = tx
            .execute(
                "insert into subscription (id, subject, plan, status, price_minor, currency, period_days, trial_until_us,
                   created_us, updated_us, renews)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, $10)
                 on conflict do nothing",
                args![
                    id.as_str(),
                    subject,
                    &plan.id,
                    status.as_str(),
                    plan.price.map_or(0, |price| price.minor()),
                    plan.currency.code(),
                    plan.period_days,
                    trial_until_us,
                    now_us,
                    i64::from(plan.renews && status == Status::PendingPayment && plan.period_days > 0)
                ],
            )
            .await?;
        if new == 0 {
            // Somebody subscribed between the look and here.
            let row = tx.first(live, args![subject]).await?.ok_or_else(vanished)?;
            return Ok(Subscribed::Live(row.text("id")?.parse()?));
        }
        if let (Some(price), Status::PendingPayment) = (plan.price, status) {
            let tax_minor = allocate(price.minor() as u64, &[10_000, plan.tax_bps.min(10_000)])[1] as i64;
            invoice(&mut tx, &id, id.as_str(), (price, tax_minor), request.fingerprint, now_us).await?;
        }
        let subscription = read(&mut tx, id.as_str()).await?.ok_or_else(vanished)?;
        tx.commit().await?;
        Ok(Subscribed::Claimed(Claim::New(subscription)))
    }

    /// A subscription.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn subscription(&self, id: &SubscriptionId) -> Result<Option<Subscription>> {
        read(&mut self.begin_one().await?, id.as_str()).await
    }

    /// Somebody's subscriptions, the latest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn subscriptions(
        &self,
        subject: &str,
        before: Option<&SubscriptionId>,
        limit: u32,
    ) -> Result<Vec<Subscription>> {
        let mut tx = self.begin_one().await?;
        let before = before.map_or("sub_~", SubscriptionId::as_str);
        let sql = select!("where subject = $1 and id < $2 order by id desc limit $3");
        tx.all(sql, args![subject, before, i64::from(limit.min(PAGE_MAX))]).await?.iter().map(decode).collect()
    }

    /// The invoices of a subscription, the latest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn invoices(&self, id: &SubscriptionId) -> Result<Vec<Invoice>> {
        let mut tx = self.begin_one().await?;
        let sql = invoice!("where subscription_id = $1 order by id desc limit 100");
        tx.all(sql, args![id.as_str()]).await?.iter().map(decode_invoice).collect()
    }

    /// The payment that a subscription waits for; `None`: it waits for none.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn subscription_payment(&self, id: &SubscriptionId) -> Result<Option<Payment>> {
        let payment = self.payment(id.as_str()).await?;
        Ok(payment.map(|(payment, _)| payment))
    }

    /// Ends a subscription whose subscriber wants no more of it: at once, or, where they have paid for longer and do not
    /// say `at_once`, with what they paid for. False when it had ended, or was to.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn cancel_subscription(&self, id: &SubscriptionId, at_once: bool, now_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        lock(&mut tx, id.as_str()).await?;
        let Some(subscription) = read(&mut tx, id.as_str()).await? else { return Ok(false) };
        if !subscription.status.may_become(Status::Cancelled) {
            return Ok(false);
        }
        let paid_for =
            subscription.status == Status::Active && subscription.ends_us.is_some_and(|ends_us| ends_us > now_us);
        let moved = if paid_for && !at_once {
            stop_renewal(&mut tx, id.as_str(), now_us).await?
        } else {
            let to = (subscription.status, Status::Cancelled);
            move_subscription(&mut tx, id.as_str(), to, Some(now_us), now_us).await?
        };
        tx.commit().await?;
        Ok(moved)
    }

    /// Takes back that a subscription ends with what was paid for: the next payment is asked for when it would have been.
    /// `sold`: whether a plan is renewed.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn resume_subscription(
        &self,
        id: &SubscriptionId,
        sold: impl Fn(&str) -> bool,
        now_us: i64,
    ) -> Result<Resumed> {
        let mut tx = self.begin().await?;
        lock(&mut tx, id.as_str()).await?;
        let Some(subscription) = read(&mut tx, id.as_str()).await? else { return Ok(Resumed::Not(Why::Over)) };
        if subscription.renews {
            return Ok(Resumed::Renews(subscription));
        }
        let ends_us = subscription.ends_us.filter(|ends_us| *ends_us > now_us);
        let (Status::Active, Some(ends_us)) = (subscription.status, ends_us) else {
            return Ok(Resumed::Not(Why::Over));
        };
        if !sold(&subscription.plan) {
            return Ok(Resumed::Not(Why::NotSold));
        }
        let sql = "select period_days, method, renewal_tries, (select count(*) from account_erasure e
                     where e.user_id = subscription.subject and e.taken_back_us is null) as leaves
                   from subscription where id = $1";
        let row = tx.first(sql, args![id.as_str()]).await?.ok_or_else(vanished)?;
        let next_us = renewal_at(ends_us, row.int("period_days")?, row.int("renewal_tries")?);
        match (row.int("leaves")?, row.text_or_null("method")?, next_us) {
            (1.., _, _) => Ok(Resumed::Not(Why::Leaves)),
            (_, Some(_), Some(next_us)) => {
                let sql = "update subscription set renews = 1, renew_next_us = $2, updated_us = $3 where id = $1";
                tx.execute(sql, args![id.as_str(), next_us, now_us]).await?;
                let subscription = read(&mut tx, id.as_str()).await?.ok_or_else(vanished)?;
                tx.commit().await?;
                Ok(Resumed::Renews(subscription))
            }
            _ => Ok(Resumed::Not(Why::NothingToPayBy)),
        }
    }

    /// Ends trials and periods that are over. One whose next payment is open waits for its end, for some days. Returns how
    /// many ended.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn expire_subscriptions(&self, now_us: i64, limit: i64) -> Result<u64> {
        let mut tx = self.begin().await?;
        // Locked: a payment that comes in now moves the end, and this has to see it.
        let sql = locked!(
            tx,
            "select id, status from subscription
             where (status = 'trialing' and trial_until_us <= $1)
               or (status = 'active' and ends_us <= $1 and (ends_us <= $2 or not exists (
                 select 1 from invoice i where i.subscription_id = subscription.id and i.status = 'open')))
             order by id limit $3"
        );
        let rows = tx.all(sql, args![now_us, now_us - OPEN_MAX_US, limit]).await?;
        let mut ended = 0;
        for row in rows {
            let from = word(Status::decode, "status of a subscription", &row.text("status")?)?;
            let moved = move_subscription(&mut tx, &row.text("id")?, (from, Status::Expired), None, now_us).await?;
            ended += u64::from(moved);
        }
        tx.commit().await?;
        Ok(ended)
    }

    /// Subscriptions whose next payment is due, the most urgent first. Nobody is asked for money whose account was closed
    /// or erased; the subscriptions of those who leave stopped when they said so (`want_erasure`).
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn due_renewals(&self, now_us: i64, limit: i64) -> Result<Vec<SubscriptionId>> {
        let mut tx = self.begin_one().await?;
        let sql =
            "select s.id from subscription s where s.status = 'active' and s.renew_next_us <= $1 and s.ends_us > $1
                     and not exists (select 1 from users u where u.id = s.subject
                       and (u.disabled_us is not null or u.email is null))
                   order by s.renew_next_us, s.id limit $2";
        tx.all(sql, args![now_us, limit]).await?.iter().map(|row| row.text("id")?.parse()).collect()
    }

    /// Stores the next payment of a subscription that is to be renewed, and when it is tried again, before the provider
    /// hears of it. `sold`: whether a plan is renewed.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn begin_renewal(
        &self,
        id: &SubscriptionId,
        sold: impl Fn(&str) -> bool,
        now_us: i64,
    ) -> Result<Renewal> {
        let mut tx = self.begin().await?;
        lock(&mut tx, id.as_str()).await?;
        let Some(subscription) = read(&mut tx, id.as_str()).await? else { return Ok(Renewal::Rest) };
        let due = subscription.renew_next_us.is_some_and(|next_us| next_us <= now_us);
        let (Status::Active, true, Some(price), Some(ends_us)) =
            (subscription.status, due, subscription.price, subscription.ends_us.filter(|ends_us| *ends_us > now_us))
        else {
            return Ok(Renewal::Rest);
        };
        if !sold(&subscription.plan) {
            stop_renewal(&mut tx, id.as_str(), now_us).await?;
            tx.commit().await?;
            return Ok(Renewal::Ends(subscription.plan));
        }
        // Somebody who goes to their bank is not asked for more, and nobody is asked twice at once.
        let sql = "select s.method, s.period_days, s.renewal_tries,
                     (select count(*) from invoice i where i.subscription_id = s.id and i.status = 'open')
                     + (select count(*) from dispute d join invoice i on i.payment_id = d.payment_id
                        where i.subscription_id = s.id and d.status <> 'won') as open,
                     (select i.tax_minor from invoice i where i.subscription_id = s.id and i.status = 'paid'
                      order by i.id desc limit 1) as tax_minor
                   from subscription s where s.id = $1";
        let row = tx.first(sql, args![id.as_str()]).await?.ok_or_else(vanished)?;
        let (Some(method), Some(tax_minor)) = (row.text_or_null("method")?, row.int_or_null("tax_minor")?) else {
            return Ok(Renewal::Rest);
        };
        if row.int("open")? > 0 {
            let sql = "update subscription set renew_next_us = $2 where id = $1";
            tx.execute(sql, args![id.as_str(), now_us + AGAIN_US]).await?;
            tx.commit().await?;
            return Ok(Renewal::Rest);
        }
        let tries = row.int("renewal_tries")? + 1;
        let next_us = renewal_at(ends_us, row.int("period_days")?, tries);
        let sql = "update subscription set renewal_tries = $2, renew_next_us = $3, updated_us = $4 where id = $1";
        tx.execute(sql, args![id.as_str(), tries, next_us, now_us]).await?;
        let payment = sortable("pay_", now_us);
        let fingerprint = hex::encode(&Sha256::digest(format!("renewal\n{id}\n{ends_us}\n{tries}")));
        invoice(&mut tx, id, &payment, (price, tax_minor), &fingerprint, now_us).await?;
        tx.commit().await?;
        let stored = self.payment(&payment).await?.ok_or_else(vanished)?;
        Ok(Renewal::Ask(subscription, stored.0, method))
    }

    /// Whether somebody's subscriptions let them in now.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn gate(&self, subject: &str, now_us: i64) -> Result<Gate> {
        let mut tx = self.begin_one().await?;
        let rows = tx
            .all(
                "select s.status, s.price_minor, s.trial_until_us, s.ends_us,
                   (select count(*) from invoice i join payment p on p.id = i.payment_id
                    where i.subscription_id = s.id and i.status = 'paid' and p.seen_us is not null) as paid
                 from subscription s
                 where s.subject = $1 and s.status in ('pending_payment', 'trialing', 'active') limit 100",
                args![subject],
            )
            .await?;
        let one = |row: &Row| {
            Ok(Standing {
                status: word(Status::decode, "status of a subscription", &row.text("status")?)?,
                free: row.int("price_minor")? == 0,
                trial_until_us: row.int_or_null("trial_until_us")?,
                ends_us: row.int_or_null("ends_us")?,
                paid: row.int("paid")? > 0,
            })
        };
        Ok(subscription::gate(&rows.iter().map(one).collect::<Result<Vec<_>>>()?, now_us))
    }
}

/// An invoice, and its payment: the first one under the subscription's own id.
async fn invoice(
    tx: &mut Tx,
    id: &SubscriptionId,
    payment: &str,
    (price, tax_minor): (Amount, i64),
    fingerprint: &str,
    now_us: i64,
) -> Result<()> {
    let currency = price.currency();
    tx.execute(
        "insert into payment (id, subscription_id, amount_minor, currency, fingerprint, created_us, updated_us)
         values ($1, $2, $3, $4, $5, $6, $6)",
        args![payment, id.as_str(), price.minor(), currency.code(), fingerprint, now_us],
    )
    .await?;
    tx.execute(
        "insert into invoice (id, subscription_id, payment_id, status, amount_minor, tax_minor, currency, created_us,
           updated_us)
         values ($1, $2, $3, 'open', $4, $5, $6, $7, $7)",
        args![&sortable("inv_", now_us), id.as_str(), payment, price.minor(), tax_minor, currency.code(), now_us],
    )
    .await
    .map(drop)
}

/// It ends with what was paid for. False when it was to already.
async fn stop_renewal(tx: &mut Tx, id: &str, now_us: i64) -> Result<bool> {
    let sql = "update subscription set renews = 0, renew_next_us = null, updated_us = $2 where id = $1 and renews = 1";
    Ok(tx.execute(sql, args![id, now_us]).await? > 0)
}

async fn lock(tx: &mut Tx, id: &str) -> Result<()> {
    let sql = locked!(tx, "select id from subscription where id = $1");
    tx.first(sql, args![id]).await.map(drop)
}

/// What the provider says of an invoice's payment: the invoice follows; the subscription while it waits for it, or while it
/// is in force, for one period more.
pub(super) async fn apply(tx: &mut Tx, id: &str, payment: &str, seen: &Seen, now_us: i64) -> Result<Applied> {
    lock(tx, id).await?;
    let subscription = read(tx, id).await?.ok_or_else(vanished)?;
    let sql = invoice!("where payment_id = $1");
    let row = tx.first(sql, args![payment]).await?;
    let invoice = row.as_ref().map(decode_invoice).transpose()?.ok_or_else(vanished)?;
    let (to, what) = match seen.standing {
        PaymentStanding::Paid => (InvoiceStatus::Paid, "paid"),
        PaymentStanding::Dead | PaymentStanding::Expired => (InvoiceStatus::Failed, "failed"),
        PaymentStanding::Open | PaymentStanding::Conflicted => return Ok(Applied::Nothing),
    };
    if !invoice.status.may_become(to) || !move_invoice(tx, &invoice.id, (invoice.status, to), now_us).await? {
        return Ok(Applied::Nothing);
    }
    match to {
        InvoiceStatus::Paid => {
            let booking = subscription::invoice_paid(payment, invoice.amount, invoice.tax_minor, now_us)?;
            book(tx, &booking, now_us).await?;
            if !go_on(tx, &subscription, &invoice, seen.method.as_deref(), now_us).await? {
                return Ok(Applied::Changed(PAID_TOO_LATE));
            }
        }
        _ if subscription.status == Status::PendingPayment => {
            let move_to = (Status::PendingPayment, Status::Expired);
            move_subscription(tx, id, move_to, None, now_us).await?;
        }
        _ if subscription.status == Status::Active => tell_failed(tx, &subscription, now_us).await?,
        _ => {}
    }
    Ok(Applied::Changed(what))
}

/// One period more, behind what was paid before; and the next payment, where there is something to pay it by. False: it has
/// ended, and the payment goes back.
async fn go_on(
    tx: &mut Tx,
    subscription: &Subscription,
    invoice: &Invoice,
    method: Option<&str>,
    now_us: i64,
) -> Result<bool> {
    let id = subscription.id.as_str();
    let from_us = match subscription.status {
        Status::PendingPayment => now_us,
        Status::Active => subscription.ends_us.unwrap_or(now_us).max(now_us),
        Status::Trialing | Status::Expired | Status::Cancelled => {
            let payment = &invoice.payment;
            tracing::warn!(
                subscription = id,
                payment,
                "an invoice was paid although its subscription had ended; it goes back"
            );
            invoices::give_back(tx, id, payment, now_us).await?;
            return Ok(false);
        }
    };
    let sql =
        "update subscription set method = coalesce($2, method) where id = $1 returning period_days, method, renews";
    let row = tx.first(sql, args![id, method]).await?.ok_or_else(vanished)?;
    let days = row.int("period_days")?;
    let until_us = (days > 0).then(|| from_us.saturating_add(days.saturating_mul(DAY_US)));
    let sql = "update invoice set from_us = $2, until_us = $3 where id = $1";
    tx.execute(sql, args![&invoice.id, from_us, until_us]).await?;
    if subscription.status == Status::PendingPayment {
        move_subscription(tx, id, (Status::PendingPayment, Status::Active), until_us, now_us).await?;
    }
    let renewable = row.int("renews")? == 1 && row.text_or_null("method")?.is_some();
    let next_us = until_us.filter(|_| renewable).and_then(|ends_us| renewal_at(ends_us, days, 0));
    tx.execute(
        "update subscription set ends_us = $2, renewal_tries = 0, renew_next_us = $3, updated_us = $4 where id = $1",
        args![id, until_us, next_us, now_us],
    )
    .await?;
    Ok(true)
}

/// Tells a person that their subscription was not renewed, with the failure itself.
async fn tell_failed(tx: &mut Tx, subscription: &Subscription, now_us: i64) -> Result<()> {
    let row =
        tx.first("select email from users where id = $1 and email is not null", args![&subscription.subject]).await?;
    let Some(row) = row else { return Ok(()) };
    let about =
        json!({ "plan": subscription.plan, "ends_us": subscription.ends_us, "next_us": subscription.renew_next_us });
    outbox::put(tx, "renewal-failed", &row.text("email")?, &about.to_string(), now_us).await
}

async fn read(tx: &mut Tx, id: &str) -> Result<Option<Subscription>> {
    tx.first(select!("where id = $1"), args![id]).await?.as_ref().map(decode).transpose()
}

fn decode(row: &Row) -> Result<Subscription> {
    let currency = word(Currency::decode, "currency", &row.text("currency")?)?;
    let price = match row.int("price_minor")? {
        0 => None,
        minor => Some(Amount::new(minor, currency)?),
    };
    Ok(Subscription {
        id: row.text("id")?.parse()?,
        subject: row.text("subject")?,
        plan: row.text("plan")?,
        status: word(Status::decode, "status of a subscription", &row.text("status")?)?,
        price,
        trial_until_us: row.int_or_null("trial_until_us")?,
        ends_us: row.int_or_null("ends_us")?,
        renews: row.int("renews")? == 1,
        renew_next_us: row.int_or_null("renew_next_us")?,
        created_us: row.int("created_us")?,
    })
}

fn decode_invoice(row: &Row) -> Result<Invoice> {
    let currency = word(Currency::decode, "currency", &row.text("currency")?)?;
    Ok(Invoice {
        id: row.text("id")?,
        payment: row.text("payment_id")?,
        status: word(InvoiceStatus::decode, "status of an invoice", &row.text("status")?)?,
        amount: Amount::new(row.int("amount_minor")?, currency)?,
        tax_minor: row.int("tax_minor")?,
        created_us: row.int("created_us")?,
        paid_us: row.int_or_null("paid_us")?,
        from_us: row.int_or_null("from_us")?,
        until_us: row.int_or_null("until_us")?,
        returned_us: row.int_or_null("returned_us")?,
    })
}

fn vanished() -> Error {
    Error::internal("a subscription, or its invoice, vanished")
}
