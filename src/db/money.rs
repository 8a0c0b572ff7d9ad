//! What all flows of money share: the only statements that change a status, journals that go with them, and requests
//! that are the same thing when they come twice.

use super::conn::{Tx, args};
use super::{Dialect, ledger};
use crate::base::clock::rfc3339;
use crate::base::{Error, Kind, Result};
use crate::ledger::chart::{self, Booking};
use crate::ledger::{Amount, Currency, Journal, Posted, dispute, order, refund, subscription, transfer};

/// What came of asking for something under an idempotency key.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim<T> {
    /// It is there.
    New(T),
    /// The same was asked for before.
    Known(T),
    /// The key was used for something else, which has this id.
    Conflict(String),
}

/// A key of a caller, and what they ask for with it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who asks.
    pub subject: &'a str,
    /// `Idempotency-Key`.
    pub key: &'a str,
    /// SHA-256 of what is asked for, hexadecimal.
    pub fingerprint: &'a str,
}

/// Claims a key for `object`, in the caller's transaction: whoever comes second waits, and gets the first one's id.
pub(super) async fn claim(tx: &mut Tx, request: Request<'_>, object: &str, now_us: i64) -> Result<Claim<String>> {
    let Request { subject, key, fingerprint } = request;
    let new = tx
        .execute(
            "insert into money_request (subject, key, fingerprint, object, created_us) values ($1, $2, $3, $4, $5)
             on conflict (subject, key) do nothing",
            args![subject, key, fingerprint, object, now_us],
        )
        .await?;
    if new > 0 {
        return Ok(Claim::New(object.to_owned()));
    }
    let sql = "select fingerprint, object from money_request where subject = $1 and key = $2";
    let row = tx.first(sql, args![subject, key]).await?;
    let row = row.ok_or_else(|| Error::new(Kind::Busy, "a request under the same key was just taken back"))?;
    let object = row.text("object")?;
    match row.text("fingerprint")? == fingerprint {
        true => Ok(Claim::Known(object)),
        false => Ok(Claim::Conflict(object)),
    }
}

/// A statement that reads rows to change them: it waits for whoever else does. On SQLite the writer is alone.
macro_rules! locked {
    ($tx:expr, $sql:literal) => {
        match $tx.dialect() {
            Dialect::Sqlite => $sql,
            Dialect::Postgres => concat!($sql, " for update"),
        }
    };
}
pub(super) use locked;

/// Waits until nobody else moves this order or what belongs to it. Every flow takes this first, and the ledger last.
pub(super) async fn lock_order(tx: &mut Tx, id: &str) -> Result<()> {
    let sql = locked!(tx, "select id from sale_order where id = $1");
    tx.first(sql, args![id]).await.map(drop)
}

/// Moves an order. False when it does not stand as `from` any more: somebody else was faster.
pub(super) async fn move_order(
    tx: &mut Tx,
    id: &str,
    (from, to): (order::Status, order::Status),
    now_us: i64,
) -> Result<bool> {
    legal(from.may_become(to), "order", id, from.as_str(), to.as_str())?;
    let moved = tx
        .execute(
            "update sale_order set status = $3, updated_us = $4,
               paid_us = case when $3 = 'paid' then coalesce(paid_us, $4) else paid_us end,
               refunded_us = case $3 when 'refunded' then $4 when 'paid' then null else refunded_us end
             where id = $1 and status = $2",
            args![id, from.as_str(), to.as_str(), now_us],
        )
        .await?;
    Ok(moved > 0)
}

/// Moves a refund. False as with `move_order`.
pub(super) async fn move_refund(
    tx: &mut Tx,
    id: &str,
    (from, to): (refund::Status, refund::Status),
    error: Option<&str>,
    now_us: i64,
) -> Result<bool> {
    legal(from.may_become(to), "refund", id, from.as_str(), to.as_str())?;
    let moved = tx
        .execute(
            "update refund set status = $3, updated_us = $4, settled_us = $4, error = $5 where id = $1 and status = $2",
            args![id, from.as_str(), to.as_str(), now_us, error],
        )
        .await?;
    Ok(moved > 0)
}

/// Moves a dispute, one turn. False as with `move_order`.
pub(super) async fn move_dispute(
    tx: &mut Tx,
    id: &str,
    (from, to): (dispute::Status, dispute::Status),
    now_us: i64,
) -> Result<bool> {
    legal(from.may_become(to), "dispute", id, from.as_str(), to.as_str())?;
    let moved = tx
        .execute(
            "update dispute set status = $3, updated_us = $4, turns = turns + 1,
               settled_us = case when $3 = 'open' then null else $4 end
             where id = $1 and status = $2",
            args![id, from.as_str(), to.as_str(), now_us],
        )
        .await?;
    Ok(moved > 0)
}

/// What a transfer's move leaves behind.
#[derive(Clone, Copy, Default)]
pub(super) struct After<'a> {
    /// When it is tried next; nobody tries without.
    pub(super) next_us: Option<i64>,
    /// The provider's id, when it just became known.
    pub(super) provider_id: Option<&'a str>,
    /// Minor units more that came back.
    pub(super) reversed_minor: i64,
    /// Why it was not done.
    pub(super) error: Option<&'a str>,
    /// Another phase begins: its tries are counted anew.
    pub(super) anew: bool,
}

/// Moves a transfer: the one door to its status. False as with `move_order`.
pub(super) async fn move_transfer(
    tx: &mut Tx,
    id: &str,
    (from, to): (transfer::Status, transfer::Status),
    after: After<'_>,
    now_us: i64,
) -> Result<bool> {
    legal(from.may_become(to), "transfer", id, from.as_str(), to.as_str())?;
    let moved = tx
        .execute(
            "update transfer set status = $3, next_attempt_at_us = $4, updated_us = $5,
               provider_transfer_id = coalesce($6, provider_transfer_id), reversed_minor = reversed_minor + $7, error = $8,
               submitted_us = null, tries = case when $9 = 1 then 0 else tries end,
               refusals = case when $9 = 1 then 0 else refusals end,
               generation = case when $9 = 1 and $3 = 'completed' then 0 else generation end
             where id = $1 and status = $2",
            args![
                id,
                from.as_str(),
                to.as_str(),
                after.next_us,
                now_us,
                after.provider_id,
                after.reversed_minor,
                after.error,
                i64::from(after.anew)
            ],
        )
        .await?;
    Ok(moved > 0)
}

/// Moves a subscription. False as with `move_order`.
pub(super) async fn move_subscription(
    tx: &mut Tx,
    id: &str,
    (from, to): (subscription::Status, subscription::Status),
    ends_us: Option<i64>,
    now_us: i64,
) -> Result<bool> {
    legal(from.may_become(to), "subscription", id, from.as_str(), to.as_str())?;
    let moved = tx
        .execute(
            "update subscription set status = $3, updated_us = $4, ends_us = coalesce($5, ends_us),
               method = case when $3 in ('expired', 'cancelled') then null else method end
             where id = $1 and status = $2",
            args![id, from.as_str(), to.as_str(), now_us, ends_us],
        )
        .await?;
    Ok(moved > 0)
}

/// Moves an invoice. False as with `move_order`.
pub(super) async fn move_invoice(
    tx: &mut Tx,
    id: &str,
    (from, to): (subscription::InvoiceStatus, subscription::InvoiceStatus),
    now_us: i64,
) -> Result<bool> {
    legal(from.may_become(to), "invoice", id, from.as_str(), to.as_str())?;
    let moved = tx
        .execute(
            "update invoice set status = $3, updated_us = $4, paid_us = case when $3 = 'paid' then $4 else paid_us end
             where id = $1 and status = $2",
            args![id, from.as_str(), to.as_str(), now_us],
        )
        .await?;
    Ok(moved > 0)
}

fn legal(may: bool, what: &str, id: &str, from: &str, to: &str) -> Result<()> {
    match may {
        true => Ok(()),
        false => Err(Error::internal(format!("{what} {id} cannot become {to} from {from}"))),
    }
}

/// Posts a booking with the change that it belongs to; opens its accounts when they are new. Anything but a new
/// journal is an error, so that the whole transaction is undone: whoever moved the status is the only one to post.
pub(super) async fn book(tx: &mut Tx, booking: &Booking, now_us: i64) -> Result<()> {
    match try_book(tx, booking, now_us).await? {
        Posted::Created(_) => Ok(()),
        other => Err(refused(&booking.journal, &other)),
    }
}

/// As `book`, for a caller who knows what to do about a refusal.
pub(super) async fn try_book(tx: &mut Tx, booking: &Booking, now_us: i64) -> Result<Posted> {
    match ledger::post(tx, &booking.journal, now_us).await? {
        Posted::UnknownAccount(_) => {
            for account in &booking.accounts {
                ledger::open_account(tx, account, now_us).await?;
            }
            ledger::post(tx, &booking.journal, now_us).await
        }
        posted => Ok(posted),
    }
}

/// How a reservation ends.
#[derive(Clone, Copy)]
pub(super) enum End<'a> {
    /// It moves, for this event.
    Post(&'a str),
    /// It is given back, for this event.
    Void(&'a str),
}

/// Ends the reservation `id`: the money moves, or is given back.
pub(super) async fn resolve(tx: &mut Tx, id: &str, end: End<'_>, now_us: i64) -> Result<()> {
    let reserved = ledger::journal(tx, &id.parse()?).await?;
    let (reserved, _) = reserved.ok_or_else(|| Error::internal(format!("the reservation {id} vanished")))?;
    let journal = match end {
        End::Post(source) => reserved.post(format!("{id}:post").parse()?, source, now_us),
        End::Void(source) => reserved.void(format!("{id}:void").parse()?, source, now_us),
    };
    match ledger::post(tx, &journal, now_us).await? {
        Posted::Created(_) => Ok(()),
        other => Err(refused(&journal, &other)),
    }
}

fn refused(journal: &Journal, why: &Posted) -> Error {
    if let Posted::PeriodClosed(closed_us) = why {
        // Books are closed when they are over: the clock is behind, and what waits is booked when it is right.
        let until = rfc3339(*closed_us);
        let said =
            format!("{} counts before {until}, until when the books are closed; is the clock right?", journal.id());
        return Error::new(Kind::Unavailable, said);
    }
    Error::internal(format!("the ledger refuses {}: {why:?}; run 'segue ledger verify'", journal.id()))
}

/// What an account has to give that nobody reserved: of a seller's payable.
pub(super) async fn available(tx: &mut Tx, seller: &str, currency: Currency) -> Result<i64> {
    let balance = ledger::balance(tx, &chart::payable(seller, currency).code).await?.unwrap_or_default();
    Ok(balance.credits - balance.debits - balance.debits_pending)
}

/// What a seller owes us, less what is reserved to be paid back.
pub(super) async fn owed(tx: &mut Tx, seller: &str, currency: Currency) -> Result<i64> {
    let balance = ledger::balance(tx, &chart::receivable(seller, currency).code).await?.unwrap_or_default();
    Ok(balance.debits - balance.credits - balance.credits_pending)
}

/// Waits until nobody else posts: what is read of balances then stays so until the transaction ends.
pub(super) async fn lock_ledger(tx: &mut Tx) -> Result<()> {
    ledger::wait(tx).await
}

/// Takes what a seller owes us from what we owe them. `cause` is new each time.
pub(super) async fn net(tx: &mut Tx, cause: &str, seller: &str, currency: Currency, now_us: i64) -> Result<()> {
    lock_ledger(tx).await?;
    let minor = owed(tx, seller, currency).await?.min(available(tx, seller, currency).await?);
    if minor <= 0 {
        return Ok(());
    }
    book(tx, &chart::offset(cause, seller, minor, currency, now_us)?, now_us).await
}

/// Reads a word of ours that the database holds.
pub(super) fn word<T>(decode: impl Fn(&str) -> Option<T>, what: &str, text: &str) -> Result<T> {
    decode(text).ok_or_else(|| Error::internal(format!("the database holds {text:?} as a {what}")))
}

/// A payment to a seller that somebody made by hand at the provider.
#[derive(Clone, Copy, Debug)]
pub struct HandPayout<'a> {
    /// The provider's id of it.
    pub reference: &'a str,
    /// Who got it.
    pub seller: &'a str,
    /// How much.
    pub amount: Amount,
    /// Why it was made by hand: at least ten characters.
    pub reason: &'a str,
    /// Which admin says so.
    pub by: &'a str,
}

/// What came of booking one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandBooked {
    /// It is booked.
    New,
    /// It was before, for the same seller and amount.
    Known,
    /// Its reference is known, for something else.
    Taken,
    /// The key of the request was used for another: that reference.
    KeyUsed(String),
    /// We do not owe the seller so much: this is what nobody has reserved of it.
    Owes(i64),
}

impl super::Db {
    /// Books what somebody paid a seller by hand, and who says so, in one transaction: once for each reference.
    ///
    /// # Errors
    /// `Invalid` for a reference that is no name; when the database refuses.
    pub async fn book_hand_payout(
        &self,
        payout: HandPayout<'_>,
        request: Request<'_>,
        now_us: i64,
    ) -> Result<HandBooked> {
        let HandPayout { reference, seller, amount, reason, by } = payout;
        let currency = amount.currency();
        let booking = chart::hand_payout(reference, seller, amount, now_us)?;
        let mut tx = self.begin().await?;
        if let Claim::Conflict(other) = claim(&mut tx, request, reference, now_us).await? {
            return Ok(HandBooked::KeyUsed(other));
        }
        let args = args![reference, seller, amount.minor(), currency.code(), reason, by, now_us];
        let new = tx
            .execute(
                "insert into hand_payout (reference, seller, amount_minor, currency, reason, booked_by, booked_us)
                 values ($1, $2, $3, $4, $5, $6, $7) on conflict (reference) do nothing",
                args,
            )
            .await?;
        if new == 0 {
            let sql = "select 1 as one from hand_payout
                       where reference = $1 and seller = $2 and amount_minor = $3 and currency = $4";
            let same = tx.first(sql, args![reference, seller, amount.minor(), currency.code()]).await?.is_some();
            if !same {
                return Ok(HandBooked::Taken);
            }
            tx.commit().await?;
            return Ok(HandBooked::Known);
        }
        match try_book(&mut tx, &booking, now_us).await? {
            Posted::Created(_) => {}
            Posted::Overdraft(_) => return Ok(HandBooked::Owes(available(&mut tx, seller, currency).await?)),
            other => return Err(refused(&booking.journal, &other)),
        }
        tx.commit().await?;
        Ok(HandBooked::New)
    }

    /// Books what the provider kept for its work, by its statement: once for each `reference`. The inner error is what the key
    /// of the request was used for.
    ///
    /// # Errors
    /// `Invalid` for a reference that is no name; when the database refuses.
    pub async fn book_provider_fee(
        &self,
        reference: &str,
        amount: Amount,
        request: Request<'_>,
        now_us: i64,
    ) -> Result<std::result::Result<Posted, String>> {
        let booking = chart::provider_fee(reference, amount, now_us)?;
        let mut tx = self.begin().await?;
        if let Claim::Conflict(other) = claim(&mut tx, request, reference, now_us).await? {
            return Ok(Err(other));
        }
        let mut posted = try_book(&mut tx, &booking, now_us).await?;
        if posted == Posted::IdTaken
            && let Some((known, place)) = ledger::journal(&mut tx, booking.journal.id()).await?
            && known.postings() == booking.journal.postings()
        {
            posted = Posted::Exists(place); // the same, booked at another time
        }
        if matches!(posted, Posted::Created(_) | Posted::Exists(_)) {
            tx.commit().await?; // what was refused has used no key
        }
        Ok(Ok(posted))
    }
}
