//! The settings of money: who takes it, who brings it to sellers, how prices are split, what can be subscribed to.

use serde::{Deserialize, Serialize};

use super::{Profile, is_plain_http_url, shared_secrets};
use crate::ledger::{Amount, Currency};

/// Money.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Payments {
    /// Whether things can be bought. Unset: not; production wants it said.
    pub enabled: Option<bool>,
    /// Where Hyperswitch's API is.
    pub hyperswitch_url: String,
    /// Its secret API key.
    pub hyperswitch_api_key: String,
    /// The profile's `payment_response_hash_key`, which signs its webhooks.
    pub hyperswitch_webhook_secret: String,
    /// The profile, for an account that has several.
    pub hyperswitch_profile: Option<String>,
    /// Where Stripe's API is.
    pub stripe_url: String,
    /// Its secret key. Empty: sellers are not paid by this server.
    pub stripe_api_key: String,
    /// What signs its webhooks, newest first, at most two.
    pub stripe_webhook_secrets: Vec<String>,
    /// Our share of a price without tax, in hundredths of a percent.
    pub fee_bps: u64,
    /// Tax on a price without it, in hundredths of a percent; prices contain it.
    pub tax_bps: u64,
    /// Days after the payment in which an order may be refunded.
    pub refund_days: u64,
    /// Seconds after the payment that a seller's share is kept. Unset: as long as it may be refunded.
    pub transfer_delay_s: Option<u64>,
    /// Where a buyer goes after paying.
    pub return_url: Option<String>,
    /// Seconds between two sweeps over everything that is open.
    pub sweep_s: u64,
    /// Days that deliveries of webhooks are kept.
    pub webhook_days: u64,
    /// What can be subscribed to.
    pub plans: Vec<Plan>,
}

/// What can be subscribed to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Its name in the API and in subscriptions, which keep it.
    pub id: String,
    /// For people.
    pub title: String,
    /// What a period costs in minor units, tax included. 0: nothing.
    pub price_minor: i64,
    /// ISO 4217, in capitals.
    pub currency: String,
    /// Days of a period. 0: without end.
    pub period_days: u64,
    /// Days that somebody may try it, once. 0: none.
    #[serde(default)]
    pub trial_days: u64,
    /// Whether it goes on by itself after a paid period, by what its subscriber paid with.
    #[serde(default = "renews")]
    pub renews: bool,
}

fn renews() -> bool {
    true
}

impl Default for Payments {
    fn default() -> Payments {
        Payments {
            enabled: None,
            hyperswitch_url: "https://api.hyperswitch.io".into(),
            hyperswitch_api_key: String::new(),
            hyperswitch_webhook_secret: String::new(),
            hyperswitch_profile: None,
            stripe_url: "https://api.stripe.com".into(),
            stripe_api_key: String::new(),
            stripe_webhook_secrets: vec![],
            fee_bps: 1_500,
            tax_bps: 0,
            refund_days: 14,
            transfer_delay_s: None,
            return_url: None,
            sweep_s: 3_600,
            webhook_days: 90,
            plans: vec![],
        }
    }
}

impl Payments {
    /// Whether things can be bought.
    pub fn is_enabled(&self) -> bool {
        self.enabled == Some(true)
    }

    /// Every secret that was set, by its key.
    fn secrets(&self) -> Vec<(&'static str, &str)> {
        let mut secrets = vec![
            ("payments.hyperswitch_api_key", self.hyperswitch_api_key.as_str()),
            ("payments.hyperswitch_webhook_secret", &self.hyperswitch_webhook_secret),
            ("payments.stripe_api_key", &self.stripe_api_key),
        ];
        secrets.extend(self.stripe_webhook_secrets.iter().map(|s| ("payments.stripe_webhook_secrets", s.as_str())));
        secrets.retain(|(_, secret)| !secret.is_empty());
        secrets
    }

    pub(super) fn mask(&mut self) {
        let one = [&mut self.hyperswitch_api_key, &mut self.hyperswitch_webhook_secret, &mut self.stripe_api_key];
        for secret in one.into_iter().chain(&mut self.stripe_webhook_secrets).filter(|secret| !secret.is_empty()) {
            *secret = "(hidden)".into();
        }
    }

    /// `others`: secrets that have another purpose, by their keys.
    pub(super) fn problems(
        &self,
        profile: Profile,
        (database, public): (bool, bool),
        others: &[(&'static str, &str)],
    ) -> Vec<String> {
        let mut problems = Vec::new();
        let mut need = |holds: bool, problem: &str| {
            if !holds {
                problems.push(problem.to_owned());
            }
        };
        let production = profile == Profile::Production;
        let key = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        need(
            !production || self.enabled.is_some(),
            "payments.enabled is unset in production: whether anybody can buy anything would be an accident; set it to true, \
             or to false to run without",
        );
        for (name, url) in [("hyperswitch_url", &self.hyperswitch_url), ("stripe_url", &self.stripe_url)] {
            need(
                is_plain_http_url(url) && !url.ends_with('/'),
                &format!(
                    "payments.{name} is not a plain URL without a slash at its end: no payment could be asked for"
                ),
            );
            need(
                !production || url.starts_with("https://"),
                &format!(
                    "payments.{name} is not https:// in production: keys and buyers would be readable; use https://"
                ),
            );
        }
        if self.is_enabled() {
            need(
                key(&self.hyperswitch_api_key),
                "payments.hyperswitch_api_key is unset or no key, but payments.enabled is true: nothing could be paid; set it",
            );
            need(
                self.hyperswitch_webhook_secret.len() >= 16,
                "payments.hyperswitch_webhook_secret is unset or shorter than 16, but payments.enabled is true: anybody could \
                 say what was paid, so nothing they say is taken; set it to the profile's payment_response_hash_key",
            );
            need(
                self.stripe_api_key.is_empty() || key(&self.stripe_api_key),
                "payments.stripe_api_key is no key: sellers could not be paid; correct it",
            );
            need(
                !production || !self.stripe_api_key.is_empty(),
                "payments.stripe_api_key is unset in production, but payments.enabled is true: sellers would never be paid; set it",
            );
            need(
                self.stripe_api_key.is_empty() || !self.stripe_webhook_secrets.is_empty() || !production,
                "payments.stripe_webhook_secrets is empty in production: what comes back from sellers would only be seen hours \
                 later; set the endpoint's secret",
            );
            need(
                !production || database,
                "database.url is unset in production, but payments.enabled is true: money would be on one disk without a \
                 copy; set DATABASE_URL to a PostgreSQL server",
            );
            need(
                !production || public,
                "server.public_base_url is unset in production, but payments.enabled is true: providers could not reach \
                 /webhooks/…; set it",
            );
        }
        need(
            self.stripe_webhook_secrets.len() <= 2
                && self.stripe_webhook_secrets.iter().all(|secret| secret.len() >= 16),
            "payments.stripe_webhook_secrets has more than two, or one shorter than 16: one is current, one is on its way out; \
             remove the others",
        );
        need(
            self.fee_bps <= 10_000,
            "payments.fee_bps is over 10000: sellers would owe for every sale; set 0 to 10000",
        );
        need(self.tax_bps <= 10_000, "payments.tax_bps is over 10000: most of a price would be tax; set 0 to 10000");
        need(
            (1..=3_650).contains(&self.refund_days),
            "payments.refund_days is not in 1 to 3650: nobody could return anything, or nothing would ever be final",
        );
        need(
            self.transfer_delay_s.is_none_or(|delay_s| delay_s <= 366 * 86_400),
            "payments.transfer_delay_s is over a year: sellers would not be paid; set it below 31622400",
        );
        need(
            (60..=86_400).contains(&self.sweep_s),
            "payments.sweep_s is not in 60 to 86400: providers would be asked all the time, or what a lost webhook said would \
             not be known for days",
        );
        need(
            (2..=3_650).contains(&self.webhook_days),
            "payments.webhook_days is not in 2 to 3650: a provider repeats itself for a day, and would be taken for news",
        );
        need(
            self.return_url.as_deref().is_none_or(is_plain_http_url),
            "payments.return_url is not a plain http:// or https:// URL: buyers would be lost after paying",
        );
        for (n, plan) in self.plans.iter().enumerate() {
            let named = (1..=64).contains(&plan.id.len())
                && plan.id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
            need(
                named && !self.plans[..n].iter().any(|other| other.id == plan.id),
                &format!(
                    "payments.plans has the id {:?}, which is no name or there twice: use letters, digits, _ - .",
                    plan.id
                ),
            );
            let currency = Currency::decode(&plan.currency);
            let priced = plan.price_minor == 0
                || currency.is_some_and(|currency| Amount::new(plan.price_minor, currency).is_ok());
            need(
                currency.is_some() && priced && plan.period_days <= 3_660 && plan.trial_days <= 3_660,
                &format!(
                    "payments.plans {:?} has no price, no currency in capitals, or more than ten years: nobody could subscribe",
                    plan.id
                ),
            );
        }
        if production {
            problems.extend(shared_secrets(&self.secrets(), others));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live() -> Payments {
        Payments {
            enabled: Some(true),
            hyperswitch_api_key: "snd_key".into(),
            hyperswitch_webhook_secret: "0123456789abcdef".into(),
            stripe_api_key: "sk_live_key".into(),
            stripe_webhook_secrets: vec!["whsec_0123456789".into()],
            ..Payments::default()
        }
    }

    fn problems(payments: &Payments) -> Vec<String> {
        payments.problems(Profile::Production, (true, true), &[("callbacks.secrets", "shared-with-callbacks")])
    }

    #[test]
    fn production_refuses_what_would_lose_money_and_says_so() {
        assert_eq!(problems(&live()), [""; 0]);
        assert_eq!(problems(&Payments { enabled: Some(false), ..Payments::default() }), [""; 0]);
        assert_eq!(Payments::default().problems(Profile::Dev, (false, false), &[]), [""; 0]);
        let check = |payments: Payments, key: &str, consequence: &str| {
            let found = problems(&payments);
            assert!(found.len() == 1 && found[0].contains(key) && found[0].contains(consequence), "{key}: {found:?}");
        };
        check(Payments { enabled: None, ..live() }, "payments.enabled", "accident");
        check(
            Payments { hyperswitch_api_key: String::new(), ..live() },
            "hyperswitch_api_key",
            "nothing could be paid",
        );
        check(Payments { hyperswitch_webhook_secret: "short".into(), ..live() }, "webhook_secret", "anybody could say");
        check(Payments { stripe_api_key: String::new(), ..live() }, "stripe_api_key", "never be paid");
        check(Payments { stripe_webhook_secrets: vec![], ..live() }, "stripe_webhook_secrets", "hours later");
        check(Payments { hyperswitch_url: "http://x.test".into(), ..live() }, "hyperswitch_url", "readable");
        check(Payments { stripe_url: "https://x.test/".into(), ..live() }, "stripe_url", "no payment");
        check(Payments { fee_bps: 10_001, ..live() }, "fee_bps", "owe");
        check(Payments { sweep_s: 1, ..live() }, "sweep_s", "all the time");
        check(Payments { webhook_days: 1, ..live() }, "webhook_days", "repeats");
        check(Payments { refund_days: 0, ..live() }, "refund_days", "return");
        let shared = "shared-with-callbacks".to_owned();
        check(Payments { hyperswitch_webhook_secret: shared, ..live() }, "callbacks.secrets", "one leak is two");
        let same = vec!["0123456789abcdef".to_owned()];
        check(Payments { stripe_webhook_secrets: same, ..live() }, "hyperswitch_webhook_secret", "one leak is two");
        for (database, public, word) in [(false, true, "database.url"), (true, false, "public_base_url")] {
            let found = live().problems(Profile::Production, (database, public), &[]);
            assert!(found.len() == 1 && found[0].contains(word), "{found:?}");
        }
        let plan = Plan {
            id: "pro".into(),
            title: "Pro".into(),
            price_minor: 5,
            currency: "USD".into(),
            period_days: 30,
            trial_days: 0,
            renews: true,
        };
        check(Payments { plans: vec![plan.clone(), plan.clone()], ..live() }, "\"pro\"", "twice");
        check(Payments { plans: vec![Plan { currency: "usd".into(), ..plan }], ..live() }, "\"pro\"", "subscribe");
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut shown = live();
        shown.mask();
        assert!(shown.secrets().iter().all(|(_, secret)| *secret == "(hidden)"), "{shown:?}");
    }
}
