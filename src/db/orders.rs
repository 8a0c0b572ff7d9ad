//! Orders, their payments, and the licences that come of them. In: what is bought, and what the provider says of its
//! payment. Out: orders, and what a provider's word changed.
//!
//! `apply_payment` is the only way an order becomes paid, whoever heard of it: status, journal, licences and the
//! transfers to come are one transaction.

use std::collections::BTreeMap;

use super::conn::{Row, Tx, args};
use super::money::{Claim, Request, book, claim, lock_order, move_order, net, word};
use super::tracks::{grant_licence, revoke_licence};
use super::{Db, products, subscriptions};
use crate::base::id::{TrackId, sortable};
use crate::base::{Error, Result};
use crate::ledger::order::{self, LicenceKind, OrderId, ProductId, Share, Split, Status, Terms, by_seller};
use crate::ledger::transfer::TransferId;
use crate::ledger::{Amount, Currency};

/// Orders in one page of a list.
pub const PAGE_MAX: u32 = 200;

/// An order.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// Its id.
    pub id: OrderId,
    /// Who buys.
    pub buyer: String,
    /// Where it stands.
    pub status: Status,
    /// The whole of it.
    pub total: Amount,
    /// Its own deadline of refunds; `None`: some days after it was paid.
    pub refund_until_us: Option<i64>,
    /// When it was made, in microseconds since 1970.
    pub created_us: i64,
    /// When it last changed.
    pub updated_us: i64,
    /// When it was paid.
    pub paid_us: Option<i64>,
    /// When the money went back.
    pub refunded_us: Option<i64>,
    /// What of it went back, in minor units.
    pub returned_minor: i64,
    /// What is bought.
    pub items: Vec<Item>,
    /// How it is paid.
    pub payment: Payment,
}

/// One bought thing.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its place, from 1.
    pub line: i64,
    /// Which product.
    pub product: ProductId,
    /// What its licence is for.
    pub track: Option<String>,
    /// The product's title when it was bought.
    pub title: String,
    /// Which licence.
    pub kind: LicenceKind,
    /// Who sells it.
    pub seller: String,
    /// Its price.
    pub split: Split,
}

/// A payment at the provider.
#[derive(Clone, Debug, PartialEq)]
pub struct Payment {
    /// Its id, ours and the provider's.
    pub id: String,
    /// How much.
    pub amount: Amount,
    /// SHA-256 of the request, hexadecimal.
    pub fingerprint: String,
    /// With which a browser pays; `None` until the provider answered.
    pub client_secret: Option<String>,
    /// As the provider last said it; `None` until it knew it.
    pub provider_state: Option<String>,
    /// Why a person has to look at it.
    pub alarm: Option<String>,
}

/// What was granted.
#[derive(Clone, Debug, PartialEq)]
pub struct Licence {
    /// Its id.
    pub id: String,
    /// Of which order.
    pub order: OrderId,
    /// Who has it.
    pub holder: String,
    /// Of which product.
    pub product: ProductId,
    /// What it is for.
    pub track: Option<String>,
    /// What it allows.
    pub kind: LicenceKind,
    /// Since when, in microseconds since 1970.
    pub granted_us: i64,
    /// Until when; `None`: it is in force.
    pub revoked_us: Option<i64>,
}

/// Why an order cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such product, or nobody can buy it now.
    Product(ProductId),
    /// The product has no licence of this kind.
    Licence(ProductId, LicenceKind),
    /// Two products have different currencies.
    Currencies,
    /// More than `ITEMS_MAX` items, or none.
    Items,
    /// The buyer sells it.
    Own(ProductId),
}

/// What the provider has under a payment's id.
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
    /// With which a browser pays, when the provider told.
    pub client_secret: Option<String>,
    /// What it was paid by, where that was saved for more.
    pub method: Option<String>,
}

/// What a provider's payment means for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The money is there.
    Paid,
    /// It is not, and will not come by itself.
    Dead,
    /// Nobody paid in time.
    Expired,
    /// Somebody has to do something, or wait.
    Open,
    /// The provider itself says that something is wrong.
    Conflicted,
}

/// What a provider's word changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// This happened now.
    Changed(&'static str),
    /// It was so already.
    Nothing,
    /// It must not be believed: a person has to look. Why.
    Alarm(String),
    /// No payment of ours.
    Unknown,
}

/// The columns of an order and of its payment, and what follows.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "select o.id, o.buyer, o.status, o.total_minor, o.refund_until_us, o.created_us, o.updated_us, o.paid_us,
               o.refunded_us, (select cast(coalesce(sum(b.seller_minor + b.fee_minor + b.tax_minor), 0) as bigint)
                 from order_return b where b.order_id = o.id and b.gone = 1) as returned_minor, p.id as payment_id,
               p.amount_minor, p.currency, p.fingerprint, p.client_secret, p.provider_state, p.alarm
             from sale_order o join payment p on p.order_id = o.id ",
            $rest
        )
    };
}

/// The columns of items, of which orders, in their own order; never more than `PAGE_MAX` orders have.
macro_rules! items {
    ($of:literal) => {
        concat!(
            "select order_id, line, product_id, track, title, kind, seller, seller_minor, fee_minor, tax_minor from order_item ",
            $of,
            " order by order_id, line limit 20000"
        )
    };
}

impl Db {
    /// Makes an order and its payment, once for a key: both are stored before the provider hears of it.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn create_order(
        &self,
        buyer: &str,
        wanted: &[(ProductId, LicenceKind)],
        terms: Terms,
        request: Request<'_>,
        now_us: i64,
    ) -> Result<Result<Claim<Order>, Refusal>> {
        let mut tx = self.begin().await?;
        let id = OrderId::new(now_us);
        match claim(&mut tx, request, id.as_str(), now_us).await? {
            Claim::Conflict(id) => return Ok(Ok(Claim::Conflict(id))),
            Claim::Known(id) => return Ok(Ok(Claim::Known(read(&mut tx, &id).await?.ok_or_else(vanished)?))),
            Claim::New(_) => {}
        }
        let (currency, items) = match price(&mut tx, buyer, wanted, terms).await? {
            Ok(priced) => priced,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let total_minor: i64 = items.iter().map(|item| item.split.total()).sum();
        tx.execute(
            "insert into sale_order (id, buyer, status, currency, total_minor, created_us, updated_us)
             values ($1, $2, 'created', $3, $4, $5, $5)",
            args![id.as_str(), buyer, currency.code(), total_minor, now_us],
        )
        .await?;
        for item in &items {
            tx.execute(
                "insert into order_item (order_id, line, product_id, track, title, kind, seller, price_minor, seller_minor,
                   fee_minor, tax_minor)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
                args![
                    id.as_str(),
                    item.line,
                    item.product.as_str(),
                    item.track.as_deref(),
                    &item.title,
                    item.kind.as_str(),
                    &item.seller,
                    item.split.total(),
                    item.split.seller_minor,
                    item.split.fee_minor,
                    item.split.tax_minor
                ],
            )
            .await?;
        }
        tx.execute(
            "insert into payment (id, order_id, amount_minor, currency, fingerprint, created_us, updated_us)
             values ($1, $2, $3, $4, $5, $6, $6)",
            args![&sortable("pay_", now_us), id.as_str(), total_minor, currency.code(), request.fingerprint, now_us],
        )
        .await?;
        let order = read(&mut tx, id.as_str()).await?.ok_or_else(vanished)?;
        tx.commit().await?;
        Ok(Ok(Claim::New(order)))
    }

    /// An order.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn order(&self, id: &OrderId) -> Result<Option<Order>> {
        read(&mut self.begin_read().await?, id.as_str()).await
    }

    /// A buyer's orders, the latest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn orders(&self, buyer: &str, before: Option<&OrderId>, limit: u32) -> Result<Vec<Order>> {
        let mut tx = self.begin_read().await?;
        let before = before.map_or("ord_~", OrderId::as_str);
        let sql = select!("where o.buyer = $1 and o.id < $2 order by o.id desc limit $3");
        let rows = tx.all(sql, args![buyer, before, i64::from(limit.min(PAGE_MAX))]).await?;
        let (Some(latest), Some(first)) = (rows.first(), rows.last()) else { return Ok(Vec::new()) };
        let sql = items!("where order_id in (select id from sale_order where buyer = $1 and id between $2 and $3)");
        let mut items: BTreeMap<String, Vec<Item>> = BTreeMap::new();
        for row in tx.all(sql, args![buyer, &first.text("id")?, &latest.text("id")?]).await? {
            items.entry(row.text("order_id")?).or_default().push(decode_item(&row)?);
        }
        rows.iter().map(|row| decode(row, items.remove(&row.text("id")?).unwrap_or_default())).collect()
    }

    /// Licences that somebody has, the latest first, revoked ones too.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn licences(&self, holder: &str, before: Option<&str>, limit: u32) -> Result<Vec<Licence>> {
        let mut tx = self.begin_one().await?;
        let sql = "select id, order_id, holder, product_id, track, kind, granted_us, revoked_us from licence
                   where holder = $1 and id < $2 order by id desc limit $3";
        let rows = tx.all(sql, args![holder, before.unwrap_or("lic_~"), i64::from(limit.min(PAGE_MAX))]).await?;
        let one = |row: &Row| {
            Ok(Licence {
                id: row.text("id")?,
                order: row.text("order_id")?.parse()?,
                holder: row.text("holder")?,
                product: row.text("product_id")?.parse()?,
                track: row.text_or_null("track")?,
                kind: word(LicenceKind::decode, "kind of licence", &row.text("kind")?)?,
                granted_us: row.int("granted_us")?,
                revoked_us: row.int_or_null("revoked_us")?,
            })
        };
        rows.iter().map(one).collect()
    }

    /// A payment, and whether it is a subscription's.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn payment(&self, id: &str) -> Result<Option<(Payment, bool)>> {
        let mut tx = self.begin_one().await?;
        let sql =
            "select id, amount_minor, currency, fingerprint, client_secret, provider_state, alarm, subscription_id
                   from payment where id = $1";
        let row = tx.first(sql, args![id]).await?;
        row.map(|row| Ok((decode_payment(&row)?, row.text_or_null("subscription_id")?.is_some()))).transpose()
    }

    /// Believes what the provider has under a payment's id, as far as it may be believed. The same again changes
    /// nothing.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn apply_payment(&self, id: &str, seen: &Seen, delay_us: i64, now_us: i64) -> Result<Applied> {
        let mut tx = self.begin().await?;
        let sql = "select order_id, subscription_id, amount_minor, currency from payment where id = $1";
        let Some(row) = tx.first(sql, args![id]).await? else { return Ok(Applied::Unknown) };
        let (order, subscription) = (row.text_or_null("order_id")?, row.text_or_null("subscription_id")?);
        if let Some(order) = &order {
            lock_order(&mut tx, order).await?;
        }
        let same = seen.amount_minor == row.int("amount_minor")? && seen.currency == row.text("currency")?;
        if !same || seen.standing == Standing::Conflicted {
            let why =
                format!("the provider has {} minor units of {} ({})", seen.amount_minor, seen.currency, seen.state);
            return alarm(tx, id, seen, why, now_us).await;
        }
        if matches!(seen.standing, Standing::Dead | Standing::Expired) && is_booked(&mut tx, id).await? {
            let why = format!("the provider took back a payment that is booked ({})", seen.state);
            return alarm(tx, id, seen, why, now_us).await;
        }
        learn(&mut tx, id, seen, now_us).await?;
        let applied = match (&order, &subscription) {
            (Some(order), _) => apply_to_order(&mut tx, order, id, seen.standing, delay_us, now_us).await?,
            (None, Some(of)) => subscriptions::apply(&mut tx, of, id, seen, now_us).await?,
            (None, None) => return Err(Error::internal(format!("the payment {id} is for nothing"))),
        };
        tx.commit().await?;
        Ok(applied)
    }

    /// Whether the provider took a payment back that was booked: what was to be given back is with the buyer already.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn is_taken_back(&self, id: &str) -> Result<bool> {
        let sql = "select 1 as one from payment where id = $1 and alarm is not null
                     and provider_state in ('cancelled_post_capture', 'cancelled', 'failed', 'expired')";
        Ok(self.begin_one().await?.first(sql, args![id]).await?.is_some())
    }

    /// Gives an order its own deadline of refunds; `None`: there is no such order.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn set_refund_deadline(&self, id: &OrderId, until_us: i64, now_us: i64) -> Result<Option<Order>> {
        let mut tx = self.begin().await?;
        let sql = "update sale_order set refund_until_us = $2, updated_us = $3 where id = $1";
        tx.execute(sql, args![id.as_str(), until_us, now_us]).await?;
        let order = read(&mut tx, id.as_str()).await?;
        tx.commit().await?;
        Ok(order)
    }

    /// Ends an order that the provider refuses to have paid, or does not know. False when it moved on meanwhile.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn fail_order(&self, id: &OrderId, to: Status, now_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        lock_order(&mut tx, id.as_str()).await?;
        let Some(order) = read(&mut tx, id.as_str()).await? else { return Ok(false) };
        if !matches!(order.status, Status::Created | Status::PendingPayment) {
            return Ok(false);
        }
        let moved = move_order(&mut tx, id.as_str(), (order.status, to), now_us).await?;
        tx.commit().await?;
        Ok(moved)
    }

    /// Payments and refunds that were made in `[from_us, to_us)` and that the provider was known to have: at most 100,000.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn known_to_provider(&self, from_us: i64, to_us: i64) -> Result<Vec<String>> {
        let mut tx = self.begin_one().await?;
        let rows = tx
            .all(
                "select id from payment where created_us >= $1 and created_us < $2 and seen_us is not null
                 union all select r.id from refund r join payment p on p.id = r.payment_id
                   where r.created_us >= $1 and r.created_us < $2 and r.known_us is not null
                     and (p.provider_state is null or p.provider_state not in ('cancelled_post_capture', 'cancelled', 'failed', 'expired'))
                 limit 100000",
                args![from_us, to_us],
            )
            .await?;
        rows.iter().map(|row| row.text("id")).collect()
    }

    /// Payments whose end nobody heard of although they were made before `before_us`: of orders and of subscriptions.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn pending_payments(&self, before_us: i64, after: &str, limit: i64) -> Result<Vec<String>> {
        let mut tx = self.begin_one().await?;
        let rows = tx
            .all(
                "select p.id from payment p
                 where p.id > $2 and p.created_us < $1 and (
                   exists (select 1 from sale_order o where o.id = p.order_id and o.status in ('created', 'pending_payment'))
                   or exists (select 1 from invoice i where i.payment_id = p.id and i.status = 'open'))
                 order by p.id limit $3",
                args![before_us, after, limit],
            )
            .await?;
        rows.iter().map(|row| row.text("id")).collect()
    }
}

/// What the items cost, as products say now.
async fn price(
    tx: &mut Tx,
    buyer: &str,
    wanted: &[(ProductId, LicenceKind)],
    terms: Terms,
) -> Result<Result<(Currency, Vec<Item>), Refusal>> {
    if !(1..=order::ITEMS_MAX).contains(&wanted.len()) {
        return Ok(Err(Refusal::Items));
    }
    let mut items: Vec<Item> = Vec::with_capacity(wanted.len());
    let mut currency = None;
    for (id, kind) in wanted {
        let Some(product) = products::read(tx, id.as_str()).await?.filter(|product| product.active) else {
            return Ok(Err(Refusal::Product(id.clone())));
        };
        if product.seller == buyer {
            return Ok(Err(Refusal::Own(id.clone())));
        }
        if let Some(track) = &product.track
            && !is_there(tx, track).await?
        {
            return Ok(Err(Refusal::Product(id.clone())));
        }
        let Some((_, price_minor)) = product.licences.iter().find(|(known, _)| known == kind) else {
            return Ok(Err(Refusal::Licence(id.clone(), *kind)));
        };
        if *currency.get_or_insert(product.currency) != product.currency {
            return Ok(Err(Refusal::Currencies));
        }
        items.push(Item {
            line: items.len() as i64 + 1,
            product: product.id,
            track: product.track,
            title: product.title,
            kind: *kind,
            seller: product.seller,
            split: Split::of(*price_minor, terms),
        });
    }
    Ok(match currency {
        Some(currency) => Ok((currency, items)),
        None => Err(Refusal::Items),
    })
}

/// Whether who buys a track gets something: it has a version, and neither a notice nor its owner's leaving keeps it dark.
async fn is_there(tx: &mut Tx, track: &str) -> Result<bool> {
    let sql = "select 1 as one from track where id = $1 and version is not null and state not in ('deleted', 'blocked')
                 and not exists (select 1 from account_erasure e where e.user_id = track.owner and e.taken_back_us is null)";
    Ok(tx.first(sql, args![track]).await?.is_some())
}

/// Whether it was paid by what we know, and its money has not all gone back.
async fn is_booked(tx: &mut Tx, id: &str) -> Result<bool> {
    let sql = "select 1 as one from payment p where p.id = $1 and (
                 exists (select 1 from sale_order o where o.id = p.order_id and o.status in ('paid', 'refund_pending'))
                 or exists (select 1 from invoice i where i.payment_id = p.id and i.status = 'paid'
                   and not exists (select 1 from refund r where r.payment_id = p.id and r.status = 'succeeded')))";
    Ok(tx.first(sql, args![id]).await?.is_some())
}

/// Remembers what the provider says, and that nothing is wrong any more; the same is not written again. What was taken back
/// after it was booked is wrong until it is said to be paid, or all of it has gone back.
async fn learn(tx: &mut Tx, id: &str, seen: &Seen, now_us: i64) -> Result<()> {
    if seen.standing == Standing::Open && is_booked(tx, id).await? {
        return Ok(()); // nothing new: it was further than that
    }
    tx.execute(
        "update payment set provider_state = $2, client_secret = coalesce($3, client_secret), updated_us = $4,
           seen_us = case when $2 in ('missing', 'refused') then seen_us else coalesce(seen_us, $4) end, alarm = null
         where id = $1 and (provider_state is null or provider_state <> $2 or alarm is not null
           or (client_secret is null and cast($3 as text) is not null))",
        args![id, &seen.state, seen.client_secret.as_deref(), now_us],
    )
    .await
    .map(drop)
}

async fn alarm(mut tx: Tx, id: &str, seen: &Seen, why: String, now_us: i64) -> Result<Applied> {
    tx.execute(
        "update payment set provider_state = $2, alarm = $3, seen_us = coalesce(seen_us, $4), updated_us = $4
         where id = $1 and (alarm is null or alarm <> $3 or provider_state is null or provider_state <> $2)",
        args![id, &seen.state, &why, now_us],
    )
    .await?;
    tx.commit().await?;
    Ok(Applied::Alarm(why))
}

async fn apply_to_order(
    tx: &mut Tx,
    id: &str,
    payment: &str,
    standing: Standing,
    delay_us: i64,
    now_us: i64,
) -> Result<Applied> {
    let order = read(tx, id).await?.ok_or_else(vanished)?;
    let from = order.status;
    let (to, what) = match standing {
        Standing::Paid => (Status::Paid, "paid"),
        Standing::Dead => (Status::Failed, "failed"),
        Standing::Expired => (Status::Expired, "expired"),
        Standing::Open => (Status::PendingPayment, "known"),
        Standing::Conflicted => return Ok(Applied::Nothing), // an alarm before
    };
    // What was paid stays so, whatever is said of its payment later; refunds have their own events.
    let news = match from {
        Status::Created => true,
        Status::PendingPayment => to != Status::PendingPayment,
        Status::Failed | Status::Expired => to == Status::Paid,
        Status::Paid | Status::RefundPending | Status::Refunded => false,
    };
    if !news || !move_order(tx, id, (from, to), now_us).await? {
        return Ok(Applied::Nothing);
    }
    if to == Status::Paid {
        fulfil(tx, &order, payment, delay_us, now_us).await?;
    }
    Ok(Applied::Changed(what))
}

/// Everything that a payment means: the journal, the licences, and what each seller will get.
async fn fulfil(tx: &mut Tx, order: &Order, payment: &str, delay_us: i64, now_us: i64) -> Result<()> {
    for item in &order.items {
        tx.execute(
            "insert into licence (id, order_id, line, holder, product_id, track, kind, granted_us)
             values ($1, $2, $3, $4, $5, $6, $7, $8)",
            args![
                &sortable("lic_", now_us),
                order.id.as_str(),
                item.line,
                &order.buyer,
                item.product.as_str(),
                item.track.as_deref(),
                item.kind.as_str(),
                now_us
            ],
        )
        .await?;
    }
    entitle(tx, order, Some(now_us), now_us).await?;
    let shares = shares(&order.items);
    for (seller, minor) in by_seller(&shares) {
        tx.execute(
            "insert into transfer (id, order_id, seller, amount_minor, currency, status, next_attempt_at_us, created_us,
               updated_us)
             values ($1, $2, $3, $4, $5, 'pending', $6, $7, $7)",
            args![
                TransferId::new(now_us).as_str(),
                order.id.as_str(),
                seller,
                minor,
                order.total.currency().code(),
                now_us.saturating_add(delay_us),
                now_us
            ],
        )
        .await?;
    }
    book(tx, &order::paid(payment, &shares, order.total.currency(), now_us)?, now_us).await?;
    for (seller, _) in by_seller(&shares) {
        net(tx, payment, seller, order.total.currency(), now_us).await?;
    }
    Ok(())
}

/// Revokes the licences of an order.
pub(super) async fn revoke(tx: &mut Tx, order: &Order, now_us: i64) -> Result<()> {
    let sql = "update licence set revoked_us = $2 where order_id = $1 and revoked_us is null";
    tx.execute(sql, args![order.id.as_str(), now_us]).await?;
    entitle(tx, order, None, now_us).await
}

/// The licences of an order again.
pub(super) async fn grant_again(tx: &mut Tx, order: &Order, now_us: i64) -> Result<()> {
    tx.execute("update licence set revoked_us = null where order_id = $1", args![order.id.as_str()]).await?;
    entitle(tx, order, Some(now_us), now_us).await
}

/// The one place that tells the access decision what a buyer may hear: `granted_us`, or nothing any more unless another
/// licence of theirs is in force.
async fn entitle(tx: &mut Tx, order: &Order, granted_us: Option<i64>, now_us: i64) -> Result<()> {
    for track in order.items.iter().filter_map(|item| TrackId::decode(item.track.as_deref()?)) {
        match granted_us {
            Some(granted_us) => grant_licence(tx, &order.buyer, track, granted_us).await?,
            None => {
                let sql =
                    "select 1 as one from licence where holder = $1 and track = $2 and revoked_us is null limit 1";
                if tx.first(sql, args![&order.buyer, track.as_str()]).await?.is_none() {
                    revoke_licence(tx, &order.buyer, track, now_us).await?;
                }
            }
        }
    }
    Ok(())
}

/// The money of an order's items.
pub(super) fn shares(items: &[Item]) -> Vec<Share> {
    items.iter().map(|item| Share { seller: item.seller.clone(), split: item.split }).collect()
}

pub(super) async fn read(tx: &mut Tx, id: &str) -> Result<Option<Order>> {
    let Some(row) = tx.first(select!("where o.id = $1"), args![id]).await? else { return Ok(None) };
    let items = tx.all(items!("where order_id = $1"), args![id]).await?;
    decode(&row, items.iter().map(decode_item).collect::<Result<_>>()?).map(Some)
}

fn decode(row: &Row, items: Vec<Item>) -> Result<Order> {
    let payment = Payment { id: row.text("payment_id")?, ..decode_payment(row)? };
    Ok(Order {
        id: row.text("id")?.parse()?,
        buyer: row.text("buyer")?,
        status: word(Status::decode, "status of an order", &row.text("status")?)?,
        total: Amount::new(row.int("total_minor")?, payment.amount.currency())?,
        refund_until_us: row.int_or_null("refund_until_us")?,
        created_us: row.int("created_us")?,
        updated_us: row.int("updated_us")?,
        paid_us: row.int_or_null("paid_us")?,
        refunded_us: row.int_or_null("refunded_us")?,
        returned_minor: row.int("returned_minor")?,
        items,
        payment,
    })
}

fn decode_item(row: &Row) -> Result<Item> {
    let split = Split {
        seller_minor: row.int("seller_minor")?,
        fee_minor: row.int("fee_minor")?,
        tax_minor: row.int("tax_minor")?,
    };
    Ok(Item {
        line: row.int("line")?,
        product: row.text("product_id")?.parse()?,
        track: row.text_or_null("track")?,
        title: row.text("title")?,
        kind: word(LicenceKind::decode, "kind of licence", &row.text("kind")?)?,
        seller: row.text("seller")?,
        split,
    })
}

fn decode_payment(row: &Row) -> Result<Payment> {
    let currency = word(Currency::decode, "currency", &row.text("currency")?)?;
    Ok(Payment {
        id: row.text("id")?,
        amount: Amount::new(row.int("amount_minor")?, currency)?,
        fingerprint: row.text("fingerprint")?,
        client_secret: row.text_or_null("client_secret")?,
        provider_state: row.text_or_null("provider_state")?,
        alarm: row.text_or_null("alarm")?,
    })
}

fn vanished() -> Error {
    Error::internal("an order vanished")
}
