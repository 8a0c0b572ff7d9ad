//! `/api/v1/tracks`: what owners make of their tracks, and what others may know of them. Thin: decode, ask the gate or
//! for the owner, call one function, encode.
//!
//! A track of somebody else is 404 for everything but looking at it, in the same words as one that does not exist.

mod artwork;
pub(super) mod described;
mod events;
mod media;
mod shares;
mod view;
mod words;

use std::path::Path as FsPath;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::described::{
    BatchView, ChangedView, PriceView, SeenView, StateView, TrackList, TrackView, VersionList, VisibilityView,
};
use super::App;
use super::caller::{Anyone, Caller, Creator};
use super::gate::{self, Known, Refused, Shared};
use super::openapi::{ProblemDocument, wrong_cursor};
use super::problem::Problem;
use super::transcodes::{given_key, no_store, wrong_query};
use crate::api::sent::{self, BodyType, Raw, body};
use crate::auth::principal::Principal;
use crate::base::id::{TrackId, VersionId};
use crate::base::{Error, Kind, Result as Outcome, hex};
use crate::catalogue::{Changed, OnSale};
use crate::cdn::purge::What;
use crate::db::tracks::{Changes, Cursor, Made, NewTrack, PAGE_MAX, Sourced};
use crate::hls::ladder::video::Choice;
use crate::jobs::transcode::{UPLOAD, Wish, track_for};
use crate::jobs::{self, NewJob};
use crate::ledger::Currency;
use crate::ledger::order::PRICE_MINOR_MAX;
use crate::origin::blocks::{self, Entry};
use crate::tracks::access::{Offer, Want};
use crate::tracks::{self as values, State as Standing, Visibility};
use crate::uploads::{self, Upload, UploadId};
use crate::{catalogue, db};

/// The largest JSON, in bytes: lyrics are the longest.
const BODY_BYTES_MAX: usize = 128 << 10;
/// Tracks in one request about several.
const BATCH_MAX: usize = 100;
/// Where a preview may begin at most, in seconds: the longest source.
const PREVIEW_START_S_MAX: f64 = 36_000.0;

pub(super) type Answer = Result<Response, Problem>;
pub(super) type Checked<T> = Result<T, Problem>;

/// The routes and what they say of themselves, without what they need.
pub(super) fn described() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(change_several))
        .routes(routes!(delete_several))
        .routes(routes!(show, change, delete))
        .routes(routes!(source))
        .routes(routes!(publish))
        .routes(routes!(unlist))
        .routes(routes!(retry))
        .routes(routes!(events::status))
        .routes(routes!(events::events))
        .routes(routes!(versions))
        .routes(routes!(media::media))
        .routes(routes!(media::loudness))
        .routes(routes!(restore))
        .routes(routes!(shares::create, shares::list))
        .routes(routes!(shares::revoke))
        .routes(routes!(shares::resolve))
        .routes(routes!(words::lyrics, words::set_lyrics, words::remove_lyrics))
        .routes(routes!(words::stats))
        .routes(routes!(words::played))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .merge(artwork::described())
}

/// What its routes read.
pub(super) const BODIES: &[BodyType] = &[
    body::<Asks>("NewTrack"),
    body::<Source>("NewVersion"),
    body::<Wanted>("ChangedTrack"),
    body::<Several>("SeveralTracks"),
    body::<shares::Asks>("WantedShare"),
    body::<shares::Has>("ShareToken"),
    body::<words::Words>("NewLyrics"),
];

/// The same of the pictures' own names, outside of the API.
pub(super) fn pictures() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(artwork::picture))
}

/// What a request wants to make.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewTrack)]
#[serde(deny_unknown_fields)]
struct Asks {
    /// What it is called; by the file's name when nobody says.
    title: Option<String>,
    /// The upload that it is made from, whole or on its way.
    upload: Option<String>,
    #[schema(value_type = Option<VisibilityView>)]
    visibility: Option<Visibility>,
    /// Whether it is published as soon as it is ready. Default: yes.
    publish: Option<bool>,
    preview_enabled: Option<bool>,
    #[schema(minimum = 0, maximum = 36_000)]
    preview_start_s: Option<f64>,
    #[schema(value_type = Option<PriceView>)]
    price: Option<Price>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Price {
    price_minor: i64,
    currency: String,
}

impl Price {
    fn checked(self) -> Checked<Offer> {
        let Price { price_minor, currency } = self;
        let fits = (1..=PRICE_MINOR_MAX).contains(&price_minor) && Currency::decode(&currency).is_some();
        fits.then_some(Offer { price_minor, currency }).ok_or_else(|| {
            let detail = format!("price_minor is 1 to {PRICE_MINOR_MAX}, currency one of ISO 4217, in capitals");
            Problem::unprocessable("price", "The price cannot be used", detail)
        })
    }
}

/// `POST /api/v1/tracks`: with the same `Idempotency-Key` the same track.
#[utoipa::path(
    post,
    path = "/api/v1/tracks",
    tag = "tracks",
    summary = "Make a track",
    security(("bearer" = []), ("api_key" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "The same again is the same track")),
    request_body = Asks,
    responses((status = 201, description = "It is there", body = TrackView), (status = 200, description = "It was there", body = TrackView), (status = 400, description = "The body cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "Only creators may do this", body = ProblemDocument), (status = 409, description = "The upload cannot be used", body = ProblemDocument), (status = 422, description = "It cannot be done like that", body = ProblemDocument))
)]
async fn create(State(app): State<Arc<App>>, Creator(caller): Creator, headers: HeaderMap, body: Raw) -> Answer {
    writes(&caller)?;
    let body = sent::bytes(body)?;
    let made_from = hex::encode(&Sha256::digest(&body));
    let asks: Asks = sent::json(&body)?;
    let key = headers.get("idempotency-key").map(given_key).transpose()?;
    let id = key.as_deref().map_or_else(TrackId::random, |key| track_for(&caller.subject, &format!("track\n{key}")));
    let upload = asks.upload.as_deref().map(|id| UploadId::decode(id).ok_or_else(unknown_upload)).transpose()?;
    let offer = asks.price.map(Price::checked).transpose()?;
    let preview_start_ms = asks.preview_start_s.map(preview_start).transpose()?;
    let now_us = app.clock.unix_us();

    let mut tx = app.db.begin().await?;
    let held = match &upload {
        Some(upload) => Some(held_upload(&mut tx, upload, &caller, now_us).await?),
        None => None,
    };
    let title = match asks.title {
        Some(title) => title,
        None => held.as_ref().and_then(|upload| upload.name.as_deref()).map(stem).unwrap_or_default(),
    };
    values::check_title(&title).map_err(wrong_title)?;
    let new = NewTrack {
        id,
        title: &title,
        owner: &caller.subject,
        visibility: asks.visibility.unwrap_or(Visibility::Public),
        publish_when_ready: asks.publish.unwrap_or(true),
        backend: app.store.primary(),
        preview_enabled: asks.preview_enabled.unwrap_or(false),
        preview_start_ms,
        offer: offer.as_ref(),
        made_from: key.is_some().then_some(made_from.as_str()),
    };
    let status = match db::tracks::create(&mut tx, &new, now_us).await? {
        Made::New => StatusCode::CREATED,
        Made::Known => StatusCode::OK,
        Made::Conflict => {
            return Err(Problem::unprocessable(
                "idempotency-key-reused",
                "This idempotency key belongs to another request",
                format!("it was used for {id}; use another key for another track"),
            ));
        }
    };
    if let Some(upload) = held.filter(|_| status == StatusCode::CREATED) {
        let job = job(&app, &caller, (id, &title), &upload, preview_start_ms);
        usable(db::tracks::make_version(&mut tx, id, &upload, &job, now_us).await?, &upload)?;
    }
    tx.commit().await?;
    let row = app.db.track(id).await?.ok_or_else(Problem::not_found)?;
    let mut response = (status, axum::Json(view::own(&row))).into_response();
    let location = format!("/api/v1/tracks/{id}");
    response.headers_mut().insert(header::LOCATION, HeaderValue::try_from(location).expect("ids are ASCII"));
    Ok(no_store(response))
}

/// What a version is made from.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewVersion)]
#[serde(deny_unknown_fields)]
struct Source {
    upload: String,
}

/// `PUT /api/v1/tracks/{id}/source` with `{"upload":"upl_…"}`: another version, which replaces the one that is shown when
/// all of it is there.
#[utoipa::path(
    put,
    path = "/api/v1/tracks/{id}/source",
    tag = "tracks",
    summary = "Make another version",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track")),
    request_body = Source,
    responses((status = 202, description = "It is shown when all of it is there", body = TrackView), (status = 400, description = "The body cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "There is no such track of theirs", body = ProblemDocument), (status = 409, description = "The upload cannot be used", body = ProblemDocument), (status = 422, description = "It cannot be done like that", body = ProblemDocument))
)]
async fn source(State(app): State<Arc<App>>, Caller(caller): Caller, Path(id): Path<String>, body: Raw) -> Answer {
    let known = own(&app, &id, &caller).await?;
    let Source { upload } = sent::json_of(body)?;
    let upload = UploadId::decode(&upload).ok_or_else(unknown_upload)?;
    let now_us = app.clock.unix_us();
    let mut tx = app.db.begin().await?;
    let upload = held_upload(&mut tx, &upload, &caller, now_us).await?;
    let (title, start) =
        known.row.as_ref().map_or((String::new(), None), |row| (row.title.clone(), row.preview_start_ms));
    let job = job(&app, &caller, (known.id, &title), &upload, start);
    usable(db::tracks::make_version(&mut tx, known.id, &upload, &job, now_us).await?, &upload)?;
    tx.commit().await?;
    shown(&app, known.id, StatusCode::ACCEPTED).await
}

/// The upload, which nobody removes before the transaction ends.
async fn held_upload(tx: &mut db::Tx, id: &UploadId, caller: &Principal, now_us: i64) -> Checked<Upload> {
    let upload = db::uploads::hold(tx, id, now_us).await?;
    let upload = upload.filter(|upload| upload.owner == caller.subject).ok_or_else(unknown_upload)?;
    if upload.kind == uploads::Kind::Image {
        return Err(Problem::unprocessable(
            "source",
            "The source cannot be used",
            "it is an image; send sound or a film",
        ));
    }
    Ok(upload)
}

fn usable(sourced: Sourced, upload: &Upload) -> Checked<()> {
    match sourced {
        Sourced::Enqueued(_) | Sourced::Waits => Ok(()),
        Sourced::Unusable(state) => {
            let detail = format!("{} is {}; upload the file again", upload.id, state.as_str());
            Err(Problem::new(StatusCode::CONFLICT, "upload-state", "The upload cannot be used", detail))
        }
    }
}

fn job(app: &App, caller: &Principal, (id, title): (TrackId, &str), upload: &Upload, start: Option<i64>) -> NewJob {
    let (ladder, video) = Wish::plans(Choice::built_in());
    let wish = Wish {
        source: format!("{UPLOAD}{}", upload.id),
        track: id,
        title: title.to_owned(),
        ladder,
        video,
        preview_start_ms: start.and_then(|start| u64::try_from(start).ok()),
        callback: None,
    };
    // Somebody waits for it: before work in bulk.
    wish.job(&caller.subject, jobs::PRIORITY + 1, None, app.failures_max)
}

/// `GET /api/v1/tracks?limit=&after=&state=`: the caller's, the latest first.
#[utoipa::path(
    get,
    path = "/api/v1/tracks",
    tag = "tracks",
    summary = "The caller's own tracks",
    security(("bearer" = []), ("api_key" = [])),
    params(("limit" = Option<u32>, Query, description = "1 to 200; 50 when nobody says"), ("after" = Option<String>, Query, description = "What `next` of the page before says"), ("state" = Option<StateView>, Query, description = "Only those that stand so")),
    responses((status = 200, description = "The latest first, without those that are deleted", body = TrackList), (status = 400, description = "The query cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument))
)]
async fn list(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    page: Result<Query<Page>, QueryRejection>,
) -> Answer {
    let Query(page) = page.map_err(|cause| wrong_query(&cause))?;
    let wrong = |detail: &'static str| {
        move || Problem::new(StatusCode::BAD_REQUEST, "query-invalid", "The query cannot be read", detail)
    };
    let state = page.state.as_deref().map(str::parse::<Standing>).transpose();
    let state = state.map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, "query-invalid", "The query cannot be read", error.chain())
    })?;
    let after =
        page.after.as_deref().map(|text| Cursor::decode(text).ok_or_else(wrong("after is the next of a page before")));
    let limit = page.limit.unwrap_or(50).clamp(1, PAGE_MAX.min(200));
    let rows = app.db.tracks_of(&caller.subject, state, after.transpose()?, limit).await?;
    let next = (rows.len() == limit as usize).then(|| rows.last()).flatten();
    let next = next.map(|row| Cursor { created_us: row.created_us, id: row.id }.encode());
    let items: Vec<Value> = rows.iter().map(view::own).collect();
    Ok(no_store(axum::Json(json!({ "items": items, "next": next })).into_response()))
}

#[derive(Debug, Deserialize)]
struct Page {
    limit: Option<u32>,
    after: Option<String>,
    state: Option<String>,
}

/// `GET /api/v1/tracks/{id}`: everything to its owner, what may be known to others.
#[utoipa::path(
    get,
    path = "/api/v1/tracks/{id}",
    tag = "tracks",
    summary = "One track",
    security((), ("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track"), ("share" = Option<String>, Query, description = "The token of a share: `sgs_…`")),
    responses((status = 200, description = "Everything to its owner, to others what may be known", body = SeenView), (status = 404, description = "There is none that they may know of", body = ProblemDocument), (status = 451, description = "A legal demand has closed it", body = ProblemDocument))
)]
async fn show(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
    Path(id): Path<String>,
    shared: Result<Query<Shared>, QueryRejection>,
) -> Answer {
    let Query(Shared { share }) = shared.map_err(|cause| wrong_query(&cause))?;
    let known = gate::look(&app, &id, caller.as_ref(), share.as_deref()).await.map_err(problem)?;
    if let (Some(caller), Some(row)) = (&caller, &known.row)
        && row.state != Standing::Deleted
        && (known.is_theirs(caller) || caller.is_admin())
    {
        return Ok(no_store(axum::Json(view::own(row)).into_response()));
    }
    if let Err(refused) = known.may(Want::See) {
        return Ok(refused.problem(&app));
    }
    let body = match &known.row {
        Some(row) => view::public(row),
        None => view::recorded(&known.shown(&app).await.map_err(problem)?),
    };
    Ok(no_store(axum::Json(body).into_response()))
}

/// What shall be different; a price of null is none, a start of null is at the loudest.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wanted {
    title: Option<String>,
    visibility: Option<Visibility>,
    publish: Option<bool>,
    preview_enabled: Option<bool>,
    #[serde(deserialize_with = "given")]
    preview_start_s: Option<Option<f64>>,
    #[serde(deserialize_with = "given")]
    price: Option<Option<Price>>,
}

/// Tells null from nothing.
fn given<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

impl Wanted {
    fn changes(self) -> Checked<(Option<String>, Changes)> {
        if let Some(title) = &self.title {
            values::check_title(title).map_err(wrong_title)?;
        }
        let changes = Changes {
            visibility: self.visibility,
            publish_when_ready: self.publish,
            preview_enabled: self.preview_enabled,
            preview_start_ms: self.preview_start_s.map(|start| start.map(preview_start).transpose()).transpose()?,
            offer: self.price.map(|price| price.map(Price::checked).transpose()).transpose()?,
        };
        Ok((self.title, changes))
    }
}

/// `PATCH /api/v1/tracks/{id}`.
#[utoipa::path(
    patch,
    path = "/api/v1/tracks/{id}",
    tag = "tracks",
    summary = "Change a track",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track")),
    request_body = ChangedView,
    responses((status = 200, description = "As it is now", body = TrackView), (status = 400, description = "The body cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "There is no such track of theirs", body = ProblemDocument), (status = 422, description = "It cannot be done like that", body = ProblemDocument))
)]
async fn change(State(app): State<Arc<App>>, Caller(caller): Caller, Path(id): Path<String>, body: Raw) -> Answer {
    let known = own(&app, &id, &caller).await?;
    let (title, changes) = sent::json_of::<Wanted>(body)?.changes()?;
    let now_us = app.clock.unix_us();
    let row = known.row.as_ref();
    let another_preview =
        changes.preview_start_ms.filter(|start| row.is_some_and(|row| row.preview_start_ms != *start));
    let mut unheard = false;
    if changes != Changes::default() {
        let changed = catalogue::change((&app.db, &app.store), &[known.id], owner(&caller), &changes, now_us).await?;
        unheard = !changed.map_err(on_sale)?.unheard.is_empty();
    }
    if let Some(title) = title
        && !catalogue::retitle(&app.db, &app.store, known.id, &title, now_us).await?
    {
        return Err(Problem::not_found());
    }
    let hidden =
        changes.visibility == Some(Visibility::Private) && row.is_some_and(|row| row.visibility == Visibility::Public);
    if hidden || unheard {
        forget(&app, known.id, now_us).await?; // what caches keep was for everybody
    }
    if let Some(start) = another_preview {
        cut_again(&app, &caller, &known, start).await?;
    }
    shown(&app, known.id, StatusCode::OK).await
}

/// Makes the preview anew, beside everything else of the version that is shown; the lowest rung is made with it.
async fn cut_again(app: &Arc<App>, caller: &Principal, known: &Known, start: Option<i64>) -> Checked<()> {
    let Some(row) = known.row.as_ref().filter(|row| row.version.is_some()) else { return Ok(()) };
    let Some(upload) = row.upload.as_deref().and_then(UploadId::decode) else { return Ok(()) };
    let now_us = app.clock.unix_us();
    let mut tx = app.db.begin().await?;
    let Some(upload) = db::uploads::hold(&mut tx, &upload, now_us).await? else { return Ok(()) };
    if upload.state != uploads::State::Ready {
        return Ok(()); // there is nothing to cut it from; it counts for the next version
    }
    let new = job(app, caller, (known.id, &row.title), &upload, start);
    if let Sourced::Enqueued(job) = db::tracks::make_version(&mut tx, known.id, &upload, &new, now_us).await? {
        let wish = Wish::decode(&new.input)?;
        let lowest = wish.ladder.rungs.iter().find(|rung| rung.family == crate::hls::version::Family::Aac);
        if let Some(rung) = lowest {
            db::jobs::only_rungs(&mut tx, &job, &[format!("aac/{}", rung.name)]).await?;
        }
    }
    tx.commit().await?;
    Ok(())
}

/// `DELETE /api/v1/tracks/{id}`.
#[utoipa::path(
    delete,
    path = "/api/v1/tracks/{id}",
    tag = "tracks",
    summary = "Delete a track",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track")),
    responses((status = 204, description = "It is gone, at every origin"), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "There is no such track of theirs", body = ProblemDocument))
)]
async fn delete(State(app): State<Arc<App>>, Caller(caller): Caller, Path(id): Path<String>) -> Answer {
    let known = own(&app, &id, &caller).await?;
    delete_all(&app, &[known.id], &caller).await?;
    Ok(no_store(StatusCode::NO_CONTENT.into_response()))
}

/// Several tracks, and what shall be done to them.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = SeveralTracks)]
#[serde(deny_unknown_fields)]
struct Several {
    /// 1 to 100 of them.
    #[schema(value_type = Vec<String>, min_items = 1, max_items = 100)]
    ids: Vec<TrackId>,
    #[serde(default)]
    #[schema(value_type = Option<ChangedView>)]
    changes: Wanted,
}

impl Several {
    fn checked(&self) -> Checked<()> {
        if self.ids.is_empty() || self.ids.len() > BATCH_MAX {
            let detail = format!("{} tracks were named; name 1 to {BATCH_MAX}", self.ids.len());
            return Err(Problem::unprocessable("batch", "These are too few or too many", detail));
        }
        Ok(())
    }
}

/// `POST /api/v1/tracks/batch/update` with `{"ids":[…],"changes":{…}}`: those that are the caller's.
#[utoipa::path(
    post,
    path = "/api/v1/tracks/batch/update",
    tag = "tracks",
    summary = "Change several tracks",
    security(("bearer" = []), ("api_key" = [])),
    request_body = Several,
    responses((status = 200, description = "What came of each, in the order of the question", body = BatchView), (status = 400, description = "The body cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 422, description = "It cannot be done like that", body = ProblemDocument))
)]
async fn change_several(State(app): State<Arc<App>>, Caller(caller): Caller, body: Raw) -> Answer {
    writes(&caller)?;
    let several: Several = sent::json_of(body)?;
    several.checked()?;
    let (title, changes) = several.changes.changes()?;
    if title.is_some() || changes.preview_start_ms.is_some() || changes == Changes::default() {
        let detail =
            "give visibility, publish, preview_enabled or price; a title and a preview's start are one track's";
        return Err(Problem::unprocessable("batch", "This cannot be changed of several tracks", detail));
    }
    let now_us = app.clock.unix_us();
    let to = (&app.db, &app.store);
    let changed = catalogue::change(to, &several.ids, Some(&caller.subject), &changes, now_us).await?;
    let Changed { ids, unheard } = changed.map_err(on_sale)?;
    let hidden = changes.visibility == Some(Visibility::Private);
    for id in ids.iter().filter_map(|id| TrackId::decode(id)) {
        if hidden || unheard.contains(&id) {
            forget(&app, id, now_us).await?;
        }
    }
    Ok(batch(&several.ids, &ids))
}

fn on_sale(OnSale { track, product }: OnSale) -> Problem {
    let detail =
        format!("{product} sells {track}: change its licences, or take it off sale by {{\"active\":false}} first");
    Problem::unprocessable("on-sale", "The price is that of what is on sale", detail)
}

/// `POST /api/v1/tracks/batch/delete` with `{"ids":[…]}`: those that are the caller's.
#[utoipa::path(
    post,
    path = "/api/v1/tracks/batch/delete",
    tag = "tracks",
    summary = "Delete several tracks",
    security(("bearer" = []), ("api_key" = [])),
    request_body = Several,
    responses((status = 200, description = "What came of each, in the order of the question", body = BatchView), (status = 400, description = "The body cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 422, description = "It cannot be done like that", body = ProblemDocument))
)]
async fn delete_several(State(app): State<Arc<App>>, Caller(caller): Caller, body: Raw) -> Answer {
    writes(&caller)?;
    let several: Several = sent::json_of(body)?;
    several.checked()?;
    let theirs = app.db.owned_tracks(&several.ids, Some(&caller.subject)).await?;
    let theirs: Vec<TrackId> = theirs.iter().filter_map(|id| TrackId::decode(id)).collect();
    let deleted = delete_all(&app, &theirs, &caller).await?;
    Ok(batch(&several.ids, &deleted))
}

/// One word for each: done, or not found, in the order of the question.
fn batch(asked: &[TrackId], done: &[String]) -> Response {
    let of = |id: &TrackId| if done.iter().any(|done| done == id.as_str()) { "done" } else { "not-found" };
    let items: Vec<_> = asked.iter().map(|id| json!({ "id": id, "result": of(id) })).collect();
    no_store(axum::Json(json!({ "items": items })).into_response())
}

/// The origins first: what fails afterwards leaves it dark, and is done again.
async fn delete_all(app: &Arc<App>, ids: &[TrackId], caller: &Principal) -> Checked<Vec<String>> {
    let (store, gone, since_s) = (app.store.clone(), ids.to_vec(), app.clock.unix_s());
    let told = tokio::task::spawn_blocking(move || -> Outcome<()> {
        for id in gone {
            let entry = Entry { state: blocks::State::Deleted, reason: None, since_s };
            blocks::block(&store, id, entry)?;
        }
        Ok(())
    });
    told.await.map_err(|cause| Error::internal("telling the origins was stopped").because(cause))??;
    let now_us = app.clock.unix_us();
    let deleted = app.db.delete_tracks(ids, owner(caller), now_us).await?;
    for id in ids {
        forget(app, *id, now_us).await?;
    }
    Ok(deleted)
}

/// Asks the CDN to forget a track, when there is one and every origin knows better.
pub(super) async fn forget(app: &App, id: TrackId, now_us: i64) -> Outcome<()> {
    match app.purges {
        true => app.db.wish_purge(&What::Tag(id.to_string()), now_us + super::DARK_US, now_us).await,
        false => Ok(()),
    }
}

/// `POST /api/v1/tracks/{id}/publish`.
#[utoipa::path(
    post,
    path = "/api/v1/tracks/{id}/publish",
    tag = "tracks",
    summary = "List a track",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track")),
    responses((status = 200, description = "As it is now", body = TrackView), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "There is no such track of theirs", body = ProblemDocument), (status = 409, description = "It does not stand so that this could be done", body = ProblemDocument))
)]
async fn publish(State(app): State<Arc<App>>, Caller(caller): Caller, Path(id): Path<String>) -> Answer {
    moved(&app, &caller, &id, Standing::Published).await
}

/// `POST /api/v1/tracks/{id}/unlist`.
#[utoipa::path(
    post,
    path = "/api/v1/tracks/{id}/unlist",
    tag = "tracks",
    summary = "Take a track off the lists",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track")),
    responses((status = 200, description = "As it is now", body = TrackView), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "There is no such track of theirs", body = ProblemDocument), (status = 409, description = "It does not stand so that this could be done", body = ProblemDocument))
)]
async fn unlist(State(app): State<Arc<App>>, Caller(caller): Caller, Path(id): Path<String>) -> Answer {
    moved(&app, &caller, &id, Standing::Unlisted).await
}

async fn moved(app: &Arc<App>, caller: &Principal, id: &str, to: Standing) -> Answer {
    let known = own(app, id, caller).await?;
    let from = known.row.as_ref().map_or(Standing::Published, |row| row.state);
    if from == to {
        return shown(app, known.id, StatusCode::OK).await;
    }
    // Nothing could be heard of the others, and a block is not its owner's to lift.
    if !matches!(from, Standing::Ready | Standing::Published | Standing::Unlisted) {
        return Err(not_from(from, to));
    }
    match app.db.move_track(known.id, to, app.clock.unix_us()).await? {
        Some(from) if from.may_become(to) => shown(app, known.id, StatusCode::OK).await,
        Some(from) => Err(not_from(from, to)),
        None => Err(Problem::not_found()),
    }
}

fn not_from(from: Standing, to: Standing) -> Problem {
    let detail = format!("it is {} and cannot become {}", from.as_str(), to.as_str());
    Problem::new(StatusCode::CONFLICT, "state", "The track does not stand so that this could be done", detail)
}

/// `POST /api/v1/tracks/{id}/retry`: its job, once more.
#[utoipa::path(
    post,
    path = "/api/v1/tracks/{id}/retry",
    tag = "tracks",
    summary = "Try its job once more",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track")),
    responses((status = 202, description = "It is in the queue", body = TrackView), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "There is no such track of theirs", body = ProblemDocument), (status = 409, description = "It does not stand so that this could be done", body = ProblemDocument))
)]
async fn retry(State(app): State<Arc<App>>, Caller(caller): Caller, Path(id): Path<String>) -> Answer {
    let known = own(&app, &id, &caller).await?;
    let job = known.row.as_ref().and_then(|row| row.job.as_deref()).and_then(jobs::JobId::decode);
    let none =
        || Problem::new(StatusCode::CONFLICT, "no-job", "There is nothing to try again", "give it a source first");
    match app.db.retry(&job.ok_or_else(none)?, None, app.clock.unix_us()).await? {
        db::jobs::Asked::Done | db::jobs::Asked::Told => shown(&app, known.id, StatusCode::ACCEPTED).await,
        db::jobs::Asked::Not(state) => {
            let detail = format!("its job is {}", state.as_str());
            Err(Problem::new(
                StatusCode::CONFLICT,
                "state",
                "The job does not stand so that this could be done",
                detail,
            ))
        }
        db::jobs::Asked::Unknown => Err(none()),
    }
}

/// A page of what belongs to one track.
#[derive(Debug, Deserialize)]
pub(super) struct Part {
    limit: Option<u32>,
    before: Option<String>,
}

impl Part {
    /// What was asked for, and behind what.
    fn of<T>(
        asked: Result<Query<Part>, QueryRejection>,
        decode: impl Fn(&str) -> Option<T>,
    ) -> Checked<(u32, Option<T>)> {
        let Query(Part { limit, before }) = asked.map_err(|cause| wrong_query(&cause))?;
        let before = before.as_deref().map(|text| decode(text).ok_or_else(wrong_cursor)).transpose()?;
        Ok((limit.unwrap_or(50).clamp(1, 200), before))
    }
}

/// A page, and where the next one begins.
fn part(items: Vec<Value>, limit: u32) -> Response {
    let next = (items.len() == limit as usize).then(|| items.last().map(|item| item["id"].clone())).flatten();
    no_store(axum::Json(json!({ "items": items, "next": next })).into_response())
}

/// `GET /api/v1/tracks/{id}/versions?limit=&before=`: the latest first.
#[utoipa::path(
    get,
    path = "/api/v1/tracks/{id}/versions",
    tag = "tracks",
    summary = "Its versions",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track"), ("limit" = Option<u32>, Query, description = "1 to 200; 50 when nobody says"), ("before" = Option<String>, Query, description = "What `next` of the page before says")),
    responses((status = 200, description = "The latest first", body = VersionList), (status = 400, description = "The query cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "There is no such track of theirs", body = ProblemDocument))
)]
async fn versions(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    page: Result<Query<Part>, QueryRejection>,
) -> Answer {
    let known = find_own(&app, &id, &caller).await?;
    let (limit, before) = Part::of(page, VersionId::decode)?;
    let current = known.row.as_ref().and_then(|row| row.version);
    let found = app.db.track_versions(known.id, before, limit).await?;
    Ok(part(found.iter().map(|version| view::version(version, current)).collect(), limit))
}

/// `POST /api/v1/tracks/{id}/versions/{version}/restore`: shows a version again that it showed before.
#[utoipa::path(
    post,
    path = "/api/v1/tracks/{id}/versions/{version}/restore",
    tag = "tracks",
    summary = "Show a version again",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track"), ("version" = String, Path)),
    responses((status = 200, description = "As it is now", body = TrackView), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "There is no such track of theirs", body = ProblemDocument), (status = 410, description = "Its bytes are not in the store any more", body = ProblemDocument))
)]
async fn restore(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path((id, version)): Path<(String, String)>,
) -> Answer {
    let known = own(&app, &id, &caller).await?;
    let version = VersionId::decode(&version).ok_or_else(Problem::not_found)?;
    if !app.db.has_shown(known.id, version).await? {
        return Err(Problem::not_found());
    }
    match catalogue::restore(&app.db, &app.store, (known.id, version), &app.clock).await? {
        Some(_) => shown(&app, known.id, StatusCode::OK).await,
        None => {
            let detail = "its bytes are not in the store any more; upload the file again";
            Err(Problem::new(StatusCode::GONE, "version-gone", "The version is gone", detail))
        }
    }
}

/// The caller's own track, or for an admin anybody's, to be looked at.
pub(super) async fn find_own(app: &Arc<App>, id: &str, caller: &Principal) -> Checked<Known> {
    let known = gate::look(app, id, Some(caller), None).await.map_err(problem)?;
    let is_there = known.row.as_ref().is_some_and(|row| row.state != Standing::Deleted);
    if is_there && (known.is_theirs(caller) || caller.is_admin()) { Ok(known) } else { Err(Problem::not_found()) }
}

/// The same, to be changed.
pub(super) async fn own(app: &Arc<App>, id: &str, caller: &Principal) -> Checked<Known> {
    writes(caller)?;
    find_own(app, id, caller).await
}

/// Whose tracks somebody may change: their own, an admin anybody's.
fn owner(caller: &Principal) -> Option<&str> {
    (!caller.is_admin()).then_some(caller.subject.as_str())
}

/// Refuses a credential that is only for reading.
pub(super) fn writes(caller: &Principal) -> Checked<()> {
    if caller.scopes.write {
        return Ok(());
    }
    let detail = "use an API key with the scope write";
    Err(Problem::new(StatusCode::FORBIDDEN, "scope", "This credential may not change anything", detail))
}

pub(super) fn problem(refused: Refused) -> Problem {
    match refused {
        Refused::Failed(error) => error.into(),
        _ => Problem::not_found(),
    }
}

async fn shown(app: &App, id: TrackId, status: StatusCode) -> Answer {
    let row = app.db.track(id).await?.ok_or_else(Problem::not_found)?;
    Ok(no_store((status, axum::Json(view::own(&row))).into_response()))
}

fn wrong_title(error: Error) -> Problem {
    debug_assert_eq!(error.kind(), Kind::Usage);
    Problem::unprocessable("title", "The title cannot be used", error.chain())
}

fn unknown_upload() -> Problem {
    Problem::unprocessable("source", "The source cannot be used", "there is no such upload of yours")
}

fn preview_start(start_s: f64) -> Checked<i64> {
    if !(0.0..=PREVIEW_START_S_MAX).contains(&start_s) {
        let detail = format!("preview_start_s is 0 to {PREVIEW_START_S_MAX}");
        return Err(Problem::unprocessable("preview-start", "A preview cannot begin there", detail));
    }
    Ok((start_s * 1000.0).round() as i64)
}

/// A file's name as a title.
fn stem(name: &str) -> String {
    let stem = FsPath::new(name).file_stem().unwrap_or_default().to_string_lossy();
    stem.replace(char::is_control, " ").chars().take(values::TITLE_CHARS_MAX).collect()
}
