//! Disputes about payments: what a bank took, or wants to take. In: what the provider has under a dispute's id. Out: a
//! dispute that stands as it says, with a journal for each turn, and the order, its licences and its transfers after it.

use super::conn::{Row, Tx, args};
use super::money::{book, lock_ledger, lock_order, locked, move_dispute, move_subscription, owed, word};
use super::orders::{self, Applied, Order};
use super::{Db, Dialect, invoices, returns};
use crate::base::{Error, Result};
use crate::ledger::dispute::{self, Borne, Status, Turn};
use crate::ledger::order::{Status as OrderStatus, by_seller};
use crate::ledger::{Amount, Currency, subscription};

/// Disputes in one page of a list.
pub const PAGE_MAX: u32 = 200;

/// A dispute.
#[derive(Clone, Debug, PartialEq)]
pub struct Dispute {
    /// The provider's id.
    pub id: String,
    /// About which payment.
    pub payment: String,
    /// Where it stands.
    pub status: Status,
    /// How much.
    pub amount: Amount,
    /// As the provider last said it.
    pub provider_state: String,
    /// Of it, what nobody but us bears, in minor units.
    pub loss_minor: i64,
    /// Why a person has to look at it.
    pub alarm: Option<String>,
    /// When we first heard of it, in microseconds since 1970.
    pub created_us: i64,
    /// When it was last won or lost.
    pub settled_us: Option<i64>,
}

/// A dispute in a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// It.
    pub dispute: Dispute,
    /// The order that its payment is for.
    pub order: Option<String>,
    /// … or the subscription.
    pub subscription: Option<String>,
}

/// What the provider has under a dispute's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its id: the provider makes it.
    pub id: String,
    /// About which payment.
    pub payment: String,
    /// What it means for us.
    pub standing: Status,
    /// The provider's word for it.
    pub state: String,
    /// In minor units.
    pub amount_minor: i64,
    /// In capitals.
    pub currency: String,
}

/// What is paid by the disputed payment.
enum For {
    Order(Box<Order>),
    Subscription(String),
}

/// The columns of a dispute, what its payment is for, and what follows.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "select d.id, d.payment_id, d.status, d.amount_minor, d.currency, d.provider_state, d.turns, d.loss_minor, d.alarm,
               d.created_us, d.settled_us, p.order_id, p.subscription_id
             from dispute d join payment p on p.id = d.payment_id ",
            $rest
        )
    };
}

impl Db {
    /// Believes what the provider says of a dispute. The same again changes nothing.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn apply_dispute(&self, seen: &Seen, now_us: i64) -> Result<Applied> {
        let mut tx = self.begin().await?;
        let sql = "select order_id, subscription_id, amount_minor, currency from payment where id = $1";
        let Some(row) = tx.first(sql, args![&seen.payment]).await? else { return Ok(Applied::Unknown) };
        let (subject, paid) = disputed(&mut tx, &row, &seen.payment).await?;
        let known = read(&mut tx, &seen.id).await?;
        let same = seen.currency == row.text("currency")?
            && known.as_ref().is_none_or(|known| known.0.amount.minor() == seen.amount_minor);
        if !same || !paid || seen.amount_minor < 1 {
            let (minor, of) = (seen.amount_minor, &seen.currency);
            let why =
                format!("a dispute about {minor} minor units of {of} ({}) is not about what was paid", seen.state);
            let sql = "update dispute set alarm = $2, updated_us = $3 where id = $1 and (alarm is null or alarm <> $2)";
            tx.execute(sql, args![&seen.id, &why, now_us]).await?;
            tx.commit().await?;
            return Ok(Applied::Alarm(why));
        }
        let (before, mut number) = known.as_ref().map_or((None, 0), |(known, turns)| (Some(known.status), *turns));
        let mut turns = Vec::new();
        let mut at = before.unwrap_or(Status::Open);
        if before.is_none() {
            let sql = "insert into dispute (id, payment_id, status, amount_minor, currency, provider_state, created_us, updated_us)
                       values ($1, $2, 'open', $3, $4, $5, $6, $6)";
            let args = args![&seen.id, &seen.payment, seen.amount_minor, &seen.currency, &seen.state, now_us];
            tx.execute(sql, args).await?;
            turns.push(Status::Open);
        }
        turns.extend(at.turns(seen.standing));
        for to in &turns {
            number += 1;
            if before.is_some() || number > 1 {
                if !move_dispute(&mut tx, &seen.id, (at, *to), now_us).await? {
                    return Err(Error::internal(format!("the dispute {} moved although it was locked", seen.id)));
                }
            } else {
                tx.execute("update dispute set turns = 1 where id = $1", args![&seen.id]).await?;
            }
            let turn = Turn { id: &seen.id, number, now_us };
            match &subject {
                For::Order(order) => {
                    let order = orders::read(&mut tx, order.id.as_str()).await?.ok_or_else(vanished)?;
                    of_order(&mut tx, &order, turn, (at, *to), seen.amount_minor).await?;
                }
                For::Subscription(id) => of_subscription(&mut tx, id, turn, (at, *to), seen).await?,
            }
            at = *to;
        }
        tx.execute(
            "update dispute set provider_state = $2, alarm = null, updated_us = $3
             where id = $1 and (provider_state <> $2 or alarm is not null)",
            args![&seen.id, &seen.state, now_us],
        )
        .await?;
        tx.commit().await?;
        Ok(match turns.last() {
            None => Applied::Nothing,
            Some(Status::Open) => Applied::Changed("dispute_opened"),
            Some(Status::Won) => Applied::Changed("dispute_won"),
            Some(Status::Lost) => Applied::Changed("dispute_lost"),
        })
    }

    /// A dispute.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn dispute(&self, id: &str) -> Result<Option<Dispute>> {
        Ok(read(&mut self.begin_one().await?, id).await?.map(|(dispute, _)| dispute))
    }

    /// Disputes, the latest first, of one status or of all, behind the one of the id `before`; with each, the order or the
    /// subscription that was paid.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn disputes(&self, status: Option<Status>, before: Option<&str>, limit: u32) -> Result<Vec<Listed>> {
        let mut tx = self.begin_one().await?;
        let sql = select!(
            "where (cast($1 as text) is null or d.status = $1) and (cast($2 as text) is null
               or (d.created_us, d.id) < (select b.created_us, b.id from dispute b where b.id = $2))
             order by d.created_us desc, d.id desc limit $3"
        );
        let args = args![status.map(Status::as_str), before, i64::from(limit.min(PAGE_MAX))];
        let one = |row: &Row| {
            let (order, subscription) = (row.text_or_null("order_id")?, row.text_or_null("subscription_id")?);
            Ok(Listed { dispute: decode(row)?, order, subscription })
        };
        tx.all(sql, args).await?.iter().map(one).collect()
    }

    /// Disputes that are open, by id.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn open_disputes(&self, after: &str, limit: i64) -> Result<Vec<String>> {
        let mut tx = self.begin_one().await?;
        let sql = "select id from dispute where status = 'open' and id > $1 order by id limit $2";
        tx.all(sql, args![after, limit]).await?.iter().map(|row| row.text("id")).collect()
    }
}

/// What the payment is for, locked, and whether it was paid.
async fn disputed(tx: &mut Tx, payment: &Row, id: &str) -> Result<(For, bool)> {
    if let Some(order) = payment.text_or_null("order_id")? {
        lock_order(tx, &order).await?;
        let order = orders::read(tx, &order).await?.ok_or_else(vanished)?;
        let paid = matches!(order.status, OrderStatus::Paid | OrderStatus::RefundPending | OrderStatus::Refunded);
        return Ok((For::Order(Box::new(order)), paid));
    }
    let of = payment.text_or_null("subscription_id")?.ok_or_else(vanished)?;
    tx.first(locked!(tx, "select id from subscription where id = $1"), args![&of]).await?;
    let sql = "select 1 as one from invoice where payment_id = $1 and status = 'paid'";
    let paid = tx.first(sql, args![id]).await?.is_some();
    Ok((For::Subscription(of), paid))
}

/// One turn of a dispute about an order.
async fn of_order(tx: &mut Tx, order: &Order, turn: Turn<'_>, (from, to): (Status, Status), minor: i64) -> Result<()> {
    let (id, currency, now_us) = (turn.id, order.total.currency(), turn.now_us);
    match to {
        Status::Open => {
            let back = returns::keep(tx, order, id, minor, false).await?;
            lose(tx, id, back.loss_minor).await?;
            let taken = returns::take(tx, &back.shares, currency).await?;
            let borne = Borne { shares: back.shares, loss_minor: back.loss_minor, ..Borne::default() };
            book(tx, &dispute::opened(turn, &borne, &taken, currency)?, now_us).await
        }
        Status::Lost => {
            returns::finish(tx, id).await?;
            book(tx, &dispute::lost(turn, minor, currency)?, now_us).await?;
            let shares = returns::kept(tx, order, id).await?;
            returns::settle(tx, order, &shares, now_us).await
        }
        Status::Won => {
            let shares = returns::kept(tx, order, id).await?;
            let loss_minor = lost(tx, id).await?;
            let borne = Borne { shares, loss_minor, ..Borne::default() };
            lock_ledger(tx).await?;
            let mut owes: Vec<(&str, i64)> = Vec::new();
            for (seller, _) in by_seller(&borne.shares) {
                owes.push((seller, owed(tx, seller, currency).await?));
            }
            let of = |seller: &str| owes.iter().find(|(known, _)| *known == seller).map_or(0, |(_, minor)| *minor);
            book(tx, &dispute::won(turn, from, &borne, of, currency)?, now_us).await?;
            returns::give_up(tx, id).await?;
            lose(tx, id, 0).await?;
            returns::reopen(tx, order, now_us).await?;
            returns::absorb(tx, order, &format!("{id}:{}", turn.number), now_us).await
        }
    }
}

/// One turn of a dispute about a subscription's payment: lost, the subscription ends.
async fn of_subscription(
    tx: &mut Tx,
    subscription: &str,
    turn: Turn<'_>,
    (from, to): (Status, Status),
    seen: &Seen,
) -> Result<()> {
    let now_us = turn.now_us;
    let currency = word(Currency::decode, "currency", &seen.currency)?;
    if to == Status::Open {
        let part = invoices::left(tx, &seen.payment, &seen.id).await?.of(seen.amount_minor);
        lose(tx, turn.id, seen.amount_minor - part.minor).await?;
        let sql = "update dispute set tax_minor = $2 where id = $1";
        tx.execute(sql, args![turn.id, part.tax_minor]).await?;
    }
    let sql = "select amount_minor, loss_minor, tax_minor from dispute where id = $1";
    let row = tx.first(sql, args![turn.id]).await?.ok_or_else(vanished)?;
    let (loss_minor, tax_minor) = (row.int("loss_minor")?, row.int("tax_minor")?);
    let subscription_minor = row.int("amount_minor")? - loss_minor - tax_minor;
    let borne = Borne { subscription_minor, tax_minor, loss_minor, ..Borne::default() };
    match to {
        Status::Open => book(tx, &dispute::opened(turn, &borne, &[], currency)?, now_us).await,
        Status::Won => {
            book(tx, &dispute::won(turn, from, &borne, |_| 0, currency)?, now_us).await?;
            lose(tx, turn.id, 0).await?;
            invoices::absorb(tx, &seen.payment, &format!("{}:{}", turn.id, turn.number), now_us).await
        }
        Status::Lost => {
            book(tx, &dispute::lost(turn, borne.total(), currency)?, now_us).await?;
            use subscription::Status::{Active, Expired};
            // One that had ended stays as it is.
            move_subscription(tx, subscription, (Active, Expired), Some(now_us), now_us).await.map(drop)
        }
    }
}

async fn lose(tx: &mut Tx, id: &str, minor: i64) -> Result<()> {
    tx.execute("update dispute set loss_minor = $2 where id = $1", args![id, minor]).await.map(drop)
}

async fn lost(tx: &mut Tx, id: &str) -> Result<i64> {
    let row = tx.first("select loss_minor from dispute where id = $1", args![id]).await?;
    row.map_or(Ok(0), |row| row.int("loss_minor"))
}

/// The dispute, and how many turns it had.
async fn read(tx: &mut Tx, id: &str) -> Result<Option<(Dispute, i64)>> {
    let row = tx.first(select!("where d.id = $1"), args![id]).await?;
    row.map(|row| Ok((decode(&row)?, row.int("turns")?))).transpose()
}

fn decode(row: &Row) -> Result<Dispute> {
    let currency = word(Currency::decode, "currency", &row.text("currency")?)?;
    Ok(Dispute {
        id: row.text("id")?,
        payment: row.text("payment_id")?,
        status: word(Status::decode, "status of a dispute", &row.text("status")?)?,
        amount: Amount::new(row.int("amount_minor")?, currency)?,
        provider_state: row.text("provider_state")?,
        loss_minor: row.int("loss_minor")?,
        alarm: row.text_or_null("alarm")?,
        created_us: row.int("created_us")?,
        settled_us: row.int_or_null("settled_us")?,
    })
}

fn vanished() -> Error {
    Error::internal("what a disputed payment is for vanished")
}
