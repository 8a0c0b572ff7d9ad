//! What posting a journal would do, decided on values. The database loads a `View` of what the journals at hand touch,
//! under the lock of the chain's head, lets them be posted here one after the other, and stores what came of it.

use std::collections::HashMap;

use super::account::{AccountCode, Balance, Guard};
use super::amount::Currency;
use super::journal::{Hash, Header, Journal, JournalId, Phase, Posting, seal};
use super::posted::{Place, Posted};

/// The end of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Journals in it.
    pub seq: i64,
    /// The last one's seal.
    pub hash: Hash,
    /// When that was recorded, in microseconds since 1970.
    pub recorded_us: i64,
}

/// An account as it stands.
#[derive(Clone, Debug)]
pub struct Ours {
    /// The only currency it holds.
    pub currency: Currency,
    /// What it may never do.
    pub guard: Guard,
    /// Its sums.
    pub balance: Balance,
}

/// A journal that was posted.
#[derive(Clone, Debug)]
pub struct Known {
    /// Of what its caller wanted.
    pub fingerprint: Hash,
    /// Where it stands.
    pub place: Place,
    /// What it does.
    pub phase: Phase,
    /// Another one takes it back.
    pub reversed: bool,
    /// Another one posts or voids it.
    pub resolved: bool,
    /// Its lines; only those of journals that others name are needed.
    pub postings: Vec<Posting>,
}

/// What the journals at hand touch.
#[derive(Clone, Debug)]
pub struct View {
    /// The end of the chain.
    pub head: Head,
    /// What counts until then, inclusively, is closed; -1: nothing is. In microseconds since 1970.
    pub closed_us: i64,
    /// Accounts that they post to, by code.
    pub accounts: HashMap<AccountCode, Ours>,
    /// Those that were posted under their ids, or that they name.
    pub journals: HashMap<JournalId, Known>,
    /// Which journal was made for a kind and source.
    pub sources: HashMap<(String, String), JournalId>,
}

/// A journal that was accepted, and its seal.
#[derive(Clone, Debug)]
pub struct Sealed<'j> {
    /// The journal.
    pub journal: &'j Journal,
    /// Where it stands.
    pub place: Place,
    /// The seal before.
    pub before: Hash,
    /// Its seal.
    pub hash: Hash,
}

impl View {
    /// Posts a journal at `now_us`; the view is then what the next one sees. `Some` when it is new.
    pub fn post<'j>(&mut self, journal: &'j Journal, now_us: i64) -> (Posted, Option<Sealed<'j>>) {
        let balances = match self.judge(journal) {
            Ok(balances) => balances,
            Err(refused) => return (refused, None),
        };
        // Clocks may step back; the chain does not.
        let place = Place { seq: self.head.seq + 1, recorded_us: now_us.max(self.head.recorded_us) };
        let before = self.head.hash;
        let hash = seal(&before, place.seq, place.recorded_us, journal);
        self.head = Head { seq: place.seq, hash, recorded_us: place.recorded_us };
        self.record(journal, place, balances);
        (Posted::Created(place), Some(Sealed { journal, place, before, hash }))
    }

    /// The balances after it, in the order of its postings; or the first reason against it.
    fn judge(&self, journal: &Journal) -> Result<Vec<Balance>, Posted> {
        let header = journal.header();
        if let Some(known) = self.journals.get(&header.id) {
            let same = known.fingerprint == journal.fingerprint();
            return Err(if same { Posted::Exists(known.place) } else { Posted::IdTaken });
        }
        if let Some(other) = self.sources.get(&source_of(header)) {
            return Err(Posted::SourceTaken(other.clone()));
        }
        let postings = journal.postings();
        let account = |posting: &Posting| self.accounts.get(&posting.account);
        if let Some(unknown) = postings.iter().find(|posting| account(posting).is_none()) {
            return Err(Posted::UnknownAccount(unknown.account.clone()));
        }
        let ours: Vec<(&Posting, &Ours)> = postings.iter().filter_map(|p| Some((p, account(p)?))).collect();
        if let Some((wrong, _)) = ours.iter().find(|(posting, ours)| posting.amount.currency() != ours.currency) {
            return Err(Posted::WrongCurrency(wrong.account.clone()));
        }
        if header.effective_us <= self.closed_us {
            return Err(Posted::PeriodClosed(self.closed_us));
        }
        self.judge_reversal(journal)?;
        self.judge_resolution(journal)?;
        let mut balances = Vec::with_capacity(ours.len());
        for (posting, ours) in &ours {
            let after = ours.balance.after(header.phase, posting.side, posting.amount);
            balances.push(after.ok_or_else(|| Posted::Overflow(posting.account.clone()))?);
        }
        let guarded = |((_, ours), after): &(&(&Posting, &Ours), &Balance)| !after.is_allowed_by(ours.guard);
        match ours.iter().zip(&balances).find(guarded) {
            Some(((posting, _), _)) => Err(Posted::Overdraft(posting.account.clone())),
            None => Ok(balances),
        }
    }

    fn judge_reversal(&self, journal: &Journal) -> Result<(), Posted> {
        let Some(target) = &journal.header().reverses else { return Ok(()) };
        let posted = |known: &&Known| matches!(known.phase, Phase::Posted | Phase::Post);
        let target = self.journals.get(target).filter(posted).ok_or(Posted::NotReversible)?;
        if target.reversed {
            return Err(Posted::AlreadyReversed);
        }
        let mirrored = |posting: &Posting| Posting { side: posting.side.other(), ..posting.clone() };
        match target.postings.iter().map(mirrored).eq(journal.postings().iter().cloned()) {
            true => Ok(()),
            false => Err(Posted::ReversalDiffers),
        }
    }

    fn judge_resolution(&self, journal: &Journal) -> Result<(), Posted> {
        let Some(target) = &journal.header().resolves else { return Ok(()) };
        let pending = |known: &&Known| known.phase == Phase::Pending;
        let target = self.journals.get(target).filter(pending).ok_or(Posted::NotPending)?;
        match (target.resolved, target.postings == journal.postings()) {
            (true, _) => Err(Posted::AlreadyResolved),
            (false, false) => Err(Posted::ResolutionDiffers),
            (false, true) => Ok(()),
        }
    }

    fn record(&mut self, journal: &Journal, place: Place, balances: Vec<Balance>) {
        let header = journal.header();
        for (posting, balance) in journal.postings().iter().zip(balances) {
            if let Some(ours) = self.accounts.get_mut(&posting.account) {
                ours.balance = balance;
            }
        }
        let target = |view: &mut View, id: &Option<JournalId>, mark: fn(&mut Known)| {
            id.as_ref().and_then(|id| view.journals.get_mut(id)).map(mark);
        };
        target(self, &header.reverses, |known| known.reversed = true);
        target(self, &header.resolves, |known| known.resolved = true);
        let known = Known {
            fingerprint: journal.fingerprint(),
            place,
            phase: header.phase,
            reversed: false,
            resolved: false,
            postings: journal.postings().to_vec(),
        };
        self.journals.insert(header.id.clone(), known);
        self.sources.insert(source_of(header), header.id.clone());
    }
}

fn source_of(header: &Header) -> (String, String) {
    (header.kind.clone(), header.source.clone())
}
