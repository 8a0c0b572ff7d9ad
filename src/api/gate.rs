//! The one way from a request to a track: every route that shows, plays or hands out anything of one comes through
//! here, so none decides by itself. In: an id, who asks, what token of a share they have. Out: what they may, or the
//! answer that refuses.
//!
//! One query to the database; whether the track is blocked is known without one.

use std::sync::Arc;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::problem::Problem;
use super::{App, plain, web_page};
use crate::auth::principal::Principal;
use crate::base::id::TrackId;
use crate::base::{Error, Kind, Result};
use crate::db::tracks::TrackRow;
use crate::origin::blocks::Standing;
use crate::tracks::access::{self, Access, Asker, Closed, Facts, Ground, Offer, Want};
use crate::tracks::{self, State, Track, Visibility, share};
use crate::web;

/// The token of a share, as every route takes it.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Shared {
    /// `sgs_…`.
    pub(super) share: Option<String>,
}

/// What is known of a track and of who asks for it. Nothing is granted yet.
#[derive(Debug)]
pub(super) struct Known {
    /// Its id.
    pub(super) id: TrackId,
    /// Its row; a track that was published without the database has none yet.
    pub(super) row: Option<TrackRow>,
    /// Whether there is such a track at all.
    exists: bool,
    closed: Closed,
    subject: Option<String>,
    licence: bool,
    share: bool,
}

/// Why somebody gets nothing.
#[derive(Debug)]
pub(super) enum Refused {
    /// 404.
    NotFound,
    /// 451.
    Blocked(TrackId),
    /// 402.
    Payment(Offer),
    /// 401.
    Login(Offer),
    /// 503 or 500.
    Failed(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        match error.kind() {
            Kind::NotFound => Refused::NotFound,
            _ => Refused::Failed(error),
        }
    }
}

/// Looks a track up for somebody.
pub(super) async fn look(
    app: &Arc<App>,
    id: &str,
    principal: Option<&Principal>,
    token: Option<&str>,
) -> Result<Known, Refused> {
    let id = TrackId::decode(id).ok_or(Refused::NotFound)?;
    let closed = match app.blocks.standing(id) {
        Standing::Open | Standing::Guarded(_) => Closed::No,
        Standing::Blocked => Closed::Blocked,
        Standing::Hidden => Closed::Hidden,
        Standing::Unknown => {
            return Err(Refused::Failed(Error::new(Kind::Unavailable, "nobody knows yet what is blocked")));
        }
    };
    let subject = principal.filter(|principal| principal.scopes.read).map(|principal| principal.subject.clone());
    let share = token.and_then(share::digest);
    let seen = app.db.track_seen(id, subject.as_deref(), share.as_deref(), app.clock.unix_us()).await?;
    let known = match seen {
        Some(seen) => {
            Known { id, row: Some(seen.row), exists: true, closed, subject, licence: seen.licence, share: seen.share }
        }
        None => {
            // What a block names existed; else there is a record, or nothing.
            let exists = closed != Closed::No || record(app, id).await.map_or_else(absent, |_| Ok(true))?;
            Known { id, row: None, exists, closed, subject, licence: false, share: false }
        }
    };
    Ok(known)
}

fn absent(error: Error) -> Result<bool> {
    if error.kind() == Kind::NotFound { Ok(false) } else { Err(error) }
}

impl Known {
    /// Whether they may have this.
    pub(super) fn may(&self, want: Want) -> Result<Ground, Refused> {
        let row = self.row.as_ref();
        let facts = Facts {
            // Without a row it was published by the operator, for everybody.
            state: row.map_or(State::Published, |row| row.state),
            visibility: row.map_or(Visibility::Public, |row| row.visibility),
            publish_when_ready: row.is_none_or(|row| row.publish_when_ready),
            owner: row.and_then(|row| row.owner.as_deref()),
            closed: self.closed,
            offer: row.and_then(|row| row.offer.as_ref()),
            preview_enabled: row.is_some_and(|row| row.preview_enabled),
        };
        let asker = Asker { subject: self.subject.as_deref(), licence: self.licence, share: self.share };
        match access::decide(self.exists.then_some(&facts), asker, want) {
            Access::Granted(ground) => Ok(ground),
            Access::NotFound => Err(Refused::NotFound),
            Access::Blocked => Err(Refused::Blocked(self.id)),
            Access::Payment(offer) => Err(Refused::Payment(offer.clone())),
            Access::Login(offer) => Err(Refused::Login(offer.clone())),
        }
    }

    /// Whether strangers shall not know of it, so that what is public of others takes a token, too.
    pub(super) fn is_private(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row.visibility == Visibility::Private)
    }

    /// Whether strangers shall not hear its preview, so that it takes a token, too.
    pub(super) fn is_unheard(&self) -> bool {
        self.is_private() || self.row.as_ref().is_some_and(|row| row.offer.is_some() && !row.preview_enabled)
    }

    /// Whether somebody is the owner.
    pub(super) fn is_theirs(&self, principal: &Principal) -> bool {
        access::is_owner(self.row.as_ref().and_then(|row| row.owner.as_deref()), Some(&principal.subject))
    }

    /// Which version it shows, and how long it is; nothing before there is one.
    pub(super) async fn shown(&self, app: &Arc<App>) -> Result<Track, Refused> {
        Ok(record(app, self.id).await?)
    }
}

async fn record(app: &Arc<App>, id: TrackId) -> Result<Track> {
    let app = Arc::clone(app);
    let read = tokio::task::spawn_blocking(move || tracks::read(&app.store, id));
    read.await.map_err(|cause| Error::internal(format!("reading track {id} was stopped")).because(cause))?
}

/// Who may keep an answer that was given for this reason.
pub(super) fn caching(ground: Ground, public: HeaderValue) -> HeaderValue {
    match ground {
        Ground::Public | Ground::Preview => public,
        Ground::Owner | Ground::Licence | Ground::Share => HeaderValue::from_static("private, no-store"),
    }
}

impl Refused {
    /// The answer for players and programs.
    pub(super) fn answer(&self, app: &App) -> Response {
        match self {
            Refused::NotFound => plain(StatusCode::NOT_FOUND, "not found\n"),
            Refused::Blocked(track) => super::refuse_blocked(app, *track),
            Refused::Payment(offer) => {
                let detail = "buy it, then ask again";
                offered(StatusCode::PAYMENT_REQUIRED, "payment-required", "This track costs something", detail, offer)
            }
            Refused::Login(offer) => {
                let detail = "log in if you have bought it";
                offered(StatusCode::UNAUTHORIZED, "unauthorized", "This track costs something", detail, offer)
            }
            Refused::Failed(error) => super::refuse(error),
        }
    }

    /// The answer of the API: a problem, whatever it is.
    pub(super) fn problem(self, app: &App) -> Response {
        match self {
            Refused::NotFound => Problem::not_found().into_response(),
            Refused::Blocked(track) => {
                let why = app.blocks.reason(track).unwrap_or_else(|| "a legal demand".into());
                let status = StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS;
                let problem = Problem::new(status, "blocked", "This track is not available for legal reasons", why);
                let mut response = problem.into_response();
                response.headers_mut().insert(header::LINK, app.blocks.link().clone());
                response
            }
            Refused::Payment(_) | Refused::Login(_) => self.answer(app),
            Refused::Failed(error) => Problem::from(error).into_response(),
        }
    }

    /// The same as a page.
    pub(super) fn page(&self, app: &App) -> Response {
        match self {
            Refused::NotFound => web_page(app, StatusCode::NOT_FOUND, web::not_found_page()),
            Refused::Blocked(track) => {
                let html = web::blocked_page(app.blocks.reason(*track).as_deref());
                let mut response = web_page(app, StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS, html);
                response.headers_mut().insert(header::LINK, app.blocks.link().clone());
                response
            }
            _ => self.answer(app),
        }
    }
}

/// RFC 9457, with what it costs.
fn offered(status: StatusCode, name: &str, title: &str, detail: &str, offer: &Offer) -> Response {
    let body = json!({
        "type": format!("/problems/{name}"),
        "title": title,
        "status": status.as_u16(),
        "detail": detail,
        "offer": view(offer),
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    let mut response = (status, headers, body.to_string()).into_response();
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// An offer as people and programs see it.
pub(super) fn view(offer: &Offer) -> serde_json::Value {
    json!({ "price_minor": offer.price_minor, "currency": offer.currency })
}
