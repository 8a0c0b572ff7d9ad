//! `segue sign`: a signed URL for a media path, with the keys the server uses, or why one is refused.

use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::{Settings, complain, say};
use crate::app;
use crate::base::clock::Clock;
use crate::base::{Error, Result};
use crate::cdn::bunny::Grant;
use crate::cdn::explain::{Asked, explain};
use crate::cdn::{self, Verifier, bunny, cloudflare, cloudfront};
use crate::config::{self, Config, TokenForm};

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct SignArgs {
    /// The URL or path to sign, or with --explain the signed URL to judge.
    url: String,
    /// The CDN whose scheme to sign in [default: origin.cdn].
    #[arg(long, value_enum)]
    cdn: Option<Cdn>,
    /// Seconds the URL stays valid [default: origin.token_ttl_s].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..), allow_negative_numbers = true)]
    expires: Option<u64>,
    /// Open the whole directory of the URL, so that playlists and segments below it share the token.
    #[arg(long)]
    dir: bool,
    /// Put the token of a directory into the query instead of the path (Bunny; the others always do).
    #[arg(long, requires = "dir")]
    query: bool,
    /// Bind the URL to one client address; with --explain, the address that asks.
    #[arg(long, value_name = "ADDR")]
    ip: Option<IpAddr>,
    /// Countries that may, enforced by Bunny's edge: CA,US.
    #[arg(long, value_name = "CODES", value_parser = countries)]
    countries: Option<String>,
    /// Countries that may not, enforced by Bunny's edge.
    #[arg(long, value_name = "CODES", value_parser = countries)]
    countries_blocked: Option<String>,
    /// Speed limit in kB/s, enforced by Bunny's edge.
    #[arg(long, value_name = "KBPS", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Let players add query parameters (Bunny): they are left out of the signature.
    #[arg(long, conflicts_with_all = ["countries", "countries_blocked", "limit"])]
    ignore_params: bool,
    /// Print the token as Set-Cookie lines (CloudFront).
    #[arg(long)]
    cookies: bool,
    /// Say why a signed URL is or is not valid, instead of signing. Exit code 0: it is, 1: it is not.
    #[arg(long)]
    explain: bool,
    /// With --explain: the Cookie header that comes with the request.
    #[arg(long, value_name = "HEADER", requires = "explain")]
    cookie: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

const EXAMPLES: &str = "Examples:
  segue sign /a/TRACK/VERSION/aac/master.m3u8 --dir
      a path token: playlists and segments below aac/ share it
  segue sign https://cdn.example.com/d/TRACK/VERSION/aac-256.mp4 --expires 1800 --ip 192.0.2.7
      a download for half an hour and one address
  segue sign https://d111.cloudfront.net/a/TRACK/VERSION/aac/master.m3u8 --cdn cloudfront --dir --cookies
      the cookies that open aac/ at CloudFront
  segue sign --explain 'https://cdn.example.com/bcdn_token=…/a/…/master.m3u8'
      why this URL is or is not valid: time, path, key, address

Keys come from the configuration (origin.keys) or, in the dev profile, from the data directory: name the server's
--config or --data. docs/SIGNING.md describes the schemes.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Cdn {
    /// Bunny token authentication, HS256.
    Bunny,
    /// Bunny token authentication before 2026-04, plain SHA-256: only for zones that still ask for it.
    BunnySha256,
    /// CloudFront, RSA with SHA-256: a canned policy, or a custom one with --dir or --ip.
    Cloudfront,
    /// Cloudflare, the WAF's is_timed_hmac_valid_v0 with the flag "s".
    Cloudflare,
}

/// A list that Bunny does not understand would let nobody in, or everybody.
fn countries(text: &str) -> std::result::Result<String, &'static str> {
    let is_code = |code: &str| code.len() == 2 && code.bytes().all(|b| b.is_ascii_uppercase());
    match text.split(',').all(is_code) {
        true => Ok(text.to_owned()),
        false => Err("give codes of two capital letters (ISO 3166), with commas between: CA,US"),
    }
}

pub(super) fn run(args: &SignArgs) -> Result<ExitCode> {
    let url = Url::decode(&args.url)?;
    let config = args.settings.load()?.checked()?;
    let verifier = verifier(&config)?;
    let now_s = Clock::System.unix_s();
    if args.explain {
        if verifier.bunny.is_none() && verifier.cloudfront.is_none() && verifier.cloudflare.is_none() {
            return Err(no_key(&config, Cdn::Bunny));
        }
        return Ok(judge(args, &verifier, &url, now_s));
    }
    if url.query.is_some() || bunny::split_path(url.path).is_some() {
        return Err(Error::usage(format!("{} carries parameters or a token already; give the plain URL", args.url)));
    }
    let cdn = args.cdn.unwrap_or(match config.origin.cdn {
        config::Cdn::Bunny => Cdn::Bunny,
        config::Cdn::CloudFront => Cdn::Cloudfront,
        config::Cdn::Cloudflare => Cdn::Cloudflare,
    });
    args.refuse_what_it_cannot_say(cdn)?;
    let ttl_s = args.expires.unwrap_or(config.origin.token_ttl_s);
    let expires_s = now_s
        .checked_add(ttl_s)
        .ok_or_else(|| Error::usage("--expires is beyond the end of time; give fewer seconds"))?;
    let lines = match (cdn, &verifier) {
        (Cdn::Bunny | Cdn::BunnySha256, Verifier { bunny: Some(keys), .. }) => {
            let query = args.query || config.origin.token_form == TokenForm::Query;
            args.refuse_what_playlists_drop(&url, query)?;
            vec![args.bunny(keys, cdn, &url, expires_s, query)]
        }
        (Cdn::Cloudfront, Verifier { cloudfront: Some(keys), .. }) => args.cloudfront(keys, &url, expires_s)?,
        (Cdn::Cloudflare, Verifier { cloudflare: Some(keys), .. }) => vec![args.cloudflare(keys, &url, now_s, ttl_s)?],
        _ => return Err(no_key(&config, cdn)),
    };
    lines.into_iter().for_each(say);
    Ok(ExitCode::SUCCESS)
}

/// The server's keys. None are made here: they would be other ones.
fn verifier(config: &Config) -> Result<Verifier> {
    if config.has_bunny_key() {
        return app::verifier(config);
    }
    let mut without = config.clone();
    without.origin.cdn = config::Cdn::Cloudflare; // asks for no generated key
    app::verifier(&without)
}

fn no_key(config: &Config, cdn: Cdn) -> Error {
    let data = config.data.display();
    Error::usage(match cdn {
        Cdn::Bunny | Cdn::BunnySha256 => {
            format!("there is no signing key in {data}; name the server's --data or --config")
        }
        Cdn::Cloudfront => "there is no signing key for CloudFront; set origin.keys.cloudfront or name --config".into(),
        Cdn::Cloudflare => "there is no signing key for Cloudflare; set origin.keys.cloudflare or name --config".into(),
    })
}

impl SignArgs {
    /// An option that a scheme has no word for must not be dropped silently: the URL would allow more.
    fn refuse_what_it_cannot_say(&self, cdn: Cdn) -> Result<()> {
        let bunny = matches!(cdn, Cdn::Bunny | Cdn::BunnySha256);
        let refused = [
            ("--countries", self.countries.is_some() && !bunny, "only Bunny's tokens name countries"),
            ("--countries-blocked", self.countries_blocked.is_some() && !bunny, "only Bunny's tokens name countries"),
            ("--limit", self.limit.is_some() && !bunny, "only Bunny's tokens limit the speed"),
            ("--ignore-params", self.ignore_params && !bunny, "only Bunny's tokens can ignore parameters"),
            ("--query", self.query && !bunny, "only Bunny's tokens can be in the path: the others are in the query"),
            ("--cookies", self.cookies && cdn != Cdn::Cloudfront, "only CloudFront reads cookies"),
            ("--ip", self.ip.is_some() && cdn == Cdn::Cloudflare, "Cloudflare's tokens are bound to no address"),
            ("--ip", self.ip.is_some() && cdn == Cdn::BunnySha256, "Bunny's own signers disagree about it; use HS256"),
        ];
        match refused.iter().find(|(_, given, _)| *given) {
            Some((option, _, why)) => Err(Error::usage(format!("{option} cannot be signed here: {why}"))),
            None => Ok(()),
        }
    }

    /// What is signed must come back with every segment, and playlists hand on the token, its directory and its end.
    fn refuse_what_playlists_drop(&self, url: &Url<'_>, query: bool) -> Result<()> {
        let more = [
            ("--countries", self.countries.is_some()),
            ("--countries-blocked", self.countries_blocked.is_some()),
            ("--limit", self.limit.is_some()),
            ("--ignore-params", self.ignore_params),
        ];
        match more.iter().find(|(_, given)| *given && query && self.dir && url.path.ends_with(".m3u8")) {
            Some((option, _)) => Err(Error::usage(format!(
                "{option} cannot be in the query of a playlist: its segments would be asked for without; use the token in \
                 the path (origin.token_form = \"path\", no --query)"
            ))),
            None => Ok(()),
        }
    }

    fn bunny(&self, keys: &bunny::Keys, cdn: Cdn, url: &Url<'_>, expires_s: u64, query: bool) -> String {
        let Url { base, path, .. } = url;
        let grant = Grant {
            path,
            token_path: self.dir.then_some(url.directory()),
            expires_s,
            address: self.ip,
            countries: self.countries.as_deref(),
            countries_blocked: self.countries_blocked.as_deref(),
            ignore_params: self.ignore_params,
            limit_kbps: self.limit,
        };
        let params = match cdn {
            Cdn::BunnySha256 => {
                complain(format_args!(
                    "note: Bunny is removing this scheme; zones that know HS256 should get --cdn bunny"
                ));
                keys.current().sign_params_sha256(&grant)
            }
            _ => keys.current().sign_params(&grant),
        };
        match self.dir && !query {
            true => format!("{base}/bcdn_{params}{path}"),
            false => format!("{base}{path}?{params}"),
        }
    }

    fn cloudfront(&self, keys: &cloudfront::Keys, url: &Url<'_>, expires_s: u64) -> Result<Vec<String>> {
        let Url { base, path, .. } = url;
        let base = if base.is_empty() { keys.base() } else { base };
        let wildcard = format!("{}*", url.directory());
        let signed = if self.dir { &wildcard } else { *path };
        // It opens through the last second that --expires names, as with the other schemes.
        let grant = cloudfront::Grant { path: signed, expires_s: expires_s.saturating_add(1), address: self.ip };
        let public = || {
            Error::usage(
                "the first key of origin.keys.cloudfront is a public one and cannot sign; name the private key's file",
            )
        };
        if !self.cookies {
            let params = keys.current().sign_params(base, &grant).ok_or_else(public)?;
            return Ok(vec![format!("{base}{path}?{params}")]);
        }
        let attributes = format!("Path={}; Secure; HttpOnly", if self.dir { url.directory() } else { path });
        let cookies = keys.current().sign_cookies(base, &grant).ok_or_else(public)?;
        Ok(cookies.iter().map(|(name, value)| format!("Set-Cookie: {name}={value}; {attributes}")).collect())
    }

    fn cloudflare(&self, keys: &cloudflare::Keys, url: &Url<'_>, now_s: u64, ttl_s: u64) -> Result<String> {
        let Url { base, path, .. } = url;
        // A token carries when it was signed, and every token is as long: a shorter one was signed earlier.
        let back_s = keys.ttl_s().checked_sub(ttl_s).ok_or_else(|| {
            let max_s = keys.ttl_s();
            Error::usage(format!(
                "--expires is beyond origin.token_ttl_s, {max_s}: Cloudflare's tokens are never longer"
            ))
        })?;
        let signed_s = now_s.saturating_sub(back_s);
        let message = if self.dir { url.directory() } else { path };
        let params = keys.current().sign(message, signed_s, cloudflare::Encoding::UrlSafe);
        if keys.verify(&params, path, now_s).is_err_and(|refused| refused == cdn::Refused::Mismatch) {
            return Err(Error::usage(format!(
                "Cloudflare's tokens open the directory of a version or of a family, and {message} is below; give \
                 /a/TRACK/VERSION/aac/master.m3u8, or leave --dir away"
            )));
        }
        Ok(format!("{base}{path}?{params}"))
    }
}

fn judge(args: &SignArgs, verifier: &Verifier, url: &Url<'_>, now_s: u64) -> ExitCode {
    let peer = args.ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let cookies = args.cookie.as_deref().unwrap_or_default();
    let asked = Asked { path: url.path, query: url.query.unwrap_or_default(), cookies, peer, now_s };
    let verdicts = explain(verifier, &asked);
    let valid = verdicts.iter().any(|verdict| verdict.is_valid());
    match (valid, verdicts.iter().any(|verdict| verdict.answer.is_some())) {
        (true, _) => say(format!("valid: it opens {} for {peer}", below(url.path))),
        (false, true) => say(format!("not valid for {peer}")),
        (false, false) => say("not valid: there is no token"),
    }
    verdicts.iter().for_each(say);
    if valid { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

/// The path without a token in front.
fn below(path: &str) -> &str {
    bunny::split_path(path).map_or(path, |(_, below)| below)
}

/// A URL taken apart: `scheme://host`, path and query; a bare path has an empty base.
struct Url<'u> {
    base: &'u str,
    path: &'u str,
    query: Option<&'u str>,
}

impl<'u> Url<'u> {
    fn decode(text: &'u str) -> Result<Url<'u>> {
        let refused = |why: &str| Error::usage(format!("{text:?} {why}; give /a/… or https://host/a/…"));
        let allowed = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'<' | b'>' | b'#');
        if !text.bytes().all(allowed) {
            return Err(refused("has characters that a URL has not"));
        }
        let path_at = match text.split_once("://") {
            _ if text.starts_with('/') => Some(0),
            Some(("http" | "https", rest)) => rest.find('/').map(|slash| text.len() - rest.len() + slash),
            Some(_) => return Err(refused("is not http:// or https://")),
            None => None,
        };
        let at = path_at.ok_or_else(|| refused("has no path"))?;
        let (base, rest) = text.split_at(at);
        if base.ends_with("://") {
            return Err(refused("has no host"));
        }
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        if path.split('/').any(|component| matches!(component, "." | "..")) {
            return Err(refused("has . or .. in its path, which clients resolve before they ask"));
        }
        if below(path).contains('*') {
            return Err(refused("has a * in its path, which CloudFront takes for anything; use --dir"));
        }
        Ok(Url { base, path, query })
    }

    /// Up to the last slash.
    fn directory(&self) -> &'u str {
        &self.path[..=self.path.rfind('/').expect("a path begins with /")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_paths_split_alike() {
        let check = |text: &str, parts: (&str, &str, Option<&str>)| {
            let url = Url::decode(text).unwrap();
            assert_eq!((url.base, url.path, url.query), parts);
        };
        check("/a/b", ("", "/a/b", None));
        check("https://h/a?x=1", ("https://h", "/a", Some("x=1")));
        check("http://h:1/bcdn_token=t&expires=1/a", ("http://h:1", "/bcdn_token=t&expires=1/a", None));
        check("/a?u=http://x/y", ("", "/a", Some("u=http://x/y")));
    }

    #[test]
    fn what_is_no_url_is_not_signed() {
        for (text, says) in [
            ("", "no path"),
            ("a/b", "no path"),
            ("https://h", "no path"),
            ("https:///a", "no host"),
            ("ftp://h/a", "http:// or https://"),
            ("file:///etc/passwd", "http:// or https://"),
            ("/a/../b", ".."),
            ("/a/./b", ".."),
            ("/a/b\nc", "characters"),
            ("/a/\u{7f}", "characters"),
            ("/a/é", "characters"),
            ("/a/b c", "characters"),
            ("/a/\"b", "characters"),
            ("/a/*", "*"),
        ] {
            let error = Url::decode(text).map(|_| ()).unwrap_err().chain();
            assert!(error.contains(says) && !error.contains('\n'), "{error}");
        }
    }
}
