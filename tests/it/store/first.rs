//! First rungs in a bucket: shown before the whole version, replaced by it, taken back, swept.

use std::time::Duration;

use segue::base::Kind;
use segue::base::id::TrackId;
use segue::hls::version::VersionIndex;
use segue::publish;
use segue::store::remote::RemoteStore;
use segue::store::{LocalStore, Store};
use segue::tracks;

use super::rgw::Rgw;
use crate::support::published;

#[test]
fn a_first_rung_in_a_bucket_is_shown_replaced_withdrawn_and_swept() {
    let rgw = Rgw::start();
    drop(rgw.bucket("music"));
    let dir = tempfile::tempdir().unwrap();
    let local = LocalStore::open(&dir.path().join("staging")).unwrap();
    let store = Store::S3(RemoteStore::open(rgw.options("music"), local, None).unwrap());
    let published = published();
    let id = |key: &str| published.report[key].as_str().unwrap().to_owned();
    let made = published.data.join("store/v").join(id("track_id")).join(id("version"));
    let whole = VersionIndex::decode(&std::fs::read(made.join("version.json")).unwrap()).unwrap();
    let first = VersionIndex { rungs: whole.rungs[..1].to_vec(), ..whole.clone() };
    let staged = |index: &VersionIndex| {
        let staging = store.stage().unwrap();
        for object in index.objects() {
            std::fs::copy(made.join(&object.name), staging.dir().join(&object.name)).unwrap();
        }
        staging
    };
    let objects = staged(&whole);
    let shown = |track| tracks::read(&store, track).map(|track| track.version).map_err(|error| error.kind());
    let has = |track, version| store.has_version(track, version).unwrap();

    // Shown, and replaced by the whole.
    let track = TrackId::random();
    let early = publish::first_to_store(&store, objects.dir(), track, "First", &first).unwrap().unwrap();
    assert_eq!(shown(track), Ok(early.version));
    assert_eq!(store.read_version(track, early.version).unwrap(), first.seal().0);
    assert_eq!(publish::shown_interims(&store).unwrap().len(), 1);
    assert_eq!(publish::sweep_interim(&store, Duration::ZERO).unwrap(), 0, "it is what the track shows");
    let late = publish::to_store(&store, staged(&whole), track, "First", &whole).unwrap();
    assert_eq!(shown(track), Ok(late.version));
    assert!(!publish::show_first(&store, &early).unwrap(), "too late: the track shows more");
    assert_eq!(shown(track), Ok(late.version));
    publish::withdraw(&store, track, early.version).unwrap();
    assert!(has(track, early.version), "somebody may be listening");
    assert_eq!(publish::sweep_interim(&store, Duration::from_secs(600)).unwrap(), 0);
    assert_eq!(publish::sweep_interim(&store, Duration::ZERO).unwrap(), 1);
    assert_eq!((has(track, early.version), has(track, late.version)), (false, true));
    assert_eq!(store.versions(track, 10).unwrap(), [late.version]);

    // Taken back, by whoever was to replace it.
    let track = TrackId::random();
    let staging = store.stage_links(objects.dir(), &first).unwrap();
    let early = publish::place_first(&store, staging, track, "Second", &first, "job_1").unwrap();
    assert_eq!(shown(track), Err(Kind::NotFound), "placed, not shown");
    assert!(publish::show_first(&store, &early).unwrap());
    assert_eq!(publish::withdraw_of(&store, "job_2").unwrap(), 0);
    assert_eq!(shown(track), Ok(early.version));
    assert_eq!(publish::withdraw_of(&store, "job_1").unwrap(), 1);
    assert_eq!((shown(track), has(track, early.version)), (Err(Kind::NotFound), false));
    assert!(store.interims().unwrap().is_empty());

    // Placed by somebody who did not live to show it.
    let track = TrackId::random();
    let place = || publish::place_noted(&store, staged(&whole), track, "Third", &whole).unwrap();
    let unseen = place();
    assert_eq!(publish::sweep_interim(&store, Duration::from_secs(600)).unwrap(), 0, "it may be shown yet");
    assert_eq!(publish::sweep_interim(&store, Duration::ZERO).unwrap(), 1);
    assert!(!has(track, unseen.version));

    // By somebody who died right after showing it; and once more, by somebody who did not: it stays what it is.
    let seen = place();
    tracks::write(&store, &seen).unwrap();
    assert_eq!(publish::sweep_interim(&store, Duration::ZERO).unwrap(), 0);
    assert!(has(track, seen.version) && store.interims().unwrap().is_empty());
    place();
    assert!(store.interims().unwrap().is_empty(), "it was there before");
    let other = TrackId::random();
    let placed = publish::place_noted(&store, staged(&whole), other, "Fourth", &whole).unwrap();
    tracks::write(&store, &placed).unwrap();
    publish::shown(&store, &placed).unwrap();
    assert!(has(other, placed.version) && store.interims().unwrap().is_empty());
}
