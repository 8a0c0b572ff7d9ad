//! What both databases have to do for accounts, in the same words.

use segue::api::limiter::Limiter;
use segue::auth::email::Email;
use segue::auth::opaque::OpaqueToken;
use segue::auth::principal::{Role, Scopes};
use segue::auth::throttle::{Limit, Shape};
use segue::auth::{SessionId, UserId};
use segue::base::clock::Clock;
use segue::db::Db;
use segue::db::api_keys::{KEYS_MAX, Key};
use segue::db::outbox::{Posted, TRIES_MAX};
use segue::db::sessions::{NewSession, ProviderLogin, Recognised, Rotated};
use segue::db::users::{Purpose, Registration, User, Verified};
use segue::jobs::backoff::Backoff;

use crate::databases::{self, Case, cases};

const CASES: &[Case] = cases![
    whoever_follows_the_link_has_the_account,
    a_link_opens_once_and_in_its_time,
    an_address_is_one_account_in_any_case,
    a_refresh_token_opens_once_and_its_reuse_ends_the_session,
    one_of_many_refreshes_at_once_wins,
    a_session_ends_for_its_owner_alone_and_at_once,
    another_password_ends_every_session_but_one,
    a_second_factor_is_confirmed_once_and_its_codes_open_once,
    half_logins_bear_five_tries,
    a_rate_bears_its_burst_and_fills_again,
    a_quota_is_a_number_in_a_window,
    nodes_take_a_large_quota_by_the_score_and_never_more_than_it,
    a_brake_grows_and_forgets,
    many_at_once_never_take_more_than_there_is,
    keys_open_until_they_are_revoked_or_end,
    mails_are_taken_by_one_and_tried_until_dead,
    a_provider_names_the_same_person_again,
    what_expired_is_swept,
];

#[test]
fn accounts_keep_their_word_on_sqlite() {
    databases::on_sqlite(CASES);
}

#[test]
fn accounts_keep_their_word_on_postgresql() {
    databases::on_postgresql(CASES);
}

#[test]
fn accounts_keep_their_word_behind_pgbouncer() {
    databases::behind_pgbouncer(CASES);
}

const NOW: i64 = 1_700_000_000_000_000;
const SECOND: i64 = 1_000_000;
const YEAR: i64 = 365 * 86_400 * SECOND;
const HOUR: i64 = 3_600 * SECOND;

fn email(text: &str) -> Email {
    Email::decode(text).unwrap()
}

fn somebody(address: &str, password: &str) -> Registration {
    Registration { id: UserId::new(NOW), email: email(address), name: None, password: password.into() }
}

/// Registers and follows the link.
async fn member(db: &Db, address: &str) -> User {
    let new = somebody(address, "hash");
    assert!(db.create_user(&new, Role::Listener, NOW).await.unwrap());
    db.user(&new.id).await.unwrap().unwrap()
}

async fn linked(db: &Db, new: &Registration) -> OpaqueToken {
    db.register(new, NOW + 24 * HOUR, NOW).await.unwrap();
    let token = OpaqueToken::random();
    let of = (new.id.as_str(), None);
    db.put_token(&token.hash(), Purpose::Verify, of, NOW + 24 * HOUR, NOW).await.unwrap();
    token
}

async fn session(db: &Db, user: &UserId, refresh: &OpaqueToken) -> SessionId {
    let new = NewSession {
        user,
        via: "password",
        second_factor: false,
        client: Some("test"),
        place: "192.0.2.1",
        refresh: &refresh.hash(),
        refresh_expires_us: NOW + HOUR,
        expires_us: NOW + 24 * HOUR,
    };
    db.start_session(&new, NOW).await.unwrap()
}

async fn goes_on(db: &Db, session: &SessionId) -> bool {
    db.session_standing(session, NOW + SECOND).await.unwrap().is_some()
}

async fn whoever_follows_the_link_has_the_account(db: Db) {
    // Somebody registers with a stranger's address; then its owner does.
    let (thief, owner) = (somebody("a@b.example", "the thief's"), somebody("A@b.example", "the owner's"));
    let _never_followed = linked(&db, &thief).await;
    let token = linked(&db, &owner).await;
    let credential = db.credential(&email("a@b.example")).await.unwrap().unwrap();
    assert!(!credential.verified, "nobody has proven anything");
    let Verified::Made(user) = db.verify_registration(&token.hash(), Role::Creator, NOW).await.unwrap() else {
        panic!()
    };
    assert_eq!((user.id, user.role, user.email.as_deref()), (owner.id.clone(), Role::Creator, Some("A@b.example")));
    let credential = db.credential(&email("a@b.example")).await.unwrap().unwrap();
    assert!(credential.verified && credential.id == owner.id);
    assert_eq!(credential.password.as_deref(), Some("the owner's"));
    // Whatever was registered before opens nothing any more; what is registered later is a stranger's.
    assert_eq!(db.verify_registration(&_never_followed.hash(), Role::Creator, NOW).await.unwrap(), Verified::Unknown);
    let late = linked(&db, &somebody("a@b.example", "late")).await;
    assert_eq!(db.verify_registration(&late.hash(), Role::Creator, NOW).await.unwrap(), Verified::Taken);
    assert_eq!(db.password_of(&owner.id).await.unwrap().as_deref(), Some("the owner's"));
}

async fn a_link_opens_once_and_in_its_time(db: Db) {
    let token = linked(&db, &somebody("a@b.example", "x")).await;
    let verify = async |at| db.verify_registration(&token.hash(), Role::Listener, at).await.unwrap();
    assert_eq!(verify(NOW + 24 * HOUR).await, Verified::Unknown, "a day later");
    assert!(matches!(verify(NOW + 24 * HOUR - 1).await, Verified::Made(_)));
    assert_eq!(verify(NOW + 1).await, Verified::Unknown, "twice");
    // A token for one thing opens no other.
    let user = member(&db, "c@d.example").await;
    let reset = OpaqueToken::random();
    db.put_token(&reset.hash(), Purpose::Reset, (user.id.as_str(), None), NOW + HOUR, NOW).await.unwrap();
    assert_eq!(db.verify_registration(&reset.hash(), Role::Listener, NOW).await.unwrap(), Verified::Unknown);
    assert!(db.try_half_login(&reset.hash(), NOW).await.unwrap().is_none());
    assert_eq!(db.reset_subject(&reset.hash(), NOW).await.unwrap().map(|user| user.id), Some(user.id.clone()));
    assert_eq!(db.reset_password(&reset.hash(), "new", NOW + HOUR).await.unwrap(), None, "an hour later");
    assert_eq!(db.reset_password(&reset.hash(), "new", NOW).await.unwrap(), Some(user.id.clone()));
    assert_eq!(db.reset_password(&reset.hash(), "newer", NOW).await.unwrap(), None, "twice");
    assert_eq!(db.password_of(&user.id).await.unwrap().as_deref(), Some("new"));
}

async fn an_address_is_one_account_in_any_case(db: Db) {
    member(&db, "Maria@Example.org").await;
    assert!(!db.create_user(&somebody("maria@example.ORG", "x"), Role::Admin, NOW).await.unwrap());
    let found = db.user_by_email(&email("MARIA@example.org")).await.unwrap().unwrap();
    assert_eq!((found.email.as_deref(), found.role), (Some("Maria@Example.org"), Role::Listener));
}

async fn a_refresh_token_opens_once_and_its_reuse_ends_the_session(db: Db) {
    let user = member(&db, "a@b.example").await;
    let (first, second, third) = (OpaqueToken::random(), OpaqueToken::random(), OpaqueToken::random());
    let id = session(&db, &user.id, &first).await;
    let rotate = async |old: &OpaqueToken, new: &OpaqueToken, at: i64| {
        db.rotate((&old.hash(), &new.hash()), HOUR, at).await.unwrap()
    };
    let Rotated::New { session, user: whose, .. } = rotate(&first, &second, NOW).await else { panic!() };
    assert_eq!((session, whose), (id.clone(), user.id.clone()));
    assert!(goes_on(&db, &id).await);
    assert_eq!(rotate(&OpaqueToken::random(), &third, NOW).await, Rotated::Unknown, "nobody's token ends nothing");
    assert!(goes_on(&db, &id).await);
    assert_eq!(rotate(&first, &third, NOW).await, Rotated::Reused(id.clone()));
    assert!(!goes_on(&db, &id).await, "nobody knows which of the two is the thief");
    assert_eq!(rotate(&second, &third, NOW).await, Rotated::Unknown, "the family has ended");
    // One that nobody used in time is no alarm.
    let old = OpaqueToken::random();
    let id = self::session(&db, &user.id, &old).await;
    assert_eq!(rotate(&old, &third, NOW + HOUR).await, Rotated::Unknown);
    assert!(goes_on(&db, &id).await);
}

async fn one_of_many_refreshes_at_once_wins(db: Db) {
    let user = member(&db, "a@b.example").await;
    let token = OpaqueToken::random();
    let id = session(&db, &user.id, &token).await;
    let mut tries = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (db, token) = (db.clone(), token.clone());
        tries.spawn(async move { db.rotate((&token.hash(), &OpaqueToken::random().hash()), HOUR, NOW).await.unwrap() });
    }
    let all = tries.join_all().await;
    let won = all.iter().filter(|rotated| matches!(rotated, Rotated::New { .. })).count();
    let reused = all.iter().filter(|rotated| matches!(rotated, Rotated::Reused(_))).count();
    assert_eq!((won, reused), (1, 1), "one has the next token, one is told, the others come too late: {all:?}");
    assert!(!goes_on(&db, &id).await);
}

async fn a_session_ends_for_its_owner_alone_and_at_once(db: Db) {
    let (user, other) = (member(&db, "a@b.example").await, member(&db, "c@d.example").await);
    let refresh = OpaqueToken::random();
    let id = session(&db, &user.id, &refresh).await;
    let standing = db.session_standing(&id, NOW).await.unwrap().unwrap();
    assert_eq!((standing.user, standing.role, standing.second_factor), (user.id.clone(), Role::Listener, false));
    assert!(db.session_standing(&id, NOW + 24 * HOUR).await.unwrap().is_none(), "its time is over");
    assert!(db.is_at_home(&user.id, "192.0.2.1", NOW).await.unwrap());
    assert!(!db.is_at_home(&other.id, "192.0.2.1", NOW).await.unwrap());
    assert!(!db.end_session(&other.id, &id, "owner", NOW).await.unwrap());
    assert!(goes_on(&db, &id).await);
    assert!(db.end_session(&user.id, &id, "owner", NOW).await.unwrap());
    assert!(!goes_on(&db, &id).await && !db.end_session(&user.id, &id, "owner", NOW).await.unwrap());
    assert_eq!(db.rotate((&refresh.hash(), &OpaqueToken::random().hash()), HOUR, NOW).await.unwrap(), Rotated::Unknown);
    assert!(!db.is_at_home(&user.id, "192.0.2.1", NOW).await.unwrap());
    // What they may do is what they may do now.
    let id = session(&db, &user.id, &OpaqueToken::random()).await;
    db.become_creator(&user.id, NOW).await.unwrap();
    assert_eq!(db.session_standing(&id, NOW).await.unwrap().unwrap().role, Role::Creator);
    assert!(db.grant(&user.id, Role::Admin, NOW).await.unwrap());
    assert!(!goes_on(&db, &id).await, "a grant is used in another session");
    db.become_creator(&user.id, NOW).await.unwrap();
    assert_eq!(db.user(&user.id).await.unwrap().unwrap().role, Role::Admin, "nobody becomes less by it");
}

async fn another_password_ends_every_session_but_one(db: Db) {
    let user = member(&db, "a@b.example").await;
    let (here, there) =
        (session(&db, &user.id, &OpaqueToken::random()).await, session(&db, &user.id, &OpaqueToken::random()).await);
    let ticket = OpaqueToken::random();
    let of = (user.id.as_str(), Some("password"));
    db.put_token(&ticket.hash(), Purpose::SecondFactor, of, NOW + HOUR, NOW).await.unwrap();
    db.set_password(&user.id, "new", Some(&here), NOW).await.unwrap();
    assert!(goes_on(&db, &here).await && !goes_on(&db, &there).await);
    assert!(db.try_half_login(&ticket.hash(), NOW).await.unwrap().is_none(), "half a login with the old password");
    let listed = db.sessions(&user.id, None, 10, NOW).await.unwrap();
    assert_eq!(listed.iter().map(|session| &session.id).collect::<Vec<_>>(), [&here]);
    let reset = OpaqueToken::random();
    db.put_token(&reset.hash(), Purpose::Reset, (user.id.as_str(), None), NOW + HOUR, NOW).await.unwrap();
    db.reset_password(&reset.hash(), "newer", NOW).await.unwrap().unwrap();
    assert!(!goes_on(&db, &here).await, "whoever resets is nowhere logged in");
}

async fn a_second_factor_is_confirmed_once_and_its_codes_open_once(db: Db) {
    let user = member(&db, "a@b.example").await;
    let here = session(&db, &user.id, &OpaqueToken::random()).await;
    let there = session(&db, &user.id, &OpaqueToken::random()).await;
    assert!(db.begin_factor(&user.id, "sealed one", NOW).await.unwrap());
    assert!(db.begin_factor(&user.id, "sealed two", NOW).await.unwrap(), "nothing was confirmed");
    assert!(!db.credential(&email("a@b.example")).await.unwrap().unwrap().second_factor, "nor is anything asked for");
    let codes = ["r1".to_owned(), "r2".to_owned()];
    let confirm = async |sealed, step| db.confirm_factor(&user.id, (sealed, step), &codes, &here, NOW).await.unwrap();
    assert!(!confirm("sealed one", 7).await, "it was replaced");
    assert!(confirm("sealed two", 7).await && !confirm("sealed two", 8).await);
    assert!(goes_on(&db, &here).await && !goes_on(&db, &there).await);
    assert!(db.session_standing(&here, NOW).await.unwrap().unwrap().second_factor);
    assert!(!db.begin_factor(&user.id, "sealed three", NOW).await.unwrap(), "a thief cannot replace it");
    assert!(db.credential(&email("a@b.example")).await.unwrap().unwrap().second_factor);
    let used = async |step| db.use_step(&user.id, step, NOW).await.unwrap();
    assert!(!used(7).await, "the code that confirmed it");
    assert!(used(8).await && !used(8).await && !used(7).await && used(9).await);
    let recovered = async |code| db.use_recovery_code(&user.id, code).await.unwrap();
    assert!(recovered("r1").await && !recovered("r1").await && !recovered("r3").await);
    assert_eq!(db.recovery_codes_left(&user.id).await.unwrap(), 1);
    // Of many at once that show one code, one is let in.
    let mut tries = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let (db, id) = (db.clone(), user.id.clone());
        tries.spawn(async move { db.use_step(&id, 20, NOW).await.unwrap() });
    }
    assert_eq!(tries.join_all().await.into_iter().filter(|used| *used).count(), 1);
    assert!(db.remove_factor(&user.id, NOW).await.unwrap() && !db.remove_factor(&user.id, NOW).await.unwrap());
    assert!(!goes_on(&db, &here).await);
    assert_eq!(db.recovery_codes_left(&user.id).await.unwrap(), 0);
}

async fn half_logins_bear_five_tries(db: Db) {
    let user = member(&db, "a@b.example").await;
    let ticket = OpaqueToken::random();
    let of = (user.id.as_str(), Some("example"));
    db.put_token(&ticket.hash(), Purpose::SecondFactor, of, NOW + HOUR, NOW).await.unwrap();
    for _ in 0..5 {
        let (whose, via) = db.try_half_login(&ticket.hash(), NOW).await.unwrap().unwrap();
        assert_eq!((whose, via.as_str()), (user.id.clone(), "example"));
    }
    assert!(db.try_half_login(&ticket.hash(), NOW).await.unwrap().is_none());
    assert!(
        db.end_half_login(&ticket.hash(), NOW).await.unwrap() && !db.end_half_login(&ticket.hash(), NOW).await.unwrap()
    );
}

async fn a_rate_bears_its_burst_and_fills_again(db: Db) {
    // 60 a minute are one a second.
    let limit = Limit { name: "test", whom: "a".into(), shape: Shape::Rate { per_minute: 60, burst: 5 } };
    let take = async |wanted, at| db.take(&limit, wanted, at).await.unwrap();
    let first = take(3, NOW).await;
    assert_eq!((first.granted, first.left), (3, 2));
    assert_eq!(take(4, NOW).await.granted, 2, "as many as there are");
    let none = take(1, NOW).await;
    assert_eq!((none.granted, none.left, none.wait_us), (0, 0, SECOND));
    assert_eq!(take(1, NOW + SECOND - 1).await.granted, 0);
    assert_eq!(take(9, NOW + SECOND).await.granted, 1);
    assert_eq!(take(9, NOW + 60 * SECOND).await.granted, 5, "never more than its burst");
    // Somebody's clock was a year ahead, and is not any more: nobody waits for a year.
    assert_eq!(take(9, NOW + YEAR).await.granted, 5);
    assert_eq!(take(1, NOW).await.wait_us, SECOND);
    assert_eq!(take(1, NOW + SECOND).await.granted, 1);
    let other = Limit { whom: "b".into(), ..limit.clone() };
    assert_eq!(db.take(&other, 9, NOW).await.unwrap().granted, 5, "each has its own");
    db.forgive(&limit).await.unwrap();
    assert_eq!(take(1, NOW).await.granted, 1);
}

async fn a_quota_is_a_number_in_a_window(db: Db) {
    let limit = Limit { name: "test", whom: "a".into(), shape: Shape::Quota { most: 3, window_s: 60 } };
    let take = async |wanted, at| db.take(&limit, wanted, at).await.unwrap();
    let first = take(2, NOW).await;
    assert_eq!((first.granted, first.left, first.wait_us), (2, 1, 60 * SECOND));
    assert_eq!(take(2, NOW + SECOND).await.granted, 1);
    let none = take(1, NOW + 59 * SECOND).await;
    assert_eq!((none.granted, none.left, none.wait_us), (0, 0, SECOND));
    assert_eq!(take(9, NOW + 60 * SECOND).await.granted, 3, "a new window begins with its first use");
    assert_eq!(take(1, NOW + 119 * SECOND).await.granted, 0);
    assert_eq!(take(9, NOW + YEAR).await.granted, 3);
    let after = take(1, NOW).await;
    assert_eq!((after.granted, after.wait_us), (0, 60 * SECOND), "a clock that was wrong for a while");
    assert_eq!(take(1, NOW + 60 * SECOND).await.granted, 1);
}

async fn nodes_take_a_large_quota_by_the_score_and_never_more_than_it(db: Db) {
    let clock = Clock::sim(1_700_000_000);
    let (limit, nodes) = (Limit::key_reads("key_1"), [(); 2].map(|()| Limiter::new(db.clone(), clock.clone())));
    let (mut granted, mut last) = (0, 1_000);
    for turn in 0..1_100 {
        let taken = nodes[turn % 2].take(&limit).await.unwrap();
        granted += taken.granted;
        if turn == 4 {
            clock.advance(600); // what was taken of an hour lasts as long as it
        }
        if turn == 0 {
            last = db.take(&limit, 1, NOW).await.unwrap().left;
            granted += 1;
        }
    }
    assert_eq!((granted, last), (1_000, 979), "one node took twenty, and all of them were spent");
}

async fn a_brake_grows_and_forgets(db: Db) {
    let shape = Shape::Brake { free: 3, first_s: 1, most_s: 5, forget_s: 100 };
    let limit = Limit { name: "test", whom: "a".into(), shape };
    let take = async |at| db.take(&limit, 1, at).await.unwrap();
    let mut at = NOW;
    for left in [2, 1, 0] {
        let taken = take(at).await;
        assert_eq!((taken.granted, taken.left), (1, left));
    }
    for wait_s in [1, 2, 4, 5, 5] {
        // A try that comes too early is refused, says when, and makes nothing worse.
        for early_us in [0, wait_s * SECOND - 1] {
            let refused = take(at + early_us).await;
            assert_eq!((refused.granted, refused.wait_us), (0, wait_s * SECOND - early_us), "{wait_s} s");
        }
        at += wait_s * SECOND;
        assert_eq!(take(at).await.granted, 1, "after {wait_s} s");
    }
    assert_eq!(take(at + 100 * SECOND).await.left, 2, "nobody is locked out for good");
    for _ in 0..3 {
        take(NOW + YEAR).await;
    }
    let refused = take(NOW + YEAR).await;
    assert_eq!((refused.granted, refused.wait_us), (0, SECOND));
    let after = take(NOW).await;
    assert_eq!((after.granted, after.wait_us), (0, SECOND), "a clock that was wrong for a while");
    assert_eq!(take(NOW + SECOND).await.granted, 1);
}

async fn many_at_once_never_take_more_than_there_is(db: Db) {
    for shape in [Shape::Rate { per_minute: 60, burst: 50 }, Shape::Quota { most: 50, window_s: 60 }] {
        let limit = Limit { name: "test", whom: format!("{shape:?}"), shape };
        let mut takes = tokio::task::JoinSet::new();
        for _ in 0..30 {
            let (db, limit) = (db.clone(), limit.clone());
            takes.spawn(async move { db.take(&limit, 3, NOW).await.unwrap().granted });
        }
        assert_eq!(takes.join_all().await.iter().sum::<i64>(), 50, "{shape:?}");
    }
}

async fn keys_open_until_they_are_revoked_or_end(db: Db) {
    let (user, other) = (member(&db, "a@b.example").await, member(&db, "c@d.example").await);
    let scopes = Scopes { read: true, write: false, admin: false };
    let key = |id: &str, expires_us| Key {
        id: id.into(),
        name: "player".into(),
        scopes,
        created_us: NOW,
        expires_us,
        used_us: None,
    };
    assert!(db.create_key(&user.id, &key("key_1", None), "hash", NOW).await.unwrap());
    assert!(db.create_key(&user.id, &key("key_2", Some(NOW + HOUR)), "hash", NOW).await.unwrap());
    let held = db.held_key("key_1", NOW).await.unwrap().unwrap();
    assert_eq!((held.user, held.scopes, held.used_us), (user.id.clone(), scopes, None));
    db.note_key("key_1", NOW + 5).await.unwrap();
    let listed = db.keys(&user.id, None, 10).await.unwrap();
    assert_eq!((listed.len(), listed[0].used_us), (2, Some(NOW + 5)));
    assert_eq!(db.keys(&user.id, Some("key_1"), 10).await.unwrap().len(), 1);
    assert!(db.held_key("key_2", NOW + HOUR).await.unwrap().is_none(), "it ended");
    assert!(!db.revoke_key(&other.id, "key_1", NOW).await.unwrap(), "somebody else's");
    assert!(db.revoke_key(&user.id, "key_1", NOW).await.unwrap() && db.held_key("key_1", NOW).await.unwrap().is_none());
    let mut makes = tokio::task::JoinSet::new();
    for n in 0..KEYS_MAX + 5 {
        let (db, id, key) = (db.clone(), user.id.clone(), key(&format!("key_n{n}"), None));
        makes.spawn(async move { db.create_key(&id, &key, "hash", NOW).await.unwrap() });
    }
    let made = makes.join_all().await.into_iter().filter(|made| *made).count() as i64;
    assert_eq!(made, KEYS_MAX - 1, "one was there");
}

async fn mails_are_taken_by_one_and_tried_until_dead(db: Db) {
    const BACKOFF: Backoff =
        Backoff { first: std::time::Duration::from_secs(1), most: std::time::Duration::from_secs(1) };
    for n in 0..3 {
        db.put_mail("reset", &format!("{n}@b.example"), "{}", NOW + n).await.unwrap();
    }
    let taken = db.take_mails(2, NOW + SECOND, NOW + 60 * SECOND).await.unwrap();
    assert_eq!(taken.iter().map(|mail| mail.email.as_str()).collect::<Vec<_>>(), ["0@b.example", "1@b.example"]);
    assert_eq!(db.take_mails(9, NOW + SECOND, NOW + 60 * SECOND).await.unwrap().len(), 1, "the others are taken");
    db.settle_mail(&taken[0], &Posted::Sent, BACKOFF, NOW + SECOND).await.unwrap();
    db.settle_mail(&taken[1], &Posted::Never("no such address".into()), BACKOFF, NOW + SECOND).await.unwrap();
    // The third was taken by somebody who died: another has it when its time is over, and the dead one's word is late.
    let mut at = NOW + 60 * SECOND;
    let stale = db.take_mails(9, at, at + 1).await.unwrap().remove(0);
    at += 2;
    let mut last = db.take_mails(9, at, at + 60 * SECOND).await.unwrap().remove(0);
    db.settle_mail(&stale, &Posted::Sent, BACKOFF, at).await.unwrap();
    assert_eq!(db.mails_waiting().await.unwrap(), 1);
    while last.number < TRIES_MAX {
        db.settle_mail(&last, &Posted::Later("busy".into()), BACKOFF, at).await.unwrap();
        at += 60 * SECOND;
        last = db.take_mails(9, at, at + 1).await.unwrap().remove(0);
    }
    db.settle_mail(&last, &Posted::Later("busy".into()), BACKOFF, at).await.unwrap();
    assert_eq!(db.mails_waiting().await.unwrap(), 0, "dead");
    assert!(db.take_mails(9, at + 24 * HOUR, at + 25 * HOUR).await.unwrap().is_empty());
}

async fn a_provider_names_the_same_person_again(db: Db) {
    let here = email("a@b.example");
    let by = async |subject: &str, email: Option<&Email>| {
        db.recognise(("example", subject), email, Some("Maria"), Role::Listener, NOW).await.unwrap()
    };
    assert_eq!(by("s1", None).await, Recognised::Nobody, "it vouches for no address");
    // Whoever waits with a password for an address that a provider vouches for has lost.
    let waiting = linked(&db, &somebody("a@b.example", "the thief's")).await;
    let Recognised::Made(user) = by("s1", Some(&here)).await else { panic!() };
    assert!(!user.has_password && user.name.as_deref() == Some("Maria"));
    assert_eq!(db.verify_registration(&waiting.hash(), Role::Listener, NOW).await.unwrap(), Verified::Unknown);
    let Recognised::Known(again) = by("s1", None).await else { panic!("by its own name") };
    assert_eq!(again.id, user.id);
    let member = member(&db, "c@d.example").await;
    let Recognised::Linked(linked) = by("s2", Some(&email("C@D.example"))).await else { panic!() };
    assert_eq!(linked.id, member.id);
    assert_eq!(db.identities(&member.id).await.unwrap(), ["example"]);
    let state = OpaqueToken::random().hash();
    let login = ProviderLogin {
        provider: "example".into(),
        browser: "b".into(),
        verifier: "v".into(),
        nonce: "n".into(),
        return_to: "/".into(),
    };
    db.put_provider_login(&state, &login, NOW + SECOND).await.unwrap();
    assert_eq!(db.take_provider_login(&state, NOW + SECOND).await.unwrap(), None, "too late");
    assert_eq!(db.take_provider_login(&state, NOW).await.unwrap(), Some(login));
    assert_eq!(db.take_provider_login(&state, NOW).await.unwrap(), None, "twice");
}

async fn what_expired_is_swept(db: Db) {
    let user = member(&db, "a@b.example").await;
    linked(&db, &somebody("c@d.example", "x")).await;
    let id = session(&db, &user.id, &OpaqueToken::random()).await;
    db.take(&Limit::login_from("192.0.2.1"), 1, NOW).await.unwrap();
    assert_eq!(db.sweep_accounts(NOW, NOW).await.unwrap() + db.sweep_limits(NOW).await.unwrap(), 0);
    assert!(goes_on(&db, &id).await);
    let later = NOW + 25 * HOUR;
    assert_eq!(db.sweep_accounts(later, later).await.unwrap(), 3, "a registration, its token, a session");
    assert_eq!(db.sweep_limits(later).await.unwrap(), 1);
    assert!(db.user(&user.id).await.unwrap().is_some());
}
