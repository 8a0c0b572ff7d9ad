//! Why a signed URL is or is not valid, scheme by scheme, for the person who holds the keys. A client never
//! hears any of it.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use super::bunny::{self, Token};
use super::{Carried, Presented, Refused, Verifier, cloudflare, cloudfront, without_cmcd};

/// A URL to judge: what a request for it would carry.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'u> {
    /// The path, with its token in front when it has one.
    pub path: &'u str,
    /// The query string; empty for none.
    pub query: &'u str,
    /// `Cookie` header; empty for none.
    pub cookies: &'u str,
    /// Who asks.
    pub peer: IpAddr,
    /// When, in seconds since 1970.
    pub now_s: u64,
}

/// What one scheme says.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Which scheme: `bunny HS256`.
    pub scheme: String,
    /// `None` when the URL carries nothing of this scheme.
    pub answer: Option<Result<(), Refused>>,
    /// What was found out: a name and what is to be said about it.
    pub facts: Vec<(&'static str, String)>,
}

/// Judges a URL by every scheme. The origin's answer is that of the first scheme that applies.
pub fn explain(verifier: &Verifier, asked: &Asked<'_>) -> Vec<Verdict> {
    let query = without_cmcd(asked.query);
    let left_out = query.len() < asked.query.len();
    let asked = &Asked { query: &query, ..*asked };
    let mut verdicts = vec![of_bunny(verifier, asked), of_cloudfront(verifier, asked), of_cloudflare(verifier, asked)];
    for verdict in verdicts.iter_mut().filter(|verdict| left_out && verdict.answer.is_some()) {
        let fact = "left out before the signature was checked; the CDN's own edge may count it as signed";
        verdict.facts.push(("CMCD", fact.into()));
    }
    verdicts
}

impl Verdict {
    fn absent(scheme: &str, what: &str) -> Verdict {
        Verdict { scheme: scheme.into(), answer: None, facts: vec![("carries", format!("no {what}"))] }
    }

    fn without_key(scheme: &str, key: &str) -> Verdict {
        let facts = vec![("key", format!("{key} is not set, so nothing of this scheme is accepted"))];
        Verdict { scheme: scheme.into(), answer: Some(Err(Refused::Scheme)), facts }
    }

    /// Whether the URL opens by this scheme.
    pub fn is_valid(&self) -> bool {
        self.answer == Some(Ok(()))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.answer {
            None => write!(f, "{}: does not apply", self.scheme)?,
            Some(Ok(())) => write!(f, "{}: valid", self.scheme)?,
            Some(Err(refused)) => write!(f, "{}: not valid: {refused}", self.scheme)?,
        }
        self.facts.iter().try_for_each(|(name, fact)| write!(f, "\n  {name:<8} {fact}"))
    }
}

fn of_bunny(verifier: &Verifier, asked: &Asked<'_>) -> Verdict {
    let (presented, path) = match bunny::split_path(asked.path) {
        Some((component, path)) => (Presented::Path(component), path),
        None if Carried::by(asked.query) == Some(Carried::Bunny) => (Presented::Query(asked.query), asked.path),
        None => return Verdict::absent("bunny", "bcdn_token= in front of the path and no token= in the query"),
    };
    let Some(keys) = &verifier.bunny else { return Verdict::without_key("bunny", "origin.keys.bunny") };
    let mut verdict = Verdict {
        scheme: "bunny".into(),
        answer: Some(keys.verify(presented, path, asked.peer, asked.now_s)),
        facts: vec![("asked", format!("{path} by {}", asked.peer))],
    };
    let facts = &mut verdict.facts;
    let token = match Token::read(presented) {
        Ok(token) => token,
        Err(refused) => {
            let shape =
                "the token is HS256-[1-] and 43 characters of base64url, with expires= beside it, nothing twice";
            facts.push(("token", format!("{refused}: {shape}")));
            return verdict;
        }
    };
    verdict.scheme = token.algorithm().to_string();
    let below = token.below().map(|below| String::from_utf8_lossy(&below).into_owned());
    facts.push((
        "opens",
        match &below {
            Some(below) => format!("everything below {below}"),
            None => "exactly the path it was signed for".into(),
        },
    ));
    facts.push(("time", until(token.expires_s, asked.now_s)));
    if !keys.accepts(token.algorithm()) {
        facts.push(("accepted", "no: origin.keys.bunny_legacy does not list this scheme".into()));
    }
    // By the path it is for, so that a token for another path still says who signed it.
    let signed_for = below.as_deref().unwrap_or(path);
    let bound = matches!(token.claimed, bunny::Claimed::Hs256 { bound: true, .. });
    facts.push(match keys.signer(&token, signed_for, asked.peer) {
        Ok(which) => ("key", which.to_string()),
        Err(Refused::WrongAddress) => ("key", format!("none of ours for the address {}", asked.peer)),
        Err(_) if below.is_none() => ("key", "none of ours for this path and these parameters".into()),
        Err(_) => ("key", "none of ours, or the token was altered".into()),
    });
    facts.push((
        "address",
        if bound { format!("bound to one; asked for {}", asked.peer) } else { "bound to none".into() },
    ));
    for name in ["token_countries", "token_countries_blocked", "limit", "token_ignore_params"] {
        if let Some(value) = token.params.other(name) {
            facts.push(("edge", format!("{name}={value}")));
        }
    }
    verdict
}

fn of_cloudfront(verifier: &Verifier, asked: &Asked<'_>) -> Verdict {
    const SCHEME: &str = "cloudfront";
    let by_cookie = cloudfront::Params::of_cookies(std::iter::once(asked.cookies));
    let (read, form) = match (Carried::by(asked.query), by_cookie) {
        (Some(Carried::CloudFront), _) => (cloudfront::Params::of_query(asked.query), "query"),
        (_, Some(params)) => (Ok(params), "cookies"),
        _ => return Verdict::absent(SCHEME, "Signature= in the query and no CloudFront-Signature cookie"),
    };
    let Some(keys) = &verifier.cloudfront else { return Verdict::without_key(SCHEME, "origin.keys.cloudfront") };
    let answer = read.and_then(|params| keys.verify(&params, asked.query, asked.path, asked.peer, asked.now_s));
    let mut verdict = Verdict { scheme: format!("{SCHEME} ({form})"), answer: Some(answer), facts: vec![] };
    let facts = &mut verdict.facts;
    let (Ok(params), Ok(url)) = (read, keys.url(asked.path, asked.query)) else { return verdict };
    facts.push(("asked", format!("{} by {}", String::from_utf8_lossy(url.bytes()), asked.peer)));
    match keys.policy(&params, url.bytes()) {
        Ok(policy) => {
            facts.push(("opens", policy.resource.to_string()));
            facts.push(("time", until(policy.before_s.saturating_sub(1), asked.now_s)));
            if let Some(after_s) = policy.after_s {
                facts.push(("begins", moment(after_s)));
            }
            facts.push(("key", format!("{}, {}", params.key_pair_id, policy.which)));
            facts.push(("address", policy.network.map_or("bound to none".into(), |net| format!("bound to {net}"))));
        }
        Err(Refused::Malformed) => {
            let shape = "Signature and Policy are base64 with - ~ _; a policy has one Resource and known conditions";
            facts.push(("policy", format!("{shape}; Expires and Policy exclude each other")));
        }
        Err(_) => facts.push((
            "key",
            format!(
                "{} is not one of ours, or did not sign this URL: a canned policy opens exactly one",
                params.key_pair_id
            ),
        )),
    }
    verdict
}

fn of_cloudflare(verifier: &Verifier, asked: &Asked<'_>) -> Verdict {
    const SCHEME: &str = "cloudflare";
    if Carried::by(asked.query) != Some(Carried::Cloudflare) {
        return Verdict::absent(SCHEME, "verify= in the query");
    }
    let Some(keys) = &verifier.cloudflare else { return Verdict::without_key(SCHEME, "origin.keys.cloudflare") };
    let mut verdict = Verdict {
        scheme: SCHEME.into(),
        answer: Some(keys.verify(asked.query, asked.path, asked.now_s)),
        facts: vec![("asked", asked.path.to_owned())],
    };
    let facts = &mut verdict.facts;
    match cloudflare::Token::read(asked.query) {
        Ok(token) => {
            facts.push(("signed", moment(token.signed_s)));
            facts.push((
                "time",
                format!("{}; origin.token_ttl_s is {}", until(token.last_s(keys.ttl_s()), asked.now_s), keys.ttl_s()),
            ));
            match keys.signer(&token, asked.path) {
                Ok((which, opens)) => facts.extend([("opens", opens.to_owned()), ("key", which.to_string())]),
                Err(_) => {
                    facts.push(("key", "none of ours for this path, its family's or its version's directory".into()));
                }
            }
        }
        Err(_) => facts
            .push(("token", "verify=TIME-MAC is the last parameter: ten digits, a dash, base64 of 32 bytes".into())),
    }
    verdict
}

/// How long until, or since, the last second of validity.
fn until(last_s: u64, now_s: u64) -> String {
    let at = moment(last_s);
    match last_s.checked_sub(now_s) {
        Some(left_s) => format!("valid for {} more, until {at}", length(left_s)),
        None => format!("expired {} ago, at {at}", length(now_s - last_s)),
    }
}

fn moment(unix_s: u64) -> String {
    /// The end of the year 9999: an HTTP date has four digits for the year.
    const LAST_S: u64 = 253_402_300_799;
    match unix_s {
        ..=LAST_S => httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(unix_s)),
        _ => format!("{unix_s} s after 1970"),
    }
}

fn length(s: u64) -> String {
    match s {
        ..60 => format!("{s} s"),
        60..3_600 => format!("{} min {} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {} min", s / 3_600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::secret::Secret;

    #[test]
    fn lengths_and_moments_are_for_people() {
        assert_eq!([5, 65, 3_720, 90_000].map(length), ["5 s", "1 min 5 s", "1 h 2 min", "1 d 1 h"]);
        assert_eq!(until(1_598_024_587, 1_598_024_588), "expired 1 s ago, at Fri, 21 Aug 2020 15:43:07 GMT");
        assert!(until(u64::MAX, 0).contains("18446744073709551615 s after 1970"));
    }

    #[test]
    fn the_facts_tell_who_signed_what_even_when_it_does_not_open() {
        let key = |text: &str| bunny::Key::new(&Secret::new(text.as_bytes())).unwrap();
        let verifier: Verifier = bunny::Keys::new(key("new"), Some(key("old"))).into();
        let prefix = bunny::sign_directory(&key("old"), "/a/t/", 1_000);
        let path = format!("{prefix}/a/u/x");
        let asked = Asked { path: &path, query: "", cookies: "", peer: "192.0.2.1".parse().unwrap(), now_s: 2_000 };
        let verdicts = explain(&verifier, &asked);
        let text = verdicts[0].to_string();
        assert_eq!(verdicts[0].answer, Some(Err(Refused::Expired)));
        for words in
            ["everything below /a/t/", "second (previous) key", "expired 16 min 40 s ago", "/a/u/x by 192.0.2.1"]
        {
            assert!(text.contains(words), "{text}");
        }
        assert!(verdicts[1..].iter().all(|verdict| verdict.answer.is_none() && !verdict.is_valid()));
    }

    #[test]
    fn what_a_player_adds_is_judged_as_the_origin_judges_it() {
        let key = bunny::Key::new(&Secret::new(b"k".as_slice())).unwrap();
        let params = key.sign_params(&bunny::Grant { path: "/a/x", expires_s: 1_000, ..bunny::Grant::default() });
        let verifier: Verifier = bunny::Keys::new(key, None).into();
        let peer = "192.0.2.1".parse().unwrap();
        let queries = [
            (format!("{params}&CMCD=bl%3D1"), true),
            (format!("CMCD=bl%3D1&{params}"), true),
            (params.replace("&expires", "&CMCD=bl%3D1&expires"), true),
            (format!("{params}&cmcd=bl%3D1"), false),
            (format!("{params}&CMCDX=1"), false),
            (format!("{params}&xCMCD=1"), false),
        ];
        for (query, opens) in &queries {
            let asked = Asked { path: "/a/x", query, cookies: "", peer, now_s: 900 };
            assert_eq!(verifier.verify(Presented::Query(query), "/a/x", peer, 900).is_ok(), *opens, "{query}");
            let verdict = &explain(&verifier, &asked)[0];
            assert_eq!(verdict.is_valid(), *opens, "{query}");
            assert_eq!(verdict.to_string().contains("left out"), *opens, "{query}");
        }
    }
}
