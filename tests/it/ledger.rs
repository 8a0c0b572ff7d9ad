//! The ledger on SQLite, on PostgreSQL and behind PgBouncer: the same words, the same outcomes. What code must not do
//! is tried past the code, with SQL; what nobody can prevent has to be found.

use std::collections::BTreeMap;
use std::future::Future;

use segue::base::Kind;
use segue::base::clock::Clock;
use segue::db::ledger::{AsOf, Poster, balance, close_period, journal, open_account, post, walls};
use segue::db::{Db, Place};
use segue::ledger::{
    Account, AccountCode, AccountKind, Amount, Balance, Currency, Draft, Guard, Journal, JournalId, Phase, Posted,
    Posting, Side,
};

use crate::databases::{self, Case, cases};
use crate::postgres::{Postgres, ready};
use crate::support::{Random, run};

const CASES: &[Case] = cases![around whole:
    what_is_posted_is_there_and_the_same_again_is_no_news,
    every_refusal_says_why_and_leaves_nothing,
    reservations_are_resolved_once,
    what_is_reversed_is_reversed_once,
    a_journal_comes_and_goes_with_its_transaction,
    balances_as_of_any_time_are_the_sums_of_what_was_so,
    nothing_is_posted_into_a_closed_period,
    an_account_never_changes,
    many_at_once_take_no_more_than_there_is,
    a_trial_balance_balances_while_others_post,
    whoever_posts_in_groups_gets_their_own_answer,
    random_journals_come_out_as_an_auditor_predicts,
];

/// A case between the opening of its accounts and the proof that everything still adds up.
async fn whole(db: Db, case: impl Future<Output = ()>) {
    accounts(&db).await;
    case.await;
    let report = db.verify_ledger().await.unwrap();
    assert_eq!((report.wrong, report.differences), (0, vec![]));
}

#[test]
fn the_ledger_keeps_its_word_on_sqlite() {
    databases::on_sqlite(CASES);
}

#[test]
fn the_ledger_keeps_its_word_on_postgresql() {
    databases::on_postgresql(CASES);
}

#[test]
fn the_ledger_keeps_its_word_behind_pgbouncer() {
    databases::behind_pgbouncer(CASES);
}

const NOW: i64 = 1_700_000_000_000_000;
const HOUR: i64 = 3_600_000_000;

/// The accounts of every case: (code, kind, currency, guard).
const ACCOUNTS: [(&str, AccountKind, &str, Guard); 7] = [
    ("psp", AccountKind::Asset, "USD", Guard::None),
    ("seller:1", AccountKind::Liability, "USD", Guard::CreditsCover),
    ("seller:2", AccountKind::Liability, "USD", Guard::CreditsCover),
    ("fees", AccountKind::Income, "USD", Guard::None),
    ("float", AccountKind::Asset, "USD", Guard::DebitsCover),
    ("psp:j", AccountKind::Asset, "JPY", Guard::None),
    ("seller:j", AccountKind::Liability, "JPY", Guard::CreditsCover),
];

fn account((code, kind, currency, guard): (&str, AccountKind, &str, Guard)) -> Account {
    Account { code: code.parse().unwrap(), kind, currency: Currency::decode(currency).unwrap(), guard }
}

async fn accounts(db: &Db) {
    let mut tx = db.begin().await.unwrap();
    for wanted in ACCOUNTS {
        open_account(&mut tx, &account(wanted), NOW).await.unwrap();
    }
    tx.commit().await.unwrap();
}

fn code(text: &str) -> AccountCode {
    text.parse().unwrap()
}

fn id(text: &str) -> JournalId {
    text.parse().unwrap()
}

fn usd(minor: i64) -> Amount {
    Amount::new(minor, Currency::decode("USD").unwrap()).unwrap()
}

/// A draft whose source is its id's.
fn draft(name: &str) -> Draft {
    Draft::new(id(name), "test", &format!("event:{name}"), NOW)
}

/// `minor` from the left account to the right one.
fn moved(name: &str, debit: &str, credit: &str, minor: i64) -> Journal {
    draft(name).debit(&code(debit), usd(minor)).credit(&code(credit), usd(minor)).balance().unwrap()
}

async fn put(db: &Db, journal: &Journal) -> Posted {
    db.post_journals(&[journal], NOW).await.unwrap().pop().unwrap()
}

async fn created(db: &Db, journal: &Journal) {
    assert!(matches!(put(db, journal).await, Posted::Created(_)), "{journal:?}");
}

async fn has(db: &Db, account: &str) -> (i64, i64) {
    db.balance_as_of(&code(account), AsOf::Now).await.unwrap().unwrap()
}

async fn what_is_posted_is_there_and_the_same_again_is_no_news(db: Db) {
    let sale = draft("sale").debit(&code("psp"), usd(1000)).credit(&code("seller:1"), usd(900));
    let sale = sale.credit(&code("fees"), usd(100)).balance().unwrap();
    let Posted::Created(place) = put(&db, &sale).await else { panic!() };
    assert_eq!((place.seq, place.recorded_us), (1, NOW));
    let mut tx = db.begin_read().await.unwrap();
    assert_eq!(journal(&mut tx, sale.id()).await.unwrap(), Some((sale.clone(), place)));
    assert_eq!(journal(&mut tx, &id("none")).await.unwrap(), None);
    drop(tx);
    assert_eq!(db.post_journals(&[&sale], NOW + 5).await.unwrap(), [Posted::Exists(place)]);
    let other = moved("sale", "psp", "fees", 1);
    assert_eq!(put(&db, &other).await, Posted::IdTaken);
    let again = Draft::new(id("sale2"), "test", "event:sale", NOW).debit(&code("psp"), usd(1));
    let again = again.credit(&code("fees"), usd(1)).balance().unwrap();
    assert_eq!(put(&db, &again).await, Posted::SourceTaken(id("sale")));
    assert_eq!((has(&db, "psp").await, has(&db, "seller:1").await), ((1000, 0), (0, 900)));
    // One that is late in a group of its own kind, and a clock that went back.
    let late = moved("late", "psp", "fees", 1);
    let group = db.post_journals(&[&late, &late, &other], NOW - 50).await.unwrap();
    let Posted::Created(place) = group[0] else { panic!() };
    assert_eq!((place.seq, place.recorded_us), (2, NOW), "never before the one in front");
    assert_eq!(group[1..], [Posted::Exists(place), Posted::IdTaken]);
    let lines = db.trial_balance(AsOf::Now).await.unwrap();
    let sums = lines.iter().map(|line| (line.account.code.as_str(), line.debits, line.credits));
    assert_eq!(sums.collect::<Vec<_>>(), [("fees", 0, 101), ("psp", 1001, 0), ("seller:1", 0, 900)]);
}

async fn every_refusal_says_why_and_leaves_nothing(db: Db) {
    created(&db, &moved("in", "psp", "seller:1", 100)).await;
    let yen = Amount::new(5, Currency::decode("JPY").unwrap()).unwrap();
    let crossed = draft("c").debit(&code("psp:j"), yen).credit(&code("fees"), yen).balance().unwrap();
    assert_eq!(put(&db, &crossed).await, Posted::WrongCurrency(code("fees")));
    assert_eq!(put(&db, &moved("u", "psp", "nobody", 1)).await, Posted::UnknownAccount(code("nobody")));
    assert_eq!(put(&db, &moved("o", "seller:1", "psp", 101)).await, Posted::Overdraft(code("seller:1")));
    assert_eq!(put(&db, &moved("f", "psp", "float", 1)).await, Posted::Overdraft(code("float")));
    let ghost = moved("ghost", "psp", "fees", 1);
    assert_eq!(put(&db, &ghost.reversal(id("r"), "event:r", NOW)).await, Posted::NotReversible);
    assert_eq!(put(&db, &ghost.post(id("p"), "event:p", NOW)).await, Posted::NotPending);
    let whole = db.verify_ledger().await.unwrap();
    assert_eq!((whole.journals, whole.postings), (1, 2));
    // Refused ones leave their names free.
    created(&db, &moved("o", "seller:1", "psp", 100)).await;
}

async fn reservations_are_resolved_once(db: Db) {
    created(&db, &moved("in", "psp", "seller:1", 100)).await;
    let reserve = |name: &str, minor| {
        draft(name).pending().debit(&code("seller:1"), usd(minor)).credit(&code("psp"), usd(minor)).balance().unwrap()
    };
    let (first, second) = (reserve("r1", 60), reserve("r2", 40));
    created(&db, &first).await;
    created(&db, &second).await;
    assert_eq!(put(&db, &reserve("r3", 1)).await, Posted::Overdraft(code("seller:1")), "reserved is not available");
    assert_eq!(has(&db, "seller:1").await, (0, 100), "and not gone");
    assert_eq!(put(&db, &first.reversal(id("x"), "event:x", NOW)).await, Posted::NotReversible);
    let half = reserve("h", 30).post(id("half"), "event:half", NOW);
    let half = Draft::of(
        segue::ledger::Header { resolves: Some(id("r1")), ..half.header().clone() },
        half.postings().to_vec(),
    );
    assert_eq!(put(&db, &half.balance().unwrap()).await, Posted::ResolutionDiffers);
    let posted = first.post(id("p1"), "event:p1", NOW);
    created(&db, &posted).await;
    assert_eq!(put(&db, &first.void(id("v1"), "event:v1", NOW)).await, Posted::AlreadyResolved);
    created(&db, &second.void(id("v2"), "event:v2", NOW)).await;
    assert_eq!(put(&db, &second.post(id("p2"), "event:p2", NOW)).await, Posted::AlreadyResolved);
    let mut tx = db.begin_read().await.unwrap();
    let left = balance(&mut tx, &code("seller:1")).await.unwrap().unwrap();
    drop(tx);
    assert_eq!(left, Balance { debits: 60, credits: 100, ..Balance::default() });
    // What was posted can be taken back; what was voided moved nothing.
    created(&db, &posted.reversal(id("b1"), "event:b1", NOW)).await;
    let void = second.void(id("v2"), "event:v2", NOW);
    assert_eq!(put(&db, &void.reversal(id("b2"), "event:b2", NOW)).await, Posted::NotReversible);
    assert_eq!(has(&db, "seller:1").await, (60, 160));
}

async fn what_is_reversed_is_reversed_once(db: Db) {
    let sale = moved("sale", "psp", "fees", 10);
    created(&db, &sale).await;
    let wrong = moved("w", "fees", "psp", 11);
    let wrong = Draft::of(
        segue::ledger::Header { reverses: Some(id("sale")), ..wrong.header().clone() },
        wrong.postings().to_vec(),
    );
    assert_eq!(put(&db, &wrong.balance().unwrap()).await, Posted::ReversalDiffers);
    let back = sale.reversal(id("back"), "event:back", NOW);
    // In one group: the second sees the first.
    let twice = sale.reversal(id("back2"), "event:back2", NOW);
    let group = db.post_journals(&[&back, &twice], NOW).await.unwrap();
    assert!(matches!(group[0], Posted::Created(_)));
    assert_eq!(group[1], Posted::AlreadyReversed);
    assert_eq!(put(&db, &twice).await, Posted::AlreadyReversed, "and later");
    created(&db, &back.reversal(id("forth"), "event:forth", NOW)).await;
    assert_eq!(has(&db, "fees").await, (10, 20));
}

async fn a_journal_comes_and_goes_with_its_transaction(db: Db) {
    let mut tx = db.begin().await.unwrap();
    assert!(matches!(post(&mut tx, &moved("a", "psp", "fees", 1), NOW).await.unwrap(), Posted::Created(_)));
    drop(tx);
    assert_eq!(has(&db, "psp").await, (0, 0));
    let mut tx = db.begin().await.unwrap();
    for name in ["a", "b"] {
        let posted = post(&mut tx, &moved(name, "psp", "fees", 1), NOW).await.unwrap();
        assert!(matches!(posted, Posted::Created(_)), "{posted:?}");
    }
    tx.commit().await.unwrap();
    assert_eq!(has(&db, "psp").await, (2, 0));
}

/// A posting to `psp`: (recorded, effective, debited, minor).
type One = (i64, i64, bool, i64);

async fn balances_as_of_any_time_are_the_sums_of_what_was_so(db: Db) {
    let mut random = Random(11);
    // Some count long before they are recorded, some after.
    let mut all: Vec<One> = Vec::new();
    for n in 0..700 {
        let recorded = NOW + n * 60_000_000;
        let effective = recorded + (random.below(100) as i64 - 50) * HOUR / 7;
        let (minor, debited) = (1 + random.below(1000) as i64, random.below(2) == 0);
        let (left, right) = if debited { ("psp", "fees") } else { ("fees", "psp") };
        let journal = Draft::new(id(&format!("n{n}")), "test", &format!("event:{n}"), effective);
        let journal = journal.debit(&code(left), usd(minor)).credit(&code(right), usd(minor)).balance().unwrap();
        assert!(matches!(db.post_journals(&[&journal], recorded).await.unwrap()[0], Posted::Created(_)));
        all.push((recorded, effective, debited, minor));
    }
    let sum = |keep: &dyn Fn(&One) -> bool| {
        let kept = all.iter().filter(|one| keep(one));
        kept.fold((0, 0), |(debits, credits), (_, _, debited, minor)| match debited {
            true => (debits + minor, credits),
            false => (debits, credits + minor),
        })
    };
    let ends = [i64::MIN / 2, -1, 0, NOW - 1, NOW, i64::MAX / 2];
    let between = (0..60).map(|_| NOW - 8 * HOUR + random.below(28 * HOUR as usize) as i64);
    let exact: Vec<i64> = (0..30).flat_map(|n| [all[n * 20].0, all[n * 20].1, all[n * 20].1 - 1]).collect();
    for at in ends.into_iter().chain(between).chain(exact) {
        let of = async |as_of| db.balance_as_of(&code("psp"), as_of).await.unwrap().unwrap();
        assert_eq!(of(AsOf::Recorded(at)).await, sum(&|one| one.0 <= at), "known at {at}");
        assert_eq!(of(AsOf::Effective(at)).await, sum(&|one| one.1 <= at), "so at {at}");
    }
    assert_eq!(has(&db, "psp").await, sum(&|_| true));
    let then = db.trial_balance(AsOf::Effective(NOW + 5 * HOUR)).await.unwrap();
    assert_eq!(then.iter().map(|line| line.debits - line.credits).sum::<i64>(), 0, "{then:?}");
    assert_eq!(db.balance_as_of(&code("nobody"), AsOf::Now).await.unwrap(), None);
}

async fn nothing_is_posted_into_a_closed_period(db: Db) {
    created(&db, &moved("a", "psp", "fees", 1)).await;
    let close = async |through: i64| {
        let mut tx = db.begin().await.unwrap();
        let closed = close_period(&mut tx, through, NOW).await;
        tx.commit().await.unwrap();
        closed
    };
    close(NOW).await.unwrap();
    assert_eq!(close(NOW).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(close(NOW - 1).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(put(&db, &moved("b", "psp", "fees", 1)).await, Posted::PeriodClosed(NOW));
    assert!(matches!(put(&db, &moved("a", "psp", "fees", 1)).await, Posted::Exists(_)), "a repeat is still no news");
    let after =
        Draft::new(id("b"), "test", "event:b", NOW + 1).debit(&code("psp"), usd(1)).credit(&code("fees"), usd(1));
    created(&db, &after.balance().unwrap()).await;
}

async fn an_account_never_changes(db: Db) {
    let mut tx = db.begin().await.unwrap();
    open_account(&mut tx, &account(ACCOUNTS[0]), NOW + 9).await.unwrap();
    let other = Account { guard: Guard::DebitsCover, ..account(ACCOUNTS[0]) };
    assert_eq!(open_account(&mut tx, &other, NOW).await.unwrap_err().kind(), Kind::Invalid);
}

async fn many_at_once_take_no_more_than_there_is(db: Db) {
    created(&db, &moved("in", "psp", "seller:1", 950)).await;
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let db = db.clone();
            tokio::spawn(async move { put(&db, &moved(&format!("out{n}"), "seller:1", "psp", 900)).await })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        match task.await.unwrap() {
            Posted::Created(_) => made += 1,
            other => assert_eq!(other, Posted::Overdraft(code("seller:1"))),
        }
    }
    assert_eq!(made, 1);
    // The same journal from many at once is one.
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let db = db.clone();
            tokio::spawn(async move { put(&db, &moved("same", "psp", "fees", 1)).await })
        })
        .collect();
    let mut places = vec![];
    for task in tasks {
        places.push(task.await.unwrap().place().unwrap());
    }
    assert!(places.iter().all(|place| *place == places[0]), "{places:?}");
}

async fn a_trial_balance_balances_while_others_post(db: Db) {
    created(&db, &moved("in", "psp", "seller:1", 1_000_000)).await;
    let posting = {
        let db = db.clone();
        tokio::spawn(async move {
            for n in 0..150 {
                let (from, to) = [("psp", "fees"), ("seller:1", "psp"), ("psp", "seller:1")][n % 3];
                created(&db, &moved(&format!("m{n}"), from, to, 1 + n as i64)).await;
            }
        })
    };
    let mut looks = 0;
    while looks < 3 || !posting.is_finished() {
        let lines = db.trial_balance(AsOf::Now).await.unwrap();
        let off: i64 = lines.iter().map(|line| line.debits - line.credits).sum();
        assert_eq!(off, 0, "{lines:?}");
        looks += 1;
    }
    posting.await.unwrap();
}

async fn whoever_posts_in_groups_gets_their_own_answer(db: Db) {
    created(&db, &moved("in", "psp", "seller:1", 100)).await;
    let (poster, ended) = Poster::start(db.clone(), Clock::sim(NOW as u64 / 1_000_000));
    let tasks: Vec<_> = (0..300)
        .map(|n| {
            let poster = poster.clone();
            // Each third takes what only a hundred of them can have.
            let journal = match n % 3 {
                0 => moved(&format!("out{n}"), "seller:1", "psp", 2),
                _ => moved(&format!("in{n}"), "psp", "fees", 1 + n),
            };
            tokio::spawn(async move { (journal.clone(), poster.post(journal).await.unwrap()) })
        })
        .collect();
    let (mut seqs, mut refused) = (vec![], 0);
    for task in tasks {
        match task.await.unwrap() {
            (journal, Posted::Created(place)) => {
                let mut tx = db.begin_read().await.unwrap();
                let (stored, at) = segue::db::ledger::journal(&mut tx, journal.id()).await.unwrap().unwrap();
                assert_eq!((stored, at), (journal, place));
                seqs.push(place.seq);
            }
            (journal, other) => {
                assert_eq!(other, Posted::Overdraft(code("seller:1")), "{journal:?}");
                refused += 1;
            }
        }
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (2..=251).collect::<Vec<_>>());
    assert_eq!(refused, 50);
    drop(poster);
    ended.await.unwrap();
}

/// Predicts what comes of a journal from nothing but the list of those before it. Written to be plain, not fast, and
/// without a look at `ledger::View`.
#[derive(Default)]
struct Auditor {
    accepted: Vec<Journal>,
    closed: Option<i64>,
}

impl Auditor {
    fn predict(&self, journal: &Journal) -> Posted {
        let header = journal.header();
        let place = |at: usize| segue::ledger::Place { seq: at as i64 + 1, recorded_us: NOW };
        let find = |wanted: &JournalId| self.accepted.iter().find(|known| known.id() == wanted);
        if let Some(at) = self.accepted.iter().position(|known| known.id() == journal.id()) {
            return if self.accepted[at] == *journal { Posted::Exists(place(at)) } else { Posted::IdTaken };
        }
        let same_source =
            |known: &&Journal| (&known.header().kind, &known.header().source) == (&header.kind, &header.source);
        if let Some(known) = self.accepted.iter().find(same_source) {
            return Posted::SourceTaken(known.id().clone());
        }
        let known = |of: &AccountCode| ACCOUNTS.iter().find(|(code, ..)| *code == of.as_str());
        for posting in journal.postings() {
            if known(&posting.account).is_none() {
                return Posted::UnknownAccount(posting.account.clone());
            }
        }
        for posting in journal.postings() {
            if known(&posting.account).unwrap().2 != posting.amount.currency().code() {
                return Posted::WrongCurrency(posting.account.clone());
            }
        }
        if let Some(closed) = self.closed.filter(|closed| header.effective_us <= *closed) {
            return Posted::PeriodClosed(closed);
        }
        let flipped = |posting: &Posting| Posting { side: posting.side.other(), ..posting.clone() };
        if let Some(target) = &header.reverses {
            match find(target) {
                Some(known) if !matches!(known.header().phase, Phase::Pending | Phase::Void) => {
                    if self.accepted.iter().any(|other| other.header().reverses.as_ref() == Some(target)) {
                        return Posted::AlreadyReversed;
                    }
                    if known.postings().iter().map(flipped).collect::<Vec<_>>() != journal.postings() {
                        return Posted::ReversalDiffers;
                    }
                }
                _ => return Posted::NotReversible,
            }
        }
        if let Some(target) = &header.resolves {
            match find(target) {
                Some(known) if known.header().phase == Phase::Pending => {
                    if self.accepted.iter().any(|other| other.header().resolves.as_ref() == Some(target)) {
                        return Posted::AlreadyResolved;
                    }
                    if known.postings() != journal.postings() {
                        return Posted::ResolutionDiffers;
                    }
                }
                _ => return Posted::NotPending,
            }
        }
        for posting in journal.postings() {
            let [mut debits, mut credits, mut reserved_debits, mut reserved_credits] = [0i64; 4];
            for other in self.accepted.iter().chain([journal]) {
                let resolved =
                    self.accepted.iter().chain([journal]).any(|by| by.header().resolves.as_ref() == Some(other.id()));
                for line in other.postings().iter().filter(|line| line.account == posting.account) {
                    let minor = line.amount.minor();
                    match (other.header().phase, line.side) {
                        (Phase::Posted | Phase::Post, Side::Debit) => debits += minor,
                        (Phase::Posted | Phase::Post, Side::Credit) => credits += minor,
                        (Phase::Pending, Side::Debit) if !resolved => reserved_debits += minor,
                        (Phase::Pending, Side::Credit) if !resolved => reserved_credits += minor,
                        _ => {}
                    }
                }
            }
            let broken = match known(&posting.account).unwrap().3 {
                Guard::None => false,
                Guard::CreditsCover => debits + reserved_debits > credits,
                Guard::DebitsCover => credits + reserved_credits > debits,
            };
            if broken {
                return Posted::Overdraft(posting.account.clone());
            }
        }
        Posted::Created(place(self.accepted.len()))
    }
}

/// A journal that may be anything: few names, few accounts and small amounts, so that everything meets.
fn any_journal(random: &mut Random, accepted: &[Journal]) -> Option<Journal> {
    let name = format!("j{}", random.below(60));
    let source = format!("event:{}", random.below(80));
    let effective = NOW + random.below(100) as i64;
    if !accepted.is_empty() && random.below(3) == 0 {
        let target = &accepted[random.below(accepted.len())];
        return Some(match random.below(4) {
            0 => target.reversal(id(&name), &source, effective),
            1 => target.post(id(&name), &source, effective),
            2 => target.void(id(&name), &source, effective),
            _ => target.clone(),
        });
    }
    let mut draft = Draft::new(id(&name), ["sale", "refund"][random.below(2)], &source, effective);
    if random.below(3) == 0 {
        draft = draft.pending();
    }
    let accounts = ["psp", "seller:1", "seller:2", "fees", "float", "psp:j", "seller:j", "nobody"];
    let currency = if random.below(5) == 0 { "JPY" } else { "USD" };
    let of = |minor: usize| Amount::new(minor as i64, Currency::decode(currency).unwrap()).unwrap();
    let minor = 2 + random.below(20);
    let mut any = || code(accounts[if currency == "JPY" { 4 + random.below(4) } else { random.below(6) }]);
    let (left, right, third) = (any(), any(), any());
    let draft = match random.below(3) {
        0 => draft.debit(&left, of(minor)).credit(&right, of(minor - 1)).credit(&third, of(1)),
        _ => draft.debit(&left, of(minor)).credit(&right, of(minor)),
    };
    draft.balance().ok() // the same account twice
}

async fn random_journals_come_out_as_an_auditor_predicts(db: Db) {
    let seed = std::env::var("LEDGER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let journals = std::env::var("LEDGER_JOURNALS").ok().and_then(|n| n.parse().ok()).unwrap_or(600);
    let mut random = Random(seed);
    let mut auditor = Auditor::default();
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for number in 0..journals {
        if number == journals * 3 / 4 {
            let mut tx = db.begin().await.unwrap();
            close_period(&mut tx, NOW + 30, NOW).await.unwrap();
            tx.commit().await.unwrap();
            auditor.closed = Some(NOW + 30);
        }
        // In groups of one to four.
        let group: Vec<Journal> =
            (0..1 + random.below(4)).filter_map(|_| any_journal(&mut random, &auditor.accepted)).collect();
        let outcomes = db.post_journals(&group.iter().collect::<Vec<_>>(), NOW).await.unwrap();
        for (journal, outcome) in group.into_iter().zip(outcomes) {
            let expected = auditor.predict(&journal);
            assert_eq!(outcome, expected, "LEDGER_SEED={seed}, journal {number}: {journal:?}");
            let kind = format!("{outcome:?}");
            *seen.entry(kind.split(['(', ' ']).next().unwrap().to_owned()).or_default() += 1;
            if matches!(outcome, Posted::Created(_)) {
                auditor.accepted.push(journal);
            }
        }
    }
    // A run that meets nothing proves nothing.
    let kinds = ["Created", "Exists", "IdTaken", "SourceTaken", "UnknownAccount", "WrongCurrency", "PeriodClosed"];
    let more = ["NotReversible", "AlreadyReversed", "NotPending", "AlreadyResolved", "Overdraft"];
    for kind in kinds.iter().chain(&more) {
        assert!(seen.contains_key(*kind), "LEDGER_SEED={seed} never met {kind}: {seen:?}");
    }
}

/// What the schema itself has to refuse, each tried with SQL of its own in one transaction, on a ledger with the sealed
/// journals `in` (100 from `psp` to `seller:1`) and `held` (60 of them reserved).
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "a journal without a seal",
        &["insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 1, 1800000000000000, null, null)"],
    ),
    (
        "an unbalanced one",
        &[
            "insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 1, 1800000000000000, null, null)",
            "insert into ledger_posting values ('x', 1, 1, 'USD', 5, 0, 3, 1, 1)",
            "insert into ledger_posting values ('x', 2, 4, 'USD', 0, 4, 3, 1, 1)",
            "insert into ledger_seal select 'x', 3, hash, replace(hash, '1', '2') from ledger_head",
        ],
    ),
    (
        "one leg",
        &[
            "insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 1, 1800000000000000, null, null)",
            "insert into ledger_posting values ('x', 1, 1, 'USD', 5, 0, 3, 1, 1)",
            "insert into ledger_seal select 'x', 3, hash, replace(hash, '1', '2') from ledger_head",
        ],
    ),
    (
        "balanced across currencies",
        &[
            "insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 1, 1800000000000000, null, null)",
            "insert into ledger_posting values ('x', 1, 1, 'USD', 5, 0, 3, 1, 1)",
            "insert into ledger_posting values ('x', 2, 7, 'JPY', 0, 5, 3, 1, 1)",
            "insert into ledger_seal select 'x', 3, hash, replace(hash, '1', '2') from ledger_head",
        ],
    ),
    (
        "another currency than the account's",
        &[
            "insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 1, 1800000000000000, null, null)",
            "insert into ledger_posting values ('x', 1, 1, 'JPY', 5, 0, 3, 1, 1)",
        ],
    ),
    (
        "both sides",
        &[
            "insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 1, 1800000000000000, null, null)",
            "insert into ledger_posting values ('x', 1, 1, 'USD', 5, 5, 3, 1, 1)",
        ],
    ),
    (
        "a negative amount",
        &[
            "insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 1, 1800000000000000, null, null)",
            "insert into ledger_posting values ('x', 1, 1, 'USD', -5, 0, 3, 1, 1)",
        ],
    ),
    (
        "a gap in the chain",
        &[
            "insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 1, 1800000000000000, null, null)",
            "insert into ledger_posting values ('x', 1, 1, 'USD', 5, 0, 4, 1, 1)",
            "insert into ledger_posting values ('x', 2, 4, 'USD', 0, 5, 4, 1, 1)",
            "insert into ledger_seal select 'x', 4, hash, replace(hash, '1', '2') from ledger_head",
        ],
    ),
    (
        "a seal that follows another",
        &[
            "insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 1, 1800000000000000, null, null)",
            "insert into ledger_posting values ('x', 1, 1, 'USD', 5, 0, 3, 1, 1)",
            "insert into ledger_posting values ('x', 2, 4, 'USD', 0, 5, 3, 1, 1)",
            "insert into ledger_seal select 'x', 3, replace(hash, '1', '2'), replace(hash, '1', '3') from ledger_head",
        ],
    ),
    (
        "an overdraft",
        &[
            "insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 1, 1800000000000000, null, null)",
            "insert into ledger_posting values ('x', 1, 2, 'USD', 41, 0, 3, 1, 1)",
            "insert into ledger_posting values ('x', 2, 1, 'USD', 0, 41, 3, 1, 1)",
            "insert into ledger_seal select 'x', 3, hash, replace(hash, '1', '2') from ledger_head",
        ],
    ),
    (
        "an overdraft that the next of the same statement mends",
        &[
            "insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 1, 1800000000000000, null, null), ('y', 'k', 't', 'posted', 'f', 1, 1800000000000000, null, null)",
            "insert into ledger_posting values ('x', 1, 2, 'USD', 41, 0, 3, 1, 1), ('x', 2, 1, 'USD', 0, 41, 3, 1, 1), ('y', 1, 1, 'USD', 41, 0, 4, 1, 1), ('y', 2, 2, 'USD', 0, 41, 4, 1, 1)",
            "insert into ledger_seal select 'x', 3, hash, replace(hash, '1', '2') from ledger_head union all select 'y', 4, replace(hash, '1', '2'), replace(hash, '1', '3') from ledger_head",
        ],
    ),
    (
        "a second of one statement that follows another",
        &[
            "insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 1, 1800000000000000, null, null), ('y', 'k', 't', 'posted', 'f', 1, 1800000000000000, null, null)",
            "insert into ledger_posting values ('x', 1, 1, 'USD', 5, 0, 3, 1, 1), ('x', 2, 4, 'USD', 0, 5, 3, 1, 1), ('y', 1, 1, 'USD', 5, 0, 4, 1, 1), ('y', 2, 4, 'USD', 0, 5, 4, 1, 1)",
            "insert into ledger_seal select 'x', 3, hash, replace(hash, '1', '2') from ledger_head union all select 'y', 4, hash, replace(hash, '1', '3') from ledger_head",
        ],
    ),
    (
        "a second of one statement that is unbalanced",
        &[
            "insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 1, 1800000000000000, null, null), ('y', 'k', 't', 'posted', 'f', 1, 1800000000000000, null, null)",
            "insert into ledger_posting values ('x', 1, 1, 'USD', 5, 0, 3, 1, 1), ('x', 2, 4, 'USD', 0, 5, 3, 1, 1), ('y', 1, 1, 'USD', 5, 0, 4, 1, 1), ('y', 2, 4, 'USD', 0, 4, 4, 1, 1)",
            "insert into ledger_seal select 'x', 3, hash, replace(hash, '1', '2') from ledger_head union all select 'y', 4, replace(hash, '1', '2'), replace(hash, '1', '3') from ledger_head",
        ],
    ),
    (
        "a reversal of what comes behind it in one statement",
        &[
            "insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 1, 1800000000000000, 'y', null), ('y', 'k', 't', 'posted', 'f', 1, 1800000000000000, null, null)",
            "insert into ledger_posting values ('x', 1, 4, 'USD', 5, 0, 3, 1, 1), ('x', 2, 1, 'USD', 0, 5, 3, 1, 1), ('y', 1, 1, 'USD', 5, 0, 4, 1, 1), ('y', 2, 4, 'USD', 0, 5, 4, 1, 1)",
            "insert into ledger_seal select 'x', 3, hash, replace(hash, '1', '2') from ledger_head union all select 'y', 4, replace(hash, '1', '2'), replace(hash, '1', '3') from ledger_head",
        ],
    ),
    (
        "a second of one statement that was recorded before the first",
        &[
            "insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 1, 1800000000000001, null, null), ('y', 'k', 't', 'posted', 'f', 1, 1800000000000000, null, null)",
            "insert into ledger_posting values ('x', 1, 1, 'USD', 5, 0, 3, 1, 1), ('x', 2, 4, 'USD', 0, 5, 3, 1, 1), ('y', 1, 1, 'USD', 5, 0, 4, 1, 1), ('y', 2, 4, 'USD', 0, 5, 4, 1, 1)",
            "insert into ledger_seal select 'x', 3, hash, replace(hash, '1', '2') from ledger_head union all select 'y', 4, replace(hash, '1', '2'), replace(hash, '1', '3') from ledger_head",
        ],
    ),
    (
        "a posting that counts in another hour",
        &[
            "insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 1, 1800000000000000, null, null)",
            "insert into ledger_posting values ('x', 1, 1, 'USD', 5, 0, 3, 2, 1)",
            "insert into ledger_posting values ('x', 2, 4, 'USD', 0, 5, 3, 1, 1)",
            "insert into ledger_seal select 'x', 3, hash, replace(hash, '1', '2') from ledger_head",
        ],
    ),
    (
        "a resolution of something else",
        &[
            "insert into ledger_journal values ('x', 'k', 's', 'post', 'f', 1, 1800000000000000, null, 'held')",
            "insert into ledger_posting values ('x', 1, 2, 'USD', 5, 0, 3, 1, 1)",
            "insert into ledger_posting values ('x', 2, 1, 'USD', 0, 5, 3, 1, 1)",
            "insert into ledger_seal select 'x', 3, hash, replace(hash, '1', '2') from ledger_head",
        ],
    ),
    (
        "a reversal of a reservation",
        &["insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 1, 1800000000000000, 'held', null)"],
    ),
    (
        "a resolution of what is posted",
        &["insert into ledger_journal values ('x', 'k', 's', 'void', 'f', 1, 1800000000000000, null, 'in')"],
    ),
    ("recorded in the past", &["insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 1, 5, null, null)"]),
    ("a posting to a sealed journal", &["insert into ledger_posting values ('in', 3, 4, 'USD', 5, 0, 1, 1, 1)"]),
    (
        "the id of another",
        &["insert into ledger_journal values ('in', 'k', 's', 'posted', 'f', 1, 1800000000000000, null, null)"],
    ),
    ("a changed posting", &["update ledger_posting set debit = debit + 1 where debit > 0"]),
    ("a changed journal", &["update ledger_journal set kind = 'other'"]),
    ("a changed seal", &["update ledger_seal set hash = prev_hash"]),
    ("a changed account", &["update ledger_account set guard = 'none'"]),
    ("a changed exponent", &["update ledger_currency set exponent = 0"]),
    ("a posting that is gone", &["delete from ledger_posting"]),
    ("a journal that is gone", &["delete from ledger_journal"]),
    ("a seal that is gone", &["delete from ledger_seal"]),
    ("a head that is gone", &["delete from ledger_head"]),
    ("a balance that is gone", &["delete from ledger_balance"]),
    ("a balance below what is reserved", &["update ledger_balance set credits = 59 where account_id = 2"]),
    (
        "an unknown kind of account",
        &["insert into ledger_account (code, kind, currency, guard, opened_us) values ('y', 'z', 'USD', 'none', 1)"],
    ),
    (
        "a period that ends before another",
        &[
            "insert into ledger_period select 10, 1, seq, hash from ledger_head",
            "insert into ledger_period select 9, 1, seq, hash from ledger_head",
        ],
    ),
    (
        "a period that is not over",
        &["insert into ledger_period select 9999999999999999, 1, seq, hash from ledger_head"],
    ),
    (
        "a journal in a closed period",
        &[
            "insert into ledger_period select 10, 1, seq, hash from ledger_head",
            "insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 10, 1800000000000000, null, null)",
        ],
    ),
];

/// What only SQLite knows.
const FORBIDDEN_ON_SQLITE: &[(&str, &[&str])] = &[
    (
        "a replaced journal",
        &[
            "insert or replace into ledger_journal select id, 'other', source, phase, fingerprint, effective_us, 1800000000000000, reverses, resolves from ledger_journal where id = 'in'",
        ],
    ),
    (
        "a replaced posting",
        &[
            "insert or replace into ledger_posting select journal_id, line, account_id, currency, debit + 1, credit, seq, effective_us, posted from ledger_posting where journal_id = 'in' and line = 1",
        ],
    ),
    (
        "a replaced seal",
        &[
            "insert or replace into ledger_seal select journal_id, seq, prev_hash, prev_hash from ledger_seal where seq = 1",
        ],
    ),
    (
        "a replaced balance",
        &["insert or replace into ledger_balance (account_id, guard, debits) values (1, 'none', 7)"],
    ),
    (
        "a text for a number",
        &[
            "insert into ledger_account (code, kind, currency, guard, opened_us) values ('y', 'asset', 'USD', 'none', 'soon')",
        ],
    ),
];

const FORBIDDEN_ON_POSTGRESQL: &[(&str, &[&str])] = &[
    ("emptied postings", &["truncate ledger_posting"]),
    ("emptied journals", &["truncate ledger_journal cascade"]),
    ("emptied balances", &["truncate ledger_balance"]),
    // A session's own tables, which a function finds first that does not say where it looks.
    (
        "one leg, and the other in a table of the session's",
        &[
            "create temp table ledger_posting (like public.ledger_posting) on commit drop",
            "insert into public.ledger_journal values ('x', 'k', 's', 'posted', 'f', 1, 1800000000000000, null, null)",
            "insert into public.ledger_posting values ('x', 1, 1, 'USD', 5, 0, 3, 1, 1)",
            "insert into pg_temp.ledger_posting values ('x', 1, 1, 'USD', 5, 0, 3, 1, 1), ('x', 2, 4, 'USD', 0, 5, 3, 1, 1)",
            "grant select on pg_temp.ledger_posting to public",
            "insert into public.ledger_seal select 'x', 3, hash, replace(hash, '1', '2') from public.ledger_head",
        ],
    ),
    (
        "an overdraft, and a guard in a table of the session's",
        &[
            "create temp table ledger_balance (like public.ledger_balance) on commit drop",
            "insert into pg_temp.ledger_balance select * from public.ledger_balance",
            "update pg_temp.ledger_balance set guard = 'none'",
            "grant select, update on pg_temp.ledger_balance to public",
            "insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 1, 1800000000000000, null, null)",
            "insert into ledger_posting values ('x', 1, 2, 'USD', 41, 0, 3, 1, 1)",
            "insert into ledger_posting values ('x', 2, 1, 'USD', 0, 41, 3, 1, 1)",
            "insert into ledger_seal select 'x', 3, hash, replace(hash, '1', '2') from ledger_head",
        ],
    ),
    (
        "a chain of the session's",
        &[
            "create temp table ledger_head (like public.ledger_head) on commit drop",
            "insert into pg_temp.ledger_head (one, seq, hash, recorded_us) values (1, 7, repeat('a', 64), 1)",
            "grant select, update on pg_temp.ledger_head to public",
            "insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 1, 1800000000000000, null, null)",
            "insert into ledger_posting values ('x', 1, 1, 'USD', 5, 0, 8, 1, 1), ('x', 2, 4, 'USD', 0, 5, 8, 1, 1)",
            "insert into ledger_seal values ('x', 8, repeat('a', 64), repeat('b', 64))",
        ],
    ),
    (
        "a journal in a closed period that the session's own table calls open",
        &[
            "insert into ledger_period select 10, 1, seq, hash from ledger_head",
            "create temp table ledger_period (like public.ledger_period) on commit drop",
            "grant select on pg_temp.ledger_period to public",
            "insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 10, 1800000000000000, null, null)",
        ],
    ),
];

async fn prepare(db: &Db) {
    accounts(db).await;
    created(db, &moved("in", "psp", "seller:1", 100)).await;
    let held = draft("held").pending().debit(&code("seller:1"), usd(60)).credit(&code("psp"), usd(60));
    created(db, &held.balance().unwrap()).await;
}

/// Tries each on `pool`; every one has to fail at some statement or at its commit, and to leave the ledger as it was.
macro_rules! try_forbidden {
    ($pool:expr, $db:expr, $lists:expr) => {{
        let before = $db.verify_ledger().await.unwrap();
        assert_eq!(before.wrong, 0, "{before:?}");
        for (what, statements) in $lists.iter().flat_map(|list: &&[(&str, &[&str])]| list.iter()) {
            let mut tx = $pool.begin().await.unwrap();
            let mut refused = None;
            for statement in *statements {
                if let Err(error) = sqlx::raw_sql(*statement).execute(&mut *tx).await {
                    refused = Some(error.to_string());
                    break;
                }
            }
            let refused = match refused {
                Some(refused) => refused,
                None => tx.commit().await.expect_err(what).to_string(),
            };
            eprintln!("{what}: {refused}");
            // For the reason that is meant, and not because the test is wrong.
            let meant = [
                "ledger",
                "FOREIGN KEY",
                "foreign key",
                "UNIQUE",
                "unique",
                "CHECK",
                "cannot store",
                "check constraint",
            ];
            assert!(meant.iter().any(|word| refused.contains(word)), "{what}: {refused}");
            assert!(!refused.contains("syntax") && !refused.contains("no such"), "{what}: {refused}");
            assert_eq!($db.verify_ledger().await.unwrap(), before, "{what}");
        }
    }};
}

fn on_runtime(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

/// As our connections are, and as any tool opens the file: without foreign keys and recursive triggers.
#[test]
fn sqlite_itself_refuses_what_no_ledger_may_hold() {
    use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
    on_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("segue.db");
        let db = ready(Place::Sqlite(file.clone())).await;
        prepare(&db).await;
        let options = SqliteConnectOptions::new().filename(&file).foreign_keys(true).pragma("recursive_triggers", "on");
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
        try_forbidden!(pool, db, [FORBIDDEN, FORBIDDEN_ON_SQLITE]);
        let careless = SqliteConnectOptions::new().filename(&file).foreign_keys(false);
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(careless).await.unwrap();
        // Left out: what only foreign keys refuse (an unsealed journal, a wrong currency), and what is derived.
        let rest: Vec<_> = FORBIDDEN
            .iter()
            .filter(|(what, _)| !["a journal without a seal", "another currency than the account's"].contains(what))
            .copied()
            .collect();
        let replaced: Vec<_> =
            FORBIDDEN_ON_SQLITE.iter().filter(|(what, _)| *what != "a replaced balance").copied().collect();
        try_forbidden!(pool, db, [&rest[..], &replaced[..]]);
    });
}

#[test]
fn postgresql_itself_refuses_what_no_ledger_may_hold() {
    on_runtime(async {
        let server = Postgres::start();
        let url = server.database("ledger");
        let db = ready(Place::Postgres(url.clone())).await;
        prepare(&db).await;
        let pool = sqlx::PgPool::connect(&url).await.unwrap();
        try_forbidden!(pool, db, [FORBIDDEN, FORBIDDEN_ON_POSTGRESQL]);
        // Who looked before the period was closed, and goes on seeing what there was then, does not get past it.
        let mut late = pool.begin().await.unwrap();
        sqlx::raw_sql("set transaction isolation level repeatable read; select count(*) from ledger_period")
            .execute(&mut *late)
            .await
            .unwrap();
        db.close_ledger(NOW, NOW).await.unwrap();
        let journal =
            "insert into ledger_journal values ('x', 'k', 's', 'posted', 'f', 1, 1800000000000000, null, null)";
        let refused = sqlx::raw_sql(journal).execute(&mut *late).await.unwrap_err().to_string();
        assert!(refused.contains("could not serialize"), "{refused}");
        // Every function says where it looks, and that a session's own tables come last.
        let sql =
            "select count(*), coalesce(bool_and(proconfig[1] ~ '^search_path=pg_catalog, .*public.*, pg_temp$'), false)
                   from pg_proc where proname ~ '^(ledger|audit)_' and pronamespace = 'public'::regnamespace";
        let (functions, last): (i64, bool) = sqlx::query_as(sql).fetch_one(&pool).await.unwrap();
        assert!(functions >= 8 && last, "{functions} functions");
    });
}

/// A role that may only read and insert can post, and change nothing.
#[test]
fn a_role_that_can_only_insert_is_enough_to_post() {
    on_runtime(async {
        let server = Postgres::start();
        let url = server.database("ledger");
        let db = ready(Place::Postgres(url.clone())).await;
        prepare(&db).await;
        let owner = sqlx::PgPool::connect(&url).await.unwrap();
        sqlx::raw_sql(
            "create role poster login; grant select, insert on all tables in schema public to poster;
             revoke insert on ledger_head, ledger_balance, ledger_mark, ledger_hour from poster;",
        )
        .execute(&owner)
        .await
        .unwrap();
        let restricted = url.replace("test@", "poster@");
        let poster = Db::open(&crate::postgres::at(Place::Postgres(restricted.clone()))).await.unwrap();
        created(&poster, &moved("by-role", "psp", "fees", 7)).await;
        assert_eq!(put(&poster, &moved("o", "seller:1", "psp", 41)).await, Posted::Overdraft(code("seller:1")));
        let pool = sqlx::PgPool::connect(&restricted).await.unwrap();
        for statement in [
            "update ledger_balance set credits = credits + 1",
            "update ledger_head set seq = 0",
            "insert into ledger_hour values (1, 1, 1, 1)",
            "delete from ledger_posting",
            "truncate ledger_mark",
            "set session_replication_role = replica",
            "alter table ledger_posting disable trigger all",
        ] {
            let refused = sqlx::raw_sql(statement).execute(&pool).await.expect_err(statement).to_string();
            assert!(
                refused.contains("permission denied") || refused.contains("must be owner"),
                "{statement}: {refused}"
            );
        }
        assert_eq!(db.verify_ledger().await.unwrap().wrong, 0);
    });
}

/// What an owner of the database can always do, and what is said of it.
const TAMPERED: [(&str, &str); 10] = [
    ("update ledger_posting set debit = debit + 1 where journal_id = 'in' and debit > 0", "journal 1"),
    (
        "update ledger_posting set debit = debit + 1 where debit > 0;
         update ledger_posting set credit = credit + 1 where credit > 0",
        "sealed",
    ),
    ("update ledger_journal set effective_us = effective_us + 1 where id = 'in'", "journal 1"),
    ("update ledger_seal set hash = substr(hash, 2) || substr(hash, 1, 1) where seq = 2", "journal 2"),
    ("delete from ledger_seal where seq = 2", "without"),
    ("update ledger_balance set debits = debits + 1 where account_id = 1", "balance of psp"),
    ("update ledger_hour set debits = debits + 1 where account_id = 1", "hours"),
    ("update ledger_head set seq = 1", "head"),
    (
        "insert into ledger_period select 1700000000000000, 1, 1, hash from ledger_seal where seq = 1",
        "journal 2 (held)",
    ),
    ("insert into ledger_period select 5, 1, seq, 'f' from ledger_head", "the period until 5"),
];

/// A superuser of PostgreSQL switches every trigger and foreign key off for a session, and leaves no trace but this.
#[test]
fn what_a_superuser_changes_past_the_triggers_of_postgresql_is_found() {
    let server = Postgres::start();
    for (number, (statement, expected)) in TAMPERED.iter().enumerate() {
        let url = server.database(&format!("tampered{number}"));
        on_runtime(async {
            let db = ready(Place::Postgres(url.clone())).await;
            prepare(&db).await;
            db.close().await;
        });
        let script = format!("set session_replication_role = replica; {statement}");
        let done =
            std::process::Command::new("psql").args(["-Xq", "-v", "ON_ERROR_STOP=1", "-c", &script, &url]).status();
        assert!(done.unwrap().success(), "{statement}");
        let found =
            crate::support::segue().args(["ledger", "verify", "--json"]).env("DATABASE_URL", &url).output().unwrap();
        assert_eq!(found.status.code(), Some(1), "{statement}: {}", crate::support::said(&found));
        let report: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
        assert!(report["wrong"].as_u64() > Some(0), "{statement}: {report}");
        assert!(report["differences"].to_string().contains(expected), "{statement}: {report}");
    }
}

/// It is found by `segue ledger verify`, which then fails.
#[test]
fn what_an_owner_changes_is_found() {
    let directory = tempfile::tempdir().unwrap();
    for (number, (statement, expected)) in TAMPERED.iter().enumerate() {
        let data = directory.path().join(number.to_string());
        let file = data.join("segue.db");
        let tool = |sql: &str| {
            let done = std::process::Command::new("sqlite3").arg("-bail").arg(&file).arg(sql).output().unwrap();
            assert!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
            String::from_utf8(done.stdout).unwrap()
        };
        on_runtime(async {
            let db = ready(Place::Sqlite(file.clone())).await;
            prepare(&db).await;
            db.close().await;
        });
        let verify = || run(["ledger", "verify", "--data", data.to_str().unwrap()]);
        let whole = verify();
        assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
        assert!(String::from_utf8_lossy(&whole.stdout).starts_with("2 journals, 4 postings, 7 accounts; head "));
        let triggers = tool("select name from sqlite_master where type = 'trigger' and name like 'ledger_%'");
        let off: String = triggers.lines().map(|name| format!("drop trigger {name};")).collect();
        tool(&format!("{off} {statement}"));
        let found = verify();
        let (out, err) = (String::from_utf8_lossy(&found.stdout), String::from_utf8_lossy(&found.stderr));
        assert_eq!(found.status.code(), Some(1), "{statement}: {out}{err}");
        assert!(out.contains(expected), "{statement}: {out}");
        assert!(
            err.starts_with("segue: the ledger differs from its postings in ") && err.lines().count() == 1,
            "{err}"
        );
    }
}

#[test]
fn the_trial_balance_is_told_as_of_a_day() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    on_runtime(async {
        let db = ready(Place::Sqlite(directory.path().join("segue.db"))).await;
        prepare(&db).await;
        db.close().await;
    });
    let ask = |more: &[&str]| run([&["ledger", "trial-balance", "--data", data], more].concat());
    let text = |done: &std::process::Output| String::from_utf8(done.stdout.clone()).unwrap();
    let now = ask(&[]);
    assert!(now.status.success());
    let lines: Vec<Vec<String>> =
        text(&now).lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect();
    assert_eq!(lines[1], ["psp", "1.00", "0.00", "USD"]);
    assert_eq!(lines[2], ["seller:1", "0.00", "1.00", "USD"]);
    assert_eq!(lines[3], ["total", "1.00", "1.00", "USD"]);
    let json: serde_json::Value = serde_json::from_slice(&ask(&["--json"]).stdout).unwrap();
    assert_eq!(json["totals"]["USD"]["debits"], 100);
    assert_eq!(text(&ask(&["--as-of", "2023-11-13"])).lines().count(), 1, "the day before");
    assert_eq!(text(&ask(&["--as-of", "2023-11-14"])).lines().count(), 4, "NOW is in that day");
    assert_eq!(text(&ask(&["--as-of", "2023-11-14T22:13:19Z", "--by", "recorded"])).lines().count(), 1);
    for wrong in ["yesterday", "2023-02-30", "2023-11-14 12:00"] {
        let refused = ask(&["--as-of", wrong]);
        assert_eq!(refused.status.code(), Some(2), "{wrong}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("2026-12-31"), "{wrong}");
    }
}

/// Sends SQL as somebody with the shell of the database: whether it was taken, and what it printed.
fn shell(file: &std::path::Path, sql: &str) -> (bool, String) {
    let done = std::process::Command::new("sqlite3").arg("-bail").arg(file).arg(sql).output().unwrap();
    (done.status.success(), String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr))
}

#[test]
fn the_triggers_that_keep_the_tables_are_all_there_or_nothing_begins() {
    let server = Postgres::start();
    let directory = tempfile::tempdir().unwrap();
    let (url, file) = (server.database("walls"), directory.path().join("segue.db"));
    for place in [Place::Sqlite(file.clone()), Place::Postgres(url.clone())] {
        on_runtime(async {
            let db = ready(place).await;
            db.assert_walls().await.unwrap();
            db.close().await;
        });
    }
    // Every trigger that there is is known, so that none can be lost unnoticed.
    let psql = |sql: &str| {
        let done =
            std::process::Command::new("psql").args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql, &url]).output();
        String::from_utf8(done.unwrap().stdout).unwrap()
    };
    let of = "like 'ledger%' or name like 'audit%'";
    let there =
        shell(&file, &format!("select name from sqlite_schema where type = 'trigger' and (name {of}) order by 1"));
    assert_eq!(there.1.lines().collect::<Vec<_>>(), walls::SQLITE);
    let there = psql(
        "select tgname from pg_trigger where not tgisinternal and (tgname like 'ledger%' or tgname like 'audit%') order by tgname::text collate \"C\"",
    );
    assert_eq!(there.lines().collect::<Vec<_>>(), walls::POSTGRES);
    // Gone, or switched off.
    assert!(shell(&file, "drop trigger ledger_seal_counts").0);
    psql("alter table ledger_posting disable trigger ledger_posting_stays");
    let data = directory.path().to_str().unwrap();
    for (database, name) in [(None, "ledger_seal_counts"), (Some(&url), "ledger_posting_stays")] {
        let command = |args: &[&str]| {
            let mut command = crate::support::segue();
            command.args(args).args(["--data", data]).envs(database.map(|url| ("DATABASE_URL", url)));
            let done = command.output().unwrap();
            (done.status.code(), crate::support::said(&done))
        };
        let (code, words) = command(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        assert!(code == Some(1) && words.contains("has lost triggers") && words.contains(name), "{words}");
        let (code, words) = command(&["ledger", "verify"]);
        assert!(code == Some(1) && words.contains("gone or off") && words.contains(name), "{words}");
    }
}

/// SQLite's shell has no recursive triggers, so that its `insert or replace` deletes unseen.
#[test]
fn nothing_is_replaced_by_the_shell_of_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("segue.db");
    on_runtime(async {
        let db = ready(Place::Sqlite(file.clone())).await;
        prepare(&db).await;
        db.close().await;
    });
    assert!(shell(&file, "insert into audit values ('aud_1', 1, 'one', 'did', 'it', '{}')").0);
    for (statement, why) in [
        ("insert or replace into audit values ('aud_1', 1, 'another', 'did', 'it', '{}')", "audit: rows are only"),
        ("insert or replace into ledger_currency values ('USD', 3)", "ledger: immutable"),
        (
            "replace into ledger_account select id, code, kind, currency, 'none', opened_us from ledger_account",
            "immutable",
        ),
        ("replace into ledger_balance select account_id, guard, 0, 0, 0, 0, 0 from ledger_balance", "immutable"),
        ("replace into ledger_head values (1, 0, '', 0)", "ledger: immutable"),
        ("replace into ledger_journal select * from ledger_journal", "ledger"),
        ("replace into ledger_posting select * from ledger_posting", "ledger"),
        ("replace into ledger_seal select * from ledger_seal", "ledger"),
    ] {
        let (taken, words) = shell(&file, statement);
        assert!(!taken && words.contains(why), "{statement}: {words}");
    }
    let whole = run(["ledger", "verify", "--data", directory.path().to_str().unwrap()]);
    assert!(whole.status.success(), "{}", crate::support::said(&whole));
}

/// `segue ledger …` on a data directory: its exit code, and what it said.
fn asked(data: &str, args: &[&str]) -> (Option<i32>, String) {
    let done = run([&["ledger"], args, &["--data", data]].concat());
    (done.status.code(), crate::support::said(&done))
}

/// What was changed past the triggers, which are back: balances stand as they stood, and the sums of postings do not.
#[test]
fn a_trial_balance_is_of_postings_and_guards_are_those_of_the_chart() {
    let directory = tempfile::tempdir().unwrap();
    let (data, file) = (directory.path().to_str().unwrap().to_owned(), directory.path().join("segue.db"));
    let change = |trigger: &str, sql: &str| {
        let of = format!("select sql || ';' from sqlite_schema where name = '{trigger}'");
        let again = shell(&file, &of).1;
        let (done, words) = shell(&file, &format!("drop trigger {trigger}; {sql}; {again}"));
        assert!(done, "{words}");
    };
    on_runtime(async {
        let db = ready(Place::Sqlite(file.clone())).await;
        prepare(&db).await;
        let mut tx = db.begin().await.unwrap();
        open_account(&mut tx, &segue::ledger::chart::payable("one", usd(1).currency()), NOW).await.unwrap();
        tx.commit().await.unwrap();
        db.close().await;
    });
    let ask = |args: &[&str]| asked(&data, args);
    assert_eq!(ask(&["verify"]).0, Some(0));
    change("ledger_account_stays_1", "update ledger_account set guard = 'none' where code = 'seller:one:payable:USD'");
    change("ledger_balance_stays", "update ledger_balance set guard = 'none'");
    let (code, words) = ask(&["verify"]);
    assert!(code == Some(1) && words.contains("seller:one:payable:USD is not what the chart says"), "{words}");
    assert_eq!(ask(&["trial-balance"]).0, Some(0));
    change("ledger_posting_stays_1", "update ledger_posting set debit = debit + 5 where debit > 0");
    let (code, words) = ask(&["trial-balance"]);
    assert!(code == Some(1) && words.contains("does not balance: 5 minor units of USD"), "{words}");
}

#[test]
fn one_balance_is_told_and_the_books_are_closed_from_a_terminal() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    on_runtime(async {
        let db = ready(Place::Sqlite(directory.path().join("segue.db"))).await;
        prepare(&db).await;
        db.close().await;
    });
    let told = |args: &[&str], expected: (i32, &str)| {
        let (code, words) = asked(data, args);
        assert!(code == Some(expected.0) && words.contains(expected.1), "{args:?}: {words}");
    };
    told(&["balance", "seller:1"], (0, "debits 0"));
    told(&["balance", "seller:1", "--json"], (0, r#""balance":-100"#));
    told(&["balance", "seller:1", "--as-of", "2023-11-13", "--json"], (0, r#""balance":0"#));
    told(&["balance", "nobody"], (1, "there is no account nobody"));
    told(&["close", "--through", "2999-01-01"], (2, "is not over"));
    told(
        &["close", "--through", "2023-11-30", "--dry-run"],
        (0, "until the beginning; they could be closed until 2023-11-30"),
    );
    told(&["close", "--through", "2023-11-30"], (0, "the books are closed until 2023-11-30T23:59:59"));
    told(&["close", "--through", "2023-11-29"], (2, "until 2023-11-30T23:59:59"));
    on_runtime(async {
        let db = ready(Place::Sqlite(directory.path().join("segue.db"))).await;
        assert_eq!(db.post_journals(&[&moved("late", "psp", "seller:1", 1)], NOW + 1).await.unwrap().len(), 1);
        let report = db.verify_ledger().await.unwrap();
        assert_eq!((report.journals, report.wrong), (2, 0), "nothing is posted into what is closed");
    });
}
