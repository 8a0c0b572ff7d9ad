//! `/api/v1/products`: what is sold.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::described::{ProductList, ProductView};
use super::{Answer, Asked, Keyed, Page, Sent, forbidden, listed, placed, read, reused, shown, writer};
use crate::api::App;
use crate::api::caller::{Anyone, Caller};
use crate::api::openapi::ProblemDocument;
use crate::api::problem::Problem;
use crate::api::tracks::forget;
use crate::auth::principal::Role;
use crate::base::clock::rfc3339;
use crate::base::id::TrackId;
use crate::db::money::Claim;
use crate::db::products::{Change, IMAGES_MAX, NewProduct, Product};
use crate::db::tracks::TrackRow;
use crate::ledger::Currency;
use crate::ledger::order::{LicenceKind, PRICE_MINOR_MAX, ProductId};
use crate::{catalogue, tracks};

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewProduct)]
#[serde(deny_unknown_fields)]
pub(super) struct New {
    title: String,
    currency: String,
    #[schema(value_type = Option<String>)]
    track: Option<TrackId>,
    /// Whether strangers hear thirty seconds of its track; as it is when nobody says.
    preview_enabled: Option<bool>,
    licences: Vec<Priced>,
    #[serde(default)]
    images: Vec<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = PricedLicence)]
#[serde(deny_unknown_fields)]
pub(super) struct Priced {
    kind: String,
    price_minor: i64,
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ChangedProduct)]
#[serde(deny_unknown_fields)]
pub(super) struct Changed {
    title: Option<String>,
    preview_enabled: Option<bool>,
    active: Option<bool>,
    licences: Option<Vec<Priced>>,
    images: Option<Vec<String>>,
}

/// `POST /api/v1/products`.
#[utoipa::path(
    post,
    path = "/api/v1/products",
    tag = "money",
    summary = "Offer something for sale",
    security(("bearer" = []), ("api_key" = [])),
    params(("Idempotency-Key" = String, Header, description = "A new one for every wish; the same again is the same")),
    request_body = New,
    responses((status = 201, description = "It is there", body = ProductView), (status = 200, description = "It was there: the same key again", body = ProductView), (status = 400, description = "There is no key, or the body cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "Only creators sell, by a key that may write", body = ProblemDocument), (status = 422, description = "It cannot be sold like that, or the key was used for something else", body = ProblemDocument))
)]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    headers: HeaderMap,
    body: Sent,
) -> Answer {
    let caller = writer(caller)?;
    if caller.role < Role::Creator {
        return Err(forbidden("role", "Only creators sell", "ask an admin to make you one"));
    }
    let (new, value): (New, Value) = read(body)?;
    let keyed = Keyed::of(&caller, &headers, "products", &value)?;
    let currency = Currency::decode(&new.currency)
        .ok_or_else(|| wrong("currency", "give three capitals of ISO 4217, such as EUR".into()))?;
    check_title(&new.title)?;
    check_images(&new.images)?;
    let mut preview_enabled = new.preview_enabled.unwrap_or(false);
    if let Some(track) = new.track {
        let theirs = |row: &TrackRow| {
            row.owner.as_deref() == Some(caller.subject.as_str()) && row.state != tracks::State::Deleted
        };
        let row = app.db.track(track).await?.filter(theirs);
        let row = row.ok_or_else(|| wrong("track", format!("there is no track {track} of yours")))?;
        preview_enabled = new.preview_enabled.unwrap_or(row.preview_enabled);
    }
    let new = NewProduct {
        seller: caller.subject.clone(),
        track: new.track.map(|track| track.to_string()),
        title: new.title,
        currency,
        preview_enabled,
        licences: licences(new.licences)?,
        images: new.images,
    };
    let now_us = app.clock.unix_us();
    let (claim, unheard) = catalogue::offer((&app.db, &app.store), &new, keyed.request(), now_us).await?;
    forget_all(&app, &unheard, now_us).await?;
    let (status, product) = match claim {
        Claim::New(product) => (StatusCode::CREATED, product),
        Claim::Known(product) => (StatusCode::OK, product),
        Claim::Conflict(id) => return Err(reused(&id)),
    };
    Ok(placed(status, format!("/api/v1/products/{}", product.id), view(&product)))
}

/// `GET /api/v1/products?mine=true&track=&before=&limit=`: what can be bought, or all of the caller's own.
#[utoipa::path(
    get,
    path = "/api/v1/products",
    tag = "money",
    summary = "What can be bought, or all of the caller's own",
    security((), ("bearer" = []), ("api_key" = [])),
    params(("limit" = Option<u32>, Query, description = "At most 200"), ("before" = Option<String>, Query, description = "The id that the page begins behind"), ("mine" = Option<bool>, Query), ("track" = Option<String>, Query)),
    responses((status = 200, description = "Products, the latest first", body = ProductList), (status = 400, description = "The query cannot be read", body = ProblemDocument), (status = 401, description = "`mine` is of somebody, and nobody is named by this request", body = ProblemDocument), (status = 404, description = "`before` or `track` is no id", body = ProblemDocument))
)]
pub(super) async fn list(State(app): State<Arc<App>>, Anyone(caller): Anyone, page: Asked) -> Answer {
    let page = Page::of(page)?;
    let before = page.before(ProductId::decode)?;
    let seller = match (page.mine, caller) {
        (Some(true), Some(caller)) => Some(caller.subject),
        (Some(true), None) => return Err(crate::api::caller::unauthorized()),
        _ => None,
    };
    let track = page.track.as_deref().map(|id| TrackId::decode(id).ok_or_else(Problem::not_found)).transpose()?;
    let track = track.as_ref().map(TrackId::as_str);
    let products = app.db.products(seller.as_deref(), track, before.as_ref(), page.limit()).await?;
    Ok(listed(products.iter().map(view).collect(), page.limit()))
}

/// `GET /api/v1/products/{id}`.
#[utoipa::path(
    get,
    path = "/api/v1/products/{id}",
    tag = "money",
    summary = "One product",
    params(("id" = String, Path)),
    responses((status = 200, description = "The product", body = ProductView), (status = 404, description = "There is none", body = ProblemDocument))
)]
pub(super) async fn show(State(app): State<Arc<App>>, Anyone(caller): Anyone, Path(id): Path<String>) -> Answer {
    let id = ProductId::decode(&id).ok_or_else(Problem::not_found)?;
    let product = app.db.product(&id).await?;
    let seen = |product: &Product| product.active || caller.as_ref().is_some_and(|c| c.subject == product.seller);
    let product = product.filter(seen).ok_or_else(Problem::not_found)?;
    Ok(shown(StatusCode::OK, view(&product)))
}

/// `PATCH /api/v1/products/{id}`.
#[utoipa::path(
    patch,
    path = "/api/v1/products/{id}",
    tag = "money",
    summary = "Change a product of the caller",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path)),
    request_body = Changed,
    responses((status = 200, description = "The product", body = ProductView), (status = 400, description = "The body cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "Their key may only read", body = ProblemDocument), (status = 404, description = "There is none of theirs", body = ProblemDocument), (status = 422, description = "It cannot be sold like that", body = ProblemDocument))
)]
pub(super) async fn change(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    body: Sent,
) -> Answer {
    let caller = writer(caller)?;
    let id = ProductId::decode(&id).ok_or_else(Problem::not_found)?;
    let (changed, _): (Changed, Value) = read(body)?;
    changed.title.as_deref().map(check_title).transpose()?;
    changed.images.as_deref().map(check_images).transpose()?;
    let change = Change {
        title: changed.title,
        preview_enabled: changed.preview_enabled,
        active: changed.active,
        licences: changed.licences.map(licences).transpose()?,
        images: changed.images,
    };
    let known = app.db.product(&id).await?.filter(|product| product.seller == caller.subject);
    let (known, now_us) = (known.ok_or_else(Problem::not_found)?, app.clock.unix_us());
    let (product, unheard) = catalogue::change_offer((&app.db, &app.store), &known, &change, now_us).await?;
    forget_all(&app, &unheard, now_us).await?;
    Ok(shown(StatusCode::OK, view(&product.ok_or_else(Problem::not_found)?)))
}

/// What caches keep of these was for everybody.
async fn forget_all(app: &App, unheard: &[TrackId], now_us: i64) -> Result<(), Problem> {
    for id in unheard {
        forget(app, *id, now_us).await?;
    }
    Ok(())
}

fn licences(given: Vec<Priced>) -> Result<Vec<(LicenceKind, i64)>, Problem> {
    let mut licences: Vec<(LicenceKind, i64)> = Vec::new();
    for Priced { kind, price_minor } in given {
        let known = LicenceKind::decode(&kind).filter(|kind| !licences.iter().any(|(other, _)| other == kind));
        let kind = known.ok_or_else(|| {
            let kinds = LicenceKind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
            wrong("licences", format!("{kind:?} is no kind of licence, or there twice; give {kinds}"))
        })?;
        if !(1..=PRICE_MINOR_MAX).contains(&price_minor) {
            return Err(wrong("licences", format!("a price is 1 to {PRICE_MINOR_MAX} minor units, not {price_minor}")));
        }
        licences.push((kind, price_minor));
    }
    match licences.is_empty() {
        true => Err(wrong("licences", "give at least one".into())),
        false => Ok(licences),
    }
}

fn check_title(title: &str) -> Result<(), Problem> {
    tracks::check_title(title).map_err(|error| wrong("title", error.chain()))
}

fn check_images(images: &[String]) -> Result<(), Problem> {
    let plain = |url: &String| {
        url.starts_with("https://") && url.len() <= 2048 && url.bytes().all(|b| b.is_ascii_graphic() && b != b'"')
    };
    match images.len() <= IMAGES_MAX && images.iter().all(plain) {
        true => Ok(()),
        false => Err(wrong("images", format!("give at most {IMAGES_MAX} URLs that begin with https://"))),
    }
}

fn wrong(field: &'static str, detail: String) -> Problem {
    Problem::unprocessable(field, "The product cannot be made like that", detail)
}

pub(super) fn view(product: &Product) -> Value {
    let licence =
        |(kind, price_minor): &(LicenceKind, i64)| json!({ "kind": kind.as_str(), "price_minor": price_minor });
    json!({
        "id": product.id.as_str(), "seller": product.seller, "title": product.title, "track": product.track,
        "currency": product.currency.code(), "exponent": product.currency.exponent(),
        "preview_enabled": product.preview_enabled, "active": product.active,
        "licences": product.licences.iter().map(licence).collect::<Vec<_>>(), "images": product.images,
        "created": rfc3339(product.created_us),
    })
}
