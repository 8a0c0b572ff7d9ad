//! The rows of tracks on every database: moves, what owners change, shares, plays under a storm, notices and their clock.

use segue::base::id::{TrackId, VersionId};
use segue::db::Db;
use segue::db::dmca::{self, By, Ruled};
use segue::db::tracks::{
    Changes, Cursor, Made, NewShare, NewTrack, Sourced, claim, create, grant_licence, has_licence, make_version,
    revoke_licence,
};
use segue::db::uploads::{Begun, Verdict, Written};
use segue::jobs::backoff::Backoff;
use segue::jobs::transcode::Wish;
use segue::jobs::{Cost, JobId, NewJob, Outcome, Reason};
use segue::store::Backend;
use segue::tracks::access::Offer;
use segue::tracks::dmca::{Counter, Notice, Standing};
use segue::tracks::share::{ShareId, mint};
use segue::tracks::{State, Track, Visibility};
use segue::uploads::{self, Kind, NewUpload, Place, Rules, Upload};

use crate::databases::{Case, behind_pgbouncer, cases, on_postgresql, on_sqlite};

const NOW: i64 = 1_700_000_000_000_000;
const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;
const BACKOFF: Backoff = Backoff { first: std::time::Duration::from_secs(1), most: std::time::Duration::from_secs(1) };

const CASES: &[Case] = cases![
    a_track_follows_its_job_from_draft_to_published,
    a_job_that_dies_fails_its_track_and_a_retry_goes_on,
    a_second_version_that_fails_leaves_the_first_alone,
    a_track_waits_for_its_upload_and_says_when_none_will_come,
    a_repeated_request_is_the_same_track_and_nobody_takes_anothers,
    owners_change_and_delete_their_own_in_one_statement,
    lists_come_in_pages_that_neither_skip_nor_repeat,
    what_an_asker_has_is_one_statement_by_indexes,
    shares_end_are_revoked_and_are_bounded,
    a_storm_of_ranges_and_retries_is_one_play,
    of_a_deleted_track_no_byte_is_left,
    a_takedown_is_one_transaction_and_the_clock_brings_it_back,
    two_notices_keep_a_track_dark_until_both_are_settled,
    words_and_versions_are_kept,
];

#[test]
fn rows_keep_their_word_on_sqlite() {
    on_sqlite(CASES);
}

#[test]
fn rows_keep_their_word_on_postgresql() {
    on_postgresql(CASES);
}

#[test]
fn rows_keep_their_word_behind_pgbouncer() {
    behind_pgbouncer(CASES);
}

/// Two statements write the state of a track, and both ask the table of legal moves; deleting is legal from everywhere.
#[test]
fn few_statements_move_tracks() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut writers = Vec::new();
    let mut dirs = vec![dir];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                dirs.push(entry);
                continue;
            }
            let source = std::fs::read_to_string(&entry).unwrap_or_default();
            for (at, _) in source.match_indices("update track set") {
                let statement: String = source[at..].chars().take_while(|c| *c != '"').collect();
                let set = statement.split(" where ").next().unwrap();
                if set.split([',', ' ']).collect::<Vec<_>>().windows(2).any(|pair| pair == ["state", "="]) {
                    writers.push(entry.file_name().unwrap().to_string_lossy().into_owned());
                }
            }
        }
    }
    writers.sort();
    assert_eq!(writers, ["change.rs", "change.rs", "mod.rs"]);
}

fn id(text: &str) -> TrackId {
    text.parse().unwrap()
}

fn shown(track: &str, digit: u8) -> Track {
    Track {
        id: id(track),
        title: "From the encoder".into(),
        version: VersionId::from_digest(&[digit; 32]),
        samples: 44_100 * 100,
        rate: 44_100,
        flac: true,
        lossless: true,
        video: false,
    }
}

fn new<'a>(track: &str, owner: &'a str) -> NewTrack<'a> {
    NewTrack {
        id: id(track),
        title: "Song",
        owner,
        visibility: Visibility::Public,
        publish_when_ready: true,
        backend: Backend::Local,
        preview_enabled: false,
        preview_start_ms: None,
        offer: None,
        made_from: None,
    }
}

async fn made(db: &Db, new: &NewTrack<'_>, now_us: i64) -> Made {
    let mut tx = db.begin().await.unwrap();
    let made = create(&mut tx, new, now_us).await.unwrap();
    tx.commit().await.unwrap();
    made
}

fn job(track: &str) -> NewJob {
    let (ladder, video) = Wish::plans(segue::hls::ladder::video::Choice::built_in());
    let wish = Wish {
        source: "upload:upl_x".into(),
        track: id(track),
        title: "Song".into(),
        ladder,
        video,
        preview_start_ms: None,
        callback: None,
    };
    wish.job("one", 5, None, 2)
}

async fn state(db: &Db, track: &str) -> State {
    db.track(id(track)).await.unwrap().unwrap().state
}

async fn events(db: &Db, track: &str) -> Vec<String> {
    let events = db.track_events(id(track), 0, 500).await.unwrap();
    assert!(events.iter().enumerate().all(|(at, event)| event.seq == at as i64 + 1), "numbered without gaps");
    events
        .iter()
        .map(
            |event| {
                if event.event == "state" { event.body["to"].as_str().unwrap().into() } else { event.event.clone() }
            },
        )
        .collect()
}

/// An upload all of whose bytes are here.
async fn whole_upload(db: &Db, owner: &str) -> Upload {
    let rules = Rules {
        audio_bytes_max: 1 << 30,
        image_bytes_max: 1 << 20,
        video_bytes_max: 1 << 30,
        expires: std::time::Duration::from_secs(100),
        owner_uploads_max: 50,
        owner_in_flight_bytes_max: 1 << 30,
        owner_stored_bytes_max: 1 << 30,
    };
    let new = NewUpload {
        owner: owner.into(),
        kind: Kind::Audio,
        bytes: 1,
        sha256: None,
        name: Some("song.wav".into()),
        track: None,
        metadata: None,
        idempotency_key: None,
        place: Place::Local,
    };
    let segue::db::uploads::Created::New(upload) = db.create_upload(&new, &rules, NOW).await.unwrap() else {
        panic!("there is room")
    };
    let begun = db.begin_write(&upload.id, false, NOW, NOW + SECOND).await.unwrap();
    let Begun::Writing(writing) = begun else { panic!("nobody else writes") };
    let written = Written { from: 0, to: 1, parts: vec![], tail: None, length: None };
    db.commit_write(&upload.id, writing.writer, &written, &rules, NOW).await.unwrap();
    db.upload(&upload.id).await.unwrap().unwrap()
}

async fn ready(db: &Db, upload: &Upload) {
    let verdict = Verdict::Ready { mime: "audio/wav".into(), sha256: "00".repeat(32) };
    assert!(db.settle_upload(&upload.id, &verdict, NOW).await.unwrap());
}

async fn sourced(db: &Db, track: &str, upload: &Upload) -> Sourced {
    let mut tx = db.begin().await.unwrap();
    let held = segue::db::uploads::hold(&mut tx, &upload.id, NOW).await.unwrap().unwrap();
    let sourced = make_version(&mut tx, id(track), &held, &job(track), NOW).await.unwrap();
    tx.commit().await.unwrap();
    sourced
}

/// A track with a job in the queue.
async fn queued(db: &Db, track: &str) -> JobId {
    assert_eq!(made(db, &new(track, "one"), NOW).await, Made::New);
    let upload = whole_upload(db, "one").await;
    ready(db, &upload).await;
    match sourced(db, track, &upload).await {
        Sourced::Enqueued(job) => job,
        other => panic!("{other:?}"),
    }
}

async fn lease(db: &Db) -> segue::jobs::Lease {
    let room = Cost { cpu_milli: 100_000, memory_bytes: 1 << 40 };
    db.lease("transcode", "worker", room, NOW + 10 * SECOND, NOW + 60 * SECOND).await.unwrap().unwrap().0
}

async fn shows(db: &Db, track: &Track) {
    db.track_shows(track, Backend::Local, Some(10), NOW + 20 * SECOND).await.unwrap();
}

async fn a_track_follows_its_job_from_draft_to_published(db: Db) {
    queued(&db, "trk_a").await;
    assert_eq!(state(&db, "trk_a").await, State::Uploaded);
    let lease = lease(&db).await;
    assert_eq!(state(&db, "trk_a").await, State::Processing);
    let outcome = Outcome::Succeeded("{}".into());
    db.settle(&lease, &outcome, BACKOFF, NOW + 20 * SECOND).await.unwrap();
    shows(&db, &shown("trk_a", 1)).await;
    assert_eq!(state(&db, "trk_a").await, State::Published);
    assert_eq!(
        events(&db, "trk_a").await,
        ["draft", "queued", "uploaded", "started", "processing", "succeeded", "published"]
    );
    let row = db.track(id("trk_a")).await.unwrap().unwrap();
    assert_eq!(row.title, "Song", "what its owner calls it counts");
    assert_eq!(row.owner.as_deref(), Some("one"));
    // One whose owner wants to decide.
    made(&db, &NewTrack { publish_when_ready: false, ..new("trk_b", "one") }, NOW).await;
    shows(&db, &shown("trk_b", 1)).await;
    assert_eq!(state(&db, "trk_b").await, State::Ready);
    assert_eq!(db.move_track(id("trk_b"), State::Published, NOW).await.unwrap(), Some(State::Ready));
    assert_eq!(db.move_track(id("trk_b"), State::Unlisted, NOW).await.unwrap(), Some(State::Published));
    assert_eq!(db.move_track(id("trk_b"), State::Processing, NOW).await.unwrap(), Some(State::Unlisted));
    assert_eq!(state(&db, "trk_b").await, State::Unlisted, "never backwards");
    assert_eq!(db.move_track(id("trk_none"), State::Published, NOW).await.unwrap(), None);
}

async fn a_job_that_dies_fails_its_track_and_a_retry_goes_on(db: Db) {
    let job = queued(&db, "trk_a").await;
    let lease = lease(&db).await;
    let refused = Outcome::Refused(Reason::Input, "it is a text".into());
    db.settle(&lease, &refused, BACKOFF, NOW + 20 * SECOND).await.unwrap();
    let row = db.track(id("trk_a")).await.unwrap().unwrap();
    assert_eq!((row.state, row.error.as_deref()), (State::Failed, Some("it is a text")));
    db.retry(&job, None, NOW + 30 * SECOND).await.unwrap();
    let row = db.track(id("trk_a")).await.unwrap().unwrap();
    assert_eq!((row.state, row.error), (State::Processing, None));
    db.cancel(&job, NOW + 31 * SECOND).await.unwrap();
    let row = db.track(id("trk_a")).await.unwrap().unwrap();
    assert_eq!(row.state, State::Failed);
    assert!(row.error.unwrap().contains("cancelled"));
}

async fn a_second_version_that_fails_leaves_the_first_alone(db: Db) {
    queued(&db, "trk_a").await;
    shows(&db, &shown("trk_a", 1)).await;
    let lease = lease(&db).await;
    assert_eq!(state(&db, "trk_a").await, State::Published);
    let refused = Outcome::Refused(Reason::Input, "no".into());
    db.settle(&lease, &refused, BACKOFF, NOW + 20 * SECOND).await.unwrap();
    let row = db.track(id("trk_a")).await.unwrap().unwrap();
    assert_eq!((row.state, row.error, row.version), (State::Published, None, Some(shown("trk_a", 1).version)));
    assert_eq!(events(&db, "trk_a").await.last().unwrap(), "dead");
}

async fn a_track_waits_for_its_upload_and_says_when_none_will_come(db: Db) {
    made(&db, &new("trk_a", "one"), NOW).await;
    let upload = whole_upload(&db, "one").await;
    assert_eq!(upload.state, uploads::State::Verifying);
    assert_eq!(sourced(&db, "trk_a", &upload).await, Sourced::Waits);
    let row = db.track(id("trk_a")).await.unwrap().unwrap();
    assert_eq!((row.state, row.job, row.waits_for_upload), (State::Draft, None, true));
    ready(&db, &upload).await;
    let row = db.track(id("trk_a")).await.unwrap().unwrap();
    assert_eq!((row.state, row.waits_for_upload), (State::Uploaded, false));
    let job = db.job(&row.job.unwrap().parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((job.client.as_str(), Wish::decode(&job.input).unwrap().track), ("one", id("trk_a")));
    // Refused, and removed by its owner.
    for (track, refused) in [("trk_b", true), ("trk_c", false)] {
        made(&db, &new(track, "one"), NOW).await;
        let upload = whole_upload(&db, "one").await;
        assert_eq!(sourced(&db, track, &upload).await, Sourced::Waits);
        if refused {
            let verdict = Verdict::Refused(uploads::Reason::Kind, "it is a PDF".into());
            db.settle_upload(&upload.id, &verdict, NOW).await.unwrap();
        } else {
            db.remove_upload(&upload.id, NOW).await.unwrap();
        }
        let row = db.track(id(track)).await.unwrap().unwrap();
        assert_eq!((row.state, row.waits_for_upload), (State::Failed, false));
        assert!(row.error.unwrap().contains(if refused { "PDF" } else { "upload the file again" }));
        assert_eq!(
            sourced(&db, track, &upload).await,
            Sourced::Unusable(if refused { uploads::State::Refused } else { uploads::State::Aborted })
        );
    }
}

async fn a_repeated_request_is_the_same_track_and_nobody_takes_anothers(db: Db) {
    let keyed = |owner| NewTrack { made_from: Some("f"), ..new("trk_a", owner) };
    assert_eq!(made(&db, &keyed("one"), NOW).await, Made::New);
    assert_eq!(made(&db, &keyed("one"), NOW).await, Made::Known);
    assert_eq!(made(&db, &keyed("two"), NOW).await, Made::Conflict);
    assert_eq!(made(&db, &NewTrack { made_from: Some("g"), ..new("trk_a", "one") }, NOW).await, Made::Conflict);
    assert_eq!(made(&db, &new("trk_a", "one"), NOW).await, Made::Conflict, "without a key nothing is repeated");
    let claims = async |track: &str, owner: &str, any: bool| {
        let mut tx = db.begin().await.unwrap();
        let claimed = claim(&mut tx, (id(track), "Song"), (owner, any), Backend::Local, NOW).await.unwrap();
        tx.commit().await.unwrap();
        claimed
    };
    assert!(claims("trk_a", "one", false).await);
    assert!(!claims("trk_a", "two", true).await, "it has an owner");
    assert!(claims("trk_new", "two", false).await);
    assert!(!claims("trk_new", "one", false).await);
    db.track_shows(&shown("trk_cli", 1), Backend::Local, None, NOW).await.unwrap();
    assert!(!claims("trk_cli", "one", false).await, "made from the command line");
    assert!(claims("trk_cli", "one", true).await, "which the operator's programs may change");
    db.delete_tracks(&[id("trk_new")], Some("two"), NOW).await.unwrap();
    assert!(!claims("trk_new", "two", true).await, "deleted is deleted");
}

async fn owners_change_and_delete_their_own_in_one_statement(db: Db) {
    for (track, owner) in [("trk_a", "one"), ("trk_b", "one"), ("trk_c", "two")] {
        made(&db, &new(track, owner), NOW).await;
    }
    let ids = ["trk_a", "trk_b", "trk_c", "trk_none"].map(id);
    let changes = Changes {
        visibility: Some(Visibility::Private),
        offer: Some(Some(Offer { price_minor: 990, currency: "EUR".into() })),
        preview_start_ms: Some(Some(5_000)),
        ..Changes::default()
    };
    let change = async |ids: &[TrackId], changes: &Changes, now_us| {
        let mut tx = db.begin().await.unwrap();
        let changed = segue::db::tracks::change(&mut tx, ids, Some("one"), changes, now_us).await;
        tx.commit().await.unwrap();
        changed
    };
    let (mut changed, statements) = segue::db::counted(change(&ids, &changes, NOW + 1)).await;
    changed.as_mut().unwrap().sort();
    assert_eq!((changed.unwrap(), statements), (vec!["trk_a".to_owned(), "trk_b".into()], 1));
    let row = db.track(id("trk_a")).await.unwrap().unwrap();
    assert_eq!((row.visibility, row.preview_start_ms, row.preview_enabled), (Visibility::Private, Some(5_000), false));
    assert_eq!(row.offer, Some(Offer { price_minor: 990, currency: "EUR".into() }));
    assert_eq!(db.track(id("trk_c")).await.unwrap().unwrap().visibility, Visibility::Public);
    let free = Changes { offer: Some(None), preview_start_ms: Some(None), ..Changes::default() };
    change(&[id("trk_a")], &free, NOW + 2).await.unwrap();
    let row = db.track(id("trk_a")).await.unwrap().unwrap();
    assert_eq!((row.offer, row.preview_start_ms, row.visibility), (None, None, Visibility::Private));
    assert_eq!(db.owned_tracks(&ids, Some("two")).await.unwrap(), ["trk_c"]);
    let (deleted, statements) = segue::db::counted(db.delete_tracks(&ids, Some("one"), NOW + 3)).await;
    assert_eq!((deleted.unwrap().len(), statements), (2, 3), "however many there are");
    assert_eq!(state(&db, "trk_a").await, State::Deleted);
    assert_eq!(events(&db, "trk_b").await, ["draft", "deleted"]);
    assert!(db.delete_tracks(&ids, Some("one"), NOW + 4).await.unwrap().is_empty());
    shows(&db, &shown("trk_a", 1)).await;
    assert_eq!(state(&db, "trk_a").await, State::Deleted, "a version that comes late brings nothing back");
    assert_eq!(db.delete_tracks(&[id("trk_c")], None, NOW + 5).await.unwrap(), ["trk_c"]);
}

async fn lists_come_in_pages_that_neither_skip_nor_repeat(db: Db) {
    for number in 0..23 {
        // Three at every instant.
        let name = format!("trk_{number:02}");
        made(&db, &new(&name, "one"), NOW + number / 3).await;
    }
    made(&db, &new("trk_other", "two"), NOW).await;
    db.delete_tracks(&[id("trk_05")], Some("one"), NOW + 100).await.unwrap();
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let (page, statements) = segue::db::counted(db.tracks_of("one", None, after, 4)).await;
        assert_eq!(statements, 1, "whatever there is in a page");
        let page = page.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(Cursor { created_us: last.created_us, id: last.id });
        assert_eq!(Cursor::decode(&after.unwrap().encode()), after);
        found.extend(page.iter().map(|row| (row.created_us, row.id.to_string())));
    }
    assert_eq!(found.len(), 22);
    assert!(found.windows(2).all(|pair| pair[0] > pair[1]), "the latest first: {found:?}");
    shows(&db, &shown("trk_01", 1)).await;
    let published = db.tracks_of("one", Some(State::Published), None, 50).await.unwrap();
    assert_eq!(published.iter().map(|row| row.id).collect::<Vec<_>>(), [id("trk_01")]);
    for bad in ["", ".", "x.trk_1", "1.", "1.a b", "1"] {
        assert_eq!(Cursor::decode(bad), None, "{bad}");
    }
}

async fn what_an_asker_has_is_one_statement_by_indexes(db: Db) {
    made(&db, &new("trk_a", "one"), NOW).await;
    let (token, sha256) = mint();
    assert!(segue::tracks::share::digest(&token).as_deref() == Some(&*sha256));
    let share = NewShare { track: id("trk_a"), sha256: &sha256, label: None, expires_us: NOW + 10 };
    db.create_share(&share, NOW).await.unwrap().unwrap();
    let seen = async |track: &str, subject: Option<&str>, share: Option<&str>, now_us: i64| {
        let (seen, statements) = segue::db::counted(db.track_seen(id(track), subject, share, now_us)).await;
        assert_eq!(statements, 1);
        seen.unwrap().map(|seen| (seen.licence, seen.share))
    };
    assert_eq!(seen("trk_none", Some("two"), None, NOW).await, None);
    assert_eq!(seen("trk_a", None, None, NOW).await, Some((false, false)));
    assert_eq!(seen("trk_a", None, Some(&sha256), NOW).await, Some((false, true)));
    assert_eq!(seen("trk_a", None, Some(&sha256), NOW + 10).await, Some((false, false)), "expired");
    let mut tx = db.begin().await.unwrap();
    assert!(!has_licence(&mut tx, "two", id("trk_a")).await.unwrap());
    grant_licence(&mut tx, "two", id("trk_a"), NOW).await.unwrap();
    grant_licence(&mut tx, "two", id("trk_a"), NOW + 1).await.unwrap();
    assert!(has_licence(&mut tx, "two", id("trk_a")).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(seen("trk_a", Some("two"), None, NOW).await, Some((true, false)));
    assert_eq!(seen("trk_a", Some("three"), None, NOW).await, Some((false, false)));
    let mut tx = db.begin().await.unwrap();
    assert!(revoke_licence(&mut tx, "two", id("trk_a"), NOW).await.unwrap());
    assert!(!revoke_licence(&mut tx, "two", id("trk_a"), NOW).await.unwrap(), "once");
    tx.commit().await.unwrap();
    assert_eq!(seen("trk_a", Some("two"), None, NOW).await, Some((false, false)));
    // Its share of another track opens nothing.
    made(&db, &new("trk_b", "one"), NOW).await;
    assert_eq!(seen("trk_b", None, Some(&sha256), NOW).await, Some((false, false)));
    // SQLite says SEARCH where it uses an index and SCAN where it reads everything; PostgreSQL says Seq Scan.
    let plan = db.explain_track_seen().await.unwrap().join("\n");
    assert!(!plan.contains("SCAN ") && !plan.contains("Seq Scan"), "{plan}");
    for table in ["track", "entitlement", "share"] {
        assert!(plan.contains(table), "{table}: {plan}");
    }
}

async fn shares_end_are_revoked_and_are_bounded(db: Db) {
    made(&db, &new("trk_a", "one"), NOW).await;
    made(&db, &new("trk_b", "one"), NOW).await;
    let share = async |label: Option<&str>, valid_us: i64| {
        let sha256 = mint().1;
        let new = NewShare { track: id("trk_a"), sha256: &sha256, label, expires_us: NOW + valid_us };
        (db.create_share(&new, NOW).await.unwrap(), sha256)
    };
    let (first, sha256) = share(Some("For Ada"), SECOND).await;
    let first = first.unwrap();
    assert_eq!(db.share_of(&sha256, NOW).await.unwrap().unwrap().id, first);
    assert_eq!(db.share_of(&sha256, NOW + SECOND).await.unwrap(), None, "its time is over");
    assert!(!db.revoke_share(id("trk_b"), &first, NOW).await.unwrap(), "of another track");
    assert!(db.revoke_share(id("trk_a"), &first, NOW).await.unwrap());
    assert!(!db.revoke_share(id("trk_a"), &first, NOW).await.unwrap());
    assert_eq!(db.share_of(&sha256, NOW).await.unwrap(), None);
    assert!(!db.revoke_share(id("trk_a"), &ShareId::new(NOW), NOW).await.unwrap());
    for _ in 0..segue::tracks::share::SHARES_MAX {
        assert!(share(None, SECOND).await.0.is_some());
    }
    assert!(share(None, SECOND).await.0.is_none(), "enough");
    let all = db.shares(id("trk_a"), None, 200, NOW).await.unwrap();
    assert_eq!(all.len() as i64, segue::tracks::share::SHARES_MAX);
    assert_eq!(db.shares(id("trk_a"), Some(&all[1].id), 2, NOW).await.unwrap(), all[2..4], "a page");
    assert!(db.shares(id("trk_a"), None, 200, NOW + SECOND).await.unwrap().is_empty());
}

async fn a_storm_of_ranges_and_retries_is_one_play(db: Db) {
    let song = id("trk_a");
    let playback = 100 * SECOND;
    let mut storm = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let db = db.clone();
        storm.spawn(async move { db.count_play(song, "ada", playback, NOW).await.unwrap() });
    }
    let mut counted = 0;
    while let Some(one) = storm.join_next().await {
        counted += i64::from(one.unwrap());
    }
    assert_eq!(counted, 1, "however many ask at once");
    for later in [1, 50, 99] {
        assert!(!db.count_play(song, "ada", playback, NOW + later * SECOND).await.unwrap(), "{later} s later");
    }
    assert!(db.count_play(song, "ada", playback, NOW + playback).await.unwrap(), "it could have ended");
    assert!(db.count_play(song, "grace", playback, NOW).await.unwrap());
    assert!(db.count_play(id("trk_b"), "ada", playback, NOW).await.unwrap());
    let stats = db.track_stats(song, 0).await.unwrap();
    let [today] = stats.days[..] else { panic!("{stats:?}") };
    assert_eq!((stats.plays, today.plays, today.listeners), (3, 3, 2));
    // The next day they are other names.
    assert!(db.count_play(song, "ada of tuesday", playback, NOW + DAY).await.unwrap());
    let stats = db.track_stats(song, 0).await.unwrap();
    assert_eq!((stats.plays, stats.days.len()), (4, 2));
    assert!(stats.days[0].day > stats.days[1].day);
    assert_eq!(db.track_stats(song, stats.days[0].day).await.unwrap().days.len(), 1);
    // One salt a day, whoever asks; forgotten with the names.
    let salt = db.play_salt(1).await.unwrap();
    assert_eq!((salt.len(), db.play_salt(1).await.unwrap() == salt), (64, true));
    assert_ne!(db.play_salt(2).await.unwrap(), salt);
    assert_eq!(db.forget_listeners(NOW + 10 * DAY).await.unwrap(), 4);
    assert_ne!(db.play_salt(1).await.unwrap(), salt);
    assert_eq!(db.track_stats(song, 0).await.unwrap().plays, 4, "the counts stay");
}

fn notice() -> Notice {
    let text = || "x".to_owned();
    Notice {
        signature: text(),
        work: text(),
        location: text(),
        name: text(),
        address: text(),
        phone: text(),
        email: text(),
        good_faith_statement: true,
        sworn_statement: true,
        on_behalf_of: String::new(),
    }
}

fn by(now_us: i64) -> By<'static> {
    By { actor: "usr_admin", now_us }
}

async fn taken_down(db: &Db, id: &segue::tracks::dmca::NoticeId) -> Ruled {
    let mut tx = db.begin().await.unwrap();
    let ruled = dmca::take_down(&mut tx, id, None, Some(NOW), by(NOW + 2_000)).await.unwrap();
    tx.commit().await.unwrap();
    ruled
}

async fn restored(db: &Db, id: &segue::tracks::dmca::NoticeId, early: Option<&str>, now_us: i64) -> (Ruled, bool) {
    let mut tx = db.begin().await.unwrap();
    let ruled = dmca::restore(&mut tx, id, early, by(now_us)).await.unwrap();
    tx.commit().await.unwrap();
    ruled
}

async fn a_takedown_is_one_transaction_and_the_clock_brings_it_back(db: Db) {
    made(&db, &new("trk_a", "one"), NOW).await;
    shows(&db, &shown("trk_a", 1)).await;
    db.move_track(id("trk_a"), State::Unlisted, NOW).await.unwrap();
    let filed = db.file_notice(&notice(), Some(id("trk_a")), by(NOW)).await.unwrap();
    // Undone as a whole.
    let mut tx = db.begin().await.unwrap();
    assert!(matches!(dmca::take_down(&mut tx, &filed.id, None, Some(NOW), by(NOW)).await.unwrap(), Ruled::Done(_)));
    drop(tx);
    assert_eq!(state(&db, "trk_a").await, State::Unlisted);
    assert_eq!((db.audited(filed.id.as_str()).await.unwrap().len(), db.purges_waiting().await.unwrap()), (1, 0));
    // And done as a whole.
    assert!(matches!(taken_down(&db, &filed.id).await, Ruled::Done(_)));
    assert_eq!(state(&db, "trk_a").await, State::Blocked);
    assert_eq!((db.audited(filed.id.as_str()).await.unwrap().len(), db.purges_waiting().await.unwrap()), (2, 1));
    assert_eq!(taken_down(&db, &filed.id).await, Ruled::Not(Standing::TakenDown));
    // A version that is ready meanwhile does not bring it back.
    shows(&db, &shown("trk_a", 2)).await;
    assert_eq!(state(&db, "trk_a").await, State::Blocked);
    assert_eq!(restored(&db, &filed.id, None, NOW + 100 * DAY).await.0, Ruled::Not(Standing::TakenDown));
    let mut tx = db.begin().await.unwrap();
    let Ruled::Done(waiting) = dmca::dispute(&mut tx, &filed.id, &Counter::default(), by(NOW + 4_000)).await.unwrap()
    else {
        panic!("it is disputed")
    };
    tx.commit().await.unwrap();
    let from = waiting.restore_from_us.unwrap();
    assert!(db.notices_due(from - 1).await.unwrap().is_empty());
    assert_eq!(restored(&db, &filed.id, None, from - 1).await, (Ruled::TooEarly(from), false));
    assert_eq!(db.notices_due(from).await.unwrap()[0].id, filed.id);
    let (ruled, serve) = restored(&db, &filed.id, None, from).await;
    assert!(matches!(ruled, Ruled::Done(_)) && serve);
    assert_eq!(state(&db, "trk_a").await, State::Unlisted, "what it was");
    let log: Vec<_> = db.audited(filed.id.as_str()).await.unwrap().into_iter().map(|line| line.action).collect();
    assert_eq!(log, ["dmca.notice", "dmca.takedown", "dmca.counter_notice", "dmca.restore"]);
    // What is gone cannot be taken down; what names no track has to be looked for.
    db.delete_tracks(&[id("trk_a")], None, NOW).await.unwrap();
    let late = db.file_notice(&notice(), Some(id("trk_a")), by(NOW)).await.unwrap();
    assert_eq!(taken_down(&db, &late.id).await, Ruled::Gone);
    let vague = db.file_notice(&Notice { phone: String::new(), ..notice() }, None, by(NOW)).await.unwrap();
    assert_eq!(vague.standing, Standing::Incomplete);
    assert_eq!(taken_down(&db, &vague.id).await, Ruled::NoTrack);
    let mut tx = db.begin().await.unwrap();
    assert!(matches!(dmca::dismiss(&mut tx, &vague.id, "spam", by(NOW)).await.unwrap(), Ruled::Done(_)));
    tx.commit().await.unwrap();
    assert_eq!(taken_down(&db, &vague.id).await, Ruled::Not(Standing::Dismissed));
    let page = db.notices(None, None, 2).await.unwrap();
    assert_eq!(page.len(), 2);
    assert_eq!(db.notices(None, Some(&page[1].id), 2).await.unwrap().len(), 1);
    assert_eq!(db.notices(Some(Standing::Dismissed), None, 9).await.unwrap()[0].id, vague.id);
}

async fn two_notices_keep_a_track_dark_until_both_are_settled(db: Db) {
    made(&db, &new("trk_a", "one"), NOW).await;
    shows(&db, &shown("trk_a", 1)).await;
    let first = db.file_notice(&notice(), Some(id("trk_a")), by(NOW)).await.unwrap();
    let second = db.file_notice(&notice(), Some(id("trk_a")), by(NOW + 1_000)).await.unwrap();
    assert!(matches!(taken_down(&db, &first.id).await, Ruled::Done(_)));
    assert!(matches!(taken_down(&db, &second.id).await, Ruled::Done(_)));
    let (ruled, serve) = restored(&db, &first.id, Some("withdrawn"), NOW).await;
    assert!(matches!(ruled, Ruled::Done(_)) && !serve);
    assert_eq!(state(&db, "trk_a").await, State::Blocked);
    let mut tx = db.begin().await.unwrap();
    dmca::dispute(&mut tx, &second.id, &Counter::default(), by(NOW)).await.unwrap();
    let upheld = dmca::uphold(&mut tx, &second.id, "a court was asked", by(NOW)).await.unwrap();
    assert!(matches!(upheld, Ruled::Done(_)));
    tx.commit().await.unwrap();
    assert_eq!(restored(&db, &second.id, None, NOW + 100 * DAY).await, (Ruled::Not(Standing::Upheld), false));
    let (_, serve) = restored(&db, &second.id, Some("the court decided"), NOW + 100 * DAY).await;
    assert!(serve);
    assert_eq!(state(&db, "trk_a").await, State::Published);
}

async fn words_and_versions_are_kept(db: Db) {
    made(&db, &new("trk_a", "one"), NOW).await;
    assert_eq!(db.lyrics(id("trk_a")).await.unwrap(), None);
    let words = segue::db::tracks::Lyrics {
        text: "La la\nla".into(),
        synced: false,
        language: Some("fr".into()),
        updated_us: NOW,
    };
    db.set_lyrics(id("trk_a"), Some(&words)).await.unwrap();
    let other = segue::db::tracks::Lyrics { text: "Lo".into(), language: None, ..words };
    db.set_lyrics(id("trk_a"), Some(&other)).await.unwrap();
    assert_eq!(db.lyrics(id("trk_a")).await.unwrap(), Some(other));
    db.set_lyrics(id("trk_a"), None).await.unwrap();
    assert_eq!(db.lyrics(id("trk_a")).await.unwrap(), None);
    let (one, two) = (shown("trk_a", 1), shown("trk_a", 2));
    db.track_shows(&one, Backend::Local, Some(1), NOW).await.unwrap();
    db.track_shows(&two, Backend::Local, Some(2), NOW + 1).await.unwrap();
    db.track_shows(&one, Backend::Local, Some(1), NOW + 2).await.unwrap();
    let versions = db.track_versions(id("trk_a"), None, 10).await.unwrap();
    assert_eq!(versions.iter().map(|one| one.id).collect::<Vec<_>>(), [two.version, one.version], "each once");
    assert_eq!(db.track_versions(id("trk_a"), None, 1).await.unwrap(), versions[..1]);
    assert_eq!(db.track_versions(id("trk_a"), Some(two.version), 10).await.unwrap(), versions[1..]);
    assert_eq!(db.track_versions(id("trk_a"), Some(one.version), 10).await.unwrap(), []);
    assert!(db.has_shown(id("trk_a"), one.version).await.unwrap());
    assert!(!db.has_shown(id("trk_b"), one.version).await.unwrap());
    assert_eq!(db.track(id("trk_a")).await.unwrap().unwrap().version, Some(one.version));
}

/// Whoever can write to the database cannot rewrite what was done.
#[test]
fn the_audit_log_only_grows_on_both_databases() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let filed = |place| {
        runtime.block_on(async {
            let db = crate::postgres::ready(place).await;
            db.file_notice(&notice(), None, by(NOW)).await.unwrap();
            db.close().await;
        });
    };
    let attacks = ["update audit set actor = 'nobody'", "delete from audit"];
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("segue.db");
    filed(segue::db::Place::Sqlite(file.clone()));
    for sql in attacks {
        let done = std::process::Command::new("sqlite3").arg("-bail").arg(&file).arg(sql).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && said.contains("only ever inserted"), "{sql}: {said}");
    }
    let server = crate::postgres::Postgres::start();
    let url = server.database("audit");
    filed(segue::db::Place::Postgres(url.clone()));
    for sql in attacks.into_iter().chain(["truncate audit"]) {
        let done =
            std::process::Command::new("psql").args(["-q", "-v", "ON_ERROR_STOP=1", "-c", sql, &url]).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && said.contains("only ever inserted"), "{sql}: {said}");
    }
}

async fn of_a_deleted_track_no_byte_is_left(db: Db) {
    let dir = tempfile::tempdir().unwrap();
    let store: segue::store::Store = segue::store::LocalStore::open(dir.path()).unwrap().into();
    for track in ["trk_a", "trk_b"] {
        made(&db, &new(track, "one"), NOW).await;
        shows(&db, &shown(track, 1)).await;
        segue::tracks::write(&store, &shown(track, 1)).unwrap();
        let version = dir.path().join(format!("v/{track}/{}", shown(track, 1).version));
        std::fs::create_dir_all(&version).unwrap();
        std::fs::write(version.join("version.json"), "{}").unwrap();
        let pictures = [(160, vec![1]), (640, vec![2]), (1200, vec![3])];
        let hash = segue::store::artwork::hash(&pictures);
        segue::store::artwork::put(&store, id(track), &hash, &pictures).unwrap();
        db.set_artwork(id(track), Some(&hash), NOW).await.unwrap();
    }
    db.delete_tracks(&[id("trk_a")], None, NOW + 5).await.unwrap();
    let removed = async |before_us| segue::catalogue::remove_deleted(&db, &store, before_us).await.unwrap();
    assert_eq!(removed(NOW + 5).await, 0, "somebody may be listening");
    assert_eq!(removed(NOW + 6).await, 1);
    assert_eq!(removed(NOW + 6).await, 0, "once");
    let left = |track: &str| {
        let files = walk(dir.path());
        files.into_iter().filter(|path| path.to_string_lossy().contains(track)).count()
    };
    assert_eq!((left("trk_a"), left("trk_b")), (0, 5));
    assert!(db.track_versions(id("trk_a"), None, 10).await.unwrap().is_empty());
}

/// Every file below a directory.
fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
