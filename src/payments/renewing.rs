//! Renewals: the next period of a subscription is paid before this one ends, by what its subscriber saved. The payment is
//! stored before the provider hears of it, and it ends as all payments do: by a look of its own.

use super::Payments;
use super::checkout::refused;
use crate::base::Result;
use crate::db::subscriptions::{Renewal, Resumed};
use crate::ledger::subscription::SubscriptionId;
use crate::providers::hyperswitch::{NewPayment, Saved};
use crate::providers::wire::Fault;

/// Subscriptions of one pass.
const PASS: i64 = 50;

impl Payments {
    /// One pass over the subscriptions whose next payment is due. Returns how many there were.
    ///
    /// # Errors
    /// When the database refuses, or there is no provider.
    pub async fn renew_due(&self) -> Result<usize> {
        self.hyperswitch()?;
        let due = self.db.due_renewals(self.now_us(), PASS).await?;
        for id in &due {
            // One that fails does not keep the others back.
            if let Err(error) = self.renew(id).await {
                tracing::warn!(
                    subscription = id.as_str(),
                    error = error.chain(),
                    "a subscription could not be renewed"
                );
            }
        }
        Ok(due.len())
    }

    /// Takes back that a subscription ends with what was paid for.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn resume(&self, id: &SubscriptionId) -> Result<Resumed> {
        let sold = |plan: &str| self.plan(plan).is_some_and(|plan| plan.renews);
        self.db.resume_subscription(id, sold, self.now_us()).await
    }

    async fn renew(&self, id: &SubscriptionId) -> Result<()> {
        // Prices of a subscription stay as they were; what is not sold any more, or not by itself, ends.
        let sold = |plan: &str| self.plan(plan).is_some_and(|plan| plan.renews);
        let (subscription, payment, method) = match self.db.begin_renewal(id, sold, self.now_us()).await? {
            Renewal::Ask(subscription, payment, method) => (subscription, payment, method),
            Renewal::Ends(plan) => {
                tracing::info!(
                    subscription = id.as_str(),
                    plan,
                    "a subscription ends: its plan is not renewed any more"
                );
                return Ok(());
            }
            Renewal::Rest => return Ok(()),
        };
        let new = NewPayment {
            id: &payment.id,
            amount: payment.amount,
            customer: &subscription.subject,
            description: "subscription",
            purpose: id.as_str(),
            return_url: None,
            saved: Saved::By(&method),
        };
        match self.hyperswitch()?.create_payment(new).await {
            Ok(_) | Err(Fault::Exists) => self.look_at_payment(&payment.id).await.map(drop),
            Err(Fault::Refused(why) | Fault::Insufficient(why)) => {
                tracing::warn!(subscription = id.as_str(), payment = payment.id, why, "the provider refuses a renewal");
                self.db.apply_payment(&payment.id, &refused(&payment), self.delay_us(), self.now_us()).await.map(drop)
            }
            // The sweep looks for it: nobody is asked again before.
            Err(fault) => {
                tracing::warn!(payment = payment.id, why = fault.words(), "nobody knows whether a renewal was begun");
                Ok(())
            }
        }
    }
}
