//! What goes back of what subscriptions were paid by. An invoice that is paid when its subscription has ended buys nothing:
//! its payment is refunded, without anybody asking. What refunds and disputes take is borne by our income and the tax in
//! the invoice, and what they take twice by us. In: a subscription that is locked. Out: rows, and their journals.

use super::conn::{Tx, args};
use super::money::{End, book, locked, move_refund, resolve, word};
use super::refunds::Refund;
use super::{Db, Dialect};
use crate::base::{Error, Result};
use crate::ledger::refund::{self, RefundId, Status};
use crate::ledger::{Currency, allocate, dispute};

/// A part of an invoice, in minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// All of it.
    pub(super) minor: i64,
    /// … of it, tax.
    pub(super) tax_minor: i64,
}

impl Part {
    /// `minor` of it, or as much as there is, with its share of the tax.
    pub(super) fn of(self, minor: i64) -> Part {
        let minor = minor.min(self.minor);
        let parts = allocate(minor as u64, &[(self.minor - self.tax_minor) as u64, self.tax_minor as u64]);
        Part { minor, tax_minor: parts[1] as i64 }
    }
}

/// What no refund and no dispute takes of the invoice that a payment paid; `but` for the one of this id.
pub(super) async fn left(tx: &mut Tx, payment: &str, but: &str) -> Result<Part> {
    let sql = "select i.amount_minor, i.tax_minor,
                 cast(coalesce(sum(t.minor), 0) as bigint) as taken, cast(coalesce(sum(t.tax_minor), 0) as bigint) as taken_tax
               from invoice i left join (
                 select payment_id, id, amount_minor - loss_minor as minor, tax_minor from dispute where status <> 'won'
                 union all select payment_id, id, amount_minor - loss_minor, tax_minor from refund where status <> 'failed') t
                 on t.payment_id = i.payment_id and t.id <> $2
               where i.payment_id = $1 group by i.id, i.amount_minor, i.tax_minor";
    let row = tx.first(sql, args![payment, but]).await?;
    let row = row.ok_or_else(|| Error::internal(format!("the invoice of {payment} vanished")))?;
    let (taken, taken_tax) = (row.int("taken")?, row.int("taken_tax")?);
    Ok(Part { minor: row.int("amount_minor")? - taken, tax_minor: row.int("tax_minor")? - taken_tax })
}

/// Gives back what is left of a payment: the refund is stored, and its money reserved, before the provider hears of it.
/// `None`: nothing is left.
pub(super) async fn give_back(tx: &mut Tx, subscription: &str, payment: &str, now_us: i64) -> Result<Option<RefundId>> {
    let rest = left(tx, payment, "").await?;
    if rest.minor < 1 {
        return Ok(None);
    }
    let sql = "select currency from payment where id = $1";
    let row = tx.first(sql, args![payment]).await?;
    let row = row.ok_or_else(|| Error::internal(format!("the payment {payment} vanished")))?;
    let currency = word(Currency::decode, "currency", &row.text("currency")?)?;
    let id = RefundId::new(now_us);
    tx.execute(
        "insert into refund (id, subscription_id, payment_id, amount_minor, tax_minor, status, requested_by, reason, created_us,
           updated_us)
         values ($1, $2, $3, $4, $5, 'pending', 'segue', 'its subscription had ended', $6, $6)",
        args![id.as_str(), subscription, payment, rest.minor, rest.tax_minor, now_us],
    )
    .await?;
    let parts = (rest.minor - rest.tax_minor, rest.tax_minor);
    book(tx, &refund::reserve_invoice(&id, parts, currency, now_us)?, now_us).await?;
    Ok(Some(id))
}

/// The subscriber has the money: refund and journal, at once.
pub(super) async fn succeed(tx: &mut Tx, refund: &Refund, now_us: i64) -> Result<()> {
    let id = refund.id.as_str();
    moved(move_refund(tx, id, (refund.status, Status::Succeeded), None, now_us).await?, id)?;
    match refund.status {
        Status::Pending => {
            let end = End::Post(&refund::succeeded_source(&refund.id));
            resolve(tx, &format!("refund:{id}"), end, now_us).await?;
        }
        // It was given up, and its reservation with it: what is left now bears it.
        Status::Failed | Status::Succeeded => {
            let part = left(tx, &refund.payment, id).await?.of(refund.amount.minor());
            let loss_minor = refund.amount.minor() - part.minor;
            let sql = "update refund set loss_minor = $2, tax_minor = $3 where id = $1";
            tx.execute(sql, args![id, loss_minor, part.tax_minor]).await?;
            let parts = (part.minor - part.tax_minor, part.tax_minor);
            let booking = refund::late_invoice(&refund.id, parts, loss_minor, refund.amount.currency(), now_us)?;
            book(tx, &booking, now_us).await?;
        }
    }
    // Nobody has to look at those before it any more.
    let sql = "update refund set alarm = null where payment_id = $1 and status <> 'pending' and alarm is not null";
    tx.execute(sql, args![&refund.payment]).await.map(drop)
}

/// We have money for nothing: refund and reservation, at once. It is tried again, and a person hears of it.
pub(super) async fn give_up(tx: &mut Tx, refund: &Refund, why: &str, now_us: i64) -> Result<()> {
    let id = refund.id.as_str();
    moved(move_refund(tx, id, (Status::Pending, Status::Failed), Some(why), now_us).await?, id)?;
    let alarm = format!("paid for a subscription that had ended, and not given back: {why}");
    tx.execute("update refund set alarm = $2 where id = $1", args![id, &alarm]).await?;
    resolve(tx, &format!("refund:{id}"), End::Void(&format!("hs:{id}:failed")), now_us).await?;
    absorb(tx, &refund.payment, id, now_us).await
}

fn moved(moved: bool, id: &str) -> Result<()> {
    match moved {
        true => Ok(()),
        false => Err(Error::internal(format!("the refund {id} moved although it was locked"))),
    }
}

/// After `freed` gave back what it had taken of an invoice: what was our loss is borne by what is left now.
pub(super) async fn absorb(tx: &mut Tx, payment: &str, freed: &str, now_us: i64) -> Result<()> {
    let sql = "select id, loss_minor, currency, cast(0 as bigint) as refund from dispute
                 where payment_id = $1 and loss_minor > 0 and status <> 'won'
               union all select r.id, r.loss_minor, p.currency, cast(1 as bigint) as refund
                 from refund r join payment p on p.id = r.payment_id
                 where r.payment_id = $1 and r.loss_minor > 0 and r.status = 'succeeded'
               order by 1 limit 100";
    for row in tx.all(sql, args![payment]).await? {
        let (id, currency) = (row.text("id")?, word(Currency::decode, "currency", &row.text("currency")?)?);
        let part = left(tx, payment, "").await?.of(row.int("loss_minor")?);
        if part.minor < 1 {
            continue;
        }
        let sql = match row.int("refund")? {
            1 => "update refund set loss_minor = loss_minor - $2, tax_minor = tax_minor + $3 where id = $1",
            _ => "update dispute set loss_minor = loss_minor - $2, tax_minor = tax_minor + $3 where id = $1",
        };
        tx.execute(sql, args![&id, part.minor, part.tax_minor]).await?;
        let parts = (part.minor - part.tax_minor, part.tax_minor);
        book(tx, &dispute::absorbed_invoice((&id, freed), parts, currency, now_us)?, now_us).await?;
    }
    Ok(())
}

impl Db {
    /// Refunds of a subscription's payment of which nobody knows whether the provider was asked for them.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn unasked_refunds(&self, payment: &str) -> Result<Vec<RefundId>> {
        let mut tx = self.begin_one().await?;
        let sql = "select id from refund where payment_id = $1 and subscription_id is not null and status = 'pending'
                     and known_us is null order by id limit 10";
        tx.all(sql, args![payment]).await?.iter().map(|row| row.text("id")?.parse()).collect()
    }

    /// Payments that could not be given back, and are to be tried again: after a day, two, four, eight, sixteen, and then every
    /// thirty. Whatever made the provider or the bank refuse has time to change, and nobody's money is given up.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn payments_to_give_back(&self, now_us: i64, after: &str, limit: i64) -> Result<Vec<String>> {
        let mut tx = self.begin_one().await?;
        let sql = "select payment_id from refund where subscription_id is not null and payment_id > $1
                   group by payment_id having sum(case when status = 'failed' then 0 else 1 end) = 0
                     and max(settled_us) <= $2 - 86400000000 * case count(*)
                       when 1 then 1 when 2 then 2 when 3 then 4 when 4 then 8 when 5 then 16 else 30 end
                   order by payment_id limit $3";
        let args = args![after, now_us, limit];
        tx.all(sql, args).await?.iter().map(|row| row.text("payment_id")).collect()
    }

    /// Stores another refund of a payment whose last one failed. `None`: nothing is left of it, its bank has it in hand, or
    /// somebody was faster.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn give_back_again(&self, payment: &str, now_us: i64) -> Result<Option<RefundId>> {
        let mut tx = self.begin().await?;
        let sql = "select subscription_id from payment where id = $1 and subscription_id is not null";
        let Some(row) = tx.first(sql, args![payment]).await? else { return Ok(None) };
        let subscription = row.text("subscription_id")?;
        tx.first(locked!(tx, "select id from subscription where id = $1"), args![&subscription]).await?;
        let sql = "select 1 as one where exists (select 1 from refund where payment_id = $1 and status <> 'failed')
                     or exists (select 1 from dispute where payment_id = $1 and status = 'open')";
        if tx.first(sql, args![payment]).await?.is_some() {
            return Ok(None);
        }
        let refund = give_back(&mut tx, &subscription, payment, now_us).await?;
        tx.commit().await?;
        Ok(refund)
    }
}
