//! The settings of listeners and connections.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Listeners, cores, connection limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Public listener.
    pub listen: SocketAddr,
    /// A second public listener, for TLS. Unset: none.
    pub tls_listen: Option<SocketAddr>,
    /// Certificate chain of the TLS listener, leaf first, PEM. Read again when it changes and on SIGHUP.
    pub tls_cert: Option<PathBuf>,
    /// Private key of the TLS listener, PEM.
    pub tls_key: Option<PathBuf>,
    /// Metrics and health listener; keep it private.
    pub admin_listen: SocketAddr,
    /// `https://media.example.com`, put in front of the URLs we print and redirect to. Unset: path only.
    pub public_base_url: Option<String>,
    /// How the origin reads files: `auto`, `uring` or `plain`.
    pub io: String,
    /// Open connections at most, over all cores. Full: 503.
    pub connections_max: usize,
    /// Open connections from one address at most. 0: no limit, for an origin behind a CDN.
    pub connections_per_ip_max: usize,
    /// Unfinished HTTP/2 answers of one address (IPv6: one /64) over all its connections; one beyond it is 503.
    /// Loopback is free. 0: no limit.
    pub streams_per_ip_max: usize,
    /// Seconds a client may take to send a request head.
    pub header_timeout_s: u64,
    /// Seconds an idle connection is kept.
    pub idle_timeout_s: u64,
    /// Seconds a client may take none of the bytes waiting for it.
    pub write_stall_timeout_s: u64,
    /// Bytes a second that a client must take of what the kernel still holds for it when its connection has
    /// ended. 0: as slowly as it likes.
    pub send_bytes_per_s_min: u64,
    /// Seconds over which that is measured.
    pub send_window_s: u64,
    /// Seconds a client may take to send 16 KiB of a request body, or its end.
    pub body_timeout_s: u64,
    /// Seconds that started answers may take after SIGTERM.
    pub drain_s: u64,
}

impl Default for Server {
    fn default() -> Server {
        Server {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            tls_listen: None,
            tls_cert: None,
            tls_key: None,
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 9090)),
            public_base_url: None,
            io: "auto".into(),
            connections_max: 32_768,
            connections_per_ip_max: 1_024,
            streams_per_ip_max: 4_096,
            header_timeout_s: 10,
            idle_timeout_s: 75,
            write_stall_timeout_s: 30,
            send_bytes_per_s_min: 1_024,
            send_window_s: 60,
            body_timeout_s: 30,
            drain_s: 10,
        }
    }
}

/// The longest wait that is still one, in seconds: a day.
const WAIT_S_MAX: u64 = 86_400;

impl Server {
    /// Which waits would end before they begin, or never.
    pub(super) fn wait_problems(&self) -> Vec<String> {
        let waits = [
            ("header_timeout_s", self.header_timeout_s, 1),
            ("idle_timeout_s", self.idle_timeout_s, 1),
            ("write_stall_timeout_s", self.write_stall_timeout_s, 1),
            ("send_window_s", self.send_window_s, 1),
            ("body_timeout_s", self.body_timeout_s, 1),
            ("drain_s", self.drain_s, 0),
        ];
        let wrong = waits.into_iter().filter(|(_, wait_s, least)| !(*least..=WAIT_S_MAX).contains(wait_s));
        let problem = |(name, wait_s, least): (&str, u64, u64)| match wait_s {
            0 => format!("server.{name} is 0: every connection would be closed at once; set it to {least} or more"),
            _ => format!("server.{name} is over a day: what hangs would stay for ever; set it to {WAIT_S_MAX} or less"),
        };
        wrong.map(problem).collect()
    }

    /// Which listeners would take each other's address. Port 0 is another one each time.
    pub(super) fn listener_problems(&self) -> Vec<String> {
        let listeners = [
            ("server.listen", Some(self.listen)),
            ("server.admin_listen", Some(self.admin_listen)),
            ("server.tls_listen", self.tls_listen),
        ];
        let clash = |a: SocketAddr, b: SocketAddr| {
            let any = a.ip().is_unspecified() || b.ip().is_unspecified();
            a.port() == b.port() && a.port() != 0 && (any || a.ip() == b.ip())
        };
        let mut problems = Vec::new();
        for (n, (name, addr)) in listeners.iter().enumerate() {
            for (other, taken) in &listeners[..n] {
                if let (Some(addr), Some(taken)) = (addr, taken)
                    && clash(*addr, *taken)
                {
                    problems.push(format!(
                        "{other} ({taken}) and {name} ({addr}) are one port: only one could listen there; give one another"
                    ));
                }
            }
        }
        problems
    }
}
