//! Callbacks that wait to be delivered, and every try. The row is written with the event that it tells of
//! (an outbox), so that no crash comes between the two.

use serde_json::{Value, json};

use super::conn::{Tx, args};
use super::jobs::job_id;
use super::{Db, Dialect};
use crate::base::Result;
use crate::base::id::sortable;
use crate::jobs::JobId;
use crate::jobs::backoff::Backoff;

/// The events that callbacks tell of. The others are for those who watch.
pub const TOLD: [&str; 7] = ["started", "rung", "playable", "published", "succeeded", "dead", "cancelled"];
/// Tries of one delivery until nobody tries it again by himself.
pub const TRIES_MAX: i64 = 12;
/// Deliveries in one list.
const LIST_MAX: u32 = 1_000;

/// One callback to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// Its id, the same on every try.
    pub id: String,
    /// The job it tells of.
    pub job: JobId,
    /// Where to.
    pub url: String,
    /// The bytes to sign and send.
    pub body: String,
    /// The number of this try, from 1: the fencing token of its result.
    pub number: i64,
}

/// How a try went.
#[derive(Clone, Debug, PartialEq)]
pub struct Try {
    /// When it began, in microseconds since 1970.
    pub at_us: i64,
    /// How long it took, in microseconds.
    pub took_us: i64,
    /// Status of the answer.
    pub status: Option<u16>,
    /// What was wrong; `None`: it was taken.
    pub error: Option<String>,
}

/// Adds the delivery of the latest event of a job, if anybody wants to hear of it.
pub(super) async fn note(tx: &mut Tx, id: &JobId, now_us: i64) -> Result<()> {
    let sql = "select job.input, job_event.seq, job_event.event, job_event.body, job.state
               from job join job_event on job_event.job_id = job.id
               where job.id = $1 order by job_event.seq desc limit 1";
    let Some(row) = tx.first(sql, args![id.as_str()]).await? else { return Ok(()) };
    let event = row.text("event")?;
    if !TOLD.contains(&event.as_str()) {
        return Ok(());
    }
    let input: Value = serde_json::from_str(&row.text("input")?).unwrap_or_default();
    let Some(url) = input["callback"].as_str() else { return Ok(()) };
    let seq = row.int("seq")?;
    let delivery = sortable("dlv_", now_us);
    let data: Value = serde_json::from_str(&row.text("body")?).unwrap_or_default();
    let body = json!({
        "id": delivery,
        "type": format!("transcode.{event}"),
        "created_us": now_us,
        "job": id,
        "seq": seq,
        "track": input["track"],
        "state": row.text("state")?,
        "data": data,
    });
    tx.execute(
        "insert into delivery (id, job_id, seq, url, body, state, next_us, created_us)
         values ($1, $2, $3, $4, $5, 'pending', $6, $6)",
        args![&delivery, id.as_str(), seq, url, &body.to_string(), now_us],
    )
    .await
    .map(drop)
}

impl Db {
    /// Takes the deliveries whose time has come; nobody else gets them before `until_us`. Those of one job
    /// come in the order of its events, but a receiver that fails one does not hold back the next.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn take_deliveries(&self, limit: u32, now_us: i64, until_us: i64) -> Result<Vec<Delivery>> {
        let mut tx = self.begin_read().await?;
        let due = "select id from delivery where state = 'pending' and next_us <= $1 limit 1";
        if tx.first(due, args![now_us]).await?.is_none() {
            return Ok(Vec::new());
        }
        drop(tx);
        let mut tx = self.begin().await?;
        let sql = match tx.dialect() {
            Dialect::Sqlite => {
                "update delivery set tries = tries + 1, next_us = $2
                 where id in (select id from delivery where state = 'pending' and next_us <= $1
                   order by next_us, id limit $3)
                 returning id, job_id, url, body, tries"
            }
            Dialect::Postgres => {
                "update delivery set tries = tries + 1, next_us = $2
                 where id in (select id from delivery where state = 'pending' and next_us <= $1
                   order by next_us, id limit $3 for update skip locked)
                 returning id, job_id, url, body, tries"
            }
        };
        let mut taken = Vec::new();
        for row in tx.all(sql, args![now_us, until_us, i64::from(limit)]).await? {
            taken.push(Delivery {
                id: row.text("id")?,
                job: job_id(&row, "job_id")?,
                url: row.text("url")?,
                body: row.text("body")?,
                number: row.int("tries")?,
            });
        }
        tx.commit().await?;
        taken.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(taken)
    }

    /// Writes down how a try went, and when the next one is. A try that somebody else has followed up already
    /// is only logged.
    ///
    /// # Errors
    /// When the database cannot be reached; the delivery is then tried again.
    pub async fn log_try(&self, delivery: &Delivery, how: &Try, backoff: Backoff, now_us: i64) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.execute(
            "insert into delivery_try (delivery_id, number, at_us, took_us, status, error)
             values ($1, $2, $3, $4, $5, $6) on conflict (delivery_id, number) do nothing",
            args![
                &delivery.id,
                delivery.number,
                how.at_us,
                how.took_us,
                how.status.map(i64::from),
                how.error.as_deref()
            ],
        )
        .await?;
        let (state, delivered_us) = match &how.error {
            None => ("delivered", Some(now_us)),
            Some(_) if delivery.number >= TRIES_MAX => ("dead", None),
            Some(_) => ("pending", None),
        };
        let next_us = now_us + backoff.delay_us(delivery.number);
        tx.execute(
            "update delivery set state = $3, next_us = $4, delivered_us = $5
             where id = $1 and tries = $2 and state = 'pending'",
            args![&delivery.id, delivery.number, state, next_us, delivered_us],
        )
        .await?;
        tx.commit().await
    }

    /// Sends again what was not delivered of a job, or all of it; says how many deliveries that are. One that
    /// had all its tries gets one more.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn redeliver(&self, job: &JobId, delivered_too: bool, now_us: i64) -> Result<u64> {
        let mut tx = self.begin().await?;
        let again = tx
            .execute(
                "update delivery set state = 'pending', next_us = $2, delivered_us = null
                 where job_id = $1 and (state <> 'delivered' or $3 = 1)",
                args![job.as_str(), now_us, i64::from(delivered_too)],
            )
            .await?;
        tx.commit().await?;
        Ok(again)
    }

    /// Sends again, at once, whatever was not delivered of what happened since a time: of one client's jobs, or of all. For a
    /// receiver that was away and is back. Says how many deliveries that are.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn redeliver_missed(&self, client: Option<&str>, since_us: i64, now_us: i64) -> Result<u64> {
        let mut tx = self.begin().await?;
        let again = tx
            .execute(
                "update delivery set state = 'pending', next_us = $1
                 where state <> 'delivered' and created_us >= $2
                   and ($3 = 1 or job_id in (select id from job where client = $4))",
                args![now_us, since_us, i64::from(client.is_none()), client.unwrap_or_default()],
            )
            .await?;
        tx.commit().await?;
        Ok(again)
    }

    /// The first deliveries of a job with their tries, as JSON, oldest first.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn deliveries(&self, job: &JobId) -> Result<Vec<Value>> {
        self.deliveries_after(job, 0, LIST_MAX).await
    }

    /// The same behind the event with this number.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn deliveries_after(&self, job: &JobId, after: i64, limit: u32) -> Result<Vec<Value>> {
        let mut tx = self.begin_read().await?;
        let sql = "select delivery.id, delivery.seq, delivery.url, delivery.state, delivery.tries,
                     delivery_try.number, delivery_try.at_us, delivery_try.status, delivery_try.error
                   from delivery left join delivery_try on delivery_try.delivery_id = delivery.id
                   where delivery.id in (
                     select id from delivery where job_id = $1 and seq > $2 order by seq limit $3)
                   order by delivery.seq, delivery_try.number";
        let mut found: Vec<Value> = Vec::new();
        for row in tx.all(sql, args![job.as_str(), after, i64::from(limit)]).await? {
            let id = row.text("id")?;
            if found.last().is_none_or(|last| last["id"] != id) {
                found.push(json!({
                    "id": id, "seq": row.int("seq")?, "url": row.text("url")?, "state": row.text("state")?, "tries": [],
                }));
            }
            let Some(number) = row.int_or_null("number")? else { continue };
            let one = json!({
                "number": number, "at_us": row.int("at_us")?, "status": row.int_or_null("status")?,
                "error": row.text_or_null("error")?,
            });
            let tries = found.last_mut().and_then(|last| last["tries"].as_array_mut());
            tries.expect("pushed with one above").push(one);
        }
        Ok(found)
    }
}
