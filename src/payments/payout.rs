//! Transfers to sellers, and their reversals. In: transfers whose time has come. Out: one step of each, whose outcome is
//! stored whatever it was.

use super::Payments;
use crate::base::{Error, Kind, Result};
use crate::db::transfers::{Booked, Failure, Step, Transfer};
use crate::ledger::Amount;
use crate::ledger::transfer::{Status, TransferId};
use crate::providers::stripe::{self, NewTransfer};
use crate::providers::wire::Fault;

/// Rows of one pass.
pub const PASS: i64 = 20;

impl Payments {
    /// One pass over the transfers that are due. Returns how many there were.
    ///
    /// # Errors
    /// When the database refuses, or there is no provider.
    pub async fn transfer_due(&self) -> Result<usize> {
        self.stripe()?;
        self.pass(false).await
    }

    /// One pass over the reversals that are due. Returns how many there were.
    ///
    /// # Errors
    /// When the database refuses, or there is no provider.
    pub async fn reverse_due(&self) -> Result<usize> {
        self.stripe()?;
        self.pass(true).await
    }

    async fn pass(&self, back: bool) -> Result<usize> {
        let due = self.db.due_transfers(back, self.now_us(), PASS).await?;
        for id in &due {
            // One that fails does not keep the others back.
            if let Err(error) = self.step(id).await {
                tracing::warn!(transfer = id.as_str(), error = error.chain(), "a transfer could not be moved on");
            }
        }
        Ok(due.len())
    }

    /// What is to be done about one transfer now.
    ///
    /// # Errors
    /// When the database refuses; what the provider says is stored.
    pub async fn step(&self, id: &TransferId) -> Result<()> {
        match self.db.begin_transfer(id, self.options.backoff, self.now_us()).await? {
            Step::Submit(transfer, key) => self.submit(&transfer, &key).await,
            Step::Look(transfer) => self.look(&transfer).await,
            Step::Reverse(transfer) => self.reverse(&transfer).await,
            Step::Rest => Ok(()),
        }
    }

    async fn submit(&self, transfer: &Transfer, key: &str) -> Result<()> {
        let destination = transfer.destination.as_deref().unwrap_or_default();
        let (operation, order) = (transfer.id.as_str(), transfer.order.as_str());
        let new = NewTransfer { operation, key, amount: transfer.amount, destination, order };
        match self.stripe()?.create_transfer(new).await {
            Ok(made) => self.made(transfer, &made).await,
            Err(fault) => self.not_made(transfer, &fault).await,
        }
    }

    /// It was asked for, and nobody knows what came of it: it is there, or it is asked for once more.
    async fn look(&self, transfer: &Transfer) -> Result<()> {
        match self.stripe()?.find_transfer(transfer.order.as_str(), transfer.id.as_str()).await {
            Ok(Some(made)) => self.made(transfer, &made).await,
            Ok(None) => match self.db.resubmit_transfer(&transfer.id, self.now_us()).await? {
                Step::Submit(transfer, key) => self.submit(&transfer, &key).await,
                _ => Ok(()),
            },
            // A look that finds out nothing changes nothing, least of all the key.
            Err(fault) => {
                let (id, why) = (&transfer.id, fault.words());
                let backoff = self.options.backoff;
                self.db.fail_transfer(id, Failure::Silence, &why, backoff, self.now_us()).await.map(drop)
            }
        }
    }

    async fn made(&self, transfer: &Transfer, made: &stripe::Transfer) -> Result<()> {
        let same = made.amount_minor == transfer.amount.minor() && made.currency == transfer.amount.currency().code();
        if !same || made.id.is_empty() {
            let why = format!("it made {:?} of {} minor units of {}", made.id, made.amount_minor, made.currency);
            tracing::error!(transfer = transfer.id.as_str(), why, "a transfer at the provider is not ours");
            let backoff = self.options.backoff;
            return self.db.fail_transfer(&transfer.id, Failure::Silence, &why, backoff, self.now_us()).await.map(drop);
        }
        if self.db.complete_transfer(&transfer.id, &made.id, self.now_us()).await? {
            tracing::info!(transfer = transfer.id.as_str(), provider = made.id, "a seller was paid");
        }
        Ok(())
    }

    async fn not_made(&self, transfer: &Transfer, fault: &Fault) -> Result<()> {
        let how = match fault {
            // A key of ours that expired is no verdict about the transfer.
            Fault::Silence(_) | Fault::Busy(_) | Fault::Locked(_) => Failure::Silence,
            Fault::Failed(_) => Failure::Answered,
            Fault::Missing | Fault::Exists | Fault::Insufficient(_) | Fault::Refused(_) => Failure::Refused,
        };
        let (id, why) = (&transfer.id, fault.words());
        let now = self.db.fail_transfer(id, how, &why, self.options.backoff, self.now_us()).await?;
        match now {
            Some(Status::PermanentlyFailed) => {
                tracing::error!(transfer = id.as_str(), why, "a seller could not be paid; nobody tries again");
            }
            _ => tracing::warn!(transfer = id.as_str(), why, "a seller was not paid yet"),
        }
        Ok(())
    }

    /// What came back is booked as it is found; the rest is asked for.
    async fn reverse(&self, transfer: &Transfer) -> Result<()> {
        let id = &transfer.id;
        let provider_id = transfer.provider_id.as_deref();
        let provider_id = provider_id.ok_or_else(|| Error::internal(format!("{id} was made without an id")))?;
        let found = match self.stripe()?.transfer(provider_id).await {
            Ok(found) => found,
            Err(fault) => return self.not_reversed(transfer, &fault, true).await,
        };
        if self.db.book_reversal(id, found.reversed_minor, self.now_us()).await? == Booked::Whole {
            tracing::info!(transfer = id.as_str(), "a transfer came back");
            return Ok(());
        }
        let Some((minor, key)) = self.db.begin_reversal(id, self.now_us()).await? else { return Ok(()) };
        let amount = Amount::new(minor, transfer.amount.currency())?;
        let asked = self.stripe()?.reverse(provider_id, amount, id.as_str(), &key).await;
        // Whatever it answered, the transfer itself knows.
        match self.stripe()?.transfer(provider_id).await {
            Ok(found) => {
                // A part of it is what was asked for before more had to come back: the rest has its next try.
                if self.db.book_reversal(id, found.reversed_minor, self.now_us()).await? != Booked::Nothing {
                    tracing::info!(transfer = id.as_str(), minor = found.reversed_minor, "a transfer came back");
                    return Ok(());
                }
                let unheard = Fault::Failed("it was said to be done, and is not".into());
                self.not_reversed(transfer, &asked.err().unwrap_or(unheard), false).await
            }
            Err(fault) => self.not_reversed(transfer, &asked.err().unwrap_or(fault), false).await,
        }
    }

    /// `looked`: nothing was asked for yet.
    async fn not_reversed(&self, transfer: &Transfer, fault: &Fault, looked: bool) -> Result<()> {
        let lost = looked && *fault == Fault::Missing;
        let definite = !looked && !matches!(fault, Fault::Silence(_) | Fault::Busy(_) | Fault::Locked(_));
        let (id, why) = (&transfer.id, fault.words());
        let now = self.db.fail_reversal(id, (definite, lost), &why, self.now_us()).await?;
        match now {
            Some(Status::PermanentlyFailed) => {
                tracing::error!(transfer = id.as_str(), why, "a transfer did not come back; its seller owes it");
            }
            _ => tracing::warn!(transfer = id.as_str(), why, "a transfer did not come back yet"),
        }
        Ok(())
    }

    /// A transfer that the provider said something about: what came back of it is booked.
    ///
    /// # Errors
    /// `Unavailable` when the provider does not say; when the database refuses.
    pub async fn look_at_transfer(&self, provider_id: &str) -> Result<bool> {
        let found = match self.stripe()?.transfer(provider_id).await {
            Ok(found) => found,
            Err(Fault::Missing) => return Ok(false),
            Err(fault) => {
                let why = format!("cannot read the transfer {provider_id}: {}", fault.words());
                return Err(Error::new(Kind::Unavailable, why));
            }
        };
        let Some(id) = found.operation.as_deref().and_then(TransferId::decode) else { return Ok(false) };
        let Some(transfer) = self.db.transfer(&id).await? else { return Ok(false) };
        match transfer.status {
            Status::Pending | Status::Failed => self.made(&transfer, &found).await?,
            Status::ReversalPending | Status::Completed => {
                self.db.book_reversal(&id, found.reversed_minor, self.now_us()).await?;
                // Somebody took money back at the provider that nobody here wanted back: it is the seller's again.
                if found.reversed_minor > transfer.due_back_minor {
                    tracing::error!(
                        transfer = id.as_str(),
                        minor = found.reversed_minor - transfer.due_back_minor,
                        "came back without a refund of ours"
                    );
                }
            }
            Status::Reversed | Status::PermanentlyFailed => {}
        }
        Ok(true)
    }
}
