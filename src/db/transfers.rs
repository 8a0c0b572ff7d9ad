//! What sellers are paid, and what comes back. In: what a try is about to do, and what came of it. Out: what to ask the
//! provider. A try is stored, and its money reserved, before the provider hears of it.

use super::conn::{Row, Tx, args};
use super::money::{
    After, End, available, book, lock_ledger, lock_order, move_transfer, net, owed, resolve, try_book, word,
};
use super::returns::{Made, take_back, take_part_back};
use super::{Db, ledger};
use crate::base::{Error, Result};
use crate::jobs::backoff::Backoff;
use crate::ledger::order::{OrderId, Status as OrderStatus};
use crate::ledger::transfer::{self, Status, TRIES_MAX, TransferId};
use crate::ledger::{Amount, Currency, Posted};

/// Transfers in one page of a list.
pub const PAGE_MAX: u32 = 200;
/// How long an idempotency key surely means the same at Stripe: it may be forgotten after 24 h.
const KEY_VALID_US: i64 = 23 * 3_600_000_000;
/// When a transfer is looked at again that cannot be made for now, though nobody failed.
const LATER_US: i64 = 3_600_000_000;
/// The same while a refund of its order, or a dispute about it, is open.
const REFUND_OPEN_US: i64 = 600_000_000;

/// What a seller gets of an order.
#[derive(Clone, Debug, PartialEq)]
pub struct Transfer {
    /// Its id.
    pub id: TransferId,
    /// Of which order.
    pub order: OrderId,
    /// Who gets it.
    pub seller: String,
    /// How much.
    pub amount: Amount,
    /// Where it stands.
    pub status: Status,
    /// The provider's id; `None` until it was made.
    pub provider_id: Option<String>,
    /// Whose account it goes to; `None` until it was first asked for.
    pub destination: Option<String>,
    /// The try that is reserved in the ledger, or was last.
    pub attempt: i64,
    /// Tries of this phase.
    pub tries: i64,
    /// Of them, those that the provider answered with no.
    pub refusals: i64,
    /// Of the idempotency key.
    pub generation: i64,
    /// First use of that key, while its outcome is not known.
    pub submitted_us: Option<i64>,
    /// Minor units that came back and are booked.
    pub reversed_minor: i64,
    /// Minor units that have to come back, in all.
    pub due_back_minor: i64,
    /// What the open request for a reversal asked for.
    pub asked_back_minor: Option<i64>,
    /// When it is tried next.
    pub next_us: Option<i64>,
    /// Why the last try did not do it.
    pub error: Option<String>,
    /// When it was made, in microseconds since 1970.
    pub created_us: i64,
}

/// What to do about a transfer whose time has come.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Ask for it under this key; its money is reserved.
    Submit(Transfer, String),
    /// It was asked for before, and nobody knows what came of it: look.
    Look(Transfer),
    /// See what has come back, and ask for the rest.
    Reverse(Transfer),
    /// Nothing for now.
    Rest,
}

/// How a request ended that did not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The provider says no; it was not done.
    Refused,
    /// The provider answered, and that it failed: it may have been done, and would answer the same again.
    Answered,
    /// No answer: it may have been done.
    Silence,
}

/// What came of booking what has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Booked {
    /// All of it that has to come back.
    Whole,
    /// More than before, and not all of it.
    Part,
    /// What was known.
    Nothing,
}

/// The columns of a transfer, `where` whatever follows.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "select id, order_id, seller, amount_minor, currency, status, provider_transfer_id, destination, attempt, tries,
               refusals, generation, submitted_us, reversed_minor, due_back_minor, asked_back_minor, next_attempt_at_us, error,
               created_us
             from transfer ",
            $rest
        )
    };
}

impl Db {
    /// Where a seller is paid.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn set_seller_account(&self, seller: &str, destination: &str, now_us: i64) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.execute(
            "insert into seller_account (seller, destination, updated_us) values ($1, $2, $3)
             on conflict (seller) do update set destination = excluded.destination, updated_us = excluded.updated_us",
            args![seller, destination, now_us],
        )
        .await?;
        // What waited for it need not wait longer.
        tx.execute(
            "update transfer set next_attempt_at_us = $2 where seller = $1 and destination is null
               and next_attempt_at_us > $2 and tries = 0 and error is not null",
            args![seller, now_us],
        )
        .await?;
        tx.commit().await
    }

    /// Where a seller is paid; `None`: nobody knows.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn seller_account(&self, seller: &str) -> Result<Option<String>> {
        let mut tx = self.begin_one().await?;
        let sql = "select destination from seller_account where seller = $1";
        tx.first(sql, args![seller]).await?.map(|row| row.text("destination")).transpose()
    }

    /// A transfer.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn transfer(&self, id: &TransferId) -> Result<Option<Transfer>> {
        read(&mut self.begin_one().await?, id.as_str()).await
    }

    /// A seller's transfers, the latest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn transfers(&self, seller: &str, before: Option<&TransferId>, limit: u32) -> Result<Vec<Transfer>> {
        let mut tx = self.begin_one().await?;
        let before = before.map_or("trf_~", TransferId::as_str);
        let sql = select!("where seller = $1 and id < $2 order by id desc limit $3");
        tx.all(sql, args![seller, before, i64::from(limit.min(PAGE_MAX))]).await?.iter().map(decode).collect()
    }

    /// What a seller has with us and owes us, in each currency: (currency, payable, reserved, receivable) in minor units.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn seller_balances(&self, seller: &str) -> Result<Vec<(Currency, i64, i64, i64)>> {
        let mut tx = self.begin_read().await?;
        // `;` is what follows `:`.
        let (from, to) = (format!("seller:{seller}:"), format!("seller:{seller};"));
        let rows = tx
            .all(
                "select distinct currency from ledger_account where code >= $1 and code < $2 order by currency limit 200",
                args![&from, &to],
            )
            .await?;
        let mut balances = Vec::new();
        for row in rows {
            let currency = word(Currency::decode, "currency", &row.text("currency")?)?;
            let code = crate::ledger::chart::payable(seller, currency).code;
            let payable = ledger::balance(&mut tx, &code).await?.unwrap_or_default();
            let code = crate::ledger::chart::receivable(seller, currency).code;
            let receivable = ledger::balance(&mut tx, &code).await?.unwrap_or_default();
            balances.push((
                currency,
                payable.credits - payable.debits,
                payable.debits_pending,
                receivable.debits - receivable.credits,
            ));
        }
        Ok(balances)
    }

    /// Transfers whose time has come: to be made, or to come back.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn due_transfers(&self, back: bool, now_us: i64, limit: i64) -> Result<Vec<TransferId>> {
        let mut tx = self.begin_one().await?;
        let sql = match back {
            false => {
                "select id from transfer where status in ('pending', 'failed') and next_attempt_at_us <= $1
                 order by next_attempt_at_us, id limit $2"
            }
            true => {
                "select id from transfer where status in ('reversal_pending', 'completed') and next_attempt_at_us <= $1
                 order by next_attempt_at_us, id limit $2"
            }
        };
        tx.all(sql, args![now_us, limit]).await?.iter().map(|row| row.text("id")?.parse()).collect()
    }

    /// Begins what is to be done about a transfer now: stored, reserved, and not done by anybody else before the backoff
    /// of its try has passed.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn begin_transfer(&self, id: &TransferId, backoff: Backoff, now_us: i64) -> Result<Step> {
        let mut tx = self.begin().await?;
        let Some((transfer, order)) = lock(&mut tx, id).await? else { return Ok(Step::Rest) };
        if transfer.next_us.is_none_or(|next_us| next_us > now_us) {
            return Ok(Step::Rest); // somebody was faster
        }
        let next_us = now_us + backoff.delay_us(transfer.tries + 1);
        let step = match transfer.status {
            Status::ReversalPending | Status::Completed => {
                count(&mut tx, id, next_us, now_us).await?;
                Step::Reverse(Transfer { tries: transfer.tries + 1, ..transfer })
            }
            Status::Pending | Status::Failed if transfer.submitted_us.is_some() => {
                count(&mut tx, id, next_us, now_us).await?;
                Step::Look(Transfer { tries: transfer.tries + 1, ..transfer })
            }
            Status::Pending | Status::Failed => begin_new(&mut tx, transfer, order, next_us, now_us).await?,
            Status::Reversed | Status::PermanentlyFailed => Step::Rest,
        };
        tx.commit().await?;
        Ok(step)
    }

    /// After a look that did not find it: asks for it once more, under the key of the try that is open, or under a new
    /// one when the provider may have forgotten that. Its money is reserved still.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn resubmit_transfer(&self, id: &TransferId, now_us: i64) -> Result<Step> {
        let mut tx = self.begin().await?;
        let Some((transfer, _)) = lock(&mut tx, id).await? else { return Ok(Step::Rest) };
        let Some(submitted_us) = transfer.submitted_us else { return Ok(Step::Rest) };
        if now_us - submitted_us < KEY_VALID_US {
            return Ok(Step::Submit(transfer.clone(), key(&transfer)));
        }
        let sql = "update transfer set generation = generation + 1, submitted_us = $2, updated_us = $2 where id = $1";
        tx.execute(sql, args![id.as_str(), now_us]).await?;
        tx.commit().await?;
        let transfer = Transfer { generation: transfer.generation + 1, submitted_us: Some(now_us), ..transfer };
        let key = key(&transfer);
        Ok(Step::Submit(transfer, key))
    }

    /// The provider has made it. False when that was known.
    ///
    /// # Errors
    /// `Invalid` for an empty id, which is no success; when the database refuses.
    pub async fn complete_transfer(&self, id: &TransferId, provider_id: &str, now_us: i64) -> Result<bool> {
        if provider_id.is_empty() {
            return Err(Error::invalid(format!("the provider made {id} without an id")));
        }
        let mut tx = self.begin().await?;
        let Some((transfer, order)) = lock(&mut tx, id).await? else { return Ok(false) };
        if !matches!(transfer.status, Status::Pending | Status::Failed) || transfer.submitted_us.is_none() {
            return Ok(false);
        }
        let after = After { provider_id: Some(provider_id), anew: true, ..After::default() };
        if !move_transfer(&mut tx, id.as_str(), (transfer.status, Status::Completed), after, now_us).await? {
            return Ok(false);
        }
        let reservation = transfer::reservation(id, transfer.attempt);
        resolve(&mut tx, &reservation, End::Post(&transfer::completed_source(id)), now_us).await?;
        if order == OrderStatus::Refunded || transfer.due_back_minor >= transfer.amount.minor() {
            take_back(&mut tx, (id.as_str(), Status::Completed), false, now_us).await?;
        } else if transfer.due_back_minor > 0 {
            let sql = "update transfer set next_attempt_at_us = $2 where id = $1";
            tx.execute(sql, args![id.as_str(), now_us]).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// A request for a transfer did not do it, or nobody knows. Returns how the transfer stands then.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn fail_transfer(
        &self,
        id: &TransferId,
        how: Failure,
        why: &str,
        backoff: Backoff,
        now_us: i64,
    ) -> Result<Option<Status>> {
        let mut tx = self.begin().await?;
        let Some((transfer, order)) = lock(&mut tx, id).await? else { return Ok(None) };
        if !matches!(transfer.status, Status::Pending | Status::Failed) || transfer.submitted_us.is_none() {
            return Ok(Some(transfer.status));
        }
        let status = match how {
            // The provider keeps its first answer, a failure too: the next request needs another key.
            Failure::Answered | Failure::Silence => {
                let next = i64::from(how == Failure::Answered);
                tx.execute(
                    "update transfer set error = $2, generation = generation + $3, updated_us = $4 where id = $1",
                    args![id.as_str(), why, next, now_us],
                )
                .await?;
                transfer.status
            }
            Failure::Refused => refuse(&mut tx, &transfer, order, why, backoff, now_us).await?,
        };
        tx.commit().await?;
        Ok(Some(status))
    }

    /// What to ask for, and under which key, of what has to come back still: what the open request asked for, else all
    /// of it, stored before. `None`: nothing.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn begin_reversal(&self, id: &TransferId, now_us: i64) -> Result<Option<(i64, String)>> {
        let mut tx = self.begin().await?;
        let Some((transfer, _)) = lock(&mut tx, id).await? else { return Ok(None) };
        let left = transfer.due_back_minor - transfer.reversed_minor;
        if !matches!(transfer.status, Status::ReversalPending | Status::Completed) || left <= 0 {
            return Ok(None);
        }
        let key = reversal_key(&transfer);
        if let Some(asked) = transfer.asked_back_minor {
            return Ok(Some((asked, key)));
        }
        let sql = "update transfer set asked_back_minor = $2, updated_us = $3 where id = $1";
        tx.execute(sql, args![id.as_str(), left, now_us]).await?;
        tx.commit().await?;
        Ok(Some((left, key)))
    }

    /// Books what has come back of a transfer: `reversed_minor` in all, as the provider says.
    ///
    /// # Errors
    /// `Invalid` for less than was booked, or more than there was; when the database refuses.
    pub async fn book_reversal(&self, id: &TransferId, reversed_minor: i64, now_us: i64) -> Result<Booked> {
        let mut tx = self.begin().await?;
        let Some((transfer, _)) = lock(&mut tx, id).await? else { return Ok(Booked::Nothing) };
        let from = transfer.status;
        if !matches!(from, Status::ReversalPending | Status::Completed) {
            return Ok(if from == Status::Reversed { Booked::Whole } else { Booked::Nothing });
        }
        if !(transfer.reversed_minor..=transfer.amount.minor()).contains(&reversed_minor) {
            return Err(Error::invalid(format!(
                "the provider says that {reversed_minor} of {} came back of {id}, and {} are booked",
                transfer.amount.minor(),
                transfer.reversed_minor
            )));
        }
        let more = reversed_minor - transfer.reversed_minor;
        let done = reversed_minor >= transfer.due_back_minor;
        if more == 0 && !done {
            return Ok(Booked::Nothing);
        }
        if more == 0 {
            tx.execute(
                "update transfer set next_attempt_at_us = null where id = $1 and status = 'completed'",
                args![id.as_str()],
            )
            .await?;
            tx.commit().await?;
            return Ok(Booked::Whole);
        }
        let next_us = if done { None } else { transfer.next_us };
        let after = After { next_us, reversed_minor: more, ..After::default() };
        let lost = || Error::internal(format!("the transfer {id} moved although it was locked"));
        if reversed_minor == transfer.amount.minor() {
            if from == Status::Completed {
                take_back(&mut tx, (id.as_str(), from), false, now_us).await?; // somebody had it all come back
            }
            if !move_transfer(&mut tx, id.as_str(), (Status::ReversalPending, Status::Reversed), after, now_us).await? {
                return Err(lost());
            }
        } else if !move_transfer(&mut tx, id.as_str(), (from, from), after, now_us).await? {
            return Err(lost());
        }
        // The next request is another one.
        let sql = "update transfer set generation = generation + 1, asked_back_minor = null where id = $1";
        tx.execute(sql, args![id.as_str()]).await?;
        lock_ledger(&mut tx).await?;
        let currency = transfer.amount.currency();
        let owes = owed(&mut tx, &transfer.seller, currency).await?;
        let booking = transfer::reversed(id, &transfer.seller, (more, reversed_minor), owes, currency, now_us)?;
        book(&mut tx, &booking, now_us).await?;
        tx.commit().await?;
        Ok(if done { Booked::Whole } else { Booked::Part })
    }

    /// A try of a reversal did not bring it all back. `definite`: the provider answered, so that the next one needs
    /// another key; `lost`: it does not know the transfer. Returns how the transfer stands then.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn fail_reversal(
        &self,
        id: &TransferId,
        (definite, lost): (bool, bool),
        why: &str,
        now_us: i64,
    ) -> Result<Option<Status>> {
        let mut tx = self.begin().await?;
        let Some((transfer, _)) = lock(&mut tx, id).await? else { return Ok(None) };
        let from = transfer.status;
        if !matches!(from, Status::ReversalPending | Status::Completed) {
            return Ok(Some(from));
        }
        // Nobody gives up while it is not known whether the last request did it. What was to come back in part and did
        // not stays completed: its seller owes it.
        let over = lost || (definite && transfer.refusals + 1 >= TRIES_MAX);
        let to = if over && from == Status::ReversalPending { Status::PermanentlyFailed } else { from };
        let after = After {
            next_us: if over { None } else { transfer.next_us.or(Some(now_us)) },
            error: Some(why),
            ..After::default()
        };
        move_transfer(&mut tx, id.as_str(), (from, to), after, now_us).await?;
        if definite {
            next_key(&mut tx, id.as_str()).await?;
        }
        tx.commit().await?;
        Ok(Some(to))
    }
}

/// The idempotency key of the try that is open: a function of what is stored, so that a repetition has the same.
fn key(transfer: &Transfer) -> String {
    format!("{}-t{}", transfer.id, transfer.generation)
}

/// The idempotency key of a try of a reversal.
fn reversal_key(transfer: &Transfer) -> String {
    format!("{}-r{}", transfer.id, transfer.generation)
}

async fn begin_new(tx: &mut Tx, transfer: Transfer, order: OrderStatus, next_us: i64, now_us: i64) -> Result<Step> {
    let id = &transfer.id;
    match order {
        OrderStatus::Refunded => {
            take_back(tx, (id.as_str(), transfer.status), false, now_us).await?;
            return Ok(Step::Rest);
        }
        OrderStatus::RefundPending => return put_off(tx, id, now_us + REFUND_OPEN_US, None, now_us).await,
        _ => {}
    }
    let sql = "select 1 as one from dispute d join payment p on p.id = d.payment_id
               where p.order_id = $1 and d.status = 'open' limit 1";
    if tx.first(sql, args![transfer.order.as_str()]).await?.is_some() {
        return put_off(tx, id, now_us + REFUND_OPEN_US, Some("a dispute about the order is open"), now_us).await;
    }
    let sql = "select alarm from payment where order_id = $1 and alarm is not null limit 1";
    if let Some(row) = tx.first(sql, args![transfer.order.as_str()]).await? {
        let why = format!("its payment has to be looked at: {}", row.text("alarm")?);
        return put_off(tx, id, now_us + REFUND_OPEN_US, Some(&why), now_us).await;
    }
    let sql = "select destination from seller_account where seller = $1";
    let destination = tx.first(sql, args![&transfer.seller]).await?.map(|row| row.text("destination")).transpose()?;
    let Some(destination) = destination else {
        return put_off(tx, id, now_us + LATER_US, Some("the seller has no account to be paid to"), now_us).await;
    };
    let attempt = transfer.attempt + 1;
    let (minor, currency) = (transfer.amount.minor(), transfer.amount.currency());
    let booking = transfer::reserve((id, attempt), &transfer.seller, minor, currency, now_us)?;
    match try_book(tx, &booking, now_us).await? {
        Posted::Created(_) => {}
        Posted::Overdraft(_) => {
            let have = available(tx, &transfer.seller, currency).await?;
            let why = format!("the seller's balance of {} {currency} does not cover it", currency.written(have));
            return put_off(tx, id, now_us + LATER_US, Some(&why), now_us).await;
        }
        other => {
            return Err(Error::internal(format!("the ledger refuses to reserve for {id}: {other:?}")));
        }
    }
    tx.execute(
        "update transfer set attempt = $2, tries = tries + 1, destination = $3, submitted_us = $4,
           next_attempt_at_us = $5, updated_us = $4
         where id = $1",
        args![id.as_str(), attempt, &destination, now_us, next_us],
    )
    .await?;
    let transfer = Transfer {
        attempt,
        tries: transfer.tries + 1,
        destination: Some(destination),
        submitted_us: Some(now_us),
        next_us: Some(next_us),
        ..transfer
    };
    let key = key(&transfer);
    Ok(Step::Submit(transfer, key))
}

/// The try is over: its money is free again, and the transfer is tried later, or never.
async fn refuse(
    tx: &mut Tx,
    transfer: &Transfer,
    order: OrderStatus,
    why: &str,
    backoff: Backoff,
    now_us: i64,
) -> Result<Status> {
    let id = transfer.id.as_str();
    let reservation = transfer::reservation(&transfer.id, transfer.attempt);
    let source = format!("{}:{}:refused", transfer.id, transfer.attempt);
    resolve(tx, &reservation, End::Void(&source), now_us).await?;
    net(tx, &format!("{}:{}", transfer.id, transfer.attempt), &transfer.seller, transfer.amount.currency(), now_us)
        .await?;
    // What went back meanwhile is not asked for again; at worst nothing is left to ask for.
    let nothing = transfer.due_back_minor >= transfer.amount.minor();
    let over = transfer.refusals + 1 >= TRIES_MAX || order == OrderStatus::Refunded || nothing;
    let next_us = (!over).then(|| now_us + backoff.delay_us(transfer.tries));
    let after = After { next_us, error: Some(why), ..After::default() };
    move_transfer(tx, id, (transfer.status, Status::Failed), after, now_us).await?;
    next_key(tx, id).await?;
    if !nothing && transfer.due_back_minor > 0 {
        let less = Made {
            id,
            status: Status::Failed,
            amount_minor: transfer.amount.minor(),
            due_back_minor: 0,
            in_flight: false,
        };
        tx.execute("update transfer set due_back_minor = 0 where id = $1", args![id]).await?;
        take_part_back(tx, &less, transfer.due_back_minor, now_us).await?;
    }
    if !over {
        return Ok(Status::Failed);
    }
    move_transfer(tx, id, (Status::Failed, Status::PermanentlyFailed), after, now_us).await?;
    Ok(Status::PermanentlyFailed)
}

/// After a no: whatever the provider answered, it would answer the same under the same key.
async fn next_key(tx: &mut Tx, id: &str) -> Result<()> {
    let sql = "update transfer set generation = generation + 1, refusals = refusals + 1, asked_back_minor = null
               where id = $1";
    tx.execute(sql, args![id]).await.map(drop)
}

async fn put_off(tx: &mut Tx, id: &TransferId, next_us: i64, error: Option<&str>, now_us: i64) -> Result<Step> {
    tx.execute(
        "update transfer set next_attempt_at_us = $2, error = $3, updated_us = $4 where id = $1",
        args![id.as_str(), next_us, error, now_us],
    )
    .await?;
    Ok(Step::Rest)
}

async fn count(tx: &mut Tx, id: &TransferId, next_us: i64, now_us: i64) -> Result<()> {
    tx.execute(
        "update transfer set tries = tries + 1, next_attempt_at_us = $2, updated_us = $3 where id = $1",
        args![id.as_str(), next_us, now_us],
    )
    .await
    .map(drop)
}

/// The transfer and where its order stands, both locked: the order first, as everywhere.
async fn lock(tx: &mut Tx, id: &TransferId) -> Result<Option<(Transfer, OrderStatus)>> {
    let sql = "select order_id from transfer where id = $1";
    let Some(row) = tx.first(sql, args![id.as_str()]).await? else { return Ok(None) };
    let order = row.text("order_id")?;
    lock_order(tx, &order).await?;
    let Some(transfer) = read(tx, id.as_str()).await? else { return Ok(None) };
    let Some(row) = tx.first("select status from sale_order where id = $1", args![&order]).await? else {
        return Ok(None);
    };
    Ok(Some((transfer, word(OrderStatus::decode, "status of an order", &row.text("status")?)?)))
}

async fn read(tx: &mut Tx, id: &str) -> Result<Option<Transfer>> {
    tx.first(select!("where id = $1"), args![id]).await?.as_ref().map(decode).transpose()
}

fn decode(row: &Row) -> Result<Transfer> {
    let currency = word(Currency::decode, "currency", &row.text("currency")?)?;
    Ok(Transfer {
        id: row.text("id")?.parse()?,
        order: row.text("order_id")?.parse()?,
        seller: row.text("seller")?,
        amount: Amount::new(row.int("amount_minor")?, currency)?,
        status: word(Status::decode, "status of a transfer", &row.text("status")?)?,
        provider_id: row.text_or_null("provider_transfer_id")?,
        destination: row.text_or_null("destination")?,
        attempt: row.int("attempt")?,
        tries: row.int("tries")?,
        refusals: row.int("refusals")?,
        generation: row.int("generation")?,
        submitted_us: row.int_or_null("submitted_us")?,
        reversed_minor: row.int("reversed_minor")?,
        due_back_minor: row.int("due_back_minor")?,
        asked_back_minor: row.int_or_null("asked_back_minor")?,
        next_us: row.int_or_null("next_attempt_at_us")?,
        error: row.text_or_null("error")?,
        created_us: row.int("created_us")?,
    })
}
