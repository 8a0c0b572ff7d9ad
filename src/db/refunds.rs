//! Refunds in three phases: requested here, asked for at the provider by whoever requested it or by the sweep, and ended
//! by nothing but what the provider has under the refund's id. Those of orders are asked for by people; those of what
//! subscriptions were paid by are ours (invoices.rs).

use super::Db;
use super::conn::{Row, Tx, args};
use super::money::{Claim, End, Request, book, claim, lock_order, locked, move_order, move_refund, resolve, word};
use super::orders::{self, Applied, Order};
use super::{Dialect, invoices, returns};
use crate::base::{Error, Result};
use crate::ledger::order::{OrderId, Status as OrderStatus, total};
use crate::ledger::refund::{self, RefundId, Status};
use crate::ledger::subscription::SubscriptionId;
use crate::ledger::{Amount, Currency};

/// A refund.
#[derive(Clone, Debug, PartialEq)]
pub struct Refund {
    /// Its id, ours and the provider's.
    pub id: RefundId,
    /// Of what.
    pub of: Of,
    /// … and which payment.
    pub payment: String,
    /// How much.
    pub amount: Amount,
    /// Where it stands.
    pub status: Status,
    /// Who asked for it.
    pub requested_by: String,
    /// In their words.
    pub reason: Option<String>,
    /// When the provider was first known to have it; `None`: nobody knows whether it has.
    pub known_us: Option<i64>,
    /// Why it failed, or why it is not known.
    pub error: Option<String>,
    /// Why a person has to look at it.
    pub alarm: Option<String>,
    /// When it was requested, in microseconds since 1970.
    pub created_us: i64,
    /// When it ended.
    pub settled_us: Option<i64>,
}

/// What a refund gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Of {
    /// An order, or a part of it.
    Order(OrderId),
    /// What a subscription was paid by when it had ended.
    Subscription(SubscriptionId),
}

/// Who asks for a refund.
#[derive(Clone, Copy, Debug)]
pub struct By<'a> {
    /// Their name.
    pub subject: &'a str,
    /// They may do it for others.
    pub admin: bool,
}

/// What came of asking for a refund.
#[allow(clippy::large_enum_variant)] // one a request
#[derive(Clone, Debug, PartialEq)]
pub enum Requested {
    /// It is there, or was before under this key.
    Claimed(Claim<Refund>),
    /// There is no such order, or it is none of theirs.
    NoOrder,
    /// Somebody asked before.
    Already,
    /// It is not paid: this is how it stands.
    Not(OrderStatus),
    /// Too late: it could be refunded until then, in microseconds since 1970.
    Closed(i64),
    /// So much is left of it, in minor units.
    Left(i64),
    /// The buyer's bank has a dispute about it: that decides.
    Disputed,
}

/// What somebody wants back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// In minor units; `None`: all that is left.
    pub minor: Option<i64>,
    /// In their words.
    pub reason: Option<&'a str>,
}

/// What the provider has under a refund's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it means for us.
    pub standing: Standing,
    /// The provider's word for it.
    pub state: String,
    /// In minor units.
    pub amount_minor: i64,
    /// In capitals.
    pub currency: String,
    /// Of which payment.
    pub payment: String,
    /// Why it failed, in the provider's words.
    pub error: Option<String>,
}

/// What a provider's refund means for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The buyer has the money.
    Succeeded,
    /// They have not.
    Failed,
    /// Nobody knows yet.
    Open,
}

/// The columns of a refund, and what follows.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "select r.id, r.order_id, r.subscription_id, r.payment_id, r.amount_minor, r.status, r.requested_by, r.reason,
               r.known_us, r.error, r.alarm, r.created_us, r.settled_us, p.currency
             from refund r join payment p on p.id = r.payment_id ",
            $rest
        )
    };
}

impl Db {
    /// Phase 1: one short transaction decides whether there may be a refund, stores it, and reserves its money.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn request_refund(
        &self,
        order: &OrderId,
        by: By<'_>,
        wanted: Wanted<'_>,
        window_days: i64,
        request: Request<'_>,
        now_us: i64,
    ) -> Result<Requested> {
        let mut tx = self.begin().await?;
        lock_order(&mut tx, order.as_str()).await?;
        let Some(order) = orders::read(&mut tx, order.as_str()).await? else { return Ok(Requested::NoOrder) };
        let sells = order.items.iter().any(|item| item.seller == by.subject);
        if !(by.admin || order.buyer == by.subject || sells) {
            return Ok(Requested::NoOrder);
        }
        let id = RefundId::new(now_us);
        match claim(&mut tx, request, id.as_str(), now_us).await? {
            Claim::Conflict(id) => return Ok(Requested::Claimed(Claim::Conflict(id))),
            Claim::Known(id) => {
                let refund = read(&mut tx, &id).await?;
                let refund = refund.ok_or_else(|| Error::internal(format!("the refund {id} vanished")))?;
                return Ok(Requested::Claimed(Claim::Known(refund)));
            }
            Claim::New(_) => {}
        }
        match order.status {
            OrderStatus::Paid => {}
            OrderStatus::RefundPending | OrderStatus::Refunded => return Ok(Requested::Already),
            other => return Ok(Requested::Not(other)),
        }
        let until_us = refund::until_us(order.refund_until_us, order.paid_us.unwrap_or(order.created_us), window_days);
        if now_us > until_us {
            return Ok(Requested::Closed(until_us));
        }
        let sql = "select 1 as one from dispute where payment_id = $1 and status = 'open' limit 1";
        if tx.first(sql, args![&order.payment.id]).await?.is_some() {
            return Ok(Requested::Disputed);
        }
        let left_minor = total(&returns::left(&mut tx, &order, true).await?).total();
        let minor = wanted.minor.unwrap_or(left_minor);
        if !(1..=left_minor).contains(&minor) {
            return Ok(Requested::Left(left_minor));
        }
        tx.execute(
            "insert into refund (id, order_id, payment_id, amount_minor, status, requested_by, reason, created_us, updated_us)
             values ($1, $2, $3, $4, 'pending', $5, $6, $7, $7)",
            args![
                id.as_str(),
                order.id.as_str(),
                &order.payment.id,
                minor,
                by.subject,
                wanted.reason,
                now_us
            ],
        )
        .await?;
        if !move_order(&mut tx, order.id.as_str(), (OrderStatus::Paid, OrderStatus::RefundPending), now_us).await? {
            return Ok(Requested::Already);
        }
        let currency = order.total.currency();
        let shares = returns::keep(&mut tx, &order, id.as_str(), minor, false).await?.shares;
        let taken = returns::take(&mut tx, &shares, currency).await?;
        book(&mut tx, &refund::reserve(&id, &shares, &taken, currency, now_us)?, now_us).await?;
        let refund = read(&mut tx, id.as_str()).await?;
        let refund = refund.ok_or_else(|| Error::internal(format!("the refund {id} vanished")))?;
        tx.commit().await?;
        Ok(Requested::Claimed(Claim::New(refund)))
    }

    /// A refund.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn refund(&self, id: &RefundId) -> Result<Option<Refund>> {
        read(&mut self.begin_one().await?, id.as_str()).await
    }

    /// The refunds of an order, the latest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn refunds(&self, order: &OrderId) -> Result<Vec<Refund>> {
        let mut tx = self.begin_one().await?;
        let sql = select!("where r.order_id = $1 order by r.id desc limit 100");
        tx.all(sql, args![order.as_str()]).await?.iter().map(decode).collect()
    }

    /// Remembers why nobody knows yet whether the provider has a refund.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn note_refund(&self, id: &RefundId, error: &str, now_us: i64) -> Result<()> {
        let mut tx = self.begin().await?;
        let sql = "update refund set error = $2, updated_us = $3 where id = $1 and status = 'pending'";
        tx.execute(sql, args![id.as_str(), error, now_us]).await?;
        tx.commit().await
    }

    /// Believes what the provider has under a refund's id, as far as it may be believed. The same again changes nothing.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn apply_refund(&self, id: &RefundId, seen: &Seen, now_us: i64) -> Result<Applied> {
        let mut tx = self.begin().await?;
        let Some((what, refund)) = lock(&mut tx, id).await? else { return Ok(Applied::Unknown) };
        let same = seen.amount_minor == refund.amount.minor()
            && seen.currency == refund.amount.currency().code()
            && seen.payment == refund.payment;
        if !same {
            let why = format!(
                "the provider has {} minor units of {} for {} ({})",
                seen.amount_minor, seen.currency, seen.payment, seen.state
            );
            let sql = "update refund set alarm = $2, updated_us = $3 where id = $1 and (alarm is null or alarm <> $2)";
            tx.execute(sql, args![id.as_str(), &why, now_us]).await?;
            tx.commit().await?;
            return Ok(Applied::Alarm(why));
        }
        let sql = "update refund set known_us = $2, error = null, updated_us = $2 where id = $1 and known_us is null";
        tx.execute(sql, args![id.as_str(), now_us]).await?;
        // It is what we asked for after all; what a subscription's own refund is told for goes when it has succeeded.
        let sql = "update refund set alarm = null, updated_us = $2 where id = $1 and alarm is not null and order_id is not null";
        tx.execute(sql, args![id.as_str(), now_us]).await?;
        let applied = match (seen.standing, refund.status) {
            (Standing::Succeeded, Status::Pending | Status::Failed) => {
                match &what {
                    Locked::Order(order) => {
                        succeed(&mut tx, order, &refund, now_us).await?;
                        // Whatever was wrong with its payment: nothing is left of it.
                        let sql = "update payment set alarm = null, updated_us = $2 where id = $1 and alarm is not null
                                     and exists (select 1 from sale_order o where o.id = payment.order_id and o.status = 'refunded')";
                        tx.execute(sql, args![&refund.payment, now_us]).await?;
                    }
                    Locked::Subscription => invoices::succeed(&mut tx, &refund, now_us).await?,
                }
                Applied::Changed("refunded")
            }
            (Standing::Failed, Status::Pending) => {
                let why = seen.error.as_deref().unwrap_or(&seen.state);
                what.give_up(&mut tx, &refund, why, now_us).await?;
                Applied::Changed("refund_failed")
            }
            _ => Applied::Nothing,
        };
        tx.commit().await?;
        Ok(applied)
    }

    /// Ends a refund that the provider refused or does not have: the money stays, and so does the order. False when it
    /// ended otherwise meanwhile.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn fail_refund(&self, id: &RefundId, why: &str, now_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        let Some((what, refund)) = lock(&mut tx, id).await? else { return Ok(false) };
        if refund.status != Status::Pending {
            return Ok(false);
        }
        what.give_up(&mut tx, &refund, why, now_us).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Refunds that are pending since before `before_us`: those that the provider has (`known`), or those of which
    /// nobody knows.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn pending_refunds(&self, known: bool, before_us: i64, after: &str, limit: i64) -> Result<Vec<RefundId>> {
        let mut tx = self.begin_one().await?;
        let sql = match known {
            true => {
                "select id from refund where status = 'pending' and known_us is not null and created_us < $1 and id > $2
                 order by id limit $3"
            }
            false => {
                "select id from refund where status = 'pending' and known_us is null and created_us < $1 and id > $2
                 order by id limit $3"
            }
        };
        tx.all(sql, args![before_us, after, limit]).await?.iter().map(|row| row.text("id")?.parse()).collect()
    }
}

/// What a refund gives back, locked.
enum Locked {
    Order(Box<Order>),
    Subscription,
}

impl Locked {
    async fn give_up(&self, tx: &mut Tx, refund: &Refund, why: &str, now_us: i64) -> Result<()> {
        match self {
            Locked::Order(order) => give_up(tx, order, refund, why, now_us).await,
            Locked::Subscription => invoices::give_up(tx, refund, why, now_us).await,
        }
    }
}

/// The refund, and what it is of, both locked: that first, as everywhere.
async fn lock(tx: &mut Tx, id: &RefundId) -> Result<Option<(Locked, Refund)>> {
    let sql = "select order_id, subscription_id from refund where id = $1";
    let Some(row) = tx.first(sql, args![id.as_str()]).await? else { return Ok(None) };
    let Some(order) = row.text_or_null("order_id")? else {
        let of = row.text("subscription_id")?;
        tx.first(locked!(tx, "select id from subscription where id = $1"), args![&of]).await?;
        return Ok(read(tx, id.as_str()).await?.map(|refund| (Locked::Subscription, refund)));
    };
    lock_order(tx, &order).await?;
    let order = orders::read(tx, &order).await?.map(|order| Locked::Order(Box::new(order)));
    Ok(order.zip(read(tx, id.as_str()).await?))
}

/// The buyer has the money: refund, order, licences, journal and transfers, at once.
async fn succeed(tx: &mut Tx, order: &Order, refund: &Refund, now_us: i64) -> Result<()> {
    let id = refund.id.as_str();
    if !move_refund(tx, id, (refund.status, Status::Succeeded), None, now_us).await? {
        return Err(Error::internal(format!("the refund {id} moved although it was locked")));
    }
    let shares = match refund.status {
        Status::Pending => {
            let end = End::Post(&refund::succeeded_source(&refund.id));
            resolve(tx, &format!("refund:{id}"), end, now_us).await?;
            returns::finish(tx, id).await?;
            returns::kept(tx, order, id).await?
        }
        // It was given up, and its reservation with it: what is left now is split.
        Status::Failed | Status::Succeeded => {
            let currency = order.total.currency();
            let back = returns::keep(tx, order, id, refund.amount.minor(), true).await?;
            let taken = returns::take(tx, &back.shares, currency).await?;
            let booking = refund::late(&refund.id, (&back.shares, back.loss_minor), &taken, currency, now_us)?;
            book(tx, &booking, now_us).await?;
            let sql = "update refund set loss_minor = $2 where id = $1";
            tx.execute(sql, args![id, back.loss_minor]).await?;
            back.shares
        }
    };
    returns::settle(tx, order, &shares, now_us).await
}

/// The money stays: refund, order and reservation, at once.
async fn give_up(tx: &mut Tx, order: &Order, refund: &Refund, why: &str, now_us: i64) -> Result<()> {
    let id = refund.id.as_str();
    if !move_refund(tx, id, (Status::Pending, Status::Failed), Some(why), now_us).await? {
        return Err(Error::internal(format!("the refund {id} moved although it was locked")));
    }
    if order.status == OrderStatus::RefundPending {
        move_order(tx, order.id.as_str(), (OrderStatus::RefundPending, OrderStatus::Paid), now_us).await?;
    }
    returns::give_up(tx, id).await?;
    let source = format!("hs:{id}:failed");
    resolve(tx, &format!("refund:{id}"), End::Void(&source), now_us).await?;
    returns::absorb(tx, order, id, now_us).await
}

async fn read(tx: &mut Tx, id: &str) -> Result<Option<Refund>> {
    tx.first(select!("where r.id = $1"), args![id]).await?.as_ref().map(decode).transpose()
}

fn decode(row: &Row) -> Result<Refund> {
    let currency = word(Currency::decode, "currency", &row.text("currency")?)?;
    let of = match row.text_or_null("order_id")? {
        Some(order) => Of::Order(order.parse()?),
        None => Of::Subscription(row.text("subscription_id")?.parse()?),
    };
    Ok(Refund {
        id: row.text("id")?.parse()?,
        of,
        payment: row.text("payment_id")?,
        amount: Amount::new(row.int("amount_minor")?, currency)?,
        status: word(Status::decode, "status of a refund", &row.text("status")?)?,
        requested_by: row.text("requested_by")?,
        reason: row.text_or_null("reason")?,
        known_us: row.int_or_null("known_us")?,
        error: row.text_or_null("error")?,
        alarm: row.text_or_null("alarm")?,
        created_us: row.int("created_us")?,
        settled_us: row.int_or_null("settled_us")?,
    })
}
