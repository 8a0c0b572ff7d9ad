//! Refunds. Phase 1 is `db::refunds`; here are phase 2, the request to the provider outside of any transaction, and
//! phase 3, what a webhook or the sweep finds.

use tracing::Instrument as _;
use tracing::field::Empty;

use super::Payments;
use crate::base::{Error, Kind, Result};
use crate::db::money::{Claim, Request};
use crate::db::orders::Applied;
use crate::db::refunds::{By, Of, Refund, Requested, Seen, Standing, Wanted};
use crate::ledger::order::OrderId;
use crate::ledger::refund::{RefundId, Status};
use crate::providers::hyperswitch::NewRefund;
use crate::providers::wire::Fault;

/// A refund that the provider has is looked at again after this long.
pub const OPEN_US: i64 = 30 * 60 * 1_000_000;
/// A refund of which nobody knows whether the provider has it is looked for after this long.
pub const ORPHAN_US: i64 = 5 * 60 * 1_000_000;

impl Payments {
    /// Refunds an order, or a part of it: stores the refund, then asks the provider. The refund is `pending` afterwards, or `failed` when
    /// the provider refused at once.
    ///
    /// # Errors
    /// `Unavailable` without a provider; when the database refuses.
    pub async fn refund(
        &self,
        order: &OrderId,
        by: By<'_>,
        wanted: Wanted<'_>,
        request: Request<'_>,
    ) -> Result<Requested> {
        let span = tracing::info_span!("refund", order = order.as_str(), refund = Empty, status = Empty);
        self.request_refund(order, by, wanted, request).instrument(span).await
    }

    async fn request_refund(
        &self,
        order: &OrderId,
        by: By<'_>,
        wanted: Wanted<'_>,
        request: Request<'_>,
    ) -> Result<Requested> {
        self.hyperswitch()?;
        let days = self.options.refund_days;
        let requested = self.db.request_refund(order, by, wanted, days, request, self.now_us()).await?;
        let (refund, again) = match requested {
            Requested::Claimed(Claim::New(refund)) => (refund, false),
            Requested::Claimed(Claim::Known(refund)) => (refund, true),
            other => return Ok(other),
        };
        if refund.status == Status::Pending && refund.known_us.is_none() {
            self.submit_refund(&refund, again).await?;
        }
        let refund = self.db.refund(&refund.id).await?.unwrap_or(refund);
        tracing::Span::current().record("refund", refund.id.as_str()).record("status", refund.status.as_str());
        Ok(Requested::Claimed(if again { Claim::Known(refund) } else { Claim::New(refund) }))
    }

    /// Phase 2. `look`: it may have been asked for before. Of a payment that the provider took back nothing is asked for: the
    /// buyer has the money, and only our books do not say so yet.
    async fn submit_refund(&self, refund: &Refund, look: bool) -> Result<()> {
        let provider = self.hyperswitch()?;
        let id = refund.id.as_str();
        if self.db.is_taken_back(&refund.payment).await? {
            if let Ok(seen) = provider.payment(&refund.payment).await {
                self.db.apply_payment(&refund.payment, &seen, self.delay_us(), self.now_us()).await?;
            }
            if self.db.is_taken_back(&refund.payment).await? {
                let (payment, state) = (refund.payment.clone(), "with its payment".to_owned());
                let (amount_minor, currency) = (refund.amount.minor(), refund.amount.currency().code().to_owned());
                let seen = Seen { payment, standing: Standing::Succeeded, state, amount_minor, currency, error: None };
                let applied = self.db.apply_refund(&refund.id, &seen, self.now_us()).await?;
                tracing::warn!(
                    refund = id,
                    ?applied,
                    "a payment that the provider took back is given back in the books"
                );
                return Ok(());
            }
        }
        let new = NewRefund { id, payment: &refund.payment, amount: refund.amount };
        let mut seen = Err(Fault::Missing);
        if look {
            seen = provider.refund(id).await;
        }
        if seen == Err(Fault::Missing) {
            seen = provider.create_refund(new).await;
        }
        if seen == Err(Fault::Exists) {
            seen = provider.refund(id).await; // a call before this one landed
        }
        match seen {
            // The answer to a request is never its end.
            Ok(seen) => {
                let known = Seen { standing: Standing::Open, ..seen };
                let applied = self.db.apply_refund(&refund.id, &known, self.now_us()).await?;
                self.note_refund(id, &applied);
            }
            Err(Fault::Refused(why) | Fault::Insufficient(why) | Fault::Locked(why)) => {
                tracing::warn!(refund = id, why, "the provider refuses a refund");
                self.db.fail_refund(&refund.id, &why, self.now_us()).await?;
            }
            Err(fault) => {
                tracing::warn!(refund = id, why = fault.words(), "nobody knows whether a refund was begun");
                self.db.note_refund(&refund.id, &fault.words(), self.now_us()).await?;
            }
        }
        Ok(())
    }

    /// Looks at a refund and believes what is there, whoever said that it is worth a look.
    ///
    /// # Errors
    /// `Unavailable` when the provider does not say; when the database refuses.
    pub async fn look_at_refund(&self, id: &RefundId) -> Result<Applied> {
        let span = tracing::info_span!("look_at_refund", refund = id.as_str());
        self.read_refund(id).instrument(span).await
    }

    async fn read_refund(&self, id: &RefundId) -> Result<Applied> {
        if self.db.refund(id).await?.is_none() {
            return Ok(Applied::Unknown);
        }
        match self.hyperswitch()?.refund(id.as_str()).await {
            Ok(seen) => {
                let applied = self.db.apply_refund(id, &seen, self.now_us()).await?;
                self.note_refund(id.as_str(), &applied);
                Ok(applied)
            }
            Err(fault) => Err(unreadable(id, &fault)),
        }
    }

    /// As `look_at_refund`, for one that was stored and never confirmed: what the provider does not know has failed, and
    /// its order is paid again. What a subscription was paid by is asked for once more: nobody else would.
    ///
    /// # Errors
    /// As `look_at_refund`.
    pub async fn look_at_orphan(&self, id: &RefundId) -> Result<Applied> {
        match self.hyperswitch()?.refund(id.as_str()).await {
            Ok(seen) => {
                let applied = self.db.apply_refund(id, &seen, self.now_us()).await?;
                self.note_refund(id.as_str(), &applied);
                Ok(applied)
            }
            Err(Fault::Missing) => {
                let Some(refund) = self.db.refund(id).await? else { return Ok(Applied::Unknown) };
                if let (Of::Subscription(_), Status::Pending) = (&refund.of, refund.status) {
                    self.submit_refund(&refund, false).await?;
                    return Ok(Applied::Changed("refund_asked"));
                }
                let failed = self.db.fail_refund(id, "the provider never heard of it", self.now_us()).await?;
                if failed {
                    tracing::error!(
                        refund = id.as_str(),
                        "a refund never reached the provider; its order is paid again"
                    );
                }
                Ok(if failed { Applied::Changed("refund_failed") } else { Applied::Nothing })
            }
            Err(fault) => Err(unreadable(id, &fault)),
        }
    }

    /// Asks for the refunds of a subscription's payment that are stored and that the provider may not know.
    pub(super) async fn give_back(&self, payment: &str) -> Result<()> {
        for id in self.db.unasked_refunds(payment).await? {
            if let Some(refund) = self.db.refund(&id).await? {
                self.submit_refund(&refund, true).await?;
            }
        }
        Ok(())
    }

    /// Tries once more to give back a payment whose last refund failed.
    pub(super) async fn give_back_again(&self, payment: &str) -> Result<Applied> {
        let Some(id) = self.db.give_back_again(payment, self.now_us()).await? else { return Ok(Applied::Nothing) };
        tracing::info!(payment, refund = id.as_str(), "a payment is given back once more");
        self.give_back(payment).await?;
        Ok(Applied::Changed("refund_asked"))
    }

    fn note_refund(&self, refund: &str, applied: &Applied) {
        match applied {
            Applied::Alarm(why) => {
                tracing::error!(refund, why, "a refund at the provider is not ours; nothing is changed");
            }
            Applied::Changed(what) => tracing::info!(refund, what, "a refund moved"),
            Applied::Nothing | Applied::Unknown => {}
        }
    }
}

fn unreadable(id: &RefundId, fault: &Fault) -> Error {
    Error::new(Kind::Unavailable, format!("cannot read the refund {id}: {}", fault.words()))
}
