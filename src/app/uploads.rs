//! What takes uploads in, as these settings describe it.

use std::sync::Arc;
use std::time::Duration;

use crate::base::Result;
use crate::base::clock::Clock;
use crate::config::Config;
use crate::db::Db;
use crate::intake::{Clamd, Intake, Options};
use crate::store::Store;
use crate::uploads::Rules;

/// Of these settings.
///
/// # Errors
/// `Usage` when `uploads.clamd` cannot be read.
pub(super) fn intake(config: &Config, db: &Db, store: &Store) -> Result<Arc<Intake>> {
    let settings = &config.uploads;
    let patience = Duration::from_secs(settings.clamd_timeout_s);
    let clamd =
        settings.clamd.as_ref().map(|text| Ok::<_, crate::base::Error>(Clamd { address: text.parse()?, patience }));
    let options = Options {
        rules: Rules {
            audio_bytes_max: settings.audio_bytes_max.bytes(),
            image_bytes_max: settings.image_bytes_max.bytes(),
            video_bytes_max: settings.video_bytes_max.bytes(),
            expires: Duration::from_secs(settings.expires_s),
            owner_uploads_max: settings.owner_uploads_max,
            owner_in_flight_bytes_max: settings.owner_in_flight_bytes_max,
            owner_stored_bytes_max: settings.owner_stored_bytes_max,
        },
        bodies_max: settings.bodies_max,
        lock: Duration::from_secs(settings.lock_s),
        presign: Duration::from_secs(settings.presign_s),
        source_valid: Duration::from_secs(config.store.s3.source_url_s),
        clamd: clamd.transpose()?,
    };
    Ok(Arc::new(Intake::new(db.clone(), store, options, Clock::Service)))
}
