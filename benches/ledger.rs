//! Journals posted durably a second, and how long a balance of the past takes.
//!
//! ```text
//! cargo bench --bench ledger -- [--journals N] [--seconds S] [--smoke] [--strict] [--markdown FILE]
//! ```
//! Journals have three postings: a sale, what the seller gets, the fee. "Alone" is one caller who waits for each;
//! "together" are 64 who wait for theirs and share commits (`db::ledger::Poster`). Everything, PostgreSQL included, is
//! pinned to one core, and every commit is flushed to the disk of the temporary directory (TMPDIR). Before the end
//! each ledger is computed again from its postings, and the run fails when it differs.
#![allow(clippy::print_stdout, reason = "the table is the product")]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use segue::base::clock::Clock;
use segue::db::ledger::{AsOf, Poster, open_account};
use segue::db::{Db, Place};
use segue::ledger::{Account, AccountCode, AccountKind, Amount, Currency, Draft, Guard, Journal, Posted};

#[allow(dead_code, unreachable_pub)] // the tests use more of it
#[path = "../tests/it/postgres.rs"]
mod postgres;

#[derive(Parser)]
#[command(about = "Journals posted durably a second")]
struct Options {
    /// Journals in the ledger whose past is asked for.
    #[arg(long, default_value_t = 1_000_000)]
    journals: i64,
    /// Seconds that each way of posting is measured.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Only show that it works: few journals, no verdict.
    #[arg(long)]
    smoke: bool,
    /// Exit with 1 when a bar is missed.
    #[arg(long)]
    strict: bool,
    /// Also write the table as Markdown.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Taken and ignored: the other benches write one.
    #[arg(long, hide = true)]
    json: Option<PathBuf>,
    /// What cargo says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
    /// This is the process that runs on one core.
    #[arg(long, hide = true)]
    pinned: bool,
}

/// Callers who share commits.
const TOGETHER: usize = 64;
/// Sellers that the journals are spread over.
const SELLERS: i64 = 100;
/// Journals after which somebody who waits is told.
const TOLD_EACH: i64 = 100_000;
/// Balances asked for.
const ASKED: i64 = 200;
/// A year, which the journals of the past are spread over.
const YEAR_US: i64 = 365 * 86_400_000_000;
const SINCE_US: i64 = 1_700_000_000_000_000;

fn main() -> ExitCode {
    let options = Options::parse();
    if !options.pinned {
        let again = Command::new("taskset")
            .args(["-c", "0"])
            .arg(std::env::current_exe().expect("a program has a path"))
            .args(std::env::args_os().skip(1))
            .arg("--pinned")
            .status();
        return match again {
            Ok(status) if status.success() => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => {
                println!("cannot start taskset: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let server = postgres::Postgres::start_with(&["fsync=on"]);
    let places = [
        ("SQLite", Place::Sqlite(directory.path().join("segue.db"))),
        ("PostgreSQL", Place::Postgres(server.database("ledger"))),
    ];
    let mut table = String::from("| what | SQLite | PostgreSQL | bar |\n|---|---|---|---|\n");
    let mut columns = Vec::new();
    for (name, place) in places {
        columns.push(runtime.block_on(measure(name, place, &options)));
    }
    let mut missed = false;
    for ((what, sqlite), (_, postgres)) in columns[0].iter().zip(&columns[1]) {
        let (figure, bar) = match BARS.iter().find(|(named, ..)| named == what) {
            Some((_, of_sqlite, of_postgres)) if !options.smoke => {
                let passes = sqlite >= of_sqlite && postgres >= of_postgres;
                missed |= !passes;
                let word = if passes { "pass" } else { "MISS" };
                (0, format!("≥ {of_sqlite} and ≥ {of_postgres} (Q14): {word}"))
            }
            _ => (if *sqlite < 100.0 { 2 } else { 0 }, String::new()),
        };
        let _ = writeln!(table, "| {what} | {sqlite:.figure$} | {postgres:.figure$} | {bar} |");
    }
    println!("{table}");
    if let Some(file) = &options.markdown {
        std::fs::write(file, &table).expect("the table can be written");
    }
    if missed && options.strict { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What was measured, and how much.
type Figure = (&'static str, f64);

/// At least, on SQLite and on PostgreSQL.
const BARS: [(&str, f64, f64); 1] = [("journals a second, together", 1000.0, 2000.0)];

async fn measure(name: &str, place: Place, options: &Options) -> Vec<Figure> {
    let told = |what: &'static str, figure: f64| {
        println!("{name}: {what}: {figure:.2}");
        (what, figure)
    };
    let db = postgres::ready(place).await;
    open_accounts(&db).await;
    let time = Duration::from_millis(if options.smoke { 200 } else { options.seconds * 1000 });
    let next = Arc::new(AtomicI64::new(0));
    let mut rows = Vec::new();

    let (poster, ended) = Poster::start(db.clone(), Clock::System);
    for (what, callers) in [("journals a second, alone", 1), ("journals a second, together", TOGETHER)] {
        let (started, first) = (Instant::now(), next.load(Ordering::Relaxed));
        let tasks: Vec<_> = (0..callers)
            .map(|_| {
                let (poster, next) = (poster.clone(), next.clone());
                tokio::spawn(async move {
                    while started.elapsed() < time {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        let posted = poster.post(sale(n, SINCE_US + n)).await.expect("the database posts");
                        assert!(matches!(posted, Posted::Created(_)), "{posted:?}");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("a caller ends well");
        }
        let rate = (next.load(Ordering::Relaxed) - first) as f64 / started.elapsed().as_secs_f64();
        rows.push(told(what, rate));
    }
    drop(poster);
    ended.await.expect("the poster ends well");

    let journals = if options.smoke { 2_000 } else { options.journals };
    let filled_from_us = Clock::System.unix_us();
    while next.load(Ordering::Relaxed) < journals {
        let from = next.fetch_add(TOGETHER as i64, Ordering::Relaxed);
        if from / TOLD_EACH != (from + TOGETHER as i64) / TOLD_EACH {
            println!("{name}: {from} of {journals} journals …");
        }
        let numbers = from..from + TOGETHER as i64;
        let group: Vec<Journal> = numbers.map(|n| sale(n, SINCE_US + n * (YEAR_US / journals))).collect();
        let now_us = Clock::System.unix_us();
        db.post_journals(&group.iter().collect::<Vec<_>>(), now_us).await.expect("the database posts");
    }
    let journals = next.load(Ordering::Relaxed);
    let filling_us = (filled_from_us, Clock::System.unix_us() - filled_from_us);
    let counted: fn(i64, (i64, i64)) -> AsOf = |n, _| AsOf::Effective(SINCE_US + n * (YEAR_US / ASKED));
    let known: fn(i64, (i64, i64)) -> AsOf = |n, (from_us, took_us)| AsOf::Recorded(from_us + took_us * n / ASKED);
    for (what, as_of) in [
        ("ms for the balance of the busiest account, counted then", counted),
        ("ms for the balance of the busiest account, known then", known),
    ] {
        let started = Instant::now();
        for n in 0..ASKED {
            let sums = db.balance_as_of(&code("psp"), as_of(n, filling_us)).await.expect("the database answers");
            assert!(sums.is_some(), "psp is open");
        }
        let each = started.elapsed().as_secs_f64() * 1000.0 / ASKED as f64;
        rows.push(told(what, each));
    }
    let started = Instant::now();
    let report = db.verify_ledger().await.expect("the database answers");
    assert_eq!((report.wrong, report.journals as i64), (0, journals), "{:?}", report.differences);
    let rate = journals as f64 / started.elapsed().as_secs_f64();
    rows.push(told("journals verified a second", rate));
    db.close().await;
    rows
}

fn code(text: &str) -> AccountCode {
    text.parse().expect("a name")
}

fn usd() -> Currency {
    Currency::decode("USD").expect("in the table")
}

async fn open_accounts(db: &Db) {
    let mut tx = db.begin().await.expect("a transaction");
    let mut wanted = vec![
        ("psp".to_owned(), AccountKind::Asset, Guard::None),
        ("fees".to_owned(), AccountKind::Income, Guard::None),
    ];
    wanted.extend((0..SELLERS).map(|n| (format!("seller:{n}"), AccountKind::Liability, Guard::CreditsCover)));
    for (name, kind, guard) in wanted {
        let account = Account { code: code(&name), kind, currency: usd(), guard };
        open_account(&mut tx, &account, SINCE_US).await.expect("an account");
    }
    tx.commit().await.expect("a commit");
}

/// The n-th sale: 10.00, of which the seller gets 9.00.
fn sale(n: i64, effective_us: i64) -> Journal {
    let of = |minor| Amount::new(minor, usd()).expect("an amount");
    Draft::new(format!("sale:{n}").parse().expect("a name"), "payment", &format!("pay:{n}"), effective_us)
        .debit(&code("psp"), of(1000))
        .credit(&code(&format!("seller:{}", n % SELLERS)), of(900))
        .credit(&code("fees"), of(100))
        .balance()
        .expect("it balances")
}
