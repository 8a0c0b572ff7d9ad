//! Suites that every database has to pass in the same words: SQLite, PostgreSQL, and PostgreSQL behind PgBouncer in
//! transaction mode. Each case gets a database of its own, empty and migrated.

use std::pin::Pin;

use segue::db::{Db, Place};

use crate::postgres::{PgBouncer, Postgres, ready};

/// A case: its name, and what it does with its database.
pub(crate) type Case = (&'static str, fn(Db) -> Pin<Box<dyn Future<Output = ()>>>);

/// Cases by their functions; with `around whole:` each runs inside of `whole(db, case)`.
macro_rules! cases {
    (around $around:ident: $($name:ident),* $(,)?) => {
        &[$((stringify!($name), |db| Box::pin($around(db.clone(), $name(db))))),*]
    };
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), |db| Box::pin($name(db)))),*] };
}
pub(crate) use cases;

pub(crate) fn on_sqlite(cases: &[Case]) {
    let directory = tempfile::tempdir().unwrap();
    run_all(cases, async |number| Place::Sqlite(directory.path().join(format!("{number}/segue.db"))));
}

pub(crate) fn on_postgresql(cases: &[Case]) {
    let server = Postgres::start();
    run_all(cases, async |number| Place::Postgres(server.database(&format!("case{number}"))));
}

/// As a server that runs as docs/OPERATIONS.md has it: as a role that cannot change the past.
pub(crate) fn as_a_server_of_postgresql(cases: &[Case]) {
    let server = Postgres::start();
    run_all(cases, async |number| Place::Postgres(server.for_a_server(&format!("case{number}")).await));
}

/// Sessions are shared by transactions: nothing may be kept in one, no lock, no prepared statement, no setting.
pub(crate) fn behind_pgbouncer(cases: &[Case]) {
    let server = Postgres::start();
    server.database("case0"); // it answers
    let bouncer = PgBouncer::before(&server);
    run_all(cases, async |number| {
        if number > 0 {
            server.database(&format!("case{number}"));
        }
        Place::Postgres(bouncer.url(&format!("case{number}")))
    });
}

fn run_all(cases: &[Case], place: impl AsyncFn(usize) -> Place) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for (number, (name, case)) in cases.iter().enumerate() {
        eprintln!("case {name}"); // shown when it fails
        runtime.block_on(async {
            let db = ready(place(number).await).await;
            case(db.clone()).await;
            db.close().await;
        });
    }
}
