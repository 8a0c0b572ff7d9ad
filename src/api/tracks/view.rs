//! A track as people and programs see it.

use serde_json::{Value, json};

use super::super::gate;
use crate::base::clock::rfc3339;
use crate::base::id::{TrackId, VersionId};
use crate::db::tracks::{TrackRow, Version};
use crate::tracks::Track;

/// To everybody who may know of it.
pub(super) fn public(row: &TrackRow) -> Value {
    json!({
        "id": row.id,
        "title": row.title,
        "duration_s": row.duration_s(),
        "lossless": row.lossless,
        "price": row.offer.as_ref().map(gate::view),
        "preview_enabled": row.preview_enabled,
        "artwork": row.artwork.as_deref().map(|hash| artwork(row.id, hash)),
        "published_at": row.published_us.map(rfc3339),
        "urls": urls(row.id),
    })
}

/// To its owner.
pub(super) fn own(row: &TrackRow) -> Value {
    let mut body = public(row);
    let more = json!({
        "state": row.state,
        "visibility": row.visibility,
        "publish": row.publish_when_ready,
        "preview_start_s": row.preview_start_ms.map(|ms| ms as f64 / 1000.0),
        "version": row.version,
        "upload": row.upload,
        "waits_for_upload": row.waits_for_upload,
        "job": row.job,
        "error": row.error,
        "created_at": rfc3339(row.created_us),
        "updated_at": rfc3339(row.updated_us),
    });
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    body
}

/// One that the database does not know yet.
pub(super) fn recorded(track: &Track) -> Value {
    json!({
        "id": track.id,
        "title": track.title,
        "duration_s": track.duration_s(),
        "lossless": track.lossless,
        "price": null,
        "preview_enabled": false,
        "artwork": null,
        "published_at": null,
        "urls": urls(track.id),
    })
}

/// A version that a track has shown.
pub(super) fn version(version: &Version, current: Option<VersionId>) -> Value {
    json!({
        "id": version.id,
        "current": current == Some(version.id),
        "bytes": version.bytes,
        "duration_s": version.samples as f64 / version.rate.max(1) as f64,
        "samples": version.samples,
        "rate": version.rate,
        "flac": version.flac,
        "lossless": version.lossless,
        "video": version.video,
        "made_at": rfc3339(version.made_us),
    })
}

/// Where its pictures are, by the length of their longer side in pixels.
pub(super) fn artwork(id: TrackId, hash: &str) -> Value {
    let url = |size: u32| format!("/tracks/{id}/artwork/{hash}-{size}.jpg");
    let [small, middle, large] = crate::store::artwork::SIZES;
    json!({ "small": url(small), "medium": url(middle), "large": url(large) })
}

fn urls(id: TrackId) -> Value {
    json!({
        "watch": format!("/watch/{id}"),
        "embed": format!("/embed/track/{id}"),
        "master": format!("/tracks/{id}/master.m3u8"),
        "stream": format!("/tracks/{id}/stream"),
        "download": format!("/tracks/{id}/download"),
        "preview": format!("/tracks/{id}/stream?preview=30"),
        "waveform": format!("/tracks/{id}/waveform"),
    })
}
