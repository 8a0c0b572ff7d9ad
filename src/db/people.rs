//! Where everything of one person is: what an archive of them has, and what goes when they are forgotten.
//!
//! Every table is in one of three lists: `erase` empties it of them, `KEPT` says why it stays, `NOBODYS` has nobody in it. A
//! test compares the lists with both databases, so that a new table has to say where it belongs.
//!
//! What stays names people by `usr_…` alone. The row that says who that was is gone, and nothing is made from an address.

use serde_json::{Map, Value, json};

use super::conn::{Row, Tx, args};
use super::jobs;
use super::users::user_id;
use super::{Db, Dialect};
use crate::auth::UserId;
use crate::auth::email::Email;
use crate::base::Result;
use crate::base::clock::rfc3339;
use crate::base::id::TrackId;
use crate::jobs::backoff::Backoff;
use crate::jobs::person::ErasureId;
use crate::jobs::{JobId, Lease, Outcome};
use crate::uploads::UploadId;

/// One file of an archive: rows of a person.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Its name, without the ending.
    pub name: &'static str,
    columns: &'static [&'static str],
    sql: &'static str,
}

macro_rules! part {
    ($name:literal, $from:literal, $order:literal, [$($column:literal),* $(,)?]) => {
        Part {
            name: $name,
            columns: &[$($column),*],
            sql: concat!("select ", $($column, ", ",)* "1 as one from ", $from, " order by ", $order, " limit $2 offset $3"),
        }
    };
}

/// Everything that is here of a person but the files. What others wrote about them is theirs: notices come without who sent
/// them.
pub const PARTS: &[Part] = &[
    part!("account", "users where id = $1", "id", [
        "id", "email", "name", "role", "totp_since_us", "disabled_us", "created_us", "updated_us",
    ]),
    part!("account_logins_by_providers", "identity where user_id = $1", "provider", [
        "provider", "subject", "created_us", "seen_us",
    ]),
    part!("account_sessions", "session where user_id = $1", "id", [
        "id", "via", "mfa_us", "client", "place", "created_us", "seen_us", "expires_us", "ended_us", "ended_by",
    ]),
    part!("account_keys", "api_key where user_id = $1", "id", [
        "id", "name", "may_read", "may_write", "may_admin", "created_us", "expires_us", "used_us", "revoked_us",
    ]),
    part!("mails", "mail where email = (select email from users where id = $1)", "id", [
        "kind", "email", "state", "created_us", "done_us",
    ]),
    part!("uploads", "upload where owner = $1", "id", [
        "id", "kind", "state", "bytes", "sha256", "name", "track", "mime", "reason", "error", "created_us", "finished_us",
    ]),
    part!("tracks", "track where owner = $1", "id", [
        "id", "title", "state", "visibility", "version", "samples", "rate", "flac", "lossless", "bytes", "error",
        "preview_enabled", "preview_start_ms", "price_minor", "currency", "created_us", "updated_us", "published_us",
        "deleted_us",
    ]),
    part!(
        "tracks_versions",
        "track_version where track in (select id from track where owner = $1)",
        "track, made_us, version",
        ["track", "version", "bytes", "samples", "rate", "flac", "lossless", "video", "made_us"]
    ),
    part!("tracks_lyrics", "lyrics where track in (select id from track where owner = $1)", "track", [
        "track", "text", "synced", "language", "updated_us",
    ]),
    part!("tracks_shares", "share where track in (select id from track where owner = $1)", "id", [
        "id", "track", "label", "created_us", "expires_us", "revoked_us",
    ]),
    part!("tracks_plays", "play_day where track in (select id from track where owner = $1)", "track, day", [
        "track", "day", "plays", "listeners",
    ]),
    part!("tracks_notices", "dmca_notice where track in (select id from track where owner = $1)", "id", [
        "id", "standing", "track", "counter", "received_us", "taken_down_us", "counter_us", "restore_from_us",
        "restore_by_us", "closed_us",
    ]),
    part!("work", "job where client = $1", "id", ["id", "kind", "state", "error", "created_us", "finished_us"]),
    part!("bought", "entitlement where subject = $1", "track", ["track", "granted_us", "revoked_us"]),
    part!("orders", "sale_order where buyer = $1", "id", [
        "id", "status", "currency", "total_minor", "refund_until_us", "created_us", "paid_us", "refunded_us",
    ]),
    part!("orders_items", "order_item where order_id in (select id from sale_order where buyer = $1)", "order_id, line", [
        "order_id", "line", "product_id", "track", "title", "kind", "price_minor", "tax_minor",
    ]),
    part!("licences", "licence where holder = $1", "id", [
        "id", "order_id", "line", "product_id", "track", "kind", "granted_us", "revoked_us",
    ]),
    part!("refunds", "refund where order_id in (select id from sale_order where buyer = $1)
           or subscription_id in (select id from subscription where subject = $1)", "id", [
        "id", "order_id", "subscription_id", "amount_minor", "status", "reason", "created_us", "settled_us",
    ]),
    part!("subscriptions", "subscription where subject = $1", "id", [
        "id", "plan", "status", "price_minor", "currency", "period_days", "trial_until_us", "ends_us", "created_us",
    ]),
    part!("invoices", "invoice where subscription_id in (select id from subscription where subject = $1)", "id", [
        "id", "subscription_id", "status", "amount_minor", "tax_minor", "currency", "created_us", "paid_us",
    ]),
    part!(
        "payments",
        "payment where order_id in (select id from sale_order where buyer = $1)
           or subscription_id in (select id from subscription where subject = $1)",
        "id",
        ["id", "order_id", "subscription_id", "amount_minor", "currency", "provider_state", "created_us"]
    ),
    part!("products", "product where seller = $1", "id", [
        "id", "track", "title", "currency", "preview_enabled", "active", "created_us", "updated_us",
    ]),
    part!("products_prices", "product_licence where product_id in (select id from product where seller = $1)",
        "product_id, kind", ["product_id", "kind", "price_minor"]),
    part!("products_images", "product_image where product_id in (select id from product where seller = $1)",
        "product_id, position", ["product_id", "position", "url"]),
    part!("sales", "order_item where seller = $1", "order_id, line", [
        "order_id", "line", "product_id", "track", "title", "kind", "price_minor", "seller_minor", "fee_minor", "tax_minor",
    ]),
    part!("payouts", "transfer where seller = $1", "id", [
        "id", "order_id", "amount_minor", "currency", "status", "destination", "reversed_minor", "created_us", "updated_us",
    ]),
    part!("payouts_by_hand", "hand_payout where seller = $1", "reference", [
        "reference", "amount_minor", "currency", "booked_us",
    ]),
    part!("payouts_account", "seller_account where seller = $1", "seller", ["destination", "updated_us"]),
    part!(
        "books",
        "(select p.seq, j.id as journal, j.kind, a.code as account, p.currency, p.debit, p.credit, p.effective_us
          from ledger_posting p join ledger_journal j on j.id = p.journal_id join ledger_account a on a.id = p.account_id
          where a.code like 'seller:' || $1 || ':%') as booked",
        "seq, account",
        ["seq", "journal", "kind", "account", "currency", "debit", "credit", "effective_us"]
    ),
    part!("log", "audit where actor = $1", "id", ["at_us", "action", "about"]),
];

/// What stays, and why. Of people these have ids, and nothing that says who that was.
pub const KEPT: &[(&str, &str)] = &[
    ("sale_order", "the law asks for records of sales"),
    ("order_item", "what was sold, as it was called when it was bought"),
    ("order_return", "what went back of a sale"),
    ("licence", "what was sold, to which id"),
    ("refund", "what went back; the words of whoever asked are removed"),
    ("payment", "what was paid; what a browser could pay with is removed"),
    ("invoice", "what was paid"),
    ("subscription", "what was paid for; what it was paid by is removed"),
    ("transfer", "what a seller got, and the provider's id of the account that it went to"),
    ("dispute", "what a bank took back"),
    ("hand_payout", "what a seller got"),
    ("product", "what was sold; its title, its track and its pictures are removed"),
    ("product_licence", "what it cost"),
    (
        "webhook_delivery",
        "what providers said; the words about this person's payments are removed, the rest after 90 days",
    ),
    ("ledger_account", "the books are never changed"),
    ("ledger_balance", "the books are never changed"),
    ("ledger_currency", "the books are never changed"),
    ("ledger_head", "the books are never changed"),
    ("ledger_hour", "the books are never changed"),
    ("ledger_journal", "the books are never changed"),
    ("ledger_mark", "the books are never changed"),
    ("ledger_period", "the books are never changed"),
    ("ledger_posting", "the books are never changed"),
    ("ledger_seal", "the books are never changed"),
    ("audit", "who ruled what is never changed; lines have ids alone"),
    ("dmca_notice", "17 USC 512: who demanded what; a counter-notice, which names its sender, is removed"),
];

/// Tables in which nobody is.
pub const NOBODYS: &[&str] = &["schema_script", "singleton", "worker", "purge", "provider_login", "play_salt"];

/// What is emptied of a person when their files are gone, in this order.
const ERASE: &[(&str, &str)] = &[
    ("share", "delete from share where track in (select id from track where owner = $1)"),
    ("track_event", "delete from track_event where track in (select id from track where owner = $1)"),
    (
        // Those that are kept: nobody's from now on, and nobody can be paid for them.
        "track",
        "update track set owner = null, upload = null, pending = null, job = null, made_from = null, price_minor = null,
           currency = null where owner = $1",
    ),
    ("job", "delete from job where client = $1"),
    (
        // The bytes are gone; in a bucket a late request may bring some back, which the janitor looks for by this row.
        "upload",
        "update upload set owner = '', name = null, track = null, metadata = null, idempotency_key = null,
           fingerprint = '', sha256 = null, error = null where owner = $1",
    ),
    ("upload_usage", "delete from upload_usage where owner = $1"),
    ("entitlement", "delete from entitlement where subject = $1"),
    ("money_request", "delete from money_request where subject = $1"),
    (
        "refund",
        "update refund set reason = null
         where requested_by = $1 or order_id in (select id from sale_order where buyer = $1)",
    ),
    (
        "payment",
        "update payment set client_secret = null where order_id in (select id from sale_order where buyer = $1)
           or subscription_id in (select id from subscription where subject = $1)",
    ),
    ("subscription", "update subscription set method = null where subject = $1"),
    ("product_image", "delete from product_image where product_id in (select id from product where seller = $1)"),
    ("product", "update product set title = '', track = null, active = 0 where seller = $1"),
    ("seller_account", "delete from seller_account where seller = $1"),
    (
        "mail",
        "delete from mail where email = (select email from users where id = $1)
           or email = (select email from email_change where user_id = $1) or about like '%' || $1 || '%'",
    ),
    ("registration", "delete from registration where email_key = (select email_key from users where id = $1)"),
    ("one_time_token", "delete from one_time_token where subject = $1"),
    (
        "rate_limit",
        "delete from rate_limit where bucket like '% ' || $1 || '%'
           or bucket in (select 'key-read ' || id from api_key where user_id = $1)
           or bucket in (select 'key-write ' || id from api_key where user_id = $1)",
    ),
    // With it what belongs to it alone: sessions, keys, codes, ways to log in, archives, the wish itself.
    ("users", "delete from users where id = $1"),
];

/// Tables whose rows go with those of others (on delete cascade), or with the person's tracks.
const GO_WITH: &[&str] = &[
    "recovery_code",
    "session",
    "refresh_token",
    "api_key",
    "identity",
    "email_change",
    "account_export",
    "account_erasure",
    "job_event",
    "delivery",
    "delivery_try",
    "upload_part",
    "track_version",
    "lyrics",
    "play_day",
    "play_listener",
];

/// Rows of a page of an archive's file.
const PAGE: i64 = 500;
/// Tracks that are looked at together.
const BATCH: i64 = 100;

/// A track that goes with its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// The track.
    pub id: TrackId,
    /// Hash of its pictures.
    pub artwork: Option<String>,
}

/// Tables that erasing empties, all of them or of the person.
pub fn emptied() -> Vec<&'static str> {
    ERASE.iter().map(|(table, _)| *table).chain(GO_WITH.iter().copied()).collect()
}

impl Db {
    /// The rows of a file of an archive, a page at a time; the last page is not full. Times are as people write them.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn rows_of(&self, part: &Part, user: &UserId, page: i64) -> Result<(Vec<Value>, bool)> {
        let mut tx = self.begin_read().await?;
        let rows = tx.all(part.sql, args![user.as_str(), PAGE, page * PAGE]).await?;
        let read = rows.iter().map(|row| part.columns.iter().map(|column| value(row, column)).collect());
        let read: Vec<Value> = read.map(|row: Result<Map<_, _>>| row.map(Value::Object)).collect::<Result<_>>()?;
        Ok((read, rows.len() as i64 == PAGE))
    }

    /// Somebody's uploads that have bytes which were looked at, behind `after`.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn uploads_ready(&self, user: &UserId, after: Option<&UploadId>) -> Result<Vec<UploadId>> {
        let mut tx = self.begin_read().await?;
        let sql = "select id from upload where owner = $1 and state = 'ready' and id > $2 order by id limit $3";
        let rows = tx.all(sql, args![user.as_str(), after.map_or("", UploadId::as_str), BATCH]).await?;
        Ok(ids(&rows)?.iter().filter_map(|id| UploadId::decode(id)).collect())
    }

    /// Somebody's uploads that may still have bytes, behind `after`.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn uploads_unswept(&self, user: &UserId, after: Option<&UploadId>) -> Result<Vec<UploadId>> {
        let mut tx = self.begin_read().await?;
        let sql = "select id from upload where owner = $1 and swept_us is null and id > $2 order by id limit $3";
        let rows = tx.all(sql, args![user.as_str(), after.map_or("", UploadId::as_str), BATCH]).await?;
        Ok(ids(&rows)?.iter().filter_map(|id| UploadId::decode(id)).collect())
    }

    /// Tracks with pictures, of a page.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn tracks_with_pictures(&self, user: &UserId, page: i64) -> Result<Vec<Leaving>> {
        let mut tx = self.begin_read().await?;
        let sql = "select id, artwork from track where owner = $1 and state <> 'deleted' and artwork is not null
                   order by id limit $2 offset $3";
        tx.all(sql, args![user.as_str(), BATCH, page * BATCH]).await?.iter().filter_map(leaving).collect()
    }

    /// Tracks that go with their owner and are not deleted, of a page: all, or all but those that everybody hears.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn tracks_to_hide(&self, user: &UserId, keep_public: bool, page: i64) -> Result<Vec<TrackId>> {
        let mut tx = self.begin_read().await?;
        let sql = "select id, artwork from track where owner = $1 and state <> 'deleted'
                     and ($2 = 0 or visibility <> 'public' or state <> 'published') order by id limit $3 offset $4";
        let rows = tx.all(sql, args![user.as_str(), i64::from(keep_public), BATCH, page * BATCH]).await?;
        rows.iter().filter_map(leaving).map(|known| known.map(|track| track.id)).collect()
    }

    /// Tracks that are to be removed, deleted ones too, the first of them: all, or all but those that everybody hears.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn tracks_to_erase(&self, user: &UserId, keep_public: bool) -> Result<Vec<Leaving>> {
        let mut tx = self.begin_read().await?;
        let sql = "select id, artwork from track where owner = $1
                     and ($2 = 0 or visibility <> 'public' or state <> 'published') order by id limit $3";
        tx.all(sql, args![user.as_str(), i64::from(keep_public), BATCH]).await?.iter().filter_map(leaving).collect()
    }

    /// Removes what the database has of a track whose bytes are gone, and what a counter-notice said for it.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn erase_track(&self, id: TrackId) -> Result<()> {
        const OF_IT: [&str; 8] = [
            "delete from share where track = $1",
            "delete from track_event where track = $1",
            "delete from track_version where track = $1",
            "delete from lyrics where track = $1",
            "delete from play_day where track = $1",
            "delete from play_listener where track = $1",
            "delete from entitlement where track = $1",
            "update dmca_notice set counter = null where track = $1",
        ];
        let mut tx = self.begin().await?;
        for sql in OF_IT {
            tx.execute(sql, args![id.as_str()]).await?;
        }
        tx.execute("delete from track where id = $1", args![id.as_str()]).await?;
        tx.commit().await
    }

    /// Somebody's work that is not done: what waits, and what runs.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn work_of(&self, user: &UserId) -> Result<Vec<JobId>> {
        let mut tx = self.begin_read().await?;
        let sql = "select id from job where client = $1 and state in ('queued', 'leased') order by id limit $2";
        Ok(ids(&tx.all(sql, args![user.as_str(), BATCH]).await?)?.iter().filter_map(|id| JobId::decode(id)).collect())
    }

    /// Whether money of theirs is on its way: what they pay, get back, or are to be paid.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn has_money_on_its_way(&self, user: &UserId) -> Result<bool> {
        let mut tx = self.begin_read().await?;
        let row = tx
            .first(
                "select 1 as one from sale_order
                   where buyer = $1 and status in ('created', 'pending_payment', 'refund_pending')
                 union all
                 select 1 from subscription where subject = $1 and status = 'pending_payment'
                 union all
                 select 1 from transfer where seller = $1 and status in ('pending', 'failed', 'reversal_pending') limit 1",
                args![user.as_str()],
            )
            .await?;
        Ok(row.is_some())
    }

    /// Removes what providers said about somebody's payments: their names and addresses may be in it. What was not
    /// processed yet stays.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn erase_payloads(&self, user: &UserId) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.execute(
            "update webhook_delivery set payload = '', source_ip = null, user_agent = null
             where next_us is null and payload <> '' and exists (select 1 from payment p
               where (p.order_id in (select id from sale_order where buyer = $1)
                   or p.subscription_id in (select id from subscription where subject = $1))
                 and webhook_delivery.received_us >= p.created_us and webhook_delivery.payload like '%' || p.id || '%')",
            args![user.as_str()],
        )
        .await?;
        tx.commit().await
    }

    /// The end of an erasure, when no file is left: all rows and the job, in one transaction. False when the lease is not ours
    /// any more, or somebody came back.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn erase(&self, lease: &Lease, id: &ErasureId, now_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        // Locks the row: who comes back now comes too late, and who came back before is seen.
        let sql = "update account_erasure set due_us = due_us
                   where id = $1 and taken_back_us is null and due_us <= $2 returning user_id";
        let Some(row) = tx.first(sql, args![id.as_str(), now_us]).await? else { return Ok(false) };
        let user = user_id(&row.text("user_id")?)?;
        if jobs::settle(&mut tx, lease, &Outcome::Succeeded("{}".into()), Backoff::default(), now_us).await?.is_none() {
            return Ok(false);
        }
        erase_limits(&mut tx, &user).await?;
        for (_, sql) in ERASE {
            tx.execute(sql, args![user.as_str()]).await?;
        }
        tx.commit().await?;
        self.empty_log().await;
        Ok(true)
    }

    /// Every table of this database, by name.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn tables(&self) -> Result<Vec<String>> {
        let mut tx = self.begin_read().await?;
        let sql = match self.dialect() {
            Dialect::Sqlite => {
                "select name from sqlite_master where type = 'table' and name not like 'sqlite_%' order by name"
            }
            Dialect::Postgres => {
                "select cast(table_name as text) as name from information_schema.tables
                 where table_schema = current_schema() and table_type = 'BASE TABLE' order by table_name"
            }
        };
        tx.all(sql, args![]).await?.iter().map(|row| row.text("name")).collect()
    }
}

/// Limits of an address: their names have its digest.
async fn erase_limits(tx: &mut Tx, user: &UserId) -> Result<()> {
    let row = tx.first("select email from users where id = $1", args![user.as_str()]).await?;
    let Some(email) = row.map(|row| row.text_or_null("email")).transpose()?.flatten() else { return Ok(()) };
    let Ok(email) = Email::decode(&email) else { return Ok(()) };
    let sql = "delete from rate_limit where bucket like '% ' || $1 || '%'";
    tx.execute(sql, args![&email.digest()]).await.map(drop)
}

fn ids(rows: &[Row]) -> Result<Vec<String>> {
    rows.iter().map(|row| row.text("id")).collect()
}

/// A track by its row; an id that cannot be read is nobody's track.
fn leaving(row: &Row) -> Option<Result<Leaving>> {
    let read = || Ok((row.text("id")?, row.text_or_null("artwork")?));
    match read() {
        Ok((id, artwork)) => TrackId::decode(&id).map(|id| Ok(Leaving { id, artwork })),
        Err(error) => Some(Err(error)),
    }
}

/// A column by its name in the archive: a time is text, and JSON is JSON.
fn value(row: &Row, column: &str) -> Result<(String, Value)> {
    if let Some(name) = column.strip_suffix("_us") {
        return Ok((format!("{name}_at"), row.int_or_null(column)?.map_or(Value::Null, |us| json!(rfc3339(us)))));
    }
    let value = match row.text_or_null(column) {
        Ok(None) => Value::Null,
        Ok(Some(text)) if text.starts_with('{') => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        Ok(Some(text)) => Value::String(text),
        Err(_) => row.int_or_null(column)?.map_or(Value::Null, Value::from),
    };
    Ok((column.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_table_is_in_two_lists() {
        let kept = KEPT.iter().map(|(table, _)| *table);
        // What of these is removed is less than all: they are in both on purpose.
        let partly = ["refund", "payment", "product", "subscription"];
        let mut seen: Vec<&str> = emptied().into_iter().filter(|table| !partly.contains(table)).collect();
        seen.extend(kept.chain(NOBODYS.iter().copied()));
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count, "{seen:?}");
    }

    #[test]
    fn files_of_an_archive_are_named_once_and_hold_no_secret() {
        let mut names: Vec<_> = PARTS.iter().map(|part| part.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PARTS.len());
        for part in PARTS {
            for column in part.columns {
                let secret = ["password", "hash", "secret", "token"].iter().any(|word| column.contains(word));
                assert!(!secret, "{}.{column}", part.name);
            }
        }
    }
}
