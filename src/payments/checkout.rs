//! Payments of orders and subscriptions. A payment is stored before the provider hears of it; whoever asks again under
//! the same key looks first.

use super::Payments;
use crate::base::{Error, Kind, Result};
use crate::db::money::{Claim, Request};
use crate::db::orders::{Applied, Order, Payment, Refusal, Seen, Standing};
use crate::db::subscriptions::{PAID_TOO_LATE, Plan, Subscribed, Subscription};
use crate::ledger::order::{LicenceKind, ProductId, Status};
use crate::ledger::subscription::{self, SubscriptionId};
use crate::providers::hyperswitch::{NewPayment, Saved, is_untouched};
use crate::providers::wire::Fault;

/// A payment that is open longer than this is looked at, and ended when nobody has begun to pay. The provider's own
/// session ends after a quarter of an hour.
pub const OPEN_US: i64 = 30 * 60 * 1_000_000;

/// What came of ordering.
#[derive(Debug)]
pub enum Ordered {
    /// It is there; the buyer pays with its payment's client secret.
    Ready(Order),
    /// The same was ordered before.
    Again(Order),
    /// The key was used for another request.
    Conflict(String),
    /// It cannot be ordered.
    Refused(Refusal),
    /// It is stored, and the provider did not say whether it has its payment: ask again under the same key.
    Unknown(Order, String),
    /// The provider refuses the payment; the order has failed.
    Declined(Order, String),
}

/// What a payment is for.
#[derive(Clone, Copy)]
struct What<'a> {
    customer: &'a str,
    description: &'a str,
    /// Our id of it.
    purpose: &'a str,
    saved: Saved<'a>,
}

/// How a payment came out of its first call.
enum Begun {
    Known,
    Unknown(String),
    Declined(String),
}

impl Payments {
    /// Orders: stores the order, then asks for its payment.
    ///
    /// # Errors
    /// `Unavailable` without a provider; when the database refuses.
    pub async fn order(
        &self,
        buyer: &str,
        wanted: &[(ProductId, LicenceKind)],
        request: Request<'_>,
    ) -> Result<Ordered> {
        self.hyperswitch()?;
        let created = self.db.create_order(buyer, wanted, self.options.terms, request, self.now_us()).await?;
        let (order, again) = match created {
            Err(refusal) => return Ok(Ordered::Refused(refusal)),
            Ok(Claim::Conflict(id)) => return Ok(Ordered::Conflict(id)),
            Ok(Claim::New(order)) => (order, false),
            Ok(Claim::Known(order)) => (order, true),
        };
        if order.status != Status::Created {
            return Ok(Ordered::Again(order));
        }
        let what =
            What { customer: &order.buyer, description: "order", purpose: order.id.as_str(), saved: Saved::Nothing };
        let begun = self.begin(&order.payment, what, again).await?;
        if let Begun::Declined(_) = begun {
            self.db.fail_order(&order.id, Status::Failed, self.now_us()).await?;
        }
        let gone = || Error::internal(format!("the order {} vanished", order.id));
        let order = self.db.order(&order.id).await?.ok_or_else(gone)?;
        Ok(match begun {
            Begun::Known if again => Ordered::Again(order),
            Begun::Known => Ordered::Ready(order),
            Begun::Unknown(why) => Ordered::Unknown(order, why),
            Begun::Declined(why) => Ordered::Declined(order, why),
        })
    }

    /// Asks for a stored payment. `look`: it may have been asked for before.
    async fn begin(&self, payment: &Payment, what: What<'_>, look: bool) -> Result<Begun> {
        let provider = self.hyperswitch()?;
        let What { customer, description, purpose, saved } = what;
        let (id, amount, return_url) = (payment.id.as_str(), payment.amount, self.options.return_url.as_deref());
        let new = NewPayment { id, amount, customer, description, purpose, return_url, saved };
        let mut seen = Err(Fault::Missing);
        if look {
            seen = provider.payment(&payment.id).await;
        }
        if seen == Err(Fault::Missing) {
            seen = provider.create_payment(new).await;
        }
        if seen == Err(Fault::Exists) {
            seen = provider.payment(&payment.id).await; // a call before this one landed
        }
        match seen {
            Ok(seen) => {
                // The answer to a request is a hint that the payment is known; its end comes by a look of its own.
                let known = Seen { standing: hinted(seen.standing), ..seen };
                let applied = self.db.apply_payment(&payment.id, &known, self.delay_us(), self.now_us()).await?;
                match self.note(&payment.id, applied) {
                    Applied::Alarm(why) => Ok(Begun::Unknown(why)),
                    _ => Ok(Begun::Known),
                }
            }
            Err(Fault::Refused(why) | Fault::Insufficient(why)) => Ok(Begun::Declined(why)),
            Err(fault) => {
                tracing::warn!(payment = payment.id, why = fault.words(), "nobody knows whether a payment was begun");
                Ok(Begun::Unknown(fault.words()))
            }
        }
    }

    /// Looks at a payment and believes what is there, whoever said that it is worth a look.
    ///
    /// # Errors
    /// `Unavailable` when the provider does not say; when the database refuses.
    pub async fn look_at_payment(&self, id: &str) -> Result<Applied> {
        if self.db.payment(id).await?.is_none() {
            return Ok(Applied::Unknown);
        }
        match self.hyperswitch()?.payment(id).await {
            Ok(seen) => self.believe_payment(id, &seen).await,
            Err(fault) => {
                Err(Error::new(Kind::Unavailable, format!("cannot read the payment {id}: {}", fault.words())))
            }
        }
    }

    /// As `look_at_payment`, for one that is open for long: what nobody began to pay is ended, at the provider first;
    /// what the provider does not know has expired.
    ///
    /// # Errors
    /// As `look_at_payment`.
    pub async fn look_at_old_payment(&self, id: &str) -> Result<Applied> {
        let provider = self.hyperswitch()?;
        let seen = match provider.payment(id).await {
            Ok(seen) if seen.standing == Standing::Open && is_untouched(&seen.state) => {
                match provider.cancel_payment(id).await {
                    Ok(_) | Err(Fault::Refused(_)) => {}
                    Err(fault) => return Err(unreadable(id, &fault)),
                }
                // Somebody may have paid in between: its own word counts, not the answer to ours.
                match provider.payment(id).await {
                    Ok(seen) if seen.state == "cancelled" => Seen { standing: Standing::Expired, ..seen },
                    Ok(seen) => seen,
                    Err(fault) => return Err(unreadable(id, &fault)),
                }
            }
            Ok(seen) => seen,
            Err(Fault::Missing) => {
                let Some((payment, _)) = self.db.payment(id).await? else { return Ok(Applied::Unknown) };
                tracing::info!(payment = id, "the provider never heard of a payment; its order has expired");
                Seen {
                    standing: Standing::Expired,
                    state: "missing".into(),
                    amount_minor: payment.amount.minor(),
                    currency: payment.amount.currency().code().into(),
                    client_secret: None,
                    method: None,
                }
            }
            Err(fault) => return Err(unreadable(id, &fault)),
        };
        self.believe_payment(id, &seen).await
    }

    /// Believes what the provider has, and asks for what has to go back because of it.
    pub(super) async fn believe_payment(&self, id: &str, seen: &Seen) -> Result<Applied> {
        let applied = self.db.apply_payment(id, seen, self.delay_us(), self.now_us()).await?;
        if applied == Applied::Changed(PAID_TOO_LATE) {
            // It is paid whether this works or not; a sweep asks again.
            if let Err(error) = self.give_back(id).await {
                tracing::warn!(payment = id, error = error.chain(), "a payment could not be given back yet");
            }
        }
        Ok(self.note(id, applied))
    }

    fn note(&self, payment: &str, applied: Applied) -> Applied {
        match &applied {
            Applied::Alarm(why) => {
                tracing::error!(payment, why, "a payment at the provider is not what is here; nobody is paid for it");
            }
            Applied::Changed(what) => tracing::info!(payment, what, "a payment moved"),
            Applied::Nothing | Applied::Unknown => {}
        }
        applied
    }
}

fn unreadable(id: &str, fault: &Fault) -> Error {
    Error::new(Kind::Unavailable, format!("cannot read the payment {id}: {}", fault.words()))
}

/// A payment that the provider refused to begin: it is as good as one that failed there.
pub(super) fn refused(payment: &Payment) -> Seen {
    Seen {
        standing: Standing::Dead,
        state: "refused".into(),
        amount_minor: payment.amount.minor(),
        currency: payment.amount.currency().code().into(),
        client_secret: None,
        method: None,
    }
}

/// What the first payment of a subscription is for.
fn first(subscription: &Subscription) -> What<'_> {
    let saved = if subscription.renews { Saved::Keep } else { Saved::Nothing };
    let (customer, purpose) = (subscription.subject.as_str(), subscription.id.as_str());
    What { customer, description: "subscription", purpose, saved }
}

/// The answer to a request never ends anything.
fn hinted(standing: Standing) -> Standing {
    match standing {
        Standing::Conflicted => Standing::Conflicted,
        _ => Standing::Open,
    }
}

/// What came of subscribing.
#[derive(Debug)]
pub enum Joined {
    /// It is in force, or its trial is: nothing to pay; and whether it was so before, under this key.
    InForce(Subscription, bool),
    /// To be paid with the payment's client secret; likewise.
    Pay(Subscription, Payment, bool),
    /// The key was used for another request.
    Conflict(String),
    /// They have one already.
    Live(SubscriptionId),
    /// There is no such plan.
    NoPlan,
    /// It costs something, and nobody can take money.
    NoProvider,
    /// The provider did not say whether it has its payment: ask again under the same key.
    Unknown(Subscription, String),
    /// The provider refuses the payment; the subscription has expired.
    Declined(Subscription, String),
}

/// What came of completing.
#[allow(clippy::large_enum_variant)] // one a request
#[derive(Debug)]
pub enum Completed {
    /// To be paid with the payment's client secret.
    Pay(Subscription, Payment),
    /// None of theirs.
    NoSubscription,
    /// It waits for no payment: this is how it stands.
    Not(subscription::Status),
    /// Nobody can take money, or nobody knows.
    NoProvider(String),
}

impl Payments {
    /// The plan of this id.
    pub fn plan(&self, id: &str) -> Option<&Plan> {
        self.options.plans.iter().find(|plan| plan.id == id)
    }

    /// Subscribes.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn subscribe(&self, subject: &str, plan: &str, request: Request<'_>) -> Result<Joined> {
        let Some(plan) = self.plan(plan) else { return Ok(Joined::NoPlan) };
        // Before anything is stored: what costs something is never given away because nobody can take money.
        if plan.price.is_some() && self.hyperswitch.is_none() {
            return Ok(Joined::NoProvider);
        }
        let (subscription, again) = match self.db.subscribe(subject, plan, request, self.now_us()).await? {
            Subscribed::Live(id) => return Ok(Joined::Live(id)),
            Subscribed::Claimed(Claim::Conflict(id)) => return Ok(Joined::Conflict(id)),
            Subscribed::Claimed(Claim::New(subscription)) => (subscription, false),
            Subscribed::Claimed(Claim::Known(subscription)) => (subscription, true),
        };
        if subscription.status != subscription::Status::PendingPayment {
            return Ok(Joined::InForce(subscription, again));
        }
        let gone = || Error::internal(format!("the payment of {} vanished", subscription.id));
        let payment = self.db.subscription_payment(&subscription.id).await?.ok_or_else(gone)?;
        if payment.client_secret.is_some() {
            return Ok(Joined::Pay(subscription, payment, again));
        }
        match self.begin(&payment, first(&subscription), again).await? {
            Begun::Unknown(why) => Ok(Joined::Unknown(subscription, why)),
            Begun::Declined(why) => {
                self.db.apply_payment(&payment.id, &refused(&payment), self.delay_us(), self.now_us()).await?;
                let now = self.db.subscription(&subscription.id).await?;
                Ok(Joined::Declined(now.unwrap_or(subscription), why))
            }
            Begun::Known => {
                let payment = self.db.subscription_payment(&subscription.id).await?.ok_or_else(gone)?;
                let now = self.db.subscription(&subscription.id).await?;
                Ok(Joined::Pay(now.unwrap_or(subscription), payment, again))
            }
        }
    }

    /// The client secret again, for a subscriber who left before paying.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn complete(&self, subject: &str, id: &SubscriptionId) -> Result<Completed> {
        let subscription = self.db.subscription(id).await?.filter(|subscription| subscription.subject == subject);
        let Some(subscription) = subscription else { return Ok(Completed::NoSubscription) };
        if subscription.status != subscription::Status::PendingPayment {
            return Ok(Completed::Not(subscription.status));
        }
        if self.hyperswitch.is_none() {
            return Ok(Completed::NoProvider("payments are not configured".into()));
        }
        let gone = || Error::internal(format!("the payment of {id} vanished"));
        let mut payment = self.db.subscription_payment(id).await?.ok_or_else(gone)?;
        if payment.client_secret.is_none() {
            match self.begin(&payment, first(&subscription), true).await? {
                Begun::Known => payment = self.db.subscription_payment(id).await?.ok_or_else(gone)?,
                Begun::Unknown(why) | Begun::Declined(why) => return Ok(Completed::NoProvider(why)),
            }
        }
        Ok(Completed::Pay(subscription, payment))
    }
}
