//! What is sold: rows, and what they make of the track that they are for.

use std::collections::BTreeMap;

use super::conn::{Row, Tx, args};
use super::money::{Claim, Request, claim, locked, word};
use super::{Db, Dialect};
use crate::base::{Error, Result};
use crate::ledger::Currency;
use crate::ledger::order::{LicenceKind, ProductId};

/// Images of one product at most.
pub const IMAGES_MAX: usize = 10;
/// Products in one page of a list.
pub const PAGE_MAX: u32 = 200;

/// Something that can be bought.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    /// Its id.
    pub id: ProductId,
    /// Who sells it.
    pub seller: String,
    /// What its licences are for; `None`: no track of ours.
    pub track: Option<String>,
    /// For people.
    pub title: String,
    /// Of its prices.
    pub currency: Currency,
    /// Its track may be heard for 30 s by everybody.
    pub preview_enabled: bool,
    /// It can be bought.
    pub active: bool,
    /// Licences and their prices in minor units.
    pub licences: Vec<(LicenceKind, i64)>,
    /// URLs of pictures, the first one first.
    pub images: Vec<String>,
    /// When it was made, in microseconds since 1970.
    pub created_us: i64,
}

/// What a new product is.
#[derive(Clone, Debug)]
pub struct NewProduct {
    /// Who sells it.
    pub seller: String,
    /// What its licences are for.
    pub track: Option<String>,
    /// For people.
    pub title: String,
    /// Of its prices.
    pub currency: Currency,
    /// Its track may be heard for 30 s by everybody.
    pub preview_enabled: bool,
    /// Licences and their prices, each kind once, at least one.
    pub licences: Vec<(LicenceKind, i64)>,
    /// URLs of pictures.
    pub images: Vec<String>,
}

/// What changes of a product; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// For people.
    pub title: Option<String>,
    /// Its track may be heard for 30 s by everybody.
    pub preview_enabled: Option<bool>,
    /// It can be bought.
    pub active: Option<bool>,
    /// All licences and their prices, at least one; orders keep theirs.
    pub licences: Option<Vec<(LicenceKind, i64)>>,
    /// URLs of all pictures.
    pub images: Option<Vec<String>>,
}

/// The columns of a product, and what follows.
macro_rules! select {
    ($rest:literal) => {
        concat!("select id, seller, track, title, currency, preview_enabled, active, created_us from product ", $rest)
    };
}

/// The licences of which products, the cheapest first; never more than those of a page have.
macro_rules! licences {
    ($($of:tt)+) => {
        concat!(
            "select product_id, kind, price_minor from product_licence ",
            $($of)+,
            " order by product_id, price_minor, kind limit 2000"
        )
    };
}

/// The pictures of which products, in their order; likewise.
macro_rules! images {
    ($($of:tt)+) => {
        concat!("select product_id, url from product_image ", $($of)+, " order by product_id, position limit 20000")
    };
}

/// Those of a page: from the first to the latest id, of a seller or what can be bought, of a track.
macro_rules! of_page {
    () => {
        "where product_id in (select id from product where id between $1 and $2
           and ((cast($3 as text) is null and active = 1) or seller = $3) and (cast($4 as text) is null or track = $4))"
    };
}

impl Db {
    /// A product.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn product(&self, id: &ProductId) -> Result<Option<Product>> {
        read(&mut self.begin_read().await?, id.as_str()).await
    }

    /// Products, the latest first: of a seller, who sees all of theirs; or everybody's that can be bought.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn products(
        &self,
        seller: Option<&str>,
        track: Option<&str>,
        before: Option<&ProductId>,
        limit: u32,
    ) -> Result<Vec<Product>> {
        let mut tx = self.begin_read().await?;
        let before = before.map_or("prd_~", ProductId::as_str);
        let sql = select!(
            "where id < $1 and ((cast($2 as text) is null and active = 1) or seller = $2)
               and (cast($3 as text) is null or track = $3)
             order by id desc limit $4"
        );
        let rows = tx.all(sql, args![before, seller, track, i64::from(limit.min(PAGE_MAX))]).await?;
        let (Some(latest), Some(first)) = (rows.first(), rows.last()) else { return Ok(Vec::new()) };
        let (first, latest) = (first.text("id")?, latest.text("id")?);
        // Of those between that others have, nothing is read: whose list it is stands in every statement.
        let sql = licences!(of_page!());
        let mut licences: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for row in tx.all(sql, args![&first, &latest, seller, track]).await? {
            licences.entry(row.text("product_id")?).or_default().push(decode_licence(&row)?);
        }
        let sql = images!(of_page!());
        let mut images: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for row in tx.all(sql, args![&first, &latest, seller, track]).await? {
            images.entry(row.text("product_id")?).or_default().push(row.text("url")?);
        }
        let one = |row: &Row| {
            let id = row.text("id")?;
            decode(row, licences.remove(&id).unwrap_or_default(), images.remove(&id).unwrap_or_default())
        };
        rows.iter().map(one).collect()
    }
}

/// Makes a product, once for a key, in the caller's transaction. Its track costs something from then on.
///
/// # Errors
/// When the database refuses.
pub async fn create(tx: &mut Tx, new: &NewProduct, request: Request<'_>, now_us: i64) -> Result<Claim<Product>> {
    let id = ProductId::new(now_us);
    match claim(tx, request, id.as_str(), now_us).await? {
        Claim::Conflict(id) => return Ok(Claim::Conflict(id)),
        Claim::Known(id) => return read(tx, &id).await?.ok_or_else(vanished).map(Claim::Known),
        Claim::New(_) => {}
    }
    hold(tx, new.track.as_deref()).await?;
    tx.execute(
        "insert into product (id, seller, track, title, currency, preview_enabled, created_us, updated_us)
         values ($1, $2, $3, $4, $5, $6, $7, $7)",
        args![
            id.as_str(),
            &new.seller,
            new.track.as_deref(),
            &new.title,
            new.currency.code(),
            i64::from(new.preview_enabled),
            now_us
        ],
    )
    .await?;
    put_licences(tx, &id, &new.licences).await?;
    put_images(tx, &id, &new.images).await?;
    price_track(tx, new.track.as_deref(), now_us).await?;
    read(tx, id.as_str()).await?.ok_or_else(vanished).map(Claim::New)
}

/// Changes a product of `seller`, in the caller's transaction; `None`: there is none of theirs. What is on sale for its
/// track then is what the track costs.
///
/// # Errors
/// When the database refuses.
pub async fn change(
    tx: &mut Tx,
    id: &ProductId,
    seller: &str,
    change: &Change,
    now_us: i64,
) -> Result<Option<Product>> {
    let sql = "select track from product where id = $1 and seller = $2";
    let Some(row) = tx.first(sql, args![id.as_str(), seller]).await? else { return Ok(None) };
    let track = row.text_or_null("track")?;
    hold(tx, track.as_deref()).await?;
    let flag = |value: Option<bool>| value.map(i64::from);
    tx.execute(
        "update product set title = coalesce($2, title), preview_enabled = coalesce($3, preview_enabled),
           active = coalesce($4, active), updated_us = $5 where id = $1",
        args![id.as_str(), change.title.as_deref(), flag(change.preview_enabled), flag(change.active), now_us],
    )
    .await?;
    if let Some(licences) = &change.licences {
        tx.execute("delete from product_licence where product_id = $1", args![id.as_str()]).await?;
        put_licences(tx, id, licences).await?;
    }
    if let Some(images) = &change.images {
        tx.execute("delete from product_image where product_id = $1", args![id.as_str()]).await?;
        put_images(tx, id, images).await?;
    }
    price_track(tx, track.as_deref(), now_us).await?;
    read(tx, id.as_str()).await
}

/// Waits until nobody else changes the track. Whoever changes it, or what is sold of it, takes its row first.
async fn hold(tx: &mut Tx, track: Option<&str>) -> Result<()> {
    let Some(track) = track else { return Ok(()) };
    tx.first(locked!(tx, "select id from track where id = $1"), args![track]).await.map(drop)
}

/// Makes a track cost what the cheapest licence on sale for it costs, and its preview be heard when a product on sale says so:
/// the row of the track is what every way to it asks. When nothing is on sale any more it stays as it is: only its owner
/// makes it free.
async fn price_track(tx: &mut Tx, track: Option<&str>, now_us: i64) -> Result<()> {
    let Some(track) = track else { return Ok(()) };
    let offer = tx
        .first(
            "select p.currency, l.price_minor,
               (select max(o.preview_enabled) from product o where o.track = $1 and o.active = 1) as preview
             from product p join product_licence l on l.product_id = p.id
             where p.track = $1 and p.active = 1 order by l.price_minor, p.id limit 1",
            args![track],
        )
        .await?;
    let Some(offer) = offer else { return Ok(()) };
    tx.execute(
        "update track set price_minor = $2, currency = $3, preview_enabled = $4, updated_us = $5
         where id = $1 and (price_minor is null or price_minor <> $2 or currency <> $3 or preview_enabled <> $4)",
        args![track, offer.int("price_minor")?, &offer.text("currency")?, offer.int("preview")?, now_us],
    )
    .await
    .map(drop)
}

async fn put_licences(tx: &mut Tx, id: &ProductId, licences: &[(LicenceKind, i64)]) -> Result<()> {
    for (kind, price_minor) in licences {
        let sql = "insert into product_licence (product_id, kind, price_minor) values ($1, $2, $3)";
        tx.execute(sql, args![id.as_str(), kind.as_str(), *price_minor]).await?;
    }
    Ok(())
}

async fn put_images(tx: &mut Tx, id: &ProductId, images: &[String]) -> Result<()> {
    for (position, url) in images.iter().enumerate() {
        let sql = "insert into product_image (product_id, position, url) values ($1, $2, $3)";
        tx.execute(sql, args![id.as_str(), position as i64, url]).await?;
    }
    Ok(())
}

pub(super) async fn read(tx: &mut Tx, id: &str) -> Result<Option<Product>> {
    let Some(row) = tx.first(select!("where id = $1"), args![id]).await? else { return Ok(None) };
    let licences = tx.all(licences!("where product_id = $1"), args![id]).await?;
    let licences = licences.iter().map(decode_licence).collect::<Result<_>>()?;
    let images = tx.all(images!("where product_id = $1"), args![id]).await?;
    let images = images.iter().map(|row| row.text("url")).collect::<Result<_>>()?;
    decode(&row, licences, images).map(Some)
}

fn decode_licence(row: &Row) -> Result<(LicenceKind, i64)> {
    Ok((word(LicenceKind::decode, "kind of licence", &row.text("kind")?)?, row.int("price_minor")?))
}

fn decode(row: &Row, licences: Vec<(LicenceKind, i64)>, images: Vec<String>) -> Result<Product> {
    Ok(Product {
        id: row.text("id")?.parse()?,
        seller: row.text("seller")?,
        track: row.text_or_null("track")?,
        title: row.text("title")?,
        currency: word(Currency::decode, "currency", &row.text("currency")?)?,
        preview_enabled: row.int("preview_enabled")? == 1,
        active: row.int("active")? == 1,
        licences,
        images,
        created_us: row.int("created_us")?,
    })
}

fn vanished() -> Error {
    Error::internal("a product vanished")
}
