//! The sweep: everything that is open for too long is looked at, through the same code as webhooks. It can be run again
//! at any time, and a provider that does not answer leaves a row for the next one.

use std::collections::HashSet;

use serde::Serialize;

use super::{Payments, checkout, refunding};
use crate::base::{Error, Kind, Result};
use crate::db::orders::Applied;
use crate::ledger::refund::RefundId;
use crate::providers::wire::Fault;

/// Rows of one phase of a sweep that are read at once.
const BATCH: i64 = 50;
/// Rows of one phase that one sweep looks at, at most: the rest is there an hour later.
const PHASE_MAX: usize = 2_000;

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Swept {
    /// Payments that were open for long.
    pub payments: Phase,
    /// Refunds that the provider has, and that were open for long.
    pub refunds: Phase,
    /// Refunds of which nobody knew.
    pub orphans: Phase,
    /// Disputes that are open.
    pub disputes: Phase,
    /// Payments of subscriptions that had ended, whose last refund failed.
    pub given_back: Phase,
    /// Trials and subscriptions that were over.
    pub subscriptions: u64,
}

/// What one phase did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Phase {
    /// Looked at.
    pub looked: u64,
    /// … of them, moved on.
    pub moved: u64,
    /// … and those that the provider, or the database, said nothing about.
    pub unread: u64,
}

impl Compared {
    fn count(&mut self, what: &str, id: &str, applied: &Applied) {
        self.looked += 1;
        match applied {
            Applied::Changed(how) => {
                self.moved += 1;
                tracing::warn!(what, id, how, "a comparison with the provider found news");
            }
            Applied::Unknown => {
                self.strange += 1;
                tracing::error!(what, id, "the provider has something that nobody here knows");
            }
            Applied::Alarm(why) => tracing::error!(what, id, why, "the provider has something that is not ours"),
            Applied::Nothing => {}
        }
    }
}

impl Phase {
    fn count(&mut self, what: &str, id: &str, looked: Result<Applied>) {
        self.looked += 1;
        match looked {
            Ok(Applied::Changed(_)) => self.moved += 1,
            Ok(Applied::Nothing | Applied::Alarm(_) | Applied::Unknown) => {}
            Err(error) => {
                self.unread += 1;
                tracing::warn!(what, id, error = error.chain(), "the sweep cannot look at something; later again");
            }
        }
    }
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Payments, refunds and disputes that the provider has of that time.
    pub looked: u64,
    /// … of them, those that moved one of ours on.
    pub moved: u64,
    /// … and those that nobody here knows.
    pub strange: u64,
    /// Ours of that time that the provider was known to have, and does not list.
    pub missing: u64,
}

/// Pages of one comparison, at most.
const PAGES_MAX: usize = 1_000;
/// At both ends of the time that is compared: the provider's clock, and requests on their way, in microseconds.
const EDGE_US: i64 = 3_600_000_000;

impl Payments {
    /// Compares the last three days: a provider repeats a webhook for one.
    ///
    /// # Errors
    /// As `compare`.
    pub async fn compare_last_days(&self) -> Result<Compared> {
        let now_us = self.now_us();
        self.compare(now_us - 3 * 86_400_000_000, now_us).await
    }

    /// Compares everything of `[from_us, to_us)` both ways: what the provider has is believed as always, what nobody here
    /// knows and what is not there is told.
    ///
    /// # Errors
    /// `Unavailable` when the provider does not say; when the database refuses.
    pub async fn compare(&self, from_us: i64, to_us: i64) -> Result<Compared> {
        let provider = self.hyperswitch()?;
        let silent = |fault: Fault| {
            Error::new(Kind::Unavailable, format!("cannot list what the provider has: {}", fault.words()))
        };
        let (mut compared, mut listed) = (Compared::default(), HashSet::new());
        let mut after: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let page = provider.payments(from_us, to_us, after.as_deref()).await.map_err(silent)?;
            after = page.last().map(|(id, _)| id.clone());
            for (id, seen) in page {
                let applied = self.believe_payment(&id, &seen).await?;
                compared.count("payment", &id, &applied);
                listed.insert(id);
            }
            if after.is_none() {
                break;
            }
        }
        let mut offset = 0;
        for _ in 0..PAGES_MAX {
            let (page, total) = provider.refunds(from_us, to_us, offset).await.map_err(silent)?;
            offset += page.len();
            let last = page.is_empty() || offset >= total;
            for (id, seen) in page {
                let applied = match RefundId::decode(&id) {
                    Some(ours) => self.db.apply_refund(&ours, &seen, self.now_us()).await?,
                    None => Applied::Unknown,
                };
                compared.count("refund", &id, &applied);
                listed.insert(id);
            }
            if last {
                break;
            }
        }
        let mut offset = 0;
        for _ in 0..PAGES_MAX {
            let page = provider.disputes(from_us, to_us, offset).await.map_err(silent)?;
            if page.is_empty() {
                break;
            }
            offset += page.len();
            for seen in page {
                let applied = self.believe_dispute(&seen).await?;
                compared.count("dispute", &seen.id, &applied);
            }
        }
        for id in self.db.known_to_provider(from_us + EDGE_US, to_us - EDGE_US).await? {
            if !listed.contains(&id) {
                compared.missing += 1;
                tracing::error!(id, "the provider does not list what it was known to have");
            }
        }
        Ok(compared)
    }

    /// One sweep over everything that is open for too long.
    ///
    /// # Errors
    /// When the database cannot be read; rows that cannot be looked at are counted.
    pub async fn sweep(&self) -> Result<Swept> {
        let mut swept =
            Swept { subscriptions: self.db.expire_subscriptions(self.now_us(), 1_000).await?, ..Swept::default() };
        if self.hyperswitch.is_none() {
            return Ok(swept);
        }
        let mut after = String::new();
        loop {
            let ids = self.db.pending_payments(self.now_us() - checkout::OPEN_US, &after, BATCH).await?;
            for id in &ids {
                let looked = self.look_at_old_payment(id).await;
                swept.payments.count("payment", id, looked);
            }
            match ids.into_iter().next_back() {
                Some(last) if swept.payments.looked < PHASE_MAX as u64 => after = last,
                _ => break,
            }
        }
        let mut after = String::new();
        loop {
            let ids = self.db.open_disputes(&after, BATCH).await?;
            for id in &ids {
                let looked = self.look_at_dispute(id).await;
                swept.disputes.count("dispute", id, looked);
            }
            match ids.into_iter().next_back() {
                Some(last) if swept.disputes.looked < PHASE_MAX as u64 => after = last,
                _ => break,
            }
        }
        let mut after = String::new();
        loop {
            let payments = self.db.payments_to_give_back(self.now_us(), &after, BATCH).await?;
            for payment in &payments {
                let looked = self.give_back_again(payment).await;
                swept.given_back.count("payment", payment, looked);
            }
            match payments.into_iter().next_back() {
                Some(last) if swept.given_back.looked < PHASE_MAX as u64 => after = last,
                _ => break,
            }
        }
        for known in [true, false] {
            let patience_us = if known { refunding::OPEN_US } else { refunding::ORPHAN_US };
            let phase = if known { &mut swept.refunds } else { &mut swept.orphans };
            let mut after = String::new();
            loop {
                let ids = self.db.pending_refunds(known, self.now_us() - patience_us, &after, BATCH).await?;
                for id in &ids {
                    let looked = match known {
                        true => self.look_at_refund(id).await,
                        false => self.look_at_orphan(id).await,
                    };
                    phase.count("refund", id.as_str(), looked);
                }
                match ids.into_iter().next_back() {
                    Some(last) if phase.looked < PHASE_MAX as u64 => last.as_str().clone_into(&mut after),
                    _ => break,
                }
            }
        }
        Ok(swept)
    }
}
