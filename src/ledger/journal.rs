//! Journals: some postings that balance in every currency. There is no other way to make one than `Draft::balance`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use super::account::{AccountCode, Side, words};
use super::amount::{Amount, Currency};
use crate::base::{Error, Result};

/// Most postings of one journal.
pub const POSTINGS_MAX: usize = 100;
/// Longest name of an account, journal, kind or source, in bytes.
const NAME_BYTES_MAX: usize = 120;

/// A SHA-256.
pub type Hash = [u8; 32];
/// What the first seal follows.
pub const GENESIS: Hash = [0; 32];

/// The caller's name for a journal: posting it again under this name changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JournalId(String);

impl JournalId {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for JournalId {
    type Err = Error;
    fn from_str(text: &str) -> Result<JournalId> {
        check_name("journal id", text)?;
        Ok(JournalId(text.to_owned()))
    }
}

impl fmt::Display for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names are ids of ours and of providers: no blanks, nothing that two systems could spell in two ways.
pub(super) fn check_name(what: &str, text: &str) -> Result<()> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':' | b'.' | b'-');
    if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(());
    }
    Err(Error::invalid(format!("a {what} has 1 to {NAME_BYTES_MAX} characters of A-Z a-z 0-9 _ : . -, not {text:?}")))
}

/// What a journal does to the balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Moves money.
    Posted,
    /// Reserves it.
    Pending,
    /// Moves what another journal reserved.
    Post,
    /// Gives back what another journal reserved.
    Void,
}
words!(Phase { Posted = "posted", Pending = "pending", Post = "post", Void = "void" });

/// One line of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posting {
    /// Where.
    pub account: AccountCode,
    /// In which column.
    pub side: Side,
    /// How much.
    pub amount: Amount,
}

/// Everything of a journal but its postings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The caller's name for it.
    pub id: JournalId,
    /// What it is for: `payment`, `refund`, …
    pub kind: String,
    /// The event that caused it, such as `hs:refund:ref_1:succeeded`: one journal of a kind for each.
    pub source: String,
    /// When it counts, in microseconds since 1970: at least 0.
    pub effective_us: i64,
    /// What it does.
    pub phase: Phase,
    /// The journal that it posts or voids.
    pub resolves: Option<JournalId>,
    /// The journal that it takes back.
    pub reverses: Option<JournalId>,
}

/// Postings that nobody has balanced yet.
#[derive(Clone, Debug)]
pub struct Draft {
    header: Header,
    postings: Vec<Posting>,
}

/// A balanced journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    header: Header,
    /// Invariant: 2 to `POSTINGS_MAX`, each account once, debits = credits in every currency.
    postings: Vec<Posting>,
}

impl Draft {
    /// Nothing yet, to move money at `effective_us`.
    pub fn new(id: JournalId, kind: &str, source: &str, effective_us: i64) -> Draft {
        let (kind, source) = (kind.to_owned(), source.to_owned());
        let (phase, resolves, reverses) = (Phase::Posted, None, None);
        Draft { header: Header { id, kind, source, effective_us, phase, resolves, reverses }, postings: Vec::new() }
    }

    /// What was read from somewhere; `balance` checks it as any other.
    pub fn of(header: Header, postings: Vec<Posting>) -> Draft {
        Draft { header, postings }
    }

    /// To reserve money instead of moving it.
    #[must_use]
    pub fn pending(mut self) -> Draft {
        self.header.phase = Phase::Pending;
        self
    }

    /// Adds a debit.
    #[must_use]
    pub fn debit(self, account: &AccountCode, amount: Amount) -> Draft {
        self.posting(account, Side::Debit, amount)
    }

    /// Adds a credit.
    #[must_use]
    pub fn credit(self, account: &AccountCode, amount: Amount) -> Draft {
        self.posting(account, Side::Credit, amount)
    }

    fn posting(mut self, account: &AccountCode, side: Side, amount: Amount) -> Draft {
        self.postings.push(Posting { account: account.clone(), side, amount });
        self
    }

    /// A journal, if these postings are one.
    ///
    /// # Errors
    /// `Invalid` for fewer than 2 or more than `POSTINGS_MAX` postings, an account that comes twice, debits that are not
    /// the credits in some currency, a name that is none, a time before 1970, a phase without its journal.
    pub fn balance(self) -> Result<Journal> {
        let Draft { header, postings } = self;
        let wrong = |what: String| Err(Error::invalid(format!("journal {}: {what}", header.id)));
        check_name("journal kind", &header.kind)?;
        check_name("journal source", &header.source)?;
        if header.effective_us < 0 {
            return wrong("it would count before 1970".into());
        }
        let resolving = matches!(header.phase, Phase::Post | Phase::Void);
        if resolving != header.resolves.is_some() || (header.reverses.is_some() && header.phase != Phase::Posted) {
            return wrong(format!("a journal that is {} cannot name those", header.phase.as_str()));
        }
        if !(2..=POSTINGS_MAX).contains(&postings.len()) {
            return wrong(format!("it has {} postings; 2 to {POSTINGS_MAX} are a journal", postings.len()));
        }
        let mut accounts: Vec<&AccountCode> = postings.iter().map(|posting| &posting.account).collect();
        accounts.sort_unstable();
        if let Some(twice) = accounts.windows(2).find(|pair| pair[0] == pair[1]) {
            return wrong(format!("the account {} comes twice; add its postings up", twice[0]));
        }
        let mut sums: BTreeMap<Currency, i64> = BTreeMap::new();
        for posting in &postings {
            // At most POSTINGS_MAX × MINOR_MAX, which fits.
            *sums.entry(posting.amount.currency()).or_default() += match posting.side {
                Side::Debit => posting.amount.minor(),
                Side::Credit => -posting.amount.minor(),
            };
        }
        if let Some((currency, sum)) = sums.into_iter().find(|(_, sum)| *sum != 0) {
            return wrong(format!("debits less credits are {sum} minor units of {currency}, not 0"));
        }
        Ok(Journal { header, postings })
    }
}

impl Journal {
    /// Everything but its postings.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The caller's name for it.
    pub fn id(&self) -> &JournalId {
        &self.header.id
    }

    /// Its lines, in their order.
    pub fn postings(&self) -> &[Posting] {
        &self.postings
    }

    /// The journal that takes this one back.
    #[must_use]
    pub fn reversal(&self, id: JournalId, source: &str, effective_us: i64) -> Journal {
        let mut reversal = self.following(id, source, effective_us, Phase::Posted);
        reversal.header.reverses = Some(self.header.id.clone());
        reversal.postings.iter_mut().for_each(|posting| posting.side = posting.side.other());
        reversal
    }

    /// The journal that moves what this one reserves.
    #[must_use]
    pub fn post(&self, id: JournalId, source: &str, effective_us: i64) -> Journal {
        self.resolution(id, source, effective_us, Phase::Post)
    }

    /// The journal that gives back what this one reserves.
    #[must_use]
    pub fn void(&self, id: JournalId, source: &str, effective_us: i64) -> Journal {
        self.resolution(id, source, effective_us, Phase::Void)
    }

    fn resolution(&self, id: JournalId, source: &str, effective_us: i64, phase: Phase) -> Journal {
        let mut resolution = self.following(id, source, effective_us, phase);
        resolution.header.resolves = Some(self.header.id.clone());
        resolution
    }

    /// The same postings, which balance, under another name.
    fn following(&self, id: JournalId, source: &str, effective_us: i64, phase: Phase) -> Journal {
        let (kind, source) = (self.header.kind.clone(), source.to_owned());
        let header = Header { id, kind, source, effective_us, phase, resolves: None, reverses: None };
        Journal { header, postings: self.postings.clone() }
    }

    /// What the caller wants, as a hash: the same name has to mean the same.
    pub fn fingerprint(&self) -> Hash {
        Sha256::digest(self.canonical()).into()
    }

    /// One spelling of a journal: each field with its length in front, so that no two journals have the same bytes.
    fn canonical(&self) -> Vec<u8> {
        let mut bytes = b"segue-journal-1".to_vec();
        let mut field = |value: &[u8]| {
            bytes.extend_from_slice(&(value.len() as u32).to_be_bytes());
            bytes.extend_from_slice(value);
        };
        let Header { id, kind, source, effective_us, phase, resolves, reverses } = &self.header;
        let name = |id: &Option<JournalId>| id.as_ref().map_or(String::new(), |id| id.0.clone());
        for text in [&id.0, kind, source, phase.as_str(), &name(resolves), &name(reverses)] {
            field(text.as_bytes());
        }
        field(&effective_us.to_be_bytes());
        field(&(self.postings.len() as u32).to_be_bytes());
        for Posting { account, side, amount } in &self.postings {
            field(account.as_str().as_bytes());
            field(&[match side {
                Side::Debit => b'd',
                Side::Credit => b'c',
            }]);
            field(amount.currency().code().as_bytes());
            field(&amount.minor().to_be_bytes());
        }
        bytes
    }
}

/// The hash that seals a journal as the `seq`-th, after the one with the hash `before`.
pub fn seal(before: &Hash, seq: i64, recorded_us: i64, journal: &Journal) -> Hash {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(seq.to_be_bytes());
    hash.update(recorded_us.to_be_bytes());
    hash.update(journal.canonical());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usd(minor: i64) -> Amount {
        Amount::new(minor, Currency::decode("USD").unwrap()).unwrap()
    }

    fn code(text: &str) -> AccountCode {
        text.parse().unwrap()
    }

    fn draft() -> Draft {
        Draft::new("j1".parse().unwrap(), "payment", "hs:pay_1", 1)
    }

    fn refused(draft: Draft, why: &str) {
        let error = draft.balance().unwrap_err().chain();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn what_does_not_balance_is_no_journal() {
        let (a, b, c) = (code("a"), code("b"), code("c"));
        draft().debit(&a, usd(10)).credit(&b, usd(9)).credit(&c, usd(1)).balance().unwrap();
        refused(draft(), "0 postings");
        refused(draft().debit(&a, usd(10)), "1 postings");
        refused(draft().debit(&a, usd(10)).credit(&b, usd(9)), "are 1 minor units of USD");
        refused(draft().debit(&a, usd(10)).debit(&b, usd(10)), "are 20 minor units");
        refused(draft().debit(&a, usd(10)).credit(&a, usd(10)), "a comes twice");
        let yen = Amount::new(10, Currency::decode("JPY").unwrap()).unwrap();
        refused(draft().debit(&a, usd(10)).credit(&b, yen), "minor units of");
        let many = (0..=POSTINGS_MAX).fold(draft(), |draft, n| draft.debit(&code(&format!("x{n}")), usd(1)));
        refused(many, "101 postings");
        refused(Draft::new("j".parse().unwrap(), "a b", "s", 1).debit(&a, usd(1)).credit(&b, usd(1)), "journal kind");
        refused(Draft::new("j".parse().unwrap(), "k", "", 1).debit(&a, usd(1)).credit(&b, usd(1)), "journal source");
        refused(Draft::new("j".parse().unwrap(), "k", "s", -1).debit(&a, usd(1)).credit(&b, usd(1)), "before 1970");
        assert!("".parse::<JournalId>().is_err() && "a/b".parse::<AccountCode>().is_err());
    }

    #[test]
    fn a_phase_names_the_journal_that_it_needs_and_no_other() {
        let whole = draft().debit(&code("a"), usd(1)).credit(&code("b"), usd(1)).balance().unwrap();
        let with = |phase, resolves: Option<&str>, reverses: Option<&str>| {
            let name = |id: Option<&str>| id.map(|id| id.parse().unwrap());
            let header = Header { phase, resolves: name(resolves), reverses: name(reverses), ..whole.header().clone() };
            Draft::of(header, whole.postings().to_vec()).balance().is_ok()
        };
        assert!(with(Phase::Posted, None, Some("x")) && with(Phase::Post, Some("x"), None));
        assert!(!with(Phase::Post, None, None) && !with(Phase::Posted, Some("x"), None));
        assert!(!with(Phase::Pending, None, Some("x")) && !with(Phase::Void, Some("x"), Some("y")));
    }

    #[test]
    fn every_part_of_a_journal_is_in_its_hash() {
        let base = || draft().debit(&code("a"), usd(10)).credit(&code("b"), usd(10));
        let journal = base().balance().unwrap();
        assert_eq!(journal.fingerprint(), base().balance().unwrap().fingerprint());
        let header = |change: fn(&mut Header)| {
            let mut header = journal.header().clone();
            change(&mut header);
            Draft::of(header, journal.postings().to_vec()).balance().unwrap()
        };
        let others = [
            header(|h| h.id = "j2".parse().unwrap()),
            header(|h| h.kind = "refund".into()),
            header(|h| h.source = "hs:pay_2".into()),
            header(|h| h.effective_us = 2),
            header(|h| h.phase = Phase::Pending),
            header(|h| h.reverses = Some("j0".parse().unwrap())),
            journal.post("j1".parse().unwrap(), "hs:pay_1", 1),
            draft().debit(&code("b"), usd(10)).credit(&code("a"), usd(10)).balance().unwrap(),
            draft().credit(&code("b"), usd(10)).debit(&code("a"), usd(10)).balance().unwrap(),
            draft().debit(&code("a"), usd(11)).credit(&code("b"), usd(11)).balance().unwrap(),
        ];
        let mut seen = vec![journal.fingerprint()];
        for other in others {
            assert!(!seen.contains(&other.fingerprint()), "{other:?}");
            seen.push(other.fingerprint());
        }
        let first = seal(&GENESIS, 1, 5, &journal);
        assert!(first != seal(&GENESIS, 2, 5, &journal) && first != seal(&GENESIS, 1, 6, &journal));
        assert!(first != seal(&first, 1, 5, &journal));
    }

    #[test]
    fn reversals_mirror_and_resolutions_repeat() {
        let journal = draft().pending().debit(&code("a"), usd(10)).credit(&code("b"), usd(10)).balance().unwrap();
        let posted = journal.post("j2".parse().unwrap(), "s2", 2);
        assert_eq!((posted.postings(), posted.header().resolves.as_ref()), (journal.postings(), Some(journal.id())));
        let back = posted.reversal("j3".parse().unwrap(), "s3", 3);
        assert_eq!(back.postings()[0].side, Side::Credit);
        assert_eq!(back.header().reverses.as_ref(), Some(posted.id()));
        for made in [posted, back, journal.void("j4".parse().unwrap(), "s4", 4)] {
            let again = Draft::of(made.header().clone(), made.postings().to_vec()).balance();
            assert_eq!(again.unwrap(), made, "it is a journal like any other");
        }
    }
}
