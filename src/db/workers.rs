//! Who works, and how that went: what each process says of its workers, for people who look at all of them.

use super::Db;
use super::conn::args;
use crate::base::Result;

/// What a worker of a process says of itself. Times are microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its name, which every process has once.
    pub name: String,
    /// How often it has a turn, in microseconds.
    pub every_us: i64,
    /// When its last turn ended.
    pub ran_us: Option<i64>,
    /// Turns that failed.
    pub failures: i64,
    /// When the last of them ended, and why it failed.
    pub failed: Option<(i64, String)>,
}

/// A report, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// The process.
    pub node: String,
    /// When it began.
    pub begun_us: i64,
    /// When it last wrote.
    pub seen_us: i64,
    /// Until when it does for all what it is named for, where one does it for all.
    pub holds_until_us: Option<i64>,
    /// What it says.
    pub report: Report,
}

/// Rows that one look shows or removes at most: some thirty processes.
const ROWS_MAX: i64 = 500;

impl Db {
    /// Writes what the workers of a process say.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn report_workers(&self, node: &str, begun_us: i64, reports: &[Report], now_us: i64) -> Result<()> {
        let mut tx = self.begin().await?;
        for report in reports {
            let failed = report.failed.as_ref();
            tx.execute(
                "insert into worker (node, name, every_us, begun_us, seen_us, ran_us, failures, failed_us, error)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
                 on conflict (node, name) do update set seen_us = excluded.seen_us, ran_us = excluded.ran_us,
                   failures = excluded.failures, failed_us = excluded.failed_us, error = excluded.error",
                args![
                    node,
                    &report.name,
                    report.every_us,
                    begun_us,
                    now_us,
                    report.ran_us,
                    report.failures,
                    failed.map(|(at_us, _)| *at_us),
                    failed.map(|(_, error)| error.as_str())
                ],
            )
            .await?;
        }
        tx.commit().await
    }

    /// Who works, as they said themselves; by name, then by process.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn workers(&self) -> Result<Vec<Reported>> {
        let mut tx = self.begin_one().await?;
        let rows = tx
            .all(
                "select w.node, w.name, w.every_us, w.begun_us, w.seen_us, w.ran_us, w.failures, w.failed_us, w.error, s.until_us
                 from worker w left join singleton s on s.name = w.name and s.holder = w.node
                 order by w.name, w.node limit $1",
                args![ROWS_MAX],
            )
            .await?;
        rows.iter()
            .map(|row| {
                let error = row.text_or_null("error")?;
                Ok(Reported {
                    node: row.text("node")?,
                    begun_us: row.int("begun_us")?,
                    seen_us: row.int("seen_us")?,
                    holds_until_us: row.int_or_null("until_us")?,
                    report: Report {
                        name: row.text("name")?,
                        every_us: row.int("every_us")?,
                        ran_us: row.int_or_null("ran_us")?,
                        failures: row.int("failures")?,
                        failed: row.int_or_null("failed_us")?.zip(error),
                    },
                })
            })
            .collect()
    }

    /// Forgets a process that has stopped working, and gives back every singleton that it had.
    ///
    /// # Errors
    /// When the database cannot be reached; terms end by themselves, and rows are removed in time.
    pub async fn retire(&self, node: &str) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.execute("delete from singleton where holder = $1", args![node]).await?;
        tx.execute("delete from worker where node = $1", args![node]).await?;
        tx.commit().await
    }

    /// Removes what processes said that were not heard of since; says how many rows.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn sweep_workers(&self, before_us: i64) -> Result<u64> {
        let mut tx = self.begin().await?;
        let gone = tx
            .execute(
                "delete from worker where (node, name) in
                   (select node, name from worker where seen_us < $1 limit $2)",
                args![before_us, ROWS_MAX],
            )
            .await?;
        tx.commit().await?;
        Ok(gone)
    }
}
