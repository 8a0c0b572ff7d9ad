//! The settings of the CDN in front: where listeners find it, and the API that purges it.

use serde::{Deserialize, Serialize};

use super::{Cdn, is_plain_http_url};

/// The CDN in front.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Edge {
    /// `https://music.b-cdn.net`, in front of playback URLs. Unset: `server.public_base_url`.
    pub base_url: Option<String>,
    /// Whose API purges: `bunny`, `cloudfront` or `cloudflare`. Unset: nothing is purged.
    pub provider: Option<Cdn>,
    /// Another address of that API, such as a proxy's.
    pub api_url: Option<String>,
    /// Number of Bunny's pull zone.
    pub bunny_pull_zone: Option<u64>,
    /// Key of the Bunny account.
    pub bunny_api_key: Option<String>,
    /// Id of the CloudFront distribution.
    pub cloudfront_distribution: Option<String>,
    /// Id of an access key that may `cloudfront:CreateInvalidation`.
    pub cloudfront_access_key: Option<String>,
    /// That key.
    pub cloudfront_secret_key: Option<String>,
    /// Id of the Cloudflare zone.
    pub cloudflare_zone: Option<String>,
    /// A token that may purge its cache.
    pub cloudflare_api_token: Option<String>,
}

impl Edge {
    pub(super) fn mask(&mut self) {
        let secrets = [&mut self.bunny_api_key, &mut self.cloudfront_secret_key, &mut self.cloudflare_api_token];
        for secret in secrets.into_iter().flatten() {
            *secret = "(hidden)".into();
        }
    }

    /// Every secret that was set, by its key.
    pub(super) fn secrets(&self) -> Vec<(&'static str, &str)> {
        let secrets = [
            ("cdn.bunny_api_key", &self.bunny_api_key),
            ("cdn.cloudfront_secret_key", &self.cloudfront_secret_key),
            ("cdn.cloudflare_api_token", &self.cloudflare_api_token),
        ];
        secrets.into_iter().filter_map(|(name, secret)| Some((name, secret.as_deref()?))).collect()
    }

    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, url) in [("cdn.base_url", &self.base_url), ("cdn.api_url", &self.api_url)] {
            if !url.as_deref().is_none_or(is_plain_http_url) {
                problems.push(format!("{name} is not a plain http:// or https:// URL: nobody could follow it"));
            }
        }
        let wanted: &[(&str, bool)] = match self.provider {
            None => &[],
            Some(Cdn::Bunny) => {
                &[("bunny_pull_zone", self.bunny_pull_zone.is_some()), ("bunny_api_key", is_set(&self.bunny_api_key))]
            }
            Some(Cdn::CloudFront) => &[
                ("cloudfront_distribution", is_name(&self.cloudfront_distribution)),
                ("cloudfront_access_key", is_set(&self.cloudfront_access_key)),
                ("cloudfront_secret_key", is_set(&self.cloudfront_secret_key)),
            ],
            Some(Cdn::Cloudflare) => &[
                ("cloudflare_zone", is_name(&self.cloudflare_zone)),
                ("cloudflare_api_token", is_set(&self.cloudflare_api_token)),
            ],
        };
        for (name, _) in wanted.iter().filter(|(_, set)| !set) {
            problems.push(format!(
                "cdn.{name} is unset or no such thing, but cdn.provider is set: takedowns would stay in the CDN; set it"
            ));
        }
        problems
    }
}

fn is_set(text: &Option<String>) -> bool {
    text.as_deref().is_some_and(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()))
}

/// It stands in a path.
fn is_name(text: &Option<String>) -> bool {
    text.as_deref().is_some_and(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric()))
}
