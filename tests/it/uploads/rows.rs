//! The rows of uploads on both databases: quotas under concurrency, moves, writers, expiry.

use std::time::Duration;

use segue::db::uploads::{Begun, Created, Quota, Usage, Verdict, Written};
use segue::db::{Db, Place as Database};
use segue::uploads::{Kind, NewUpload, Part, Place, Reason, Rules, State, Upload, UploadId};

use crate::postgres::{Postgres, ready};

const NOW: i64 = 1_700_000_000_000_000;
const SECOND: i64 = 1_000_000;

fn run(place: Database) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let db = ready(place).await;
        many_at_once_never_have_more_than_their_quota(&db).await;
        room_is_given_back_by_every_end(&db).await;
        one_writer_at_a_time_and_a_zombie_changes_nothing(&db).await;
        keys_are_one_upload_even_at_once(&db).await;
        what_nobody_goes_on_with_expires(&db).await;
        db.close().await;
    });
}

#[test]
fn rows_keep_their_word_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    run(Database::Sqlite(directory.path().join("segue.db")));
}

#[test]
fn rows_keep_their_word_on_postgresql() {
    let server = Postgres::start();
    run(Database::Postgres(server.database("uploads")));
}

/// The states of uploads are written by one statement.
#[test]
fn one_statement_moves_uploads() {
    let source = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/db/uploads.rs")).unwrap();
    assert_eq!(source.matches("update upload set state").count(), 1);
    assert_eq!(source.matches(" state = $").count() - source.matches("and state = $").count(), 1, "no other sets it");
}

fn rules() -> Rules {
    Rules {
        audio_bytes_max: 1 << 30,
        image_bytes_max: 1 << 20,
        video_bytes_max: 1 << 30,
        expires: Duration::from_secs(100),
        owner_uploads_max: 5,
        owner_in_flight_bytes_max: 1_000,
        owner_stored_bytes_max: 1_500,
    }
}

fn new(owner: &str, bytes: u64) -> NewUpload {
    NewUpload {
        owner: owner.into(),
        kind: Kind::Audio,
        bytes,
        sha256: None,
        name: None,
        track: None,
        metadata: None,
        idempotency_key: None,
        place: Place::Local,
    }
}

async fn create(db: &Db, owner: &str, bytes: u64) -> Upload {
    match db.create_upload(&new(owner, bytes), &rules(), NOW).await.unwrap() {
        Created::New(upload) => upload,
        other => panic!("{other:?}"),
    }
}

async fn writer(db: &Db, id: &UploadId, now: i64) -> i64 {
    match db.begin_write(id, false, now, now + 10 * SECOND).await.unwrap() {
        Begun::Writing(upload) => upload.writer,
        other => panic!("{other:?}"),
    }
}

async fn write(db: &Db, id: &UploadId, writer: i64, from: u64, to: u64) -> Option<State> {
    db.commit_write(id, writer, &Written { from, to, ..Written::default() }, &rules(), NOW).await.unwrap()
}

async fn usage(db: &Db, owner: &str) -> (i64, i64, i64) {
    let Usage { uploads, in_flight_bytes, stored_bytes } = db.upload_usage(owner).await.unwrap();
    (uploads, in_flight_bytes, stored_bytes)
}

async fn many_at_once_never_have_more_than_their_quota(db: &Db) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..24 {
        let db = db.clone();
        tasks.spawn(async move { db.create_upload(&new("crowd", 150), &rules(), NOW).await.unwrap() });
    }
    let made = tasks.join_all().await;
    assert_eq!(made.iter().filter(|made| matches!(made, Created::New(_))).count(), 5);
    assert_eq!(made.iter().filter(|made| **made == Created::Full(Quota::Uploads)).count(), 19);
    assert_eq!(usage(db, "crowd").await, (5, 750, 0));
    // Bytes on their way, and bytes in all.
    create(db, "bytes", 900).await;
    assert_eq!(db.create_upload(&new("bytes", 101), &rules(), NOW).await.unwrap(), Created::Full(Quota::InFlight));
    create(db, "bytes", 100).await;
    // All removed at once: each gives back its room once.
    let ids: Vec<_> = made
        .into_iter()
        .filter_map(|made| match made {
            Created::New(upload) => Some(upload.id),
            _ => None,
        })
        .collect();
    let mut tasks = tokio::task::JoinSet::new();
    for id in ids.iter().chain(&ids) {
        let (db, id) = (db.clone(), id.clone());
        tasks.spawn(async move { db.remove_upload(&id, NOW).await.unwrap().is_some() });
    }
    assert_eq!(tasks.join_all().await.into_iter().filter(|removed| *removed).count(), 5);
    assert_eq!(usage(db, "crowd").await, (0, 0, 0));
}

async fn room_is_given_back_by_every_end(db: &Db) {
    let owner = "ends";
    let whole = async |bytes| {
        let id = create(db, owner, bytes).await.id;
        let number = writer(db, &id, NOW).await;
        assert_eq!(write(db, &id, number, 0, bytes).await, Some(State::Verifying));
        id
    };
    let good = Verdict::Ready { mime: "audio/wav".into(), sha256: "0".repeat(64) };
    let bad = Verdict::Refused(Reason::Virus, "found".into());
    let (ready, refused, aborted) = (whole(100).await, whole(200).await, whole(300).await);
    assert_eq!(usage(db, owner).await, (3, 600, 0));
    assert!(db.settle_upload(&ready, &good, NOW).await.unwrap());
    assert!(db.settle_upload(&refused, &bad, NOW).await.unwrap());
    assert!(db.remove_upload(&aborted, NOW).await.unwrap().is_some());
    assert_eq!(usage(db, owner).await, (0, 0, 100));
    // What has ended does not move again, nor is room given back twice.
    for id in [&ready, &refused, &aborted] {
        assert!(!db.settle_upload(id, &good, NOW).await.unwrap());
        assert!(!db.settle_upload(id, &bad, NOW).await.unwrap());
        assert_eq!(write(db, id, 1, 0, 1).await, None);
    }
    assert!(db.remove_upload(&refused, NOW).await.unwrap().is_none());
    // A form says its length at its end.
    let form = create(db, owner, 999).await.id;
    let number = writer(db, &form, NOW).await;
    let end = Written { from: 0, to: 50, length: Some(50), ..Written::default() };
    assert_eq!(db.commit_write(&form, number, &end, &rules(), NOW).await.unwrap(), Some(State::Verifying));
    assert_eq!(usage(db, owner).await, (1, 50, 100));
    assert!(db.settle_upload(&form, &good, NOW).await.unwrap());
    assert_eq!(usage(db, owner).await, (0, 0, 150));
    for id in [&ready, &form] {
        assert!(db.remove_upload(id, NOW).await.unwrap().is_some());
    }
    assert_eq!(usage(db, owner).await, (0, 0, 0));
    // Swept rows are forgotten, and only they.
    let unswept = db.unswept_uploads().await.unwrap().len();
    db.swept_upload(&ready, NOW).await.unwrap();
    assert_eq!(db.unswept_uploads().await.unwrap().len(), unswept - 1);
    assert_eq!(db.forget_uploads(NOW + 1).await.unwrap(), 1);
    assert_eq!(db.upload(&ready).await.unwrap(), None);
}

async fn one_writer_at_a_time_and_a_zombie_changes_nothing(db: &Db) {
    let id = create(db, "writers", 100).await.id;
    let first = writer(db, &id, NOW).await;
    assert_eq!(db.begin_write(&id, false, NOW + SECOND, NOW + 9 * SECOND).await.unwrap(), Begun::Taken);
    assert_eq!(write(db, &id, first, 0, 10).await, Some(State::Uploading));
    assert!(db.renew_write(&id, first, NOW + 20 * SECOND).await.unwrap());
    assert_eq!(db.begin_write(&id, false, NOW + 19 * SECOND, NOW + 30 * SECOND).await.unwrap(), Begun::Taken);
    let second = writer(db, &id, NOW + 21 * SECOND).await;
    assert_eq!((write(db, &id, first, 10, 20).await, db.renew_write(&id, first, NOW).await.unwrap()), (None, false));
    db.end_write(&id, first).await.unwrap(); // a zombie gives back nothing
    assert_eq!(db.begin_write(&id, false, NOW + 22 * SECOND, NOW + 30 * SECOND).await.unwrap(), Begun::Taken);
    assert_eq!(write(db, &id, second, 0, 20).await, None, "from where it does not stand");
    assert_eq!(write(db, &id, second, 10, 101).await, None, "beyond its end");
    let part = Part { number: 1, bytes: 20, etag: "\"a\"".into() };
    let with_part = Written { from: 10, to: 20, parts: vec![part.clone()], ..Written::default() };
    db.commit_write(&id, second, &with_part, &rules(), NOW).await.unwrap().unwrap();
    assert_eq!(db.upload_parts(&id).await.unwrap(), [part]);
    // Removed under a writer: it has lost the right.
    db.remove_upload(&id, NOW).await.unwrap().unwrap();
    assert_eq!(write(db, &id, second, 20, 30).await, None);
    // Many who want to write: one does.
    let id = create(db, "writers", 100).await.id;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let (db, id) = (db.clone(), id.clone());
        tasks.spawn(async move { db.begin_write(&id, false, NOW, NOW + SECOND).await.unwrap() });
    }
    let begun = tasks.join_all().await;
    assert_eq!(begun.iter().filter(|begun| matches!(begun, Begun::Writing(_))).count(), 1);
    // One who looks at it at a time; another when the first is not heard of.
    let number = db.upload(&id).await.unwrap().unwrap().writer;
    assert_eq!(write(db, &id, number, 0, 100).await, Some(State::Verifying));
    assert!(db.take_verifying(NOW, NOW + 10 * SECOND).await.unwrap().is_some());
    assert!(db.take_verifying(NOW + 9 * SECOND, NOW + 20 * SECOND).await.unwrap().is_none());
    let (again, attempt) = db.take_verifying(NOW + 10 * SECOND, NOW + 20 * SECOND).await.unwrap().unwrap();
    assert_eq!((again.id, attempt), (id.clone(), 2));
    db.remove_upload(&id, NOW).await.unwrap().unwrap();
}

async fn keys_are_one_upload_even_at_once(db: &Db) {
    let keyed = |bytes| NewUpload { idempotency_key: Some("k".into()), ..new("keys", bytes) };
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let (db, new) = (db.clone(), keyed(10));
        tasks.spawn(async move { db.create_upload(&new, &rules(), NOW).await.unwrap() });
    }
    let made = tasks.join_all().await;
    assert_eq!(made.iter().filter(|made| matches!(made, Created::New(_))).count(), 1);
    assert_eq!(made.iter().filter(|made| matches!(made, Created::Known(_))).count(), 9);
    assert!(matches!(db.create_upload(&keyed(11), &rules(), NOW).await.unwrap(), Created::Conflict(_)));
    assert_eq!(usage(db, "keys").await, (1, 10, 0));
    // Nothing came of it: the same request is another upload, and not the one that is gone.
    let Created::Known(known) = db.create_upload(&keyed(10), &rules(), NOW).await.unwrap() else {
        panic!("it is known")
    };
    db.remove_upload(&known.id, NOW).await.unwrap().unwrap();
    let Created::New(again) = db.create_upload(&keyed(10), &rules(), NOW).await.unwrap() else { panic!("it is new") };
    assert_ne!(again.id, known.id);
    assert_eq!(db.upload(&known.id).await.unwrap().unwrap().state, State::Aborted, "the row stays");
    assert_eq!(usage(db, "keys").await, (1, 10, 0));
}

async fn what_nobody_goes_on_with_expires(db: &Db) {
    let (idle, written) = (create(db, "late", 10).await.id, create(db, "late", 10).await.id);
    let number = writer(db, &written, NOW + 95 * SECOND).await;
    let expired = db.expire_uploads(NOW + 101 * SECOND).await.unwrap();
    let late: Vec<_> = expired.iter().filter(|upload| upload.owner == "late").map(|upload| &upload.id).collect();
    assert_eq!(late, [&idle], "who is being written to does not expire");
    assert_eq!(usage(db, "late").await, (1, 10, 0));
    assert!(matches!(db.begin_write(&idle, true, NOW, NOW + SECOND).await.unwrap(), Begun::Not(_)));
    db.end_write(&written, number).await.unwrap();
    db.expire_uploads(NOW + 101 * SECOND).await.unwrap();
    assert_eq!(usage(db, "late").await, (0, 0, 0));
}
