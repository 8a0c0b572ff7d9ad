//! Purges: what a CDN's API is asked, and what its answer means. In: a tag or a URL. Out: a request to send, and from
//! the answer whether it is done, worth trying again, or refused.
//!
//! One door for three APIs that look nothing alike; nothing here opens a connection (`workers/purges.rs` does).
//!
//! | CDN | by tag | by URL |
//! |---|---|---|
//! | Bunny | `POST /pullzone/{id}/purgeCache` | `POST /purge?url=` |
//! | CloudFront | the paths that the tag's track has: it is asked for paths alone | `CreateInvalidation` with its path |
//! | Cloudflare | `POST /zones/{id}/purge_cache` | the same |

mod cloudfront;

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::{Method, Request, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::base::error::Context as _;
use crate::base::secret::Secret;
use crate::base::{Error, Result};

/// What shall be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Every answer with this tag: `CDN-Tag` or `Cache-Tag`, a track's id.
    Tag(String),
    /// One URL, as listeners ask for it.
    Url(String),
}

impl What {
    /// `tag` or `url`, and which.
    pub fn parts(&self) -> (&'static str, &str) {
        match self {
            What::Tag(tag) => ("tag", tag),
            What::Url(url) => ("url", url),
        }
    }
}

/// Whose API, and what it wants to see.
#[derive(Clone, Debug)]
pub enum Provider {
    /// bunny.net.
    Bunny {
        /// The pull zone's number.
        pull_zone: u64,
        /// The account's key.
        key: Secret,
    },
    /// Amazon CloudFront.
    CloudFront {
        /// The distribution's id.
        distribution: String,
        /// Id of an access key that may `cloudfront:CreateInvalidation`.
        access_key: String,
        /// The key.
        secret_key: Secret,
    },
    /// Cloudflare.
    Cloudflare {
        /// The zone's id.
        zone: String,
        /// A token that may purge its cache.
        token: Secret,
    },
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is forgotten, or will be in a moment.
    Done,
    /// Not now; not before so long, when the API says so.
    Later(Option<Duration>, String),
    /// Our request is wrong, or not allowed: somebody has to correct a setting.
    Refused(String),
}

/// The longest answer we read, in bytes.
pub const ANSWER_BYTES_MAX: usize = 64 << 10;
/// The longest that we let an API make us wait.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

impl Provider {
    /// Where the API is.
    pub fn url(&self) -> &'static str {
        match self {
            Provider::Bunny { .. } => "https://api.bunny.net",
            Provider::CloudFront { .. } => "https://cloudfront.amazonaws.com",
            Provider::Cloudflare { .. } => "https://api.cloudflare.com/client/v4",
        }
    }

    /// The request to send to the API at `base`. `id` names the purge: the same on every try.
    ///
    /// # Errors
    /// `Invalid` for a URL that the API cannot be asked about.
    pub fn request(&self, base: &str, id: &str, what: &What, now: SystemTime) -> Result<Request<Bytes>> {
        let base = base.trim_end_matches('/');
        let built = match self {
            Provider::Bunny { pull_zone, key } => {
                let (url, body) = match what {
                    What::Tag(tag) => (format!("{base}/pullzone/{pull_zone}/purgeCache"), json!({ "CacheTag": tag })),
                    What::Url(url) => {
                        let url = utf8_percent_encode(url, NON_ALPHANUMERIC);
                        (format!("{base}/purge?url={url}&async=false"), Value::Null)
                    }
                };
                post(&url).header("accesskey", sensitive(key)?).body(text(&body))
            }
            Provider::Cloudflare { zone, token } => {
                let (kind, value) = match what {
                    What::Tag(tag) => ("tags", tag),
                    What::Url(url) => ("files", url),
                };
                let bearer = Secret::new([b"Bearer ", token.expose()].concat());
                let url = format!("{base}/zones/{zone}/purge_cache");
                post(&url).header(header::AUTHORIZATION, sensitive(&bearer)?).body(text(&json!({ kind: [value] })))
            }
            Provider::CloudFront { distribution, access_key, secret_key } => {
                return cloudfront::request((base, distribution), (access_key, secret_key), id, what, now);
            }
        };
        built.map_err(|cause| Error::invalid(format!("no request can be made of {}", what.parts().1)).because(cause))
    }

    /// What an answer means. `retry_after` is the header of that name.
    pub fn judge(&self, status: u16, retry_after: Option<&str>, body: &[u8], now: SystemTime) -> Answer {
        let said = said(body);
        let line = format!("it answered {status}{said}");
        let wait = retry_after.and_then(|text| delay(text, now)).map(|wait| wait.min(RETRY_AFTER_MAX));
        match (self, status) {
            // A success may be none: the envelope says.
            (Provider::Cloudflare { .. }, 200..300) => match serde_json::from_slice::<Value>(body) {
                Ok(envelope) if envelope["success"] == true => Answer::Done,
                _ => Answer::Refused(line),
            },
            (_, 200..300) => Answer::Done,
            // CloudFront says with 400 that it is busy.
            (Provider::CloudFront { .. }, 400) if cloudfront::is_busy(body) => Answer::Later(wait, line),
            (_, 408 | 425 | 429 | 500..600) => Answer::Later(wait, line),
            _ => Answer::Refused(line),
        }
    }
}

fn post(url: &str) -> hyper::http::request::Builder {
    let request = Request::builder().method(Method::POST).uri(url).header(header::CONTENT_TYPE, "application/json");
    request.header(header::ACCEPT, "application/json")
}

fn text(body: &Value) -> Bytes {
    if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) }
}

fn sensitive(secret: &Secret) -> Result<header::HeaderValue> {
    let mut value = header::HeaderValue::from_bytes(secret.expose())
        .map_err(|_| Error::usage("the key of the CDN's API has characters that no header takes"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Seconds, or a date (RFC 9110 §10.2.3).
fn delay(text: &str, now: SystemTime) -> Option<Duration> {
    match text.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(httpdate::parse_http_date(text.trim()).ok()?.duration_since(now).unwrap_or_default()),
    }
}

/// The words of an answer, short enough for a line: `Message`, `message` of JSON or XML, wherever they stand.
fn said(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(ANSWER_BYTES_MAX)]);
    let words = match serde_json::from_str::<Value>(&text) {
        Ok(value) => {
            let errors = value["errors"].as_array().into_iter().flatten();
            let words = errors.map(|error| &error["message"]).chain([&value["Message"], &value["message"]]);
            words.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>().join("; ")
        }
        Err(_) => cloudfront::element(&text, "Message").unwrap_or_default().to_owned(),
    };
    let words: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    if words.is_empty() { words } else { format!(": {words}") }
}

/// The path of a URL, for APIs that take no host.
fn path_of(url: &str) -> Result<String> {
    let uri: hyper::Uri = url.parse().context_invalid(url)?;
    Ok(uri.path_and_query().map_or("/", |path| path.as_str()).to_owned())
}

/// Names the URL that cannot be read.
trait ContextInvalid<T> {
    fn context_invalid(self, url: &str) -> Result<T>;
}

impl<T> ContextInvalid<T> for std::result::Result<T, hyper::http::uri::InvalidUri> {
    fn context_invalid(self, url: &str) -> Result<T> {
        self.map_err(|cause| Error::invalid("not a URL").because(cause)).context(|| format!("cannot purge {url}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn providers() -> [Provider; 3] {
        let secret = |text: &str| Secret::new(text.as_bytes());
        [
            Provider::Bunny { pull_zone: 77, key: secret("k") },
            Provider::CloudFront { distribution: "E1".into(), access_key: "A".into(), secret_key: secret("s") },
            Provider::Cloudflare { zone: "z1".into(), token: secret("t") },
        ]
    }

    #[test]
    fn an_answer_is_done_worth_trying_again_or_refused() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let [bunny, cloudfront, cloudflare] = providers();
        let check = |provider: &Provider, status, after, body: &str, expected: fn(&Answer) -> bool| {
            let answer = provider.judge(status, after, body.as_bytes(), now);
            assert!(expected(&answer), "{status} {body}: {answer:?}");
        };
        let done = |answer: &Answer| *answer == Answer::Done;
        let refused = |answer: &Answer| matches!(answer, Answer::Refused(_));
        check(&bunny, 204, None, "", done);
        check(&bunny, 401, None, "", refused);
        check(&bunny, 404, None, r#"{"ErrorKey":"pullZone.not_found","Message":"no such zone"}"#, |answer| {
            *answer == Answer::Refused("it answered 404: no such zone".into())
        });
        check(
            &bunny,
            429,
            Some("7"),
            "",
            |answer| matches!(answer, Answer::Later(Some(wait), _) if wait.as_secs() == 7),
        );
        check(&bunny, 503, None, "<html>", |answer| matches!(answer, Answer::Later(None, _)));
        check(
            &bunny,
            503,
            Some("Sun, 06 Nov 1994 08:49:47 GMT"),
            "",
            |answer| matches!(answer, Answer::Later(Some(wait), _) if wait.as_secs() == 10),
        );
        check(
            &bunny,
            429,
            Some("999999"),
            "",
            |answer| matches!(answer, Answer::Later(Some(wait), _) if *wait == RETRY_AFTER_MAX),
        );
        check(&cloudflare, 200, None, r#"{"success":true,"errors":[],"messages":[],"result":{"id":"x"}}"#, done);
        check(&cloudflare, 200, None, r#"{"success":false,"errors":[{"code":1,"message":"no"}]}"#, refused);
        check(&cloudflare, 200, None, "", refused);
        check(
            &cloudflare,
            403,
            None,
            r#"{"success":false,"errors":[{"code":10000,"message":"Authentication error"}]}"#,
            refused,
        );
        check(&cloudfront, 201, None, "<Invalidation/>", done);
        let busy = "<ErrorResponse><Error><Code>TooManyInvalidationsInProgress</Code><Message>m</Message></Error></ErrorResponse>";
        check(&cloudfront, 400, None, busy, |answer| *answer == Answer::Later(None, "it answered 400: m".into()));
        check(
            &cloudfront,
            400,
            None,
            "<ErrorResponse><Error><Code>InvalidArgument</Code></Error></ErrorResponse>",
            refused,
        );
        check(
            &cloudfront,
            403,
            None,
            "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>",
            refused,
        );
    }

    #[test]
    fn no_request_shows_its_key_in_a_log() {
        for provider in providers() {
            let what = What::Tag("trk_1".into());
            let request = provider.request(provider.url(), "prg_1", &what, SystemTime::UNIX_EPOCH).unwrap();
            let shown = format!("{request:?}");
            assert!(!shown.contains("Bearer") && !shown.contains("\"k\""), "{shown}");
        }
    }
}
