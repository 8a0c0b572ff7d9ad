//! The whole ledger again from its postings: seals, balances, marks, hours, the trial balance. Trusts no trigger and no
//! constraint: a superuser, a restored backup and a bug get past those.

use std::collections::{BTreeMap, HashMap};

use super::{
    decode_account, decode_balance, decode_currency, decode_hash, decode_header, decode_posting, lock, snapshot, walls,
    word,
};
use crate::base::{Result, hex};
use crate::db::conn::{Row, Tx, args};
use crate::db::{Db, Dialect};
use crate::ledger::{Balance, Currency, Draft, GENESIS, Guard, Hash, Journal, Phase, Posting, Side, chart, seal};

/// Journals read at once.
const PAGE: i64 = 1000;
/// Differences that are told in words.
const TOLD_MAX: usize = 20;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Journals in the chain.
    pub journals: u64,
    /// Their postings.
    pub postings: u64,
    /// Accounts.
    pub accounts: u64,
    /// The seal of the last journal as it should be, in hexadecimal: keep it somewhere else.
    pub head: String,
    /// Posted debits less credits of each currency, in minor units; all of them 0 in a ledger that balances.
    pub trial: BTreeMap<String, i64>,
    /// Differences.
    pub wrong: u64,
    /// The first of them, in words.
    pub differences: Vec<String>,
}

impl Report {
    fn tell(&mut self, what: String) {
        self.wrong += 1;
        if self.differences.len() < TOLD_MAX {
            self.differences.push(what);
        }
    }
}

/// What the postings so far amount to.
struct Fold {
    report: Report,
    /// Number of the last journal that was read.
    read: i64,
    /// … and of the last one that was looked at.
    seq: i64,
    hash: Hash,
    recorded_us: i64,
    /// By account id: sums, and postings so far.
    balances: HashMap<i64, (Balance, i64)>,
    marks: u64,
    /// Periods that are closed and were not come to yet, the next one last.
    periods: Vec<Period>,
    /// Until when those are closed that were.
    closed_us: Option<i64>,
}

/// A period that is closed.
struct Period {
    through_us: i64,
    /// The last journal then, and its seal.
    seq: i64,
    hash: String,
}

impl Db {
    /// Computes everything again, on one snapshot.
    ///
    /// # Errors
    /// When the database cannot be read; what is wrong in it is in the report.
    pub async fn verify_ledger(&self) -> Result<Report> {
        let mut tx = self.begin_read().await?;
        snapshot(&mut tx).await?;
        let mut fold = Fold {
            report: Report::default(),
            read: i64::MIN,
            seq: 0,
            hash: GENESIS,
            recorded_us: 0,
            balances: HashMap::new(),
            marks: 0,
            periods: periods(&mut tx).await?,
            closed_us: None,
        };
        fold.close_periods(0, &hex::encode(&GENESIS));
        while fold.page(&mut tx).await? {}
        fold.close_periods(i64::MAX, "");
        fold.check_head(&mut tx).await?;
        fold.check_balances(&mut tx).await?;
        fold.check_currencies(&mut tx).await?;
        fold.check_derived(&mut tx).await?;
        let gone = walls::missing(&mut tx).await?;
        if !gone.is_empty() {
            fold.report.tell(format!("triggers that keep the tables are gone or off: {}", gone.join(", ")));
        }
        fold.report.head = hex::encode(&fold.hash);
        Ok(fold.report)
    }
}

impl Fold {
    /// The next journals; whether there may be more.
    async fn page(&mut self, tx: &mut Tx) -> Result<bool> {
        let rows = tx
            .all(
                "select j.id, j.kind, j.source, j.phase, j.fingerprint, j.effective_us, j.recorded_us, j.reverses,
                   j.resolves, s.seq, s.prev_hash, s.hash
                 from ledger_seal s left join ledger_journal j on j.id = s.journal_id
                 where s.seq > $1 order by s.seq limit $2",
                args![self.read, PAGE],
            )
            .await?;
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(false) };
        self.read = last.int("seq")?;
        let lines = tx
            .all(
                "select s.seq as sealed, p.journal_id, p.account_id, a.code, a.currency as held, p.currency, p.debit,
                   p.credit, p.seq, p.effective_us, p.posted
                 from ledger_seal s join ledger_posting p on p.journal_id = s.journal_id
                 left join ledger_account a on a.id = p.account_id
                 where s.seq between $1 and $2 order by s.seq, p.line",
                args![first.int("seq")?, self.read],
            )
            .await?;
        let mut lines = lines.into_iter().peekable();
        for row in &rows {
            let seq = row.int("seq")?;
            let mut own = Vec::new();
            while let Some(line) = lines.next_if(|line| line.int("sealed").is_ok_and(|sealed| sealed == seq)) {
                own.push(line);
            }
            self.check_journal(tx, row, &own).await?;
        }
        Ok(rows.len() == PAGE as usize)
    }

    async fn check_journal(&mut self, tx: &mut Tx, row: &Row, lines: &[Row]) -> Result<()> {
        self.report.journals += 1;
        self.report.postings += lines.len() as u64;
        let (seq, stored) = (row.int("seq")?, row.text("hash")?);
        if seq != self.seq + 1 {
            self.report.tell(format!("journal {seq} follows number {}", self.seq));
        }
        self.seq = seq;
        if row.text("prev_hash")? != hex::encode(&self.hash) {
            self.report.tell(format!("journal {seq} does not follow the seal before it"));
        }
        match read_journal(row, lines) {
            Ok((journal, recorded_us)) => {
                if recorded_us < self.recorded_us {
                    self.report.tell(format!("journal {seq} was recorded before the one in front of it"));
                }
                self.recorded_us = self.recorded_us.max(recorded_us);
                if hex::encode(&journal.fingerprint()) != row.text("fingerprint")? {
                    self.report.tell(format!("journal {seq} ({}) is not what its caller wanted", journal.id()));
                }
                let hash = seal(&self.hash, seq, recorded_us, &journal);
                if hex::encode(&hash) != stored {
                    self.report.tell(format!("journal {seq} ({}) is not what was sealed", journal.id()));
                }
            }
            Err(why) => self.report.tell(format!("journal {seq}: {}", why.chain())),
        }
        if let (Some(closed_us), Some(effective_us)) = (self.closed_us, row.int_or_null("effective_us")?)
            && effective_us <= closed_us
        {
            let id = row.text_or_null("id")?.unwrap_or_default();
            self.report
                .tell(format!("journal {seq} ({id}) counts at a time for which a period was closed before it came"));
        }
        self.close_periods(seq, &stored);
        // On with what is stored: one change is one difference, not one for each journal behind it.
        self.hash = decode_hash(&stored).unwrap_or(self.hash);
        for line in lines {
            self.add(tx, row, line).await?;
        }
        Ok(())
    }

    /// The periods that were closed when this journal was the last, each of which has to say so.
    fn close_periods(&mut self, seq: i64, hash: &str) {
        while let Some(period) = self.periods.pop_if(|period| period.seq <= seq) {
            if period.seq != seq || period.hash != hash {
                let (until, said) = (period.through_us, period.seq);
                self.report
                    .tell(format!("the period until {until} µs says it was closed at journal {said}, and was not"));
            }
            self.closed_us = self.closed_us.max(Some(period.through_us));
        }
    }

    async fn add(&mut self, tx: &mut Tx, row: &Row, line: &Row) -> Result<()> {
        let (seq, account) = (row.int("seq")?, line.int("account_id")?);
        let Ok((posting, phase)) = read_line(row, line) else { return Ok(()) }; // told with its journal
        let counts = matches!(phase, Phase::Posted | Phase::Post);
        if line.int("seq")? != seq
            || line.int("effective_us")? != row.int("effective_us")?
            || line.int("posted")? != i64::from(counts)
        {
            self.report.tell(format!("journal {seq}: a posting to {} says other times than it", posting.account));
        }
        let minor = posting.amount.minor();
        if counts {
            let sum = self.report.trial.entry(posting.amount.currency().code().to_owned()).or_default();
            *sum += if posting.side == Side::Debit { minor } else { -minor };
        }
        let (balance, version) = self.balances.entry(account).or_default();
        match balance.after(phase, posting.side, posting.amount) {
            Some(after) => *balance = after,
            None => self.report.tell(format!("journal {seq}: the sums of {} do not fit", posting.account)),
        }
        *version += 1;
        if *version % 256 == 0 {
            self.marks += 1;
            let sql = "select debits, credits from ledger_mark where account_id = $1 and seq = $2";
            let mark = tx.first(sql, args![account, seq]).await?;
            let same = match mark {
                Some(mark) => (mark.int("debits")?, mark.int("credits")?) == (balance.debits, balance.credits),
                None => false,
            };
            if !same {
                self.report.tell(format!("the mark of {} at journal {seq} is not its sum", posting.account));
            }
        }
        Ok(())
    }

    async fn check_head(&mut self, tx: &mut Tx) -> Result<()> {
        let head = match tx.dialect() {
            Dialect::Sqlite => lock(tx).await?,
            // Nothing is locked: this transaction has its own snapshot.
            Dialect::Postgres => {
                let row = tx.first("select seq, hash, recorded_us from ledger_head", args![]).await?;
                let Some(row) = row else {
                    self.report.tell("the chain has lost its head".into());
                    return Ok(());
                };
                crate::ledger::Head {
                    seq: row.int("seq")?,
                    hash: decode_hash(&row.text("hash")?)?,
                    recorded_us: row.int("recorded_us")?,
                }
            }
        };
        if (head.seq, head.hash, head.recorded_us) != (self.seq, self.hash, self.recorded_us) {
            self.report.tell(format!("the chain ends at journal {}, and its head says {}", self.seq, head.seq));
        }
        for (sql, what) in [
            (
                "select count(*) as n from ledger_journal j
                 where not exists (select 1 from ledger_seal s where s.journal_id = j.id)",
                "journals without a seal",
            ),
            (
                "select count(*) as n from ledger_posting p
                 where not exists (select 1 from ledger_seal s where s.journal_id = p.journal_id)",
                "postings without a sealed journal",
            ),
        ] {
            let count = tx.first(sql, args![]).await?.map_or(Ok(0), |row| row.int("n"))?;
            if count > 0 {
                self.report.tell(format!("{count} {what}"));
            }
        }
        let unbalanced: Vec<String> =
            self.report.trial.iter().filter(|(_, sum)| **sum != 0).map(|(of, sum)| format!("{of}: {sum}")).collect();
        for sum in unbalanced {
            self.report.tell(format!("debits less credits are not 0 in {sum}"));
        }
        Ok(())
    }

    async fn check_balances(&mut self, tx: &mut Tx) -> Result<()> {
        let mut after = 0;
        loop {
            let rows = tx
                .all(
                    "select a.id, a.code, a.kind, a.currency, a.guard, b.guard as kept, b.debits, b.credits, b.debits_pending,
                       b.credits_pending, b.version
                     from ledger_account a left join ledger_balance b on b.account_id = a.id
                     where a.id > $1 order by a.id limit $2",
                    args![after, PAGE],
                )
                .await?;
            for row in &rows {
                self.report.accounts += 1;
                after = row.int("id")?;
                let code = row.text("code")?;
                let (expected, version) = self.balances.remove(&after).unwrap_or_default();
                let guard = word(Guard::decode, "guard", &row.text("guard")?)?;
                let account = decode_account(row)?;
                if chart::of(&account.code, account.currency).is_some_and(|known| known != account) {
                    self.report
                        .tell(format!("the account {code} is not what the chart says: its kind, currency or guard"));
                }
                let same = row.text_or_null("kept")?.as_deref() == Some(guard.as_str())
                    && decode_balance(row)? == expected
                    && row.int("version")? == version;
                if !same {
                    self.report.tell(format!("the balance of {code} is not the sum of its postings"));
                }
                if !expected.is_allowed_by(guard) {
                    self.report.tell(format!("{code} breaks its guard {}", guard.as_str()));
                }
            }
            if rows.len() < PAGE as usize {
                return Ok(());
            }
        }
    }

    /// How many decimals a currency has is ISO 4217's to say.
    async fn check_currencies(&mut self, tx: &mut Tx) -> Result<()> {
        for row in tx.all("select code, exponent from ledger_currency order by code limit 1000", args![]).await? {
            let (code, exponent) = (row.text("code")?, row.int("exponent")?);
            if Currency::decode(&code).is_none_or(|currency| i64::from(currency.exponent()) != exponent) {
                self.report.tell(format!("the currency {code} has not {exponent} decimals"));
            }
        }
        Ok(())
    }

    /// What makes balances of the past quick.
    async fn check_derived(&mut self, tx: &mut Tx) -> Result<()> {
        let marks = tx.first("select count(*) as n from ledger_mark", args![]).await?;
        let marks = marks.map_or(Ok(0), |row| row.int("n"))?;
        if marks != self.marks as i64 {
            self.report.tell(format!("{marks} marks, where {} belong", self.marks));
        }
        let hours = tx
            .first(
                "with made as (
                   select account_id, effective_us / 3600000000 as hour, cast(sum(debit) as bigint) as debits,
                     cast(sum(credit) as bigint) as credits
                   from ledger_posting where posted = 1 group by account_id, effective_us / 3600000000),
                 kept as (select account_id, hour, debits, credits from ledger_hour)
                 select count(*) as n from (
                   select * from (select * from made except select * from kept) missing
                   union all select * from (select * from kept except select * from made) extra) wrong",
                args![],
            )
            .await?;
        let hours = hours.map_or(Ok(0), |row| row.int("n"))?;
        if hours > 0 {
            self.report.tell(format!("{hours} sums of hours are not those of their postings"));
        }
        Ok(())
    }
}

/// All that were closed, the first of them last; some for each year.
async fn periods(tx: &mut Tx) -> Result<Vec<Period>> {
    let sql = "select through_us, seq, hash from ledger_period order by seq desc, through_us desc limit 10000";
    let of =
        |row: &Row| Ok(Period { through_us: row.int("through_us")?, seq: row.int("seq")?, hash: row.text("hash")? });
    tx.all(sql, args![]).await?.iter().map(of).collect()
}

fn read_journal(row: &Row, lines: &[Row]) -> Result<(Journal, i64)> {
    let postings = lines.iter().map(|line| read_line(row, line).map(|(posting, _)| posting)).collect::<Result<_>>()?;
    Ok((Draft::of(decode_header(row)?, postings).balance()?, row.int("recorded_us")?))
}

fn read_line(row: &Row, line: &Row) -> Result<(Posting, Phase)> {
    let posting = decode_posting(line)?;
    if line.text("held")? != decode_currency(line)?.code() {
        let what = format!("{} holds {}", posting.account, line.text("held")?);
        return Err(crate::base::Error::invalid(what));
    }
    Ok((posting, word(Phase::decode, "phase", &row.text("phase")?)?))
}
