//! The sweep: everything that is open for too long is looked at, through the same code as webhooks. It can be run again
//! at any time, and a provider that does not answer leaves a row for the next one.

use serde::Serialize;

use super::{Payments, checkout, refunding};
use crate::base::Result;
use crate::db::orders::Applied;

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

impl Payments {
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
