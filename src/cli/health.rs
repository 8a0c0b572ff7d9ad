//! `segue health`: asks the server of these settings on this machine how it is. For images, which have no curl.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use clap::Args;

use super::{Settings, say};
use crate::base::error::Context as _;
use crate::base::{Error, Kind, Result};

/// A server that is well answers in less. Orchestrators kill the question after some seconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// The answers have some hundred bytes.
const ANSWER_BYTES_MAX: u64 = 16 << 10;

#[derive(Args, Debug)]
pub(super) struct HealthArgs {
    /// Ask whether it can serve (/readyz), not only whether it lives (/livez).
    #[arg(long)]
    ready: bool,
    /// Its admin listener [default: 127.0.0.1:9090, or server.admin_listen].
    #[arg(long, value_name = "ADDR", value_parser = super::serve::address)]
    admin_listen: Option<SocketAddr>,
    #[command(flatten)]
    settings: Settings,
}

pub(super) fn run(args: &HealthArgs) -> Result<()> {
    let addr = match args.admin_listen {
        Some(addr) => addr,
        None => args.settings.load()?.server.admin_listen,
    };
    let addr = reachable(addr);
    let path = if args.ready { "/readyz" } else { "/livez" };
    let (status, body) = ask(addr, path).map_err(|cause| {
        Error::new(Kind::Unavailable, format!("no server answers on {addr}; start it, or name its --admin-listen"))
            .because(cause)
    })?;
    match status {
        200 => say(body.trim_end()),
        _ => {
            let what = body.trim_end();
            return Err(Error::new(
                Kind::Unavailable,
                format!("the server on {addr} says {status} for {path}: {what}; its log says why"),
            ));
        }
    }
    Ok(())
}

/// Where a listener is reached from its own machine.
fn reachable(mut addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    addr
}

/// One request on a connection of its own: status and body.
fn ask(addr: SocketAddr, path: &str) -> Result<(u16, String)> {
    let what = || format!("cannot ask http://{addr}{path}");
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE).context(what)?;
    stream.set_read_timeout(Some(PATIENCE)).context(what)?;
    stream.set_write_timeout(Some(PATIENCE)).context(what)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).context(what)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).context(what)?;
    let answer = String::from_utf8_lossy(&answer);
    let not_http = || Error::new(Kind::Unavailable, format!("what listens on {addr} does not speak HTTP"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(not_http)?;
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).ok_or_else(not_http)?;
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_on_loopback() {
        let check = |listens: &str, asked: &str| {
            assert_eq!(reachable(listens.parse().unwrap()), asked.parse().unwrap(), "{listens}");
        };
        check("0.0.0.0:9090", "127.0.0.1:9090");
        check("[::]:9090", "[::1]:9090");
        check("10.1.2.3:1", "10.1.2.3:1");
    }
}
