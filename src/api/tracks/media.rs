//! What was measured of a track's sound: how loud it is, alone and among others, and what a player needs to play it without
//! a gap. In: the index of the version that the track shows. Out: the same numbers as JSON.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::App;
use super::super::caller::{Anyone, Caller};
use super::super::gate::{self, Shared};
use super::super::openapi::ProblemDocument;
use super::super::playback;
use super::super::problem::Problem;
use super::super::transcodes::{no_store, wrong_query};
use super::described::{MediaView, TogetherView};
use super::{Answer, problem};
use crate::base::id::VersionId;
use crate::hls::loudness::together;
use crate::hls::version::{Rung, VersionIndex, VideoRung};
use crate::tracks::access::Want;

/// Tracks that may be measured together: a box of records. Each is a read of its index.
const TOGETHER_MAX: usize = 100;

/// `GET /api/v1/tracks/{id}/media`: to whoever may play the track, because the name of a version opens its preview and
/// its poster.
#[utoipa::path(
    get,
    path = "/api/v1/tracks/{id}/media",
    tag = "tracks",
    summary = "What was measured of its sound",
    security((), ("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track"), ("share" = Option<String>, Query, description = "The token of a share: `sgs_…`")),
    responses((status = 200, description = "Of the version that it shows", body = MediaView), (status = 401, description = "It costs something, and somebody who has bought it may", body = ProblemDocument), (status = 402, description = "It costs something: the offer is in it", body = ProblemDocument), (status = 404, description = "There is none that they may know of, or nothing to hear yet", body = ProblemDocument), (status = 451, description = "A legal demand has closed it", body = ProblemDocument))
)]
pub(super) async fn media(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
    Path(id): Path<String>,
    shared: Result<Query<Shared>, QueryRejection>,
) -> Answer {
    let Query(Shared { share }) = shared.map_err(|cause| wrong_query(&cause))?;
    let known = gate::look(&app, &id, caller.as_ref(), share.as_deref()).await.map_err(problem)?;
    if let Err(refused) = known.may(Want::Play) {
        return Ok(refused.problem(&app));
    }
    let track = known.shown(&app).await.map_err(problem)?;
    let index = playback::index(&app, &track).await?;
    let mut body = view(track.version, &index);
    body["id"] = json!(track.id);
    Ok(no_store(axum::Json(body).into_response()))
}

#[derive(Debug, Deserialize)]
pub(super) struct Several {
    tracks: String,
}

/// `GET /api/v1/loudness?tracks=trk_…,trk_…`: of tracks that are played in a row, as those of an album are.
#[utoipa::path(
    get,
    path = "/api/v1/loudness",
    tag = "tracks",
    summary = "How loud several tracks are together",
    security(("bearer" = []), ("api_key" = [])),
    params(("tracks" = String, Query, description = "Up to 100 ids with commas between them; the order does not matter")),
    responses((status = 200, description = "Each alone, and all as one", body = TogetherView), (status = 400, description = "The query cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "One of them is none that they may play", body = ProblemDocument), (status = 422, description = "One of them was never measured, or was before this could be said", body = ProblemDocument))
)]
pub(super) async fn loudness(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    asked: Result<Query<Several>, QueryRejection>,
) -> Answer {
    let Query(Several { tracks }) = asked.map_err(|cause| wrong_query(&cause))?;
    let ids: Vec<&str> = tracks.split(',').map(str::trim).filter(|id| !id.is_empty()).collect();
    if !(1..=TOGETHER_MAX).contains(&ids.len()) {
        let detail = format!("tracks has 1 to {TOGETHER_MAX} ids with commas between them");
        return Err(Problem::unprocessable("tracks", "These tracks cannot be measured together", detail));
    }
    let (mut measured, mut items) = (Vec::new(), Vec::new());
    for id in ids {
        let known = gate::look(&app, id, Some(&caller), None).await.map_err(problem)?;
        // Who may not play one is not told of all.
        known.may(Want::Play).map_err(problem)?;
        let track = known.shown(&app).await.map_err(problem)?;
        let index = playback::index(&app, &track).await?;
        items.push(json!({ "id": track.id, "version": track.version, "loudness": index.loudness }));
        measured.push(index.loudness.zip(index.gating).ok_or_else(|| {
            let detail = format!("{} has no sound, or was made before this was kept; publish it again", track.id);
            Problem::unprocessable("loudness-unknown", "These tracks cannot be measured together", detail)
        })?);
    }
    let together = together(measured.iter().map(|(loudness, gating)| (loudness, gating)));
    Ok(no_store(axum::Json(json!({ "tracks": items, "together": together })).into_response()))
}

fn view(version: VersionId, index: &VersionIndex) -> Value {
    let source = &index.source;
    json!({
        "version": version,
        "duration_s": index.duration_s(),
        // Of the file nothing but its sound: not its name, not its hash.
        "source": {
            "codec": source.codec, "rate": source.rate, "channels": source.channels, "layout": source.layout,
            "bits": source.bits, "samples": source.samples,
        },
        "loudness": index.loudness,
        "rungs": index.rungs.iter().map(|rung| of_rung(index, rung)).collect::<Value>(),
        "video": index.video.as_ref().map(|video| json!({
            "frame_rate": video.frame_rate,
            "frames": video.frames,
            "rungs": video.rungs.iter().map(of_picture).collect::<Value>(),
        })),
        "preview_start_s": index.preview.as_ref().map(|preview| preview.start as f64 / f64::from(source.rate.max(1))),
        "skipped": index.skipped,
    })
}

fn of_rung(index: &VersionIndex, rung: &Rung) -> Value {
    json!({
        "path": rung.path(), "codecs": rung.codecs, "rate": rung.rate, "channels": rung.channels, "bits": rung.bits,
        "bandwidth": rung.peak_bps, "average_bandwidth": rung.average_bps, "segments": rung.segments.len(),
        "priming": rung.priming, "padding": rung.padding, "samples": rung.samples,
        "lossless": index.is_lossless(rung), "loss": index.loss(rung),
    })
}

fn of_picture(picture: &VideoRung) -> Value {
    let rung = &picture.encoding;
    json!({
        "path": rung.path(), "codecs": rung.codecs, "width": picture.width, "height": picture.height,
        "bandwidth": rung.peak_bps, "average_bandwidth": rung.average_bps, "segments": rung.segments.len(),
        "audio": picture.audio,
    })
}
