//! Databases that are used by one story after the other. Each story begins with an empty, migrated one; to make and to open
//! it takes longer than the story itself, so it is wiped instead: a shell of the database's own removes every row behind the
//! backs of the connections, which keep the statements they have prepared. The schema is the product's own; only the
//! triggers that refuse to delete look, on SQLite, whether it is the shell that asks (PostgreSQL's lets a superuser).

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use segue::db::{Db, Options, Place};
use serde_json::Value;

use crate::postgres::{at, ready};

pub(super) struct Slate {
    pub(super) db: Db,
    /// Somewhere else while it wipes.
    shell: Option<Shell>,
    wipe: String,
    /// After so many stories the dead rows are removed.
    wiped: u32,
    tidies: Option<&'static str>,
}

impl Slate {
    pub(super) async fn new(place: Place) -> Slate {
        match place {
            Place::Sqlite(file) => Slate::sqlite(&file).await,
            Place::Postgres(url) => Slate::postgres(&url).await,
        }
    }

    /// In a file that is best kept in memory.
    async fn sqlite(file: &Path) -> Slate {
        ready(Place::Sqlite(file.to_owned())).await.close().await;
        let mut shell =
            Shell::start(Command::new("sqlite3").args(["-batch", "-bail", "-cmd", ".timeout 5000"]).arg(file));
        let of = "name not like 'sqlite_%'";
        let tables = shell.run(&format!("select name from sqlite_schema where type = 'table' and {of};"));
        let guards = shell.run(
            "select json_array(name, sql) from sqlite_schema where type = 'trigger' and sql like '%before delete on%';",
        );
        assert!(tables.len() > 30 && guards.len() > 5, "{tables:?} {guards:?}");
        let mut script = "pragma foreign_keys = off; begin; create table wiping (yes integer);".to_owned();
        for guard in &guards {
            let guard: Value = serde_json::from_str(guard).unwrap();
            let (name, sql) = (guard[0].as_str().unwrap(), guard[1].as_str().unwrap());
            let (before, after) = sql.split_once(" begin ").unwrap();
            script += &format!("drop trigger {name}; {before} when not exists (select 1 from wiping) begin {after};");
        }
        let filled = filled(&mut shell, &tables);
        for table in &filled {
            script += &format!("create table kept_{table} as select * from {table};");
        }
        shell.run(&format!("{script} commit;"));
        let mut wipe = "begin immediate; insert into wiping values (1);".to_owned();
        tables.iter().for_each(|table| wipe += &format!("delete from {table};"));
        filled.iter().for_each(|table| wipe += &format!("insert into {table} select * from kept_{table};"));
        wipe += "delete from wiping; commit;";
        let db = Db::open(&at(Place::Sqlite(file.to_owned()))).await.unwrap();
        Slate { db, shell: Some(shell), wipe, wiped: 0, tidies: None }
    }

    async fn postgres(url: &str) -> Slate {
        // Few sessions, each of which has soon seen everything: a new one reads the catalogue and compiles triggers first.
        let options = Options { connections_max: 3, ..at(Place::Postgres(url.to_owned())) };
        let db = Db::open(&options).await.unwrap();
        db.migrate().await.unwrap();
        let mut shell = Shell::start(Command::new("psql").args(["-XqAt", "-v", "ON_ERROR_STOP=1", url]));
        let tables = shell.run("select tablename from pg_tables where schemaname = 'public';");
        let sequences = shell.run("select sequencename from pg_sequences where schemaname = 'public';");
        assert!(tables.len() > 30 && !sequences.is_empty(), "{tables:?} {sequences:?}");
        let filled = filled(&mut shell, &tables);
        let mut script = "create schema kept;".to_owned();
        filled.iter().for_each(|table| script += &format!("create table kept.{table} as table public.{table};"));
        // A replica's session fires no trigger and checks no foreign key.
        script += "create function kept.wipe() returns void language plpgsql as $$ begin
                     perform set_config('session_replication_role', 'replica', true);";
        tables.iter().for_each(|table| script += &format!("delete from public.{table};"));
        for table in &filled {
            script += &format!("insert into public.{table} overriding system value select * from kept.{table};");
        }
        sequences.iter().for_each(|name| script += &format!("perform setval('public.{name}', 1, false);"));
        shell.run(&format!("{script} end $$;"));
        let wipe = "select kept.wipe();".to_owned();
        Slate { db, shell: Some(shell), wipe, wiped: 0, tidies: Some("vacuum;") }
    }

    /// Makes it what it was at first.
    pub(super) async fn wipe(&mut self) {
        self.wiped += 1;
        let mut sql = self.wipe.clone();
        sql += self.tidies.filter(|_| self.wiped.is_multiple_of(16)).unwrap_or_default();
        let mut shell = self.shell.take().unwrap();
        // Meanwhile this thread ends the transactions that the story left behind.
        let done = tokio::task::spawn_blocking(move || {
            shell.run(&sql);
            shell
        });
        self.shell = Some(done.await.unwrap());
    }
}

/// The tables in which there is something.
fn filled(shell: &mut Shell, tables: &[String]) -> Vec<String> {
    let one = |table: &String| format!("select '{table}' where exists (select 1 from {table})");
    shell.run(&format!("{};", tables.iter().map(one).collect::<Vec<_>>().join(" union all ")))
}

/// `sqlite3` or `psql`, that waits for statements.
struct Shell {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Shell {
    fn start(command: &mut Command) -> Shell {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Shell { child, to, from }
    }

    /// Runs statements; the lines that they answer.
    fn run(&mut self, sql: &str) -> Vec<String> {
        writeln!(self.to, "{sql}\nselect 'that is all';").unwrap();
        self.to.flush().unwrap();
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let read = self.from.read_line(&mut line).unwrap();
            assert!(read > 0, "the shell of the database gave up, for the reason above: {sql}");
            match line.trim_end() {
                "that is all" => return lines,
                text => lines.push(text.to_owned()),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
