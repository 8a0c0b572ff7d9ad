//! What of a sale goes back, by refunds and by disputes: which part of each item, what each seller's share of it is taken
//! from, and what becomes of the order and its transfers. In: an order that is locked. Out: rows, and what to book.

use super::conn::{Tx, args};
use super::money::{After, available, book, lock_ledger, move_order, move_transfer, word};
use super::orders::{self, Order};
use crate::base::{Error, Result};
use crate::ledger::Currency;
use crate::ledger::dispute;
use crate::ledger::order::{Share, Split, Status as OrderStatus, by_seller, portion, total};
use crate::ledger::refund::{self, Taken};
use crate::ledger::transfer::Status;

/// What of an order goes back for one cause.
pub(super) struct Returned {
    /// Of each item.
    pub(super) shares: Vec<Share>,
    /// More than was left of it.
    pub(super) loss_minor: i64,
}

/// What is left of each item: `reserved` as well as gone is taken off, or what is gone only.
pub(super) async fn left(tx: &mut Tx, order: &Order, reserved: bool) -> Result<Vec<Share>> {
    let mut left = orders::shares(&order.items);
    let sql =
        "select line, cast(sum(seller_minor) as bigint) as seller_minor, cast(sum(fee_minor) as bigint) as fee_minor,
                 cast(sum(tax_minor) as bigint) as tax_minor
               from order_return where order_id = $1 and (gone = 1 or $2 = 1) group by line limit 100";
    for row in tx.all(sql, args![order.id.as_str(), i64::from(reserved)]).await? {
        let line = row.int("line")?;
        let share = usize::try_from(line - 1).ok().and_then(|at| left.get_mut(at));
        let share = share.ok_or_else(|| Error::internal(format!("the order {} has no line {line}", order.id)))?;
        share.split.seller_minor -= row.int("seller_minor")?;
        share.split.fee_minor -= row.int("fee_minor")?;
        share.split.tax_minor -= row.int("tax_minor")?;
    }
    Ok(left)
}

/// What is left of each item when no refund that is pending succeeds.
async fn left_but_refunds(tx: &mut Tx, order: &Order) -> Result<Vec<Share>> {
    let mut rest = left(tx, order, true).await?;
    let sql = "select id from refund where order_id = $1 and status = 'pending' limit 100";
    for row in tx.all(sql, args![order.id.as_str()]).await? {
        for (share, own) in rest.iter_mut().zip(kept(tx, order, &row.text("id")?).await?) {
            share.split.seller_minor += own.split.seller_minor;
            share.split.fee_minor += own.split.fee_minor;
            share.split.tax_minor += own.split.tax_minor;
        }
    }
    Ok(rest)
}

/// Keeps `minor` of what is left of an order for `cause`: `gone` when the buyer has it already. What others have
/// reserved is left to them where that is possible; what is more than is left is a loss.
pub(super) async fn keep(tx: &mut Tx, order: &Order, cause: &str, minor: i64, gone: bool) -> Result<Returned> {
    let mut rest = left(tx, order, true).await?;
    if gone && total(&rest).total() < minor {
        // A provider that made this refund does not make the one that is reserved; banks ask nobody.
        rest = left_but_refunds(tx, order).await?;
    }
    let shares = portion(&rest, minor);
    put(tx, order, cause, &shares, gone).await?;
    let loss_minor = minor - total(&shares).total();
    Ok(Returned { shares, loss_minor })
}

async fn put(tx: &mut Tx, order: &Order, cause: &str, shares: &[Share], gone: bool) -> Result<()> {
    for (at, share) in shares.iter().enumerate() {
        let Split { seller_minor, fee_minor, tax_minor } = share.split;
        if share.split.total() == 0 {
            continue;
        }
        tx.execute(
            "insert into order_return (cause, order_id, line, seller_minor, fee_minor, tax_minor, gone)
             values ($1, $2, $3, $4, $5, $6, $7)
             on conflict (cause, line) do update set seller_minor = order_return.seller_minor + excluded.seller_minor,
               fee_minor = order_return.fee_minor + excluded.fee_minor,
               tax_minor = order_return.tax_minor + excluded.tax_minor",
            args![cause, order.id.as_str(), at as i64 + 1, seller_minor, fee_minor, tax_minor, i64::from(gone)],
        )
        .await?;
    }
    Ok(())
}

/// What was gone of a refunded order is there again: it is paid, and its licences are in force.
pub(super) async fn reopen(tx: &mut Tx, order: &Order, now_us: i64) -> Result<()> {
    if order.status != OrderStatus::Refunded || total(&left(tx, order, false).await?).total() == 0 {
        return Ok(());
    }
    if !move_order(tx, order.id.as_str(), (OrderStatus::Refunded, OrderStatus::Paid), now_us).await? {
        return Err(Error::internal(format!("the order {} moved although it was locked", order.id)));
    }
    orders::grant_again(tx, order, now_us).await
}

/// After `freed` gave back what it had kept of an order: what was our loss is borne by those who have a share of what is
/// left now.
pub(super) async fn absorb(tx: &mut Tx, order: &Order, freed: &str, now_us: i64) -> Result<()> {
    let currency = order.total.currency();
    let sql = "select id, loss_minor, cast(1 as bigint) as gone, cast(1 as bigint) as refund from refund
                 where order_id = $1 and loss_minor > 0 and status = 'succeeded'
               union all select id, loss_minor, cast(case status when 'lost' then 1 else 0 end as bigint) as gone,
                   cast(0 as bigint) as refund from dispute
                 where payment_id = $2 and loss_minor > 0 and status <> 'won'
               order by 1 limit 100";
    for row in tx.all(sql, args![order.id.as_str(), &order.payment.id]).await? {
        let (id, gone) = (row.text("id")?, row.int("gone")? == 1);
        let shares = portion(&left(tx, order, true).await?, row.int("loss_minor")?);
        let minor = total(&shares).total();
        if minor == 0 {
            continue;
        }
        put(tx, order, &id, &shares, gone).await?;
        let sql = match row.int("refund")? {
            1 => "update refund set loss_minor = loss_minor - $2 where id = $1",
            _ => "update dispute set loss_minor = loss_minor - $2 where id = $1",
        };
        tx.execute(sql, args![&id, minor]).await?;
        let taken = take(tx, &shares, currency).await?;
        book(tx, &dispute::absorbed((&id, freed), &shares, &taken, currency, now_us)?, now_us).await?;
        if gone {
            let now = orders::read(tx, order.id.as_str()).await?;
            let now = now.ok_or_else(|| Error::internal(format!("the order {} vanished", order.id)))?;
            settle(tx, &now, &shares, now_us).await?;
        }
    }
    Ok(())
}

/// What was kept for `cause`, of each item of the order.
pub(super) async fn kept(tx: &mut Tx, order: &Order, cause: &str) -> Result<Vec<Share>> {
    let mut shares = orders::shares(&order.items);
    shares.iter_mut().for_each(|share| share.split = Split::default());
    let sql = "select line, seller_minor, fee_minor, tax_minor from order_return where cause = $1 limit 100";
    for row in tx.all(sql, args![cause]).await? {
        if let Some(share) = usize::try_from(row.int("line")? - 1).ok().and_then(|at| shares.get_mut(at)) {
            share.split = Split {
                seller_minor: row.int("seller_minor")?,
                fee_minor: row.int("fee_minor")?,
                tax_minor: row.int("tax_minor")?,
            };
        }
    }
    Ok(shares)
}

/// What was kept for `cause` is the buyer's now.
pub(super) async fn finish(tx: &mut Tx, cause: &str) -> Result<()> {
    tx.execute("update order_return set gone = 1 where cause = $1", args![cause]).await.map(drop)
}

/// What was kept for `cause` stays with everybody who has a share of it.
pub(super) async fn give_up(tx: &mut Tx, cause: &str) -> Result<()> {
    tx.execute("delete from order_return where cause = $1", args![cause]).await.map(drop)
}

/// What each seller's share is taken from, as the ledger stands: nobody else posts until the transaction ends.
pub(super) async fn take(tx: &mut Tx, shares: &[Share], currency: Currency) -> Result<Vec<Taken>> {
    lock_ledger(tx).await?;
    let mut have: Vec<(&str, i64)> = Vec::new();
    for (seller, _) in by_seller(shares) {
        have.push((seller, available(tx, seller, currency).await?));
    }
    let of = |seller: &str| have.iter().find(|(known, _)| *known == seller).map_or(0, |(_, minor)| *minor);
    Ok(refund::take(shares, of))
}

/// The buyer has these shares: the order is refunded when nothing is left of it, and licences end with it; what sellers
/// were or will be paid is less by theirs.
pub(super) async fn settle(tx: &mut Tx, order: &Order, shares: &[Share], now_us: i64) -> Result<()> {
    let whole = total(&left(tx, order, false).await?).total() == 0;
    let to = if whole { OrderStatus::Refunded } else { open(tx, order).await? };
    if to != order.status && !move_order(tx, order.id.as_str(), (order.status, to), now_us).await? {
        return Err(Error::internal(format!("the order {} moved although it was locked", order.id)));
    }
    if whole {
        orders::revoke(tx, order, now_us).await?;
    }
    let sql = "select id, seller, status, amount_minor, due_back_minor, submitted_us from transfer
               where order_id = $1 order by id limit 100";
    let back = by_seller(shares);
    for row in tx.all(sql, args![order.id.as_str()]).await? {
        let (id, seller) = (row.text("id")?, row.text("seller")?);
        let transfer = Made {
            id: &id,
            status: word(Status::decode, "status of a transfer", &row.text("status")?)?,
            amount_minor: row.int("amount_minor")?,
            due_back_minor: row.int("due_back_minor")?,
            in_flight: row.int_or_null("submitted_us")?.is_some(),
        };
        if whole {
            take_back(tx, (&id, transfer.status), transfer.in_flight, now_us).await?;
        } else if let Some((_, minor)) = back.iter().find(|(known, _)| *known == seller) {
            take_part_back(tx, &transfer, *minor, now_us).await?;
        }
    }
    Ok(())
}

/// Where an order stands of which something is left: as before, or paid again when nobody waits for a refund of it.
pub(super) async fn open(tx: &mut Tx, order: &Order) -> Result<OrderStatus> {
    if order.status != OrderStatus::RefundPending {
        return Ok(order.status);
    }
    let sql = "select 1 as one from refund where order_id = $1 and status = 'pending' limit 1";
    let waits = tx.first(sql, args![order.id.as_str()]).await?.is_some();
    Ok(if waits { OrderStatus::RefundPending } else { OrderStatus::Paid })
}

/// A transfer, as far as its return is concerned.
pub(super) struct Made<'a> {
    pub(super) id: &'a str,
    pub(super) status: Status,
    pub(super) amount_minor: i64,
    pub(super) due_back_minor: i64,
    /// It was asked for, and nobody knows what came of it.
    pub(super) in_flight: bool,
}

/// Has a transfer come back of an order of which nothing is left, or never leave. One whose outcome nobody knows is left
/// to the worker, who comes here when it knows.
pub(super) async fn take_back(tx: &mut Tx, (id, from): (&str, Status), in_flight: bool, now_us: i64) -> Result<()> {
    use Status::{Completed, Failed, Pending, PermanentlyFailed, ReversalPending};
    let why = After { error: Some("the order was refunded"), ..After::default() };
    match from {
        Completed => {
            let after = After { next_us: Some(now_us), anew: true, ..After::default() };
            move_transfer(tx, id, (Completed, ReversalPending), after, now_us).await?;
        }
        Pending if !in_flight => {
            move_transfer(tx, id, (Pending, Failed), why, now_us).await?;
            move_transfer(tx, id, (Failed, PermanentlyFailed), why, now_us).await?;
        }
        Failed if !in_flight => {
            move_transfer(tx, id, (Failed, PermanentlyFailed), why, now_us).await?;
        }
        _ => return Ok(()),
    }
    let sql = "update transfer set due_back_minor = amount_minor where id = $1";
    tx.execute(sql, args![id]).await.map(drop)
}

/// Has `minor` more of a transfer come back, or never leave: one that was made stays completed unless all of it has to
/// come back; one that was not asked for is for less. What is in flight is settled when it lands.
pub(super) async fn take_part_back(tx: &mut Tx, transfer: &Made<'_>, minor: i64, now_us: i64) -> Result<()> {
    use Status::{Completed, Failed, Pending, PermanentlyFailed, ReversalPending, Reversed};
    let Made { id, status, amount_minor, due_back_minor, in_flight } = *transfer;
    match status {
        Pending | Failed if in_flight => {
            let sql = "update transfer set due_back_minor = due_back_minor + $2, updated_us = $3 where id = $1";
            tx.execute(sql, args![id, minor, now_us]).await.map(drop)
        }
        Pending | Failed | Completed if due_back_minor + minor >= amount_minor => {
            take_back(tx, (id, status), false, now_us).await
        }
        Pending | Failed => {
            let sql = "update transfer set amount_minor = amount_minor - $2, updated_us = $3 where id = $1";
            tx.execute(sql, args![id, minor, now_us]).await.map(drop)
        }
        Completed => {
            let sql = "update transfer set due_back_minor = due_back_minor + $2, next_attempt_at_us = $3, tries = 0,
                         refusals = 0, error = null, updated_us = $3
                       where id = $1";
            tx.execute(sql, args![id, minor, now_us]).await.map(drop)
        }
        ReversalPending | Reversed | PermanentlyFailed => Ok(()),
    }
}
