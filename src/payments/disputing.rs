//! Disputes. The bank decides; here is what a webhook, the sweep and the comparison find of it.

use super::Payments;
use crate::base::{Error, Kind, Result};
use crate::db::disputes::Seen;
use crate::db::orders::Applied;
use crate::providers::wire::Fault;

impl Payments {
    /// Looks at a dispute and believes what is there, whoever said that it is worth a look.
    ///
    /// # Errors
    /// `Unavailable` when the provider does not say; when the database refuses.
    pub async fn look_at_dispute(&self, id: &str) -> Result<Applied> {
        match self.hyperswitch()?.dispute(id).await {
            Ok(seen) => self.believe_dispute(&seen).await,
            Err(Fault::Missing) => Ok(Applied::Unknown),
            Err(fault) => {
                Err(Error::new(Kind::Unavailable, format!("cannot read the dispute {id}: {}", fault.words())))
            }
        }
    }

    pub(super) async fn believe_dispute(&self, seen: &Seen) -> Result<Applied> {
        let applied = self.db.apply_dispute(seen, self.now_us()).await?;
        let (dispute, payment) = (seen.id.as_str(), seen.payment.as_str());
        match &applied {
            Applied::Alarm(why) => tracing::error!(dispute, payment, why, "a dispute cannot be believed"),
            // Somebody has to answer the bank before its deadline.
            Applied::Changed("dispute_opened") => tracing::error!(
                dispute,
                payment,
                minor = seen.amount_minor,
                "a payment is disputed, its money is kept; answer at the provider before the bank's deadline"
            ),
            Applied::Changed(what) => tracing::warn!(dispute, payment, what, "a dispute moved"),
            Applied::Nothing | Applied::Unknown => {}
        }
        Ok(applied)
    }
}
