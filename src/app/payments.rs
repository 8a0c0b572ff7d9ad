//! The flows of money, as these settings describe them.

use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Clock;
use crate::base::secret::Secret;
use crate::base::shutdown::Shutdown;
use crate::config::{Config, Plan};
use crate::db::{self, Db};
use crate::ledger::order::Terms;
use crate::ledger::{Amount, Currency};
use crate::payments::{BACKOFF, Options, Payments, worker};
use crate::providers::hyperswitch::Hyperswitch;
use crate::providers::stripe::Stripe;
use crate::providers::wire::{Account, Network, Transport};
use crate::workers::supervisor::Supervisor;

/// The flows of these settings; without providers where payments are not enabled.
pub fn payments(config: &Config, db: &Db) -> Payments {
    let settings = &config.payments;
    let network: Arc<dyn Transport> = Arc::new(Network::new());
    let secret = |text: &str| Secret::new(text.as_bytes());
    let account = |url: &str, key: &str| Account { url: url.to_owned(), key: secret(key) };
    let hyperswitch = settings.is_enabled().then(|| {
        let account = account(&settings.hyperswitch_url, &settings.hyperswitch_api_key);
        Hyperswitch::new(account, settings.hyperswitch_profile.clone(), Arc::clone(&network))
    });
    let stripe = (settings.is_enabled() && !settings.stripe_api_key.is_empty())
        .then(|| Stripe::new(account(&settings.stripe_url, &settings.stripe_api_key), network));
    let options = Options {
        terms: Terms { fee_bps: settings.fee_bps, tax_bps: settings.tax_bps },
        refund_days: settings.refund_days as i64,
        transfer_delay: Duration::from_secs(settings.transfer_delay_s.unwrap_or(settings.refund_days * 86_400)),
        return_url: settings.return_url.clone(),
        plans: settings.plans.iter().filter_map(|plan| self::plan(plan, settings.tax_bps)).collect(),
        hyperswitch_secret: (!settings.hyperswitch_webhook_secret.is_empty())
            .then(|| secret(&settings.hyperswitch_webhook_secret)),
        stripe_secrets: settings.stripe_webhook_secrets.iter().map(|text| secret(text)).collect(),
        backoff: BACKOFF,
        sweep_every: Duration::from_secs(settings.sweep_s),
    };
    Payments { db: db.clone(), hyperswitch, stripe, options, clock: Clock::Service }
}

/// What cannot be read is no plan; `problems` names it.
fn plan(plan: &Plan, tax_bps: u64) -> Option<db::subscriptions::Plan> {
    let currency = Currency::decode(&plan.currency)?;
    let price = match plan.price_minor {
        0 => None,
        minor => Some(Amount::new(minor, currency).ok()?),
    };
    Some(db::subscriptions::Plan {
        id: plan.id.clone(),
        price,
        currency,
        period_days: plan.period_days as i64,
        trial_days: plan.trial_days as i64,
        tax_bps,
        renews: plan.renews,
    })
}

/// Starts everything that works on money.
pub(super) fn start(config: &Config, db: &Db, node: &str, shutdown: &Shutdown, all: &mut Supervisor) {
    let payments = payments(config, db);
    worker::show_all();
    let keep = Duration::from_secs(config.payments.webhook_days * 86_400);
    let at = worker::At { payments, who: node.to_owned(), keep, shutdown: shutdown.clone() };
    for (name, every, work) in worker::all(&at.payments) {
        let at = at.clone();
        all.start(name, every, move |duty| work(at.clone(), duty));
    }
}
