//! Which URLs a source may be read from. In: a URL somebody else may have chosen, and what the operator
//! allows. Out: where to connect, or why not.
//!
//! A server that fetches what it is told to fetch is a way into its network (server-side request
//! forgery). So the host must be allowed by name, every address it resolves to must be one that the whole
//! internet reaches, and the connection goes to exactly those addresses: a name that resolves
//! differently a moment later changes nothing.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::base::{Error, Result, reach};

/// The longest URL we read: presigned ones with a session token have about two thousand bytes.
const URL_BYTES_MAX: usize = 8 << 10;

/// What the operator allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Hosts that sources may come from; empty: any, if `any_host`.
    pub hosts: Vec<HostRule>,
    /// Whether an empty list means any host.
    pub any_host: bool,
    /// Networks that are reached although they are not public.
    pub private: Vec<Network>,
}

/// A host that sources may come from: `media.example.com`, `*.example.com`, either with `:9000` or `:*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRule {
    /// Lower case. With `any_below` this and everything below it.
    name: String,
    any_below: bool,
    ports: Ports,
}

/// Ports of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ports {
    /// 80 and 443.
    Web,
    One(u16),
    Any,
}

/// A network: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// A URL, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) tls: bool,
    /// Lower case, IPv6 without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Path and query, as they were.
    pub(super) target: String,
}

impl Url {
    /// Reads an absolute URL.
    ///
    /// # Errors
    /// `Invalid` for another scheme, a user or password in it, or nonsense.
    pub(super) fn decode(text: &str) -> Result<Url> {
        let refuse = |what: &str| Err(Error::invalid(what));
        if text.len() > URL_BYTES_MAX {
            return refuse("the URL is longer than 8 KiB; give a shorter one");
        }
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        let tls = match scheme.as_deref() {
            Some("https") => true,
            Some("http") => false,
            _ => return refuse("sources are read by http:// and https:// only; give such a URL, or a file"),
        };
        let Ok(uri) = text.parse::<hyper::Uri>() else {
            return refuse("it is not a URL; percent-encode what is no letter, digit or one of -._~");
        };
        let Some(authority) = uri.authority() else { return refuse("the URL has no host; give a whole URL") };
        if authority.as_str().contains('@') {
            return refuse("the URL holds a user or a password, which are not sent; give a presigned URL");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
        if host.is_empty() || !host.bytes().all(plain) {
            return refuse("the host of the URL is not a name or an address; check the URL");
        }
        let port = match (authority.port_u16(), tls) {
            (Some(0), _) => return refuse("the URL has port 0; check the URL"),
            (Some(port), _) => port,
            // `host:` and `host:x` are not `host`
            (None, _) if authority.as_str().len() != authority.host().len() => {
                return refuse("the port of the URL is not a number; check the URL");
            }
            (None, true) => 443,
            (None, false) => 80,
        };
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        Ok(Url { tls, host: host.to_ascii_lowercase(), port, target: target.to_owned() })
    }

    /// As `Host` has it.
    pub(super) fn authority(&self) -> String {
        let host = self.bracketed();
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// The host as URLs and settings have it: IPv6 in brackets.
    fn bracketed(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }

    /// For messages: without the query, which holds the signature.
    pub(super) fn shown(&self) -> String {
        let path = self.target.split('?').next().unwrap_or_default();
        format!("{}://{}{path}", if self.tls { "https" } else { "http" }, self.authority())
    }

    /// The last part of the path, decoded.
    pub(super) fn file_name(&self) -> String {
        let path = self.target.split('?').next().unwrap_or_default();
        let last = path.rsplit('/').next().unwrap_or_default();
        percent_encoding::percent_decode_str(last).decode_utf8_lossy().into_owned()
    }

    /// Where a redirect leads: the same host, and never from TLS to none.
    ///
    /// # Errors
    /// `Invalid` for any other place.
    pub(super) fn redirected(&self, location: &str) -> Result<Url> {
        let scheme = if self.tls { "https" } else { "http" };
        // The forms of a reference (RFC 3986 §4.2): with its scheme, with its host, from the root, from here.
        let first = location.split(['/', '?', '#']).next().unwrap_or_default();
        let next = match location {
            whole if first.contains(':') => Url::decode(whole)?,
            hosted if hosted.starts_with("//") => Url::decode(&format!("{scheme}:{hosted}"))?,
            rooted if rooted.starts_with('/') => Url::decode(&format!("{scheme}://{}{rooted}", self.authority()))?,
            relative => {
                let path = self.target.split('?').next().unwrap_or_default();
                let directory = match relative.starts_with('?') {
                    true => path,
                    false => path.rsplit_once('/').map_or("", |(directory, _)| directory),
                };
                let slash = if relative.starts_with('?') { "" } else { "/" };
                Url::decode(&format!("{scheme}://{}{directory}{slash}{relative}", self.authority()))?
            }
        };
        let upgraded = !self.tls && next.tls && (self.port, next.port) == (80, 443);
        if next.host != self.host || !(upgraded || (next.tls, next.port) == (self.tls, self.port)) {
            return Err(Error::invalid(format!(
                "it redirects to another server ({}), which is not followed; give that URL itself",
                next.authority()
            )));
        }
        Ok(next)
    }
}

impl Allowed {
    /// Whether the host and port may be asked at all; before anything is resolved.
    ///
    /// # Errors
    /// `Invalid`, naming the setting.
    pub(super) fn check_host(&self, url: &Url) -> Result<()> {
        let named = |rule: &&HostRule| rule.matches_name(&url.host);
        let literal = url.host.parse::<IpAddr>().ok();
        // An address that the operator named needs no name as well.
        if literal.is_some_and(|address| self.names(address)) {
            return Ok(());
        }
        let shown = url.bracketed();
        if !self.hosts.is_empty() || !self.any_host {
            if !self.hosts.iter().any(|rule| named(&rule)) {
                return Err(Error::invalid(format!(
                    "sources are not read from {shown}; add \"{shown}\" to sources.allow_hosts"
                )));
            }
            if self.hosts.iter().filter(named).any(|rule| rule.ports.allow(url.port)) {
                return self.check_literal(url, literal);
            }
        } else if Ports::Web.allow(url.port) {
            return self.check_literal(url, literal);
        }
        let port = url.port;
        Err(Error::invalid(format!(
            "port {port} of {shown} is not read; add \"{shown}:{port}\" to sources.allow_hosts"
        )))
    }

    /// An address needs no resolver to be refused: whoever enqueues it hears at once.
    fn check_literal(&self, url: &Url, literal: Option<IpAddr>) -> Result<()> {
        let found = literal.map(|address| SocketAddr::new(address, url.port)).into_iter().collect::<Vec<_>>();
        match found.is_empty() {
            true => Ok(()),
            false => self.check_addresses(&url.bracketed(), found).map(drop),
        }
    }

    /// Keeps the addresses if all of them may be asked. One that may not spoils the others: a name that
    /// has both is no honest one.
    ///
    /// # Errors
    /// `Invalid`, saying what kind of address it is.
    pub(super) fn check_addresses(&self, host: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>> {
        for address in &found {
            if let Err(kind) = self.allows(address.ip()) {
                let ip = address.ip();
                return Err(Error::invalid(format!(
                    "{host} is at {kind}, which sources are not read from; add \"{ip}\" to sources.allow_private if it is \
                     yours"
                )));
            }
        }
        match found.is_empty() {
            true => Err(Error::invalid(format!("{host} has no address; check the URL"))),
            false => Ok(found),
        }
    }

    fn names(&self, address: IpAddr) -> bool {
        self.private.iter().any(|network| network.contains(address))
    }

    fn allows(&self, address: IpAddr) -> std::result::Result<(), &'static str> {
        let IpAddr::V6(v6) = address else {
            return if self.names(address) { Ok(()) } else { reach::public(address) };
        };
        // What leads to an IPv4 address must be named, and the address behind it must be allowed too.
        match reach::embedded(v6) {
            None if self.names(address) => Ok(()),
            None => reach::public(address),
            Some((kind, _)) if !self.names(address) => Err(kind),
            Some((_, Some(v4))) => self.allows(v4.into()),
            Some((_, None)) => Ok(()),
        }
    }
}

impl HostRule {
    fn matches_name(&self, host: &str) -> bool {
        match host.strip_suffix(self.name.as_str()) {
            Some("") => true,
            Some(rest) => self.any_below && rest.ends_with('.'),
            None => false,
        }
    }
}

impl Ports {
    fn allow(self, port: u16) -> bool {
        match self {
            Ports::Web => matches!(port, 80 | 443),
            Ports::One(one) => port == one,
            Ports::Any => true,
        }
    }
}

impl FromStr for HostRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<HostRule> {
        let wrong = || Error::usage(format!("{text:?} is not a host; write name, *.name, name:port or name:*"));
        let (name, port) = match (text.strip_prefix('['), text.rsplit_once(':')) {
            (Some(rest), _) => {
                let (name, port) = rest.split_once(']').ok_or_else(wrong)?;
                (name, port.strip_prefix(':'))
            }
            (None, Some((name, port))) => (name, Some(port)),
            (None, None) => (text, None),
        };
        let ports = match port {
            None => Ports::Web,
            Some("*") => Ports::Any,
            Some(port) => Ports::One(port.parse().map_err(|_| wrong())?),
        };
        let (any_below, name) = match name.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, name),
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
        if name.is_empty() || !name.bytes().all(plain) || name.starts_with('.') {
            return Err(wrong());
        }
        Ok(HostRule { name: name.trim_end_matches('.').to_ascii_lowercase(), any_below, ports })
    }
}

impl FromStr for Network {
    type Err = Error;

    fn from_str(text: &str) -> Result<Network> {
        let wrong = || Error::usage(format!("{text:?} is not a network; write 10.0.0.0/8, fd00::/8 or one address"));
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= most).ok_or_else(wrong)?,
        };
        Ok(Network { address, bits })
    }
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        let (ours, theirs, width) = match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => (u32::from(ours).into(), u32::from(theirs).into(), 32),
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => (u128::from(ours), u128::from(theirs), 128),
            _ => return false,
        };
        let ignored = u32::from(width - self.bits);
        ours.checked_shr(ignored).unwrap_or(0) == theirs.checked_shr(ignored).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(hosts: &[&str], private: &[&str]) -> Allowed {
        Allowed {
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            any_host: hosts.is_empty(),
            private: private.iter().map(|network| network.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn urls_are_read_strictly() {
        let url = |text: &str| Url::decode(text).unwrap();
        let check = |text: &str, tls, host: &str, port, target: &str| {
            let expected = Url { tls, host: host.into(), port, target: target.into() };
            assert_eq!(url(text), expected, "{text}");
        };
        check("https://Media.Example.com/a%20b.flac?X=1", true, "media.example.com", 443, "/a%20b.flac?X=1");
        check("http://h:8080", false, "h", 8080, "/");
        check("http://[::1]:81/x#y", false, "::1", 81, "/x");
        check("https://h./x", true, "h", 443, "/x");
        assert_eq!(url("https://[::1]:8443/a.flac?Signature=s3cret").shown(), "https://[::1]:8443/a.flac");
        assert_eq!(url("http://h/a/My%20song.flac?x=/y").file_name(), "My song.flac");
        let refused = |text: &str, said: &str| {
            let error = Url::decode(text).unwrap_err().chain();
            assert!(error.contains(said), "{text}: {error}");
        };
        refused("ftp://h/x", "http:// and https:// only");
        refused("file:///etc/passwd", "http:// and https:// only");
        refused("/x", "http:// and https:// only");
        refused("http://user:pw@h/x", "a user or a password");
        refused("http://h:0/x", "port 0");
        refused("http://h:/x", "not a number");
        refused("http://h/a b", "percent-encode");
        refused("http://h\\@evil/x", "not a URL");
        refused(&format!("http://h/{}", "x".repeat(9000)), "8 KiB");
        for text in ["http://", "http:///x", "http://h%00/x", "http://h:99999/x", "http://[::1%25eth0]/"] {
            assert!(Url::decode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn redirects_stay_where_they_are() {
        let from = Url::decode("http://h/a?b").unwrap();
        let to = |location: &str| from.redirected(location).map(|url| url.shown());
        assert_eq!(to("/c?d#e").unwrap(), "http://h/c");
        assert_eq!(to("http://H/c").unwrap(), "http://h/c");
        assert_eq!(to("https://h/c").unwrap(), "https://h/c");
        assert_eq!(to("//h/c").unwrap(), "http://h/c", "its own scheme");
        assert_eq!(to("c/d:e").unwrap(), "http://h/c/d:e");
        assert_eq!(from.redirected("?e").unwrap().target, "/a?e");
        let deep = Url::decode("https://[::1]:81/a/b?x").unwrap();
        assert_eq!(deep.redirected("c?d").unwrap().target, "/a/c?d");
        let refused = |elsewhere: &str, why: &str| {
            let error = to(elsewhere).unwrap_err().chain();
            assert!(error.contains(why), "{elsewhere}: {error}");
        };
        for (elsewhere, server) in [
            ("http://other/c", "(other)"),
            ("//other/c", "(other)"),
            ("//[::1]/c", "([::1])"),
            ("http://h:81/c", "(h:81)"),
            ("https://h:444/c", "(h:444)"),
        ] {
            refused(elsewhere, &format!("it redirects to another server {server}, which is not followed"));
        }
        for elsewhere in ["file:///c", "ftp://h/c", "mailto:c"] {
            refused(elsewhere, "http:// and https:// only");
        }
        refused("/c d", "percent-encode");
        let from = Url::decode("https://h/a").unwrap();
        assert!(from.redirected("http://h/a").is_err(), "TLS is not left");
    }

    #[test]
    fn hosts_and_ports_are_allowed_by_name() {
        let check = |allowed: &Allowed, url: &str, fine: bool| {
            let answer = allowed.check_host(&Url::decode(url).unwrap());
            assert_eq!(answer.is_ok(), fine, "{url}: {answer:?}");
        };
        let any = allowed(&[], &["127.0.0.1"]);
        check(&any, "https://anything.example/x", true);
        check(&any, "https://anything.example:8443/x", false);
        check(&any, "http://127.0.0.1:9999/x", true); // an address that is named needs no rule
        let some = allowed(&["a.example", "*.b.example:*", "c.example:9000"], &[]);
        check(&some, "https://a.example/x", true);
        check(&some, "https://A.example/x", true);
        check(&some, "https://x.a.example/x", false);
        check(&some, "https://evila.example/x", false);
        check(&some, "http://x.y.b.example:1234/x", true);
        check(&some, "http://b.example/x", true);
        check(&some, "http://evilb.example/x", false);
        check(&some, "http://c.example:9000/x", true);
        check(&some, "http://c.example/x", false);
        check(&Allowed::default(), "https://a.example/x", false);
        // Addresses are looked at before anybody connects, and advice about them can be copied as it stands.
        let said = |allowed: &Allowed, url: &str| allowed.check_host(&Url::decode(url).unwrap()).unwrap_err().chain();
        let metadata = said(&allowed(&[], &[]), "http://169.254.169.254/latest/meta-data");
        assert!(metadata.contains("a link-local address, where clouds keep their metadata"), "{metadata}");
        assert!(said(&allowed(&["[::1]"], &[]), "http://[::1]/x").contains("add \"::1\" to sources.allow_private"));
        assert!("::1".parse::<Network>().is_ok());
        let port = said(&allowed(&[], &[]), "http://[2606:4700::1]:81/x");
        assert!(port.contains("add \"[2606:4700::1]:81\" to sources.allow_hosts"), "{port}");
        assert!(said(&some, "http://[2606:4700::1]/x").contains("add \"[2606:4700::1]\" to sources.allow_hosts"));
        check(&allowed(&["[2606:4700::1]:81"], &[]), "http://[2606:4700::1]:81/x", true);
        check(&allowed(&["[2606:4700::1]"], &[]), "http://[2606:4700::1]/x", true);
        check(&allowed(&["127.0.0.1:81"], &["127.0.0.1"]), "http://127.0.0.1:81/x", true);
        check(&allowed(&["127.0.0.1:81"], &[]), "http://127.0.0.1:81/x", false);
    }

    #[test]
    fn only_public_addresses_are_asked_unless_they_are_named() {
        let check = |private: &[&str], address: &str, fine: bool| {
            let found = vec![SocketAddr::new(address.parse().unwrap(), 80)];
            let answer = allowed(&[], private).check_addresses("h", found);
            assert_eq!(answer.is_ok(), fine, "{address} with {private:?}: {answer:?}");
        };
        for fine in ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00::1"] {
            check(&[], fine, true);
        }
        for refused in [
            "0.0.0.0",
            "127.0.0.1",
            "127.9.9.9",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fd00:ec2::254",
            "ff02::1",
            "2001:db8::1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::8.8.8.8",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::808:808",
            "64:ff9b:1::a00:1",
            "2002:7f00:1::",
            "2001::1",
            "5f00::1",
        ] {
            check(&[], refused, false);
        }
        check(&["10.0.0.0/8"], "10.9.9.9", true);
        check(&["10.0.0.0/8"], "11.0.0.1", true);
        check(&["10.0.0.0/8"], "192.168.0.1", false);
        check(&["127.0.0.1"], "127.0.0.2", false);
        check(&["fd00::/8"], "fd12::1", true);
        check(&["0.0.0.0/0"], "127.0.0.1", true);
        check(&["127.0.0.1"], "::ffff:127.0.0.1", false);
        check(&["::ffff:0:0/96"], "::ffff:127.0.0.1", false); // what is behind it is private all the same
        check(&["64:ff9b::/96"], "64:ff9b::808:808", true);
        check(&["64:ff9b::/96"], "64:ff9b::a9fe:a9fe", false);
        let both = vec!["1.1.1.1:80".parse().unwrap(), "127.0.0.1:80".parse().unwrap()];
        assert!(allowed(&[], &[]).check_addresses("h", both).is_err(), "one private address spoils all");
    }

    #[test]
    fn what_is_no_rule_is_refused_with_the_form() {
        for text in ["", "*", "*.", "h:x", "h:99999", "a b", "http://h", ".h"] {
            assert!(text.parse::<HostRule>().is_err(), "{text}");
        }
        for text in ["", "10.0.0.0/33", "fd00::/129", "h", "10.0.0/8", "1.2.3.4/"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
