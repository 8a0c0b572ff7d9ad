//! Counts plays: once per listener and playback, whoever says that there is one.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{HeaderMap, header};

use super::App;
use crate::auth::principal::Principal;
use crate::base::Result;
use crate::base::id::TrackId;
use crate::tracks::listener;

/// The salt of a day, so that only the day's first play asks for it.
#[derive(Debug, Default)]
pub struct Salt(Mutex<Option<(i64, Arc<str>)>>);

impl Salt {
    async fn of(&self, app: &App, day: i64) -> Result<Arc<str>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((of, salt)) = known
            && of == day
        {
            return Ok(salt);
        }
        let salt: Arc<str> = app.db.play_salt(day).await?.into();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((day, Arc::clone(&salt)));
        Ok(salt)
    }
}

/// Counts a play of a track of so many seconds, unless it is counted. What goes wrong is no listener's business.
pub(super) async fn count(
    app: &App,
    (track, length_s): (TrackId, f64),
    caller: Option<&Principal>,
    (headers, peer): (&HeaderMap, SocketAddr),
) {
    if let Err(error) = try_count(app, (track, length_s), caller, (headers, peer)).await {
        tracing::warn!(track = track.as_str(), error = error.chain(), "a play is not counted");
    }
}

async fn try_count(
    app: &App,
    (track, length_s): (TrackId, f64),
    caller: Option<&Principal>,
    (headers, peer): (&HeaderMap, SocketAddr),
) -> Result<()> {
    let now_us = app.clock.unix_us();
    let salt = app.salt.of(app, listener::day(now_us)).await?;
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let address = app.origin.client(headers, peer).to_canonical().to_string();
    let name = listener::name(&salt, caller.map(|caller| caller.subject.as_str()), &address, agent);
    app.db.count_play(track, &name, listener::playback_us(length_s), now_us).await.map(drop)
}
