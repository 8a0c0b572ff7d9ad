//! What both databases have to do, in the same words: every case runs on SQLite, on PostgreSQL, and on
//! PostgreSQL behind PgBouncer in transaction mode.

use std::collections::BTreeSet;

use segue::base::Kind;
use segue::base::id::VersionId;
use segue::db::deliveries::{TRIES_MAX, Try};
use segue::db::jobs::{Asked, Enqueued, Filter, enqueue, guard, record, settle};
use segue::db::tracks::moves;
use segue::db::workers::Report;
use segue::db::{Db, Place};
use segue::jobs::backoff::Backoff;
use segue::jobs::{Cost, Held, Job, JobId, Lease, NewJob, Outcome, Reason, State};

use segue::store::Backend;
use segue::tracks::{self, Track, Visibility};

use crate::databases::{self, Case, cases};
use crate::postgres::{Postgres, at, ready};

const CASES: &[Case] = cases![
    what_is_enqueued_in_a_transaction_comes_and_goes_with_it,
    the_same_key_is_the_same_job_and_never_another,
    one_key_from_many_at_once_is_one_job,
    the_highest_priority_goes_first_then_the_oldest,
    what_does_not_fit_waits_and_at_last_holds_back_the_others,
    every_job_goes_to_exactly_one_worker,
    an_expired_lease_goes_to_another_and_the_zombie_changes_nothing,
    failures_are_repeated_later_and_at_last_dead,
    a_job_that_kills_its_workers_ends_dead,
    what_is_refused_is_not_tried_again,
    waiting_jobs_are_cancelled_at_once_and_running_ones_at_a_heartbeat,
    whole_jobs_and_single_rungs_are_put_back,
    what_is_handed_back_is_not_a_failure,
    a_settlement_that_is_rolled_back_leaves_the_lease,
    events_are_numbered_without_gaps,
    a_singleton_has_one_holder_at_a_time,
    what_workers_say_is_kept_until_they_leave_or_are_forgotten,
    callbacks_are_written_with_their_event_and_tried_until_dead,
    old_jobs_are_forgotten_and_others_kept,
    the_queue_says_how_it_stands,
    a_track_has_one_row_that_keeps_what_is_its_own,
    a_track_changes_its_store_only_with_the_version_that_was_copied,
];

#[test]
fn the_queue_keeps_its_word_on_sqlite() {
    databases::on_sqlite(CASES);
}

#[test]
fn the_queue_keeps_its_word_on_postgresql() {
    databases::on_postgresql(CASES);
}

#[test]
fn the_queue_keeps_its_word_behind_pgbouncer() {
    databases::behind_pgbouncer(CASES);
}

/// A time; cases move it by hand.
const NOW: i64 = 1_700_000_000_000_000;
const SECOND: i64 = 1_000_000;
const TERM: i64 = 60 * SECOND;
const ROOM: Cost = Cost { cpu_milli: 64_000, memory_bytes: 1 << 40 };

fn wish(name: &str) -> NewJob {
    NewJob {
        kind: "test",
        priority: 5,
        input: format!("{{\"name\":\"{name}\"}}"),
        client: "tests".into(),
        idempotency_key: None,
        cost: Cost { cpu_milli: 1000, memory_bytes: 1 << 20 },
        failures_max: 3,
    }
}

async fn put(db: &Db, new: &NewJob, now: i64) -> JobId {
    match db.enqueue(new, now).await.unwrap() {
        Enqueued::New(id) => id,
        other => panic!("{other:?}"),
    }
}

async fn take(db: &Db, worker: &str, now: i64) -> Option<(Lease, Job)> {
    db.lease("test", worker, ROOM, now, now + TERM).await.unwrap().map(|(lease, job, _)| (lease, job))
}

async fn state(db: &Db, id: &JobId) -> State {
    db.job(id).await.unwrap().unwrap().state
}

fn failed() -> Outcome {
    Outcome::Failed(Reason::Internal, "it broke".into())
}

async fn what_is_enqueued_in_a_transaction_comes_and_goes_with_it(db: Db) {
    let mut tx = db.begin().await.unwrap();
    enqueue(&mut tx, &wish("never"), NOW).await.unwrap();
    drop(tx);
    assert_eq!(take(&db, "w", NOW).await, None);
    let mut tx = db.begin().await.unwrap();
    enqueue(&mut tx, &wish("yes"), NOW).await.unwrap();
    tx.commit().await.unwrap();
    let (lease, job) = take(&db, "w", NOW).await.unwrap();
    assert_eq!((lease.attempt, job.input.as_str(), job.state), (1, r#"{"name":"yes"}"#, State::Leased));
}

async fn the_same_key_is_the_same_job_and_never_another(db: Db) {
    let keyed =
        |name: &str, client: &str| NewJob { idempotency_key: Some("k".into()), client: client.into(), ..wish(name) };
    let id = put(&db, &keyed("a", "one"), NOW).await;
    assert_eq!(db.enqueue(&keyed("a", "one"), NOW + 1).await.unwrap(), Enqueued::Known(id.clone()));
    assert_eq!(db.enqueue(&keyed("b", "one"), NOW + 2).await.unwrap(), Enqueued::Conflict(id));
    put(&db, &keyed("a", "two"), NOW + 3).await;
    put(&db, &wish("a"), NOW + 4).await;
    put(&db, &wish("a"), NOW + 5).await;
    assert_eq!(db.jobs(&Filter { limit: 10, ..Filter::default() }).await.unwrap().len(), 4);
}

async fn one_key_from_many_at_once_is_one_job(db: Db) {
    let keyed = NewJob { idempotency_key: Some("k".into()), ..wish("a") };
    let many = (0..8).map(|_| {
        let (db, keyed) = (db.clone(), keyed.clone());
        tokio::spawn(async move { db.enqueue(&keyed, NOW).await.unwrap() })
    });
    let (mut new, mut ids) = (0, BTreeSet::new());
    for one in many.collect::<Vec<_>>() {
        match one.await.unwrap() {
            Enqueued::New(id) => (new, _) = (new + 1, ids.insert(id)),
            Enqueued::Known(id) => _ = ids.insert(id),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((new, ids.len()), (1, 1));
}

async fn the_highest_priority_goes_first_then_the_oldest(db: Db) {
    let mut want = Vec::new();
    for (priority, now) in [(5, 3), (9, 4), (0, 1), (5, 2), (9, 5)] {
        let id = put(&db, &NewJob { priority, ..wish("p") }, NOW + now).await;
        want.push((std::cmp::Reverse(priority), now, id));
    }
    want.sort();
    for (_, _, id) in want {
        assert_eq!(take(&db, "w", NOW + 10).await.unwrap().1.id, id);
    }
    assert_eq!(take(&db, "w", NOW + 10).await, None);
    put(&db, &wish("other kind"), NOW).await;
    assert_eq!(db.lease("another", "w", ROOM, NOW + 10, NOW + TERM).await.unwrap(), None);
}

async fn what_does_not_fit_waits_and_at_last_holds_back_the_others(db: Db) {
    let large = put(&db, &NewJob { cost: Cost { cpu_milli: 4000, memory_bytes: 1 }, ..wish("large") }, NOW).await;
    let greedy =
        put(&db, &NewJob { cost: Cost { cpu_milli: 1, memory_bytes: 1 << 39 }, ..wish("greedy") }, NOW + 1).await;
    let small = put(&db, &wish("small"), NOW + 2).await;
    put(&db, &wish("small too"), NOW + 3).await;
    let room = Cost { cpu_milli: 2000, memory_bytes: 1 << 30 };
    let lease = |room, now| {
        let db = db.clone();
        async move { db.lease("test", "w", room, now, now + TERM).await.unwrap() }
    };
    assert_eq!(lease(room, NOW + 5).await.unwrap().0.job, small);
    assert_eq!(lease(room, NOW + 61 * SECOND).await, None, "the large one has waited long enough");
    let (taken, _, cost) = lease(ROOM, NOW + 61 * SECOND).await.unwrap();
    assert_eq!((taken.job, cost.cpu_milli), (large, 4000));
    assert_eq!(lease(ROOM, NOW + 61 * SECOND).await.unwrap().0.job, greedy);
}

async fn every_job_goes_to_exactly_one_worker(db: Db) {
    const JOBS: usize = 60;
    for n in 0..JOBS {
        put(&db, &wish(&n.to_string()), NOW).await;
    }
    let workers = (0..6).map(|worker| {
        let db = db.clone();
        tokio::spawn(async move {
            let mut mine = Vec::new();
            while let Some((lease, job)) = take(&db, &format!("w{worker}"), NOW).await {
                let settled = db.settle(&lease, &Outcome::Succeeded("{}".into()), Backoff::default(), NOW).await;
                assert_eq!(settled.unwrap(), Some(State::Succeeded));
                mine.push(job.id);
            }
            mine
        })
    });
    let mut all = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        all.extend(worker.await.unwrap());
    }
    // A worker may leave early because the rows it saw were locked by the others; whoever is last sees them all.
    while let Some((lease, job)) = take(&db, "last", NOW).await {
        db.settle(&lease, &Outcome::Succeeded("{}".into()), Backoff::default(), NOW).await.unwrap();
        all.push(job.id);
    }
    assert_eq!(all.len(), JOBS);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), JOBS);
    for job in db.jobs(&Filter { limit: 100, ..Filter::default() }).await.unwrap() {
        assert_eq!((job.state, job.attempt), (State::Succeeded, 1));
    }
}

async fn an_expired_lease_goes_to_another_and_the_zombie_changes_nothing(db: Db) {
    let id = put(&db, &wish("z"), NOW).await;
    let (zombie, _) = take(&db, "zombie", NOW).await.unwrap();
    let later = NOW + 50 * SECOND;
    assert_eq!(db.heartbeat(&zombie, (1, Some(10)), later, later + TERM).await.unwrap(), Held::Yes);
    assert!(db.expire(Backoff::default(), NOW + TERM).await.unwrap().is_empty(), "it was renewed");
    let job = db.job(&id).await.unwrap().unwrap();
    assert_eq!((job.done_us, job.total_us, job.progress()), (1, Some(10), Some(0.1)));
    assert_eq!((job.updated_us, job.started_us), (later, Some(NOW)), "from which the time that is left follows");

    let gone = later + TERM;
    assert_eq!(db.expire(Backoff::default(), gone).await.unwrap(), [(id.clone(), State::Queued)]);
    assert_eq!(take(&db, "early", gone).await, None, "not before its backoff");
    let (heir, job) = take(&db, "heir", gone + 10 * SECOND).await.unwrap();
    assert_eq!((heir.attempt, job.failures, job.worker.as_deref()), (2, 1, Some("heir")));
    assert_eq!(db.heartbeat(&zombie, (9, None), gone, gone + TERM).await.unwrap(), Held::Lost);
    let outcome = Outcome::Succeeded(r#"{"by":"zombie"}"#.into());
    assert_eq!(db.settle(&zombie, &outcome, Backoff::default(), gone).await.unwrap(), None);
    let mut tx = db.begin().await.unwrap();
    assert!(!guard(&mut tx, &zombie).await.unwrap());
    drop(tx);
    assert_eq!(state(&db, &id).await, State::Leased);
    let outcome = Outcome::Succeeded(r#"{"by":"heir"}"#.into());
    assert_eq!(db.settle(&heir, &outcome, Backoff::default(), gone).await.unwrap(), Some(State::Succeeded));
    assert_eq!(db.settle(&heir, &outcome, Backoff::default(), gone).await.unwrap(), None, "once");
    assert_eq!(db.job(&id).await.unwrap().unwrap().output.as_deref(), Some(r#"{"by":"heir"}"#));
}

async fn failures_are_repeated_later_and_at_last_dead(db: Db) {
    let id = put(&db, &wish("f"), NOW).await;
    let mut now = NOW;
    for failures in 1..=3 {
        let (lease, _) = take(&db, "w", now).await.unwrap();
        let settled = db.settle(&lease, &failed(), Backoff::default(), now).await.unwrap().unwrap();
        let job = db.job(&id).await.unwrap().unwrap();
        assert_eq!(
            (job.failures, job.reason.as_deref(), job.error.as_deref()),
            (failures, Some("internal"), Some("it broke"))
        );
        if failures < 3 {
            assert_eq!(settled, State::Queued);
            let whole = Backoff::default().first.as_micros() as i64 * (1 << (failures - 1));
            assert!((whole / 2..=whole).contains(&(job.run_at_us - now)), "{failures}: {}", job.run_at_us - now);
            assert_eq!(take(&db, "w", job.run_at_us - 1).await, None);
            now = job.run_at_us;
        } else {
            assert_eq!((settled, job.finished_us), (State::Dead, Some(now)));
        }
    }
    assert_eq!(take(&db, "w", now + 10_000 * SECOND).await, None);
}

async fn a_job_that_kills_its_workers_ends_dead(db: Db) {
    let id = put(&db, &wish("poison"), NOW).await;
    let mut now = NOW;
    for _ in 0..3 {
        take(&db, "victim", now).await.unwrap();
        now += TERM;
        assert_eq!(db.expire(Backoff::default(), now).await.unwrap().len(), 1);
        now += 3600 * SECOND;
    }
    let job = db.job(&id).await.unwrap().unwrap();
    assert_eq!((job.state, job.reason.as_deref(), job.attempt), (State::Dead, Some("lost"), 3));
    assert!(job.error.unwrap().contains("victim"));
}

async fn what_is_refused_is_not_tried_again(db: Db) {
    let id = put(&db, &wish("r"), NOW).await;
    let (lease, _) = take(&db, "w", NOW).await.unwrap();
    let refused = Outcome::Refused(Reason::Input, "not audio".into());
    assert_eq!(db.settle(&lease, &refused, Backoff::default(), NOW).await.unwrap(), Some(State::Dead));
    let job = db.job(&id).await.unwrap().unwrap();
    assert_eq!((job.failures, job.error.as_deref()), (1, Some("not audio")));
    assert_eq!((job.worker, job.lease_until_us), (None, None));
}

async fn waiting_jobs_are_cancelled_at_once_and_running_ones_at_a_heartbeat(db: Db) {
    let waiting = put(&db, &wish("waiting"), NOW).await;
    assert_eq!(db.cancel(&waiting, NOW).await.unwrap(), Asked::Done);
    assert_eq!(db.cancel(&waiting, NOW).await.unwrap(), Asked::Not(State::Cancelled));
    assert_eq!(take(&db, "w", NOW).await, None);

    for outcome in [Outcome::Cancelled, failed(), Outcome::HandedBack] {
        let running = put(&db, &wish("running"), NOW).await;
        let (lease, _) = take(&db, "w", NOW).await.unwrap();
        assert_eq!(db.cancel(&running, NOW).await.unwrap(), Asked::Told);
        assert!(db.job(&running).await.unwrap().unwrap().cancelling);
        assert_eq!(db.heartbeat(&lease, (0, None), NOW, NOW + TERM).await.unwrap(), Held::CancelAsked);
        let settled = db.settle(&lease, &outcome, Backoff::default(), NOW).await.unwrap();
        assert_eq!(settled, Some(State::Cancelled), "{outcome:?}: nobody wants another attempt");
    }
    let done = put(&db, &wish("done"), NOW).await;
    let (lease, _) = take(&db, "w", NOW).await.unwrap();
    db.cancel(&done, NOW).await.unwrap();
    let outcome = Outcome::Succeeded("{}".into());
    assert_eq!(db.settle(&lease, &outcome, Backoff::default(), NOW).await.unwrap(), Some(State::Succeeded), "too late");
    assert_eq!(db.cancel(&JobId::new(NOW), NOW).await.unwrap(), Asked::Unknown);
}

async fn whole_jobs_and_single_rungs_are_put_back(db: Db) {
    let id = put(&db, &wish("again"), NOW).await;
    assert_eq!(db.retry(&id, None, NOW).await.unwrap(), Asked::Not(State::Queued));
    let (lease, _) = take(&db, "w", NOW).await.unwrap();
    assert_eq!(db.retry(&id, None, NOW).await.unwrap(), Asked::Not(State::Leased));
    db.settle(&lease, &Outcome::Refused(Reason::Input, "no".into()), Backoff::default(), NOW).await.unwrap();
    assert_eq!(db.retry(&id, None, NOW).await.unwrap(), Asked::Done);
    let (lease, job) = take(&db, "w", NOW).await.unwrap();
    assert_eq!((lease.attempt, job.failures, &job.rungs, &job.error), (2, 0, &None, &None));
    db.settle(&lease, &Outcome::Succeeded("{}".into()), Backoff::default(), NOW).await.unwrap();
    assert_eq!(db.retry(&id, Some(&["aac/96".into()]), NOW).await.unwrap(), Asked::Done);
    let (lease, job) = take(&db, "w", NOW).await.unwrap();
    assert_eq!((lease.attempt, job.rungs), (3, Some(vec!["aac/96".to_owned()])));
    assert_eq!(db.retry(&JobId::new(NOW), None, NOW).await.unwrap(), Asked::Unknown);
}

async fn what_is_handed_back_is_not_a_failure(db: Db) {
    let id = put(&db, &wish("h"), NOW).await;
    for attempt in 1..=5 {
        let (lease, job) = take(&db, "w", NOW).await.unwrap();
        assert_eq!((lease.attempt, job.failures), (attempt, 0));
        assert_eq!(
            db.settle(&lease, &Outcome::HandedBack, Backoff::default(), NOW).await.unwrap(),
            Some(State::Queued)
        );
    }
    assert_eq!(state(&db, &id).await, State::Queued);
}

async fn a_settlement_that_is_rolled_back_leaves_the_lease(db: Db) {
    let id = put(&db, &wish("s"), NOW).await;
    let (lease, _) = take(&db, "w", NOW).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    let settled = settle(&mut tx, &lease, &Outcome::Succeeded("{}".into()), Backoff::default(), NOW).await.unwrap();
    assert_eq!(settled, Some(State::Succeeded));
    drop(tx);
    assert_eq!(state(&db, &id).await, State::Leased);
    let names: Vec<_> = db.events(&id, 0, 10).await.unwrap().into_iter().map(|event| event.event).collect();
    assert_eq!(names, ["queued", "started"]);
}

async fn events_are_numbered_without_gaps(db: Db) {
    let id = put(&db, &wish("e"), NOW).await;
    let (lease, _) = take(&db, "w", NOW).await.unwrap();
    let writers = (0..6).map(|n| {
        let (db, lease) = (db.clone(), lease.clone());
        tokio::spawn(async move {
            let mut tx = db.begin().await.unwrap();
            assert!(guard(&mut tx, &lease).await.unwrap());
            record(&mut tx, &lease.job, NOW + n, "rung", &serde_json::json!({ "n": n })).await.unwrap();
            tx.commit().await.unwrap();
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let events = db.events(&id, 0, 100).await.unwrap();
    assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    assert!(events[2..].iter().all(|event| event.event == "rung" && event.body["n"].is_i64()));
    assert_eq!(db.events(&id, 6, 100).await.unwrap(), events[6..]);
}

async fn a_singleton_has_one_holder_at_a_time(db: Db) {
    let holders = (0..5).map(|n| {
        let db = db.clone();
        tokio::spawn(async move { db.hold("janitor", &format!("w{n}"), NOW, NOW + TERM).await.unwrap() })
    });
    let mut held = 0;
    for holder in holders.collect::<Vec<_>>() {
        held += i32::from(holder.await.unwrap());
    }
    assert_eq!(held, 1);
    assert!(db.hold("janitor", "next", NOW + TERM, NOW + 2 * TERM).await.unwrap(), "the term has ended");
    assert!(db.hold("janitor", "next", NOW + TERM + 1, NOW + 3 * TERM).await.unwrap(), "its holder keeps it");
    assert!(!db.hold("janitor", "w0", NOW + TERM + 1, NOW + 3 * TERM).await.unwrap());
    db.release("next").await.unwrap();
    assert!(db.hold("janitor", "w0", NOW + TERM + 1, NOW + 3 * TERM).await.unwrap());
}

async fn what_workers_say_is_kept_until_they_leave_or_are_forgotten(db: Db) {
    let says = |name: &str, ran_us, failed: Option<(i64, &str)>| Report {
        name: name.into(),
        every_us: 10 * SECOND,
        ran_us,
        failures: i64::from(failed.is_some()),
        failed: failed.map(|(at_us, why)| (at_us, why.to_owned())),
    };
    let first = [says("mail", None, None), says("janitor", Some(NOW), Some((NOW, "the disk is full")))];
    db.report_workers("a", NOW - SECOND, &first, NOW).await.unwrap();
    db.report_workers("b", NOW, &[says("janitor", None, None)], NOW).await.unwrap();
    assert!(db.hold("janitor", "a", NOW, NOW + TERM).await.unwrap());
    let told = db.workers().await.unwrap();
    let shown: Vec<_> = told.iter().map(|w| (w.report.name.as_str(), w.node.as_str(), w.holds_until_us)).collect();
    assert_eq!(shown, [("janitor", "a", Some(NOW + TERM)), ("janitor", "b", None), ("mail", "a", None)]);
    assert_eq!((&told[0].report, told[0].begun_us, told[0].seen_us), (&first[1], NOW - SECOND, NOW));

    // The same again is the same row.
    db.report_workers("a", NOW - SECOND, &[says("mail", Some(NOW + 5), None)], NOW + SECOND).await.unwrap();
    let told = db.workers().await.unwrap();
    assert_eq!((told.len(), told[2].report.ran_us, told[2].seen_us), (3, Some(NOW + 5), NOW + SECOND));

    // Who was not heard of since is forgotten; who leaves takes its rows along, and what it held.
    assert_eq!(db.sweep_workers(NOW + 1).await.unwrap(), 2);
    assert_eq!(db.workers().await.unwrap().len(), 1);
    db.retire("a").await.unwrap();
    assert_eq!((db.workers().await.unwrap(), db.holders().await.unwrap()), (vec![], vec![]));
}

async fn callbacks_are_written_with_their_event_and_tried_until_dead(db: Db) {
    let new = NewJob { input: r#"{"callback":"http://127.0.0.1:1/hook","track":"trk_1"}"#.into(), ..wish("c") };
    let id = put(&db, &new, NOW).await;
    put(&db, &wish("nobody listens"), NOW + 1).await;
    assert!(db.take_deliveries(10, NOW, NOW + SECOND).await.unwrap().is_empty(), "queued is not told");
    let (lease, _) = take(&db, "w", NOW).await.unwrap();
    let refused = Outcome::Refused(Reason::Input, "no".into());
    db.settle(&lease, &refused, Backoff::default(), NOW).await.unwrap();
    take(&db, "w", NOW + 1).await.unwrap();

    let takers = (0..4).map(|_| {
        let db = db.clone();
        tokio::spawn(async move { db.take_deliveries(10, NOW, NOW + 30 * SECOND).await.unwrap() })
    });
    let mut taken = Vec::new();
    for taker in takers.collect::<Vec<_>>() {
        taken.extend(taker.await.unwrap());
    }
    taken.sort_by(|a, b| a.id.cmp(&b.id));
    let types: Vec<serde_json::Value> = taken.iter().map(|one| serde_json::from_str(&one.body).unwrap()).collect();
    let mut names: Vec<_> = types.iter().map(|body| body["type"].as_str().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["transcode.dead", "transcode.started"], "each once, none of the other job");
    assert!(taken.iter().all(|one| one.number == 1 && one.job == id && one.url.ends_with("/hook")));

    let tried =
        |error: Option<&str>| Try { at_us: NOW, took_us: 5, status: Some(500), error: error.map(str::to_owned) };
    let (first, second) = (taken.remove(0), taken.remove(0));
    db.log_try(&first, &tried(None), Backoff::default(), NOW).await.unwrap();
    let mut failing = second.clone();
    let mut now = NOW;
    for number in 1..=TRIES_MAX {
        assert_eq!(failing.number, number);
        db.log_try(&failing, &tried(Some("said 500")), Backoff::default(), now).await.unwrap();
        assert!(db.take_deliveries(10, now, now + SECOND).await.unwrap().is_empty(), "backoff");
        now += 2 * 3600 * SECOND;
        match db.take_deliveries(10, now, now + SECOND).await.unwrap().pop() {
            Some(next) => failing = next,
            None => assert_eq!(number, TRIES_MAX),
        }
    }
    // A result that comes after somebody else took over changes nothing.
    db.log_try(&second, &tried(None), Backoff::default(), now).await.unwrap();
    let log = db.deliveries(&id).await.unwrap();
    let page = db.deliveries_after(&id, log[0]["seq"].as_i64().unwrap(), 1).await.unwrap();
    assert_eq!(page, log[1..2], "behind the first, with all of its tries");
    let of = |id: &str| log.iter().find(|one| one["id"] == id).unwrap();
    assert_eq!((&of(&first.id)["state"], of(&first.id)["tries"].as_array().unwrap().len()), (&"delivered".into(), 1));
    assert_eq!(of(&second.id)["state"], "dead");
    assert_eq!(of(&second.id)["tries"].as_array().unwrap().len(), TRIES_MAX as usize);

    // For a receiver that was away: of one client or of all, and nothing that is older.
    let (client, stranger) = (db.job(&id).await.unwrap().unwrap().client, Some("another"));
    assert_eq!(db.redeliver_missed(stranger, 0, now).await.unwrap(), 0);
    assert_eq!(db.redeliver_missed(Some(&client), NOW + 3600 * SECOND, now).await.unwrap(), 0);
    assert_eq!(db.redeliver_missed(Some(&client), 0, now).await.unwrap(), 1);
    assert_eq!(db.redeliver_missed(None, 0, now).await.unwrap(), 1);

    assert_eq!(db.redeliver(&id, false, now).await.unwrap(), 1);
    let again = db.take_deliveries(10, now, now + SECOND).await.unwrap();
    assert_eq!(
        (again.len(), &again[0].id, &again[0].body),
        (1, &second.id, &second.body),
        "the same bytes under the same id"
    );
    db.log_try(&again[0], &tried(None), Backoff::default(), now).await.unwrap();
    assert_eq!(db.redeliver(&id, false, now).await.unwrap(), 0);
    assert_eq!(db.redeliver(&id, true, now).await.unwrap(), 2);
}

async fn old_jobs_are_forgotten_and_others_kept(db: Db) {
    let old = put(&db, &wish("old"), NOW).await;
    let (lease, _) = take(&db, "w", NOW).await.unwrap();
    db.settle(&lease, &Outcome::Succeeded("{}".into()), Backoff::default(), NOW).await.unwrap();
    let waiting = put(&db, &wish("waiting"), NOW).await;
    assert_eq!(db.forget(NOW).await.unwrap(), 0);
    assert_eq!(db.forget(NOW + 1).await.unwrap(), 1);
    assert_eq!(db.job(&old).await.unwrap(), None);
    assert!(db.events(&old, 0, 10).await.unwrap().is_empty());
    assert_eq!(state(&db, &waiting).await, State::Queued);
}

async fn the_queue_says_how_it_stands(db: Db) {
    put(&db, &wish("running"), NOW).await;
    take(&db, "w", NOW).await.unwrap();
    for n in 1..=3 {
        put(&db, &NewJob { priority: 2, ..wish("low") }, NOW + n).await;
    }
    put(&db, &NewJob { priority: 9, ..wish("later") }, NOW + 100).await;
    let standing = db.standing(NOW + 10).await.unwrap();
    assert_eq!((standing.queued, standing.running, standing.dead), (vec![(2, 3, NOW + 1)], 1, 0));
    let listed = db.jobs(&Filter { state: Some(State::Queued), limit: 2, ..Filter::default() }).await.unwrap();
    let next =
        Filter { state: Some(State::Queued), before: Some(listed[1].id.clone()), limit: 10, ..Filter::default() };
    assert_eq!((listed.len(), db.jobs(&next).await.unwrap().len()), (2, 2), "pages do not overlap");
}

/// Many processes start at once on an empty database; a database that another program wrote is refused.
fn migrations_are_applied_once(place: &Place) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let starts = (0..4).map(|_| {
            let place = place.clone();
            tokio::spawn(async move { Db::open(&at(place)).await.unwrap().migrate().await.unwrap() })
        });
        let mut applied = Vec::new();
        for start in starts.collect::<Vec<_>>() {
            applied.push(start.await.unwrap());
        }
        applied.sort_unstable();
        let db = Db::open(&at(place.clone())).await.unwrap();
        let schema = db.schema().await.unwrap();
        assert_eq!(schema.have, schema.known);
        assert_eq!(applied, [0, 0, 0, schema.known]);
        assert_eq!(db.migrate().await.unwrap(), 0);
        db.ping().await.unwrap();
        db.close().await;
    });
}

#[test]
fn migrations_are_applied_once_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    // Several times: the first to open a new file changes it to WAL, which once made the others fail.
    for round in 0..8 {
        migrations_are_applied_once(&Place::Sqlite(directory.path().join(format!("{round}.db"))));
    }
    let file = directory.path().join("0.db");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "its owner's only");
}

#[test]
fn migrations_are_applied_once_on_postgresql() {
    let server = Postgres::start();
    migrations_are_applied_once(&Place::Postgres(server.database("fresh")));
    // Another program's schema, and one of tomorrow.
    for (name, script, kind) in [
        ("newer", "insert into schema_script values (99, '0099_tomorrow', 'x', 0)", Kind::Usage),
        ("edited", "update schema_script set sha256 = 'x' where number = 1", Kind::Internal),
    ] {
        let url = server.database(name);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(async {
            ready(Place::Postgres(url.clone())).await.close().await;
            let psql = std::process::Command::new("psql").args(["-q", "-c", script, &url]).status().unwrap();
            assert!(psql.success());
            Db::open(&at(Place::Postgres(url.clone()))).await.unwrap().migrate().await.unwrap_err()
        });
        assert_eq!(error.kind(), kind, "{error:?}");
    }
}

#[test]
fn a_server_that_does_not_answer_is_named_without_its_password() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let open = |url: &str| runtime.block_on(Db::open(&at(Place::Postgres(url.into())))).unwrap_err();
    let error = open("postgres://me:hush-hush@127.0.0.1:1/none");
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.chain().contains("127.0.0.1:1") && !format!("{error:?}").contains("hush"), "{error:?}");
    let error = open("postgres://me:hush-hush@[::");
    assert!(error.kind() == Kind::Usage && !format!("{error:?}").contains("hush"), "{error:?}");
}

fn shown(id: &str, digit: u8) -> Track {
    Track {
        id: id.parse().unwrap(),
        title: "Ça & là".into(),
        version: VersionId::from_digest(&[digit; 32]),
        samples: 441_000,
        rate: 44_100,
        flac: true,
        lossless: false,
        video: false,
    }
}

async fn a_track_has_one_row_that_keeps_what_is_its_own(db: Db) {
    let (one, two) = (shown("trk_one", 1), shown("trk_one", 2));
    assert_eq!(db.track(one.id).await.unwrap(), None);
    db.track_shows(&one, Backend::Local, Some(1_000), 5).await.unwrap();
    db.track_shows(&two, Backend::S3, None, 9).await.unwrap();
    let row = db.track(one.id).await.unwrap().unwrap();
    assert_eq!((row.version, row.backend, row.bytes), (Some(two.version), Backend::S3, None));
    assert_eq!(row.storage_key.as_deref(), Some(&*format!("v/trk_one/{}/", two.version)));
    assert_eq!((row.state, row.visibility, row.owner), (tracks::State::Published, Visibility::Public, None));
    assert_eq!((row.created_us, row.updated_us, row.published_us, row.moved_us), (5, 9, Some(5), None));
    assert_eq!(
        (row.title.as_str(), row.samples, row.rate, row.flac, row.lossless),
        ("Ça & là", Some(441_000), Some(44_100), true, false)
    );
    let ids = [one.id, "trk_none".parse().unwrap()];
    assert_eq!(db.tracks_updated_us(&ids).await.unwrap(), [Some(9), None]);
    // By the bytes of their ids, in pages, each store for itself.
    for id in ["trk_B", "trk_a", "trk_b", "trk_-", "trk_other"] {
        let backend = if id == "trk_other" { Backend::S3 } else { Backend::Local };
        db.track_shows(&shown(id, 1), backend, None, 5).await.unwrap();
    }
    let (mut found, mut after) = (vec![], None::<String>);
    loop {
        let page = db.tracks_in(Backend::Local, after.as_deref(), 3).await.unwrap();
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        found.extend(page.into_iter().map(|(id, row)| (id, row.unwrap().backend)));
    }
    assert_eq!(found, ["trk_-", "trk_B", "trk_a", "trk_b"].map(|id| (id.to_owned(), Backend::Local)));
    assert_eq!(db.count_tracks_in(Backend::S3).await.unwrap(), 2);
}

async fn a_track_changes_its_store_only_with_the_version_that_was_copied(db: Db) {
    let (old, new) = (shown("trk_one", 1), shown("trk_one", 2));
    let with = async |artwork, version, from, to| {
        let mut tx = db.begin().await.unwrap();
        let moved = moves(&mut tx, (old.id, version, artwork), (from, to), 7).await.unwrap();
        tx.commit().await.unwrap();
        moved
    };
    let moves = async |version, from, to| with(None, version, from, to).await;
    db.track_shows(&old, Backend::Local, None, 5).await.unwrap();
    assert!(!moves(new.version, Backend::Local, Backend::S3).await, "it shows another version");
    assert!(!moves(old.version, Backend::S3, Backend::Local).await, "it is not there");
    assert!(moves(old.version, Backend::Local, Backend::S3).await);
    assert!(!moves(old.version, Backend::Local, Backend::S3).await, "somebody was faster");
    db.set_artwork(old.id, Some("seen"), 6).await.unwrap();
    assert!(!moves(old.version, Backend::S3, Backend::S3).await, "it got pictures that were not copied");
    assert!(!with(Some("other"), old.version, Backend::S3, Backend::S3).await, "it got others");
    assert!(with(Some("seen"), old.version, Backend::S3, Backend::S3).await);
    let row = db.track(old.id).await.unwrap().unwrap();
    assert_eq!((row.backend, row.moved_us, row.updated_us), (Backend::S3, Some(7), 7));
    // Published anew in the directory: it is there again.
    db.track_shows(&new, Backend::Local, None, 8).await.unwrap();
    assert_eq!(db.track(old.id).await.unwrap().unwrap().backend, Backend::Local);
}
