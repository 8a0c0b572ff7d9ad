//! An upload as people and programs see it.

use serde_json::{Value, json};

use super::{PART_BYTES, Upload};
use crate::base::clock::rfc3339;

/// The upload as JSON. Fields that are not known yet are null.
pub fn upload(upload: &Upload) -> Value {
    json!({
        "id": upload.id,
        "kind": upload.kind,
        "state": upload.state,
        "bytes": upload.bytes,
        "offset": upload.offset,
        "part_bytes": PART_BYTES,
        "sha256": upload.sha256,
        "name": upload.name,
        "track": upload.track,
        "mime": upload.mime,
        "reason": upload.reason,
        "error": upload.error,
        "tus": format!("/api/v1/uploads/tus/{}", upload.id),
        "created_at": rfc3339(upload.created_us),
        "expires_at": upload.expires_us.filter(|_| upload.state.is_open()).map(rfc3339),
        "finished_at": upload.finished_us.map(rfc3339),
    })
}
