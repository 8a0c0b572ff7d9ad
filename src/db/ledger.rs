//! The ledger's rows. In: journals. Out: what came of posting them, and balances now and as of any time.
//!
//! Journals are posted in groups: what they touch is loaded in a handful of statements under the lock of the chain's
//! head, decided on values (`ledger::View`), and stored in three more. Whatever got past that is refused by the schema
//! (`schema/0006_ledger.sql`), which knows nothing of this file.

mod poster;
mod verify;
pub mod walls;

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};

pub use poster::Poster;
pub use verify::Report;

use super::conn::{Row, Tx, args};
use super::{Db, Dialect};
use crate::base::{Error, Kind, Result, hex};
use crate::ledger::{
    Account, AccountCode, AccountKind, Amount, Balance, Currency, Draft, Guard, Hash, Head, Header, Journal, JournalId,
    Known, Ours, Phase, Place, Posted, Posting, Sealed, Side, View,
};

/// Accounts read at once for a trial balance: each page sums the postings again.
const LINES: i64 = 100_000;
/// Microseconds of an hour of `ledger_hour`.
const HOUR_US: i64 = 3_600_000_000;

/// As of when a balance is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// Everything.
    Now,
    /// What had been recorded until then, inclusively: what we knew. In microseconds since 1970.
    Recorded(i64),
    /// What counts until then, inclusively, whenever it was recorded: what was so.
    Effective(i64),
}

/// One line of a trial balance: what was posted to an account, in minor units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The account.
    pub account: Account,
    /// Left.
    pub debits: i64,
    /// Right.
    pub credits: i64,
}

/// Opens an account; the same one again is no news.
///
/// # Errors
/// `Invalid` when there is another account of that name.
pub async fn open_account(tx: &mut Tx, account: &Account, now_us: i64) -> Result<()> {
    let Account { code, kind, currency, guard } = account;
    tx.execute(
        "insert into ledger_currency (code, exponent) values ($1, $2) on conflict (code) do nothing",
        args![currency.code(), i64::from(currency.exponent())],
    )
    .await?;
    tx.execute(
        "insert into ledger_account (code, kind, currency, guard, opened_us) values ($1, $2, $3, $4, $5)
         on conflict (code) do nothing",
        args![code.as_str(), kind.as_str(), currency.code(), guard.as_str(), now_us],
    )
    .await?;
    let sql = "select code, kind, currency, guard from ledger_account where code = $1";
    let row = tx.first(sql, args![code.as_str()]).await?;
    let known = row.ok_or_else(|| Error::internal(format!("the account {code} vanished")))?;
    match decode_account(&known)? == *account {
        true => Ok(()),
        false => Err(Error::invalid(format!("there is another account {code}: an account never changes"))),
    }
}

/// Posts a journal in the caller's transaction: with the change that it belongs to, or not at all. Holds the lock of
/// the chain until that ends.
///
/// # Errors
/// When the database refuses; what the ledger refuses is a `Posted`.
pub async fn post(tx: &mut Tx, journal: &Journal, now_us: i64) -> Result<Posted> {
    let posted = post_all(tx, &[journal], now_us).await?.pop();
    posted.ok_or_else(|| Error::internal("a journal was posted and nothing came of it"))
}

/// Posts journals one after the other, each on what those before it left; one that is refused keeps none back.
///
/// # Errors
/// As `post`; then none of them is posted.
pub async fn post_all(tx: &mut Tx, journals: &[&Journal], now_us: i64) -> Result<Vec<Posted>> {
    let mut view = load(tx, journals).await?;
    let mut outcomes = Vec::with_capacity(journals.len());
    let mut sealed = Vec::new();
    for journal in journals {
        let (posted, new) = view.post(journal, now_us);
        outcomes.push(posted);
        sealed.extend(new);
    }
    if !sealed.is_empty() {
        store(tx, &sealed).await?;
    }
    Ok(outcomes)
}

/// Closes everything that counts until `through_us`, inclusively: nothing more is posted into it.
///
/// # Errors
/// `Invalid` when a later time is closed already.
pub async fn close_period(tx: &mut Tx, through_us: i64, now_us: i64) -> Result<()> {
    let head = lock(tx).await?;
    let closed_us = closed(tx).await?;
    if through_us <= closed_us {
        return Err(Error::invalid(format!("the ledger is closed until {closed_us} µs since 1970 already")));
    }
    tx.execute(
        "insert into ledger_period (through_us, closed_us, seq, hash) values ($1, $2, $3, $4)",
        args![through_us, now_us, head.seq, &hex::encode(&head.hash)],
    )
    .await
    .map(drop)
}

/// A journal that was posted, and where.
///
/// # Errors
/// When the database cannot be read, or holds what is no journal.
pub async fn journal(tx: &mut Tx, id: &JournalId) -> Result<Option<(Journal, Place)>> {
    let sql = "select j.id, j.kind, j.source, j.phase, j.effective_us, j.recorded_us, j.reverses, j.resolves, s.seq
         from ledger_journal j join ledger_seal s on s.journal_id = j.id where j.id = $1";
    let Some(row) = tx.first(sql, args![id.as_str()]).await? else { return Ok(None) };
    let lines = tx
        .all(
            "select a.code, p.currency, p.debit, p.credit from ledger_posting p join ledger_account a on a.id = p.account_id
             where p.journal_id = $1 order by p.line",
            args![id.as_str()],
        )
        .await?;
    let postings = lines.iter().map(decode_posting).collect::<Result<_>>()?;
    let place = Place { seq: row.int("seq")?, recorded_us: row.int("recorded_us")? };
    Ok(Some((Draft::of(decode_header(&row)?, postings).balance()?, place)))
}

/// An account's sums as they stand, reservations included.
///
/// # Errors
/// When the database cannot be read.
pub async fn balance(tx: &mut Tx, code: &AccountCode) -> Result<Option<Balance>> {
    let sql = "select debits, credits, debits_pending, credits_pending from ledger_balance b
         join ledger_account a on a.id = b.account_id where a.code = $1";
    tx.first(sql, args![code.as_str()]).await?.map(|row| decode_balance(&row)).transpose()
}

/// Waits until nobody else posts; what balances say then stays so until the caller's transaction ends.
///
/// # Errors
/// When the database cannot be read.
pub async fn wait(tx: &mut Tx) -> Result<()> {
    lock(tx).await.map(drop)
}

impl Db {
    /// Closes everything that counts until `through_us`, inclusively, in a transaction of its own.
    ///
    /// # Errors
    /// As `close_period`.
    pub async fn close_ledger(&self, through_us: i64, now_us: i64) -> Result<()> {
        let mut tx = self.begin().await?;
        close_period(&mut tx, through_us, now_us).await?;
        tx.commit().await
    }

    /// Until when the ledger is closed, in microseconds since 1970; `None`: nothing is.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn ledger_closed(&self) -> Result<Option<i64>> {
        let closed_us = closed(&mut self.begin_one().await?).await?;
        Ok((closed_us >= 0).then_some(closed_us))
    }

    /// Posts journals in a transaction of their own.
    ///
    /// # Errors
    /// As `post_all`.
    pub async fn post_journals(&self, journals: &[&Journal], now_us: i64) -> Result<Vec<Posted>> {
        let mut tx = self.begin().await?;
        let posted = post_all(&mut tx, journals, now_us).await?;
        tx.commit().await?;
        Ok(posted)
    }

    /// The events that moved money, one for each journal that did: at most 100,000.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn ledger_sources(&self) -> Result<Vec<String>> {
        let mut tx = self.begin_one().await?;
        let sql = "select source from ledger_journal where phase in ('posted', 'post') limit 100000";
        tx.all(sql, args![]).await?.iter().map(|row| row.text("source")).collect()
    }

    /// What was posted to an account as of some time: (debits, credits) in minor units; `None`: there is no such
    /// account. Reads at most 256 postings for `Recorded`, those of one hour and a sum for each hour before it for
    /// `Effective`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn balance_as_of(&self, code: &AccountCode, as_of: AsOf) -> Result<Option<(i64, i64)>> {
        let mut tx = self.begin_read().await?;
        snapshot(&mut tx).await?;
        let id = tx.first("select id from ledger_account where code = $1", args![code.as_str()]).await?;
        let Some(id) = id else { return Ok(None) };
        sums(&mut tx, id.int("id")?, as_of).await.map(Some)
    }

    /// Every account that something was posted to, by code, on one snapshot: what is posted meanwhile is in all of its
    /// accounts or in none. Summed from the postings and nothing else, so that books that were changed past their balances
    /// do not look right; it takes time with their number.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn trial_balance(&self, as_of: AsOf) -> Result<Vec<Line>> {
        let mut tx = self.begin_read().await?;
        snapshot(&mut tx).await?;
        let (seq, until_us) = match as_of {
            AsOf::Now => (i64::MAX, i64::MAX),
            AsOf::Effective(until_us) => (i64::MAX, until_us),
            AsOf::Recorded(until_us) => (last_recorded(&mut tx, until_us).await?, i64::MAX),
        };
        let mut lines = Vec::new();
        let mut after = String::new();
        loop {
            let sql = "select a.code, a.kind, a.currency, a.guard, p.debits, p.credits from (
                   select account_id, cast(sum(debit) as bigint) as debits, cast(sum(credit) as bigint) as credits
                   from ledger_posting where posted = 1 and seq <= $1 and effective_us <= $2 group by account_id) p
                 join ledger_account a on a.id = p.account_id where a.code > $3 order by a.code limit $4";
            let page = tx.all(sql, args![seq, until_us, &after, LINES]).await?;
            for row in &page {
                let account = decode_account(row)?;
                account.code.as_str().clone_into(&mut after);
                lines.push(Line { account, debits: row.int("debits")?, credits: row.int("credits")? });
            }
            if page.len() < LINES as usize {
                return Ok(lines);
            }
        }
    }
}

/// Every statement of the transaction reads what the first one does. SQLite's transactions are so; PostgreSQL's would let
/// each statement see what was committed before it.
async fn snapshot(tx: &mut Tx) -> Result<()> {
    if tx.dialect() == Dialect::Postgres {
        tx.execute("set transaction isolation level repeatable read", args![]).await?;
    }
    Ok(())
}

async fn sums(tx: &mut Tx, account_id: i64, as_of: AsOf) -> Result<(i64, i64)> {
    let pair = |row: Option<Row>| -> Result<(i64, i64)> {
        row.map_or(Ok((0, 0)), |row| Ok((row.int("debits")?, row.int("credits")?)))
    };
    match as_of {
        AsOf::Now => {
            let sql = "select debits, credits from ledger_balance where account_id = $1";
            pair(tx.first(sql, args![account_id]).await?)
        }
        AsOf::Recorded(until_us) => {
            let seq = last_recorded(tx, until_us).await?;
            let sql = "select seq, debits, credits from ledger_mark where account_id = $1 and seq <= $2
                 order by seq desc limit 1";
            let mark = tx.first(sql, args![account_id, seq]).await?;
            let after = mark.as_ref().map_or(Ok(0), |mark| mark.int("seq"))?;
            let before = pair(mark)?;
            let sql = "select cast(coalesce(sum(debit), 0) as bigint) as debits,
                   cast(coalesce(sum(credit), 0) as bigint) as credits
                 from ledger_posting where account_id = $1 and posted = 1 and seq > $2 and seq <= $3";
            let since = pair(tx.first(sql, args![account_id, after, seq]).await?)?;
            Ok((before.0 + since.0, before.1 + since.1))
        }
        AsOf::Effective(until_us) => {
            let hour = until_us.div_euclid(HOUR_US);
            let sql = "select cast(coalesce(sum(debits), 0) as bigint) as debits,
                   cast(coalesce(sum(credits), 0) as bigint) as credits
                 from ledger_hour where account_id = $1 and hour < $2";
            let before = pair(tx.first(sql, args![account_id, hour]).await?)?;
            let sql = "select cast(coalesce(sum(debit), 0) as bigint) as debits,
                   cast(coalesce(sum(credit), 0) as bigint) as credits
                 from ledger_posting where account_id = $1 and posted = 1 and effective_us >= $2 and effective_us <= $3";
            let since = pair(tx.first(sql, args![account_id, hour * HOUR_US, until_us]).await?)?;
            Ok((before.0 + since.0, before.1 + since.1))
        }
    }
}

/// The number of the last journal that was recorded until then; 0: none was.
async fn last_recorded(tx: &mut Tx, until_us: i64) -> Result<i64> {
    // Two steps: journals of one group share their time.
    let last = "select max(recorded_us) as at from ledger_journal where recorded_us <= $1";
    let Some(last_us) = first_int(tx, last, until_us).await? else { return Ok(0) };
    let seq = "select max((select seq from ledger_seal where journal_id = j.id)) as at from ledger_journal j
         where j.recorded_us = $1";
    Ok(first_int(tx, seq, last_us).await?.unwrap_or(0))
}

async fn first_int(tx: &mut Tx, sql: &'static str, arg: i64) -> Result<Option<i64>> {
    tx.first(sql, args![arg]).await?.map_or(Ok(None), |row| row.int_or_null("at"))
}

/// Waits until nobody else posts, and shows the end of the chain.
async fn lock(tx: &mut Tx) -> Result<Head> {
    let row = match tx.dialect() {
        Dialect::Sqlite => tx.first("select seq, hash, recorded_us from ledger_head", args![]).await?, // the writer is alone
        Dialect::Postgres => tx.first("select seq, hash, recorded_us from ledger_lock()", args![]).await?,
    };
    let row = row.ok_or_else(|| Error::internal("the ledger has lost its head; restore a backup"))?;
    Ok(Head { seq: row.int("seq")?, hash: decode_hash(&row.text("hash")?)?, recorded_us: row.int("recorded_us")? })
}

async fn closed(tx: &mut Tx) -> Result<i64> {
    let row = tx.first("select max(through_us) as at from ledger_period", args![]).await?;
    Ok(row.map_or(Ok(None), |row| row.int_or_null("at"))?.unwrap_or(-1))
}

/// Everything that the journals touch. On PostgreSQL each row is looked up by its key: a session keeps its plans, and one
/// that was made while a table was small would read all of it later.
async fn load(tx: &mut Tx, journals: &[&Journal]) -> Result<View> {
    let head = lock(tx).await?;
    let closed_us = closed(tx).await?;
    let headers = || journals.iter().map(|journal| journal.header());
    let named: BTreeSet<&str> =
        headers().flat_map(|h| [&h.reverses, &h.resolves]).flatten().map(JournalId::as_str).collect();
    let mut ids = named.clone();
    ids.extend(headers().map(|h| h.id.as_str()));
    let sources: BTreeSet<[&str; 2]> = headers().map(|h| [h.kind.as_str(), h.source.as_str()]).collect();
    let codes: BTreeSet<&str> =
        journals.iter().flat_map(|journal| journal.postings()).map(|posting| posting.account.as_str()).collect();

    let mut view =
        View { head, closed_us, accounts: HashMap::new(), journals: HashMap::new(), sources: HashMap::new() };
    let sql = match tx.dialect() {
        Dialect::Sqlite => {
            "select a.code, a.currency, a.guard, b.debits, b.credits, b.debits_pending, b.credits_pending
             from ledger_account a join ledger_balance b on b.account_id = a.id
             where a.code in (select value from json_each($1))"
        }
        Dialect::Postgres => {
            "select a.code, a.currency, a.guard, b.debits, b.credits, b.debits_pending, b.credits_pending
             from jsonb_array_elements_text($1::jsonb) wanted cross join lateral (
               select * from ledger_account where code = wanted limit 1) a
             cross join lateral (select * from ledger_balance where account_id = a.id limit 1) b"
        }
    };
    for row in tx.all(sql, args![&json!(codes).to_string()]).await? {
        let ours = Ours {
            currency: decode_currency(&row)?,
            guard: word(Guard::decode, "guard", &row.text("guard")?)?,
            balance: decode_balance(&row)?,
        };
        view.accounts.insert(row.text("code")?.parse()?, ours);
    }
    let sql = match tx.dialect() {
        Dialect::Sqlite => {
            "select j.id, j.kind, j.source, j.phase, j.fingerprint, j.recorded_us, s.seq,
               (select count(*) from ledger_journal r where r.reverses = j.id) as reversed,
               (select count(*) from ledger_journal r where r.resolves = j.id) as resolved
             from ledger_journal j join ledger_seal s on s.journal_id = j.id
             where j.id in (select value from json_each($1)) or j.id in (select k.id from ledger_journal k
               where (k.kind, k.source) in (select json_extract(value, '$[0]'), json_extract(value, '$[1]')
                 from json_each($2)))"
        }
        Dialect::Postgres => {
            "with known as (
               select jsonb_array_elements_text($1::jsonb) as id
               union select k.id from jsonb_array_elements($2::jsonb) e cross join lateral (
                 select id from ledger_journal where kind = e ->> 0 and source = e ->> 1 limit 1) k)
             select j.id, j.kind, j.source, j.phase, j.fingerprint, j.recorded_us, s.seq,
               (select count(*) from ledger_journal r where r.reverses = j.id) as reversed,
               (select count(*) from ledger_journal r where r.resolves = j.id) as resolved
             from known cross join lateral (select * from ledger_journal where id = known.id limit 1) j
             cross join lateral (select seq from ledger_seal where journal_id = j.id limit 1) s"
        }
    };
    for row in tx.all(sql, args![&json!(ids).to_string(), &json!(sources).to_string()]).await? {
        let id: JournalId = row.text("id")?.parse()?;
        let known = Known {
            fingerprint: decode_hash(&row.text("fingerprint")?)?,
            place: Place { seq: row.int("seq")?, recorded_us: row.int("recorded_us")? },
            phase: word(Phase::decode, "phase", &row.text("phase")?)?,
            reversed: row.int("reversed")? > 0,
            resolved: row.int("resolved")? > 0,
            postings: Vec::new(),
        };
        view.sources.insert((row.text("kind")?, row.text("source")?), id.clone());
        view.journals.insert(id, known);
    }
    if !named.is_empty() {
        load_postings(tx, &mut view, &json!(named)).await?;
    }
    Ok(view)
}

/// The lines of journals that others name.
async fn load_postings(tx: &mut Tx, view: &mut View, named: &Value) -> Result<()> {
    let sql = match tx.dialect() {
        Dialect::Sqlite => {
            "select p.journal_id, a.code, p.currency, p.debit, p.credit
             from ledger_posting p join ledger_account a on a.id = p.account_id
             where p.journal_id in (select value from json_each($1)) order by p.journal_id, p.line"
        }
        Dialect::Postgres => {
            "select p.journal_id, a.code, p.currency, p.debit, p.credit
             from jsonb_array_elements_text($1::jsonb) wanted cross join lateral (
               select * from ledger_posting where journal_id = wanted order by line limit 1000) p
             cross join lateral (select code from ledger_account where id = p.account_id limit 1) a
             order by p.journal_id, p.line"
        }
    };
    for row in tx.all(sql, args![&named.to_string()]).await? {
        if let Some(known) = view.journals.get_mut(&row.text("journal_id")?.parse()?) {
            known.postings.push(decode_posting(&row)?);
        }
    }
    Ok(())
}

/// Journals, then their postings, then their seals, whose triggers look at both.
async fn store(tx: &mut Tx, sealed: &[Sealed<'_>]) -> Result<()> {
    let name = |id: &Option<JournalId>| id.as_ref().map(|id| id.as_str().to_owned());
    let journals: Vec<Value> = sealed
        .iter()
        .map(|Sealed { journal, place, .. }| {
            let Header { id, kind, source, effective_us, phase, resolves, reverses } = journal.header();
            let fingerprint = hex::encode(&journal.fingerprint());
            let (phase, reverses, resolves) = (phase.as_str(), name(reverses), name(resolves));
            json!([id.as_str(), kind, source, phase, fingerprint, effective_us, place.recorded_us, reverses, resolves])
        })
        .collect();
    let postings: Vec<Value> = sealed.iter().flat_map(lines).collect();
    let seals: Vec<Value> = sealed
        .iter()
        .map(|s| json!([s.journal.id().as_str(), s.place.seq, hex::encode(&s.before), hex::encode(&s.hash)]))
        .collect();
    let (insert_journals, insert_postings, insert_seals) = match tx.dialect() {
        Dialect::Sqlite => (
            "insert into ledger_journal (id, kind, source, phase, fingerprint, effective_us, recorded_us, reverses, resolves)
             select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
               value ->> 8 from json_each($1) order by key",
            "insert into ledger_posting (journal_id, line, account_id, currency, debit, credit, seq, effective_us, posted)
             select e.value ->> 0, e.value ->> 1, (select id from ledger_account where code = e.value ->> 2),
               e.value ->> 3, e.value ->> 4, e.value ->> 5, e.value ->> 6, e.value ->> 7, e.value ->> 8
             from json_each($1) e order by e.key",
            "insert into ledger_seal (journal_id, seq, prev_hash, hash)
             select value ->> 0, value ->> 1, value ->> 2, value ->> 3 from json_each($1) order by key",
        ),
        Dialect::Postgres => (
            "insert into ledger_journal (id, kind, source, phase, fingerprint, effective_us, recorded_us, reverses, resolves)
             select e ->> 0, e ->> 1, e ->> 2, e ->> 3, e ->> 4, (e ->> 5)::bigint, (e ->> 6)::bigint, e ->> 7, e ->> 8
             from jsonb_array_elements($1::jsonb) with ordinality as list (e, at) order by at",
            "insert into ledger_posting (journal_id, line, account_id, currency, debit, credit, seq, effective_us, posted)
             select e ->> 0, (e ->> 1)::bigint, (select id from ledger_account where code = e ->> 2), e ->> 3,
               (e ->> 4)::bigint, (e ->> 5)::bigint, (e ->> 6)::bigint, (e ->> 7)::bigint, (e ->> 8)::bigint
             from jsonb_array_elements($1::jsonb) with ordinality as list (e, at) order by at",
            "insert into ledger_seal (journal_id, seq, prev_hash, hash)
             select e ->> 0, (e ->> 1)::bigint, e ->> 2, e ->> 3
             from jsonb_array_elements($1::jsonb) with ordinality as list (e, at) order by at",
        ),
    };
    for (sql, rows) in [(insert_journals, journals), (insert_postings, postings), (insert_seals, seals)] {
        let changed = tx.execute(sql, args![&Value::from(rows.clone()).to_string()]).await?;
        if changed != rows.len() as u64 {
            let what = format!("the ledger stored {changed} of {} rows", rows.len());
            return Err(Error::new(Kind::Internal, what));
        }
    }
    Ok(())
}

fn lines(sealed: &Sealed<'_>) -> Vec<Value> {
    let header = sealed.journal.header();
    let posted = i64::from(matches!(header.phase, Phase::Posted | Phase::Post));
    let line = |(at, posting): (usize, &Posting)| {
        let (minor, currency) = (posting.amount.minor(), posting.amount.currency());
        let (debit, credit) = match posting.side {
            Side::Debit => (minor, 0),
            Side::Credit => (0, minor),
        };
        let (id, account) = (header.id.as_str(), posting.account.as_str());
        json!([id, at + 1, account, currency.code(), debit, credit, sealed.place.seq, header.effective_us, posted])
    };
    sealed.journal.postings().iter().enumerate().map(line).collect()
}

fn decode_header(row: &Row) -> Result<Header> {
    let name = |at: &str| row.text_or_null(at)?.map(|id| id.parse()).transpose();
    Ok(Header {
        id: row.text("id")?.parse()?,
        kind: row.text("kind")?,
        source: row.text("source")?,
        effective_us: row.int("effective_us")?,
        phase: word(Phase::decode, "phase", &row.text("phase")?)?,
        resolves: name("resolves")?,
        reverses: name("reverses")?,
    })
}

fn decode_posting(row: &Row) -> Result<Posting> {
    let (side, minor) = match (row.int("debit")?, row.int("credit")?) {
        (debit, 0) => (Side::Debit, debit),
        (_, credit) => (Side::Credit, credit),
    };
    let amount = Amount::new(minor, decode_currency(row)?)?;
    Ok(Posting { account: row.text("code")?.parse()?, side, amount })
}

fn decode_account(row: &Row) -> Result<Account> {
    Ok(Account {
        code: row.text("code")?.parse()?,
        kind: word(AccountKind::decode, "kind", &row.text("kind")?)?,
        currency: decode_currency(row)?,
        guard: word(Guard::decode, "guard", &row.text("guard")?)?,
    })
}

fn decode_currency(row: &Row) -> Result<Currency> {
    word(Currency::decode, "currency", &row.text("currency")?)
}

fn decode_balance(row: &Row) -> Result<Balance> {
    Ok(Balance {
        debits: row.int("debits")?,
        credits: row.int("credits")?,
        debits_pending: row.int("debits_pending")?,
        credits_pending: row.int("credits_pending")?,
    })
}

fn decode_hash(text: &str) -> Result<Hash> {
    word(|text| hex::decode(text.as_bytes()), "hash", text)
}

fn word<T>(decode: impl Fn(&str) -> Option<T>, what: &str, text: &str) -> Result<T> {
    decode(text)
        .ok_or_else(|| Error::internal(format!("the ledger holds {text:?} as a {what}; run 'segue ledger verify'")))
}
