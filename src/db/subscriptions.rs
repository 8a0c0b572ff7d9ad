//! Subscriptions and their invoices. In: a plan, and what the provider says of the first payment. Out: who is let in.

use super::Db;
use super::Dialect;
use super::conn::{Row, Tx, args};
use super::money::{Claim, Request, book, claim, locked, move_invoice, move_subscription, word};
use super::orders::{Applied, Payment, Standing as PaymentStanding};
use crate::base::id::sortable;
use crate::base::{Error, Result};
use crate::ledger::subscription::{self, Gate, InvoiceStatus, Standing, Status, SubscriptionId};
use crate::ledger::{Amount, Currency, allocate};

/// Subscriptions in one page of a list.
pub const PAGE_MAX: u32 = 200;
/// A day in microseconds.
const DAY_US: i64 = 86_400_000_000;

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
}

/// What came of subscribing.
#[derive(Clone, Debug, PartialEq)]
pub enum Subscribed {
    /// It is there, or was before under this key.
    Claimed(Claim<Subscription>),
    /// They have one already.
    Live(SubscriptionId),
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
                   created_us, updated_us)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)
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
                    now_us
                ],
            )
            .await?;
        if new == 0 {
            // Somebody subscribed between the look and here.
            let row = tx.first(live, args![subject]).await?.ok_or_else(vanished)?;
            return Ok(Subscribed::Live(row.text("id")?.parse()?));
        }
        if let (Some(price), Status::PendingPayment) = (plan.price, status) {
            invoice(&mut tx, &id, price, plan.tax_bps, request.fingerprint, now_us).await?;
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
        read(&mut self.begin_read().await?, id.as_str()).await
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
        let mut tx = self.begin_read().await?;
        let before = before.map_or("sub_~", SubscriptionId::as_str);
        let sql = "select id from subscription where subject = $1 and id < $2 order by id desc limit $3";
        let mut subscriptions = Vec::new();
        for row in tx.all(sql, args![subject, before, i64::from(limit.min(PAGE_MAX))]).await? {
            subscriptions.extend(read(&mut tx, &row.text("id")?).await?);
        }
        Ok(subscriptions)
    }

    /// The invoices of a subscription, the latest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn invoices(&self, id: &SubscriptionId) -> Result<Vec<Invoice>> {
        let mut tx = self.begin_read().await?;
        let sql = "select id, payment_id, status, amount_minor, tax_minor, currency, created_us, paid_us from invoice
                   where subscription_id = $1 order by id desc limit 100";
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

    /// Ends a subscription whose subscriber wants no more of it. False when it had ended.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn cancel_subscription(&self, id: &SubscriptionId, now_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        lock(&mut tx, id.as_str()).await?;
        let Some(subscription) = read(&mut tx, id.as_str()).await? else { return Ok(false) };
        if !subscription.status.may_become(Status::Cancelled) {
            return Ok(false);
        }
        let moved =
            move_subscription(&mut tx, id.as_str(), (subscription.status, Status::Cancelled), Some(now_us), now_us)
                .await?;
        tx.commit().await?;
        Ok(moved)
    }

    /// Ends trials and periods that are over. Returns how many.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn expire_subscriptions(&self, now_us: i64, limit: i64) -> Result<u64> {
        let mut tx = self.begin().await?;
        let rows = tx
            .all(
                "select id, status from subscription
                 where (status = 'trialing' and trial_until_us <= $1) or (status = 'active' and ends_us <= $1)
                 order by id limit $2",
                args![now_us, limit],
            )
            .await?;
        let mut ended = 0;
        for row in rows {
            let from = word(Status::decode, "status of a subscription", &row.text("status")?)?;
            let moved = move_subscription(&mut tx, &row.text("id")?, (from, Status::Expired), None, now_us).await?;
            ended += u64::from(moved);
        }
        tx.commit().await?;
        Ok(ended)
    }

    /// Whether somebody's subscriptions let them in now.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn gate(&self, subject: &str, now_us: i64) -> Result<Gate> {
        let mut tx = self.begin_read().await?;
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

/// The first invoice, and its payment under the subscription's own id.
async fn invoice(
    tx: &mut Tx,
    id: &SubscriptionId,
    price: Amount,
    tax_bps: u64,
    fingerprint: &str,
    now_us: i64,
) -> Result<()> {
    let currency = price.currency();
    tx.execute(
        "insert into payment (id, subscription_id, amount_minor, currency, fingerprint, created_us, updated_us)
         values ($1, $1, $2, $3, $4, $5, $5)",
        args![id.as_str(), price.minor(), currency.code(), fingerprint, now_us],
    )
    .await?;
    let tax_minor = allocate(price.minor() as u64, &[10_000, tax_bps.min(10_000)])[1] as i64;
    tx.execute(
        "insert into invoice (id, subscription_id, payment_id, status, amount_minor, tax_minor, currency, created_us,
           updated_us)
         values ($1, $2, $2, 'open', $3, $4, $5, $6, $6)",
        args![&sortable("inv_", now_us), id.as_str(), price.minor(), tax_minor, currency.code(), now_us],
    )
    .await
    .map(drop)
}

async fn lock(tx: &mut Tx, id: &str) -> Result<()> {
    let sql = locked!(tx, "select id from subscription where id = $1");
    tx.first(sql, args![id]).await.map(drop)
}

/// What the provider says of an invoice's payment: the invoice follows, the subscription only while it waits for it.
pub(super) async fn apply(
    tx: &mut Tx,
    id: &str,
    payment: &str,
    standing: PaymentStanding,
    now_us: i64,
) -> Result<Applied> {
    lock(tx, id).await?;
    let subscription = read(tx, id).await?.ok_or_else(vanished)?;
    let sql = "select id, payment_id, status, amount_minor, tax_minor, currency, created_us, paid_us from invoice
               where payment_id = $1";
    let row = tx.first(sql, args![payment]).await?;
    let invoice = row.as_ref().map(decode_invoice).transpose()?.ok_or_else(vanished)?;
    let (to, then, what) = match standing {
        PaymentStanding::Paid => (InvoiceStatus::Paid, Status::Active, "paid"),
        PaymentStanding::Dead | PaymentStanding::Expired => (InvoiceStatus::Failed, Status::Expired, "failed"),
        PaymentStanding::Open | PaymentStanding::Conflicted => return Ok(Applied::Nothing),
    };
    if !invoice.status.may_become(to) || !move_invoice(tx, &invoice.id, (invoice.status, to), now_us).await? {
        return Ok(Applied::Nothing);
    }
    if to == InvoiceStatus::Paid {
        let sql = "select period_days from subscription where id = $1";
        let days = tx.first(sql, args![id]).await?.map_or(Ok(0), |row| row.int("period_days"))?;
        let booking = subscription::invoice_paid(payment, invoice.amount, invoice.tax_minor, now_us)?;
        book(tx, &booking, now_us).await?;
        if subscription.status == Status::PendingPayment {
            let ends_us = (days > 0).then(|| now_us.saturating_add(days.saturating_mul(DAY_US)));
            move_subscription(tx, id, (Status::PendingPayment, then), ends_us, now_us).await?;
        } else {
            tracing::error!(subscription = id, payment, "an invoice was paid although its subscription had ended");
        }
    } else if subscription.status == Status::PendingPayment {
        move_subscription(tx, id, (Status::PendingPayment, then), None, now_us).await?;
    }
    Ok(Applied::Changed(what))
}

async fn read(tx: &mut Tx, id: &str) -> Result<Option<Subscription>> {
    let sql = "select id, subject, plan, status, price_minor, currency, trial_until_us, ends_us, created_us
               from subscription where id = $1";
    let one = |row: Row| {
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
            created_us: row.int("created_us")?,
        })
    };
    tx.first(sql, args![id]).await?.map(one).transpose()
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
    })
}

fn vanished() -> Error {
    Error::internal("a subscription, or its invoice, vanished")
}
