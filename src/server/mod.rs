//! Sockets, connections and the per-core runtime: HTTP/1.1 or HTTP/2 in and out, nothing about media.
//!
//! ```text
//! start ─▶ probe io_uring ─▶ one thread for each core: runtime + listeners (SO_REUSEPORT)
//!                               └▶ accept ─▶ place ─▶ conn (hyper over `socket`) ────────┬─▶ Service │ Handover
//!                                    └▶ tls ─▶ ALPN ─▶ conn or h2 (hyper over `tls`) ────┘
//! ```
//! On the plaintext listener an HTTP/2 preface turns `conn` into `h2`.
//! Every wait has a bound, in `Limits`.

mod address;
pub mod body;
mod conn;
mod core;
mod door;
mod frames;
pub mod gate;
mod h2;
pub mod handover;
mod heads;
mod idle;
mod leaving;
mod plain;
pub mod reply;
mod runtime;
mod socket;
mod streams;
pub mod tls;
mod turns;
mod upload;
mod watch;
mod wire;

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, Response};
use socket2::{Domain, Protocol, Socket, Type};

pub use body::{Beside, Body};
pub use plain::{Plain, PlainAnswer};
pub use runtime::IoMode;
pub use socket::SocketBytes;

use self::core::{Core, Listeners, Places};
use crate::base::error::Context as _;
use crate::base::shutdown::Shutdown;
use crate::base::{Error, Kind, Result, telemetry};
use handover::Handover;
use idle::Idle;
use runtime::CoreRuntime;
use socket::Tally;
use tls::Certificate;
use watch::{Deadlines, Watch};

/// What answers requests on the cores.
pub trait Service: Send + Sync + 'static {
    /// Whether requests for `path` are its business; all others are handed over.
    fn takes(&self, path: &str) -> bool;
    /// Answers a request. Runs on a core: it must never block.
    fn call(&self, request: Request<Incoming>, peer: SocketAddr) -> impl Future<Output = Response<Body>>;
    /// Answers a plain request at once: writes status line and header fields to `head`, all but `Date`, each
    /// line with its end. `None` sends the request the long way, through hyper and `call`; then nothing may
    /// have been counted. Default: all go the long way.
    fn call_plain(&self, _request: &Plain<'_>, _peer: SocketAddr, _head: &mut Vec<u8>) -> Option<PlainAnswer> {
        None
    }
    /// Whether answers are about to be refused, or are, because too many are on their way. Peers that do not read
    /// are then let go after two seconds. Default: never.
    fn is_pressed(&self) -> bool {
        false
    }
    /// Called on every core four times a second, for gauges.
    fn on_tick(&self) {}
}

/// How to listen and how much to bear.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address of the public listener; port 0 picks one.
    pub listen: SocketAddr,
    /// A second listener that speaks TLS. Default none.
    pub tls: Option<Tls>,
    /// Threads, each with its own runtime and listener. Default: one for each processor.
    pub cores: usize,
    /// Whether to bind thread *n* to processor *n*. Default off: the control plane and the kernel's
    /// network work share the machine, and pinning takes their scheduler's choice away.
    pub pin_cores: bool,
    /// The file side.
    pub io: IoMode,
    /// Bounds and deadlines.
    pub limits: Limits,
}

/// The TLS listener.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Its address; port 0 picks one.
    pub listen: SocketAddr,
    /// What it shows; reloading it does not touch connections.
    pub certificate: Arc<Certificate>,
}

/// Bounds and deadlines of connections. Full means an answer or a close, never a longer line.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections of the process. Default 32,768; beyond it, 503 and close. Each costs a
    /// descriptor, so the limit of open files must be higher.
    pub connections_max: usize,
    /// Open connections of one peer (IPv4 address or IPv6 /64). Default 1,024: a CDN's edge pools some
    /// hundreds, a household a few dozen.
    pub connections_per_ip_max: usize,
    /// Whether loopback peers are free of the per-peer limit: they are the reverse proxy or ourselves.
    /// Default on.
    pub loopback_exempt: bool,
    /// Time for a request head to arrive, from its first byte, or from accept for the first. Default 10 s.
    pub head_timeout: Duration,
    /// Time a connection may stay without a request. Default 75 s, more than CDNs keep theirs.
    pub idle_timeout: Duration,
    /// Time after which nothing but its socket is left of an idle connection (TLS: and its keys). Default 2 s;
    /// what is needed to answer again takes some microseconds to make.
    pub park_after: Duration,
    /// Time in which a client must take at least 16 KiB of what waits for it. Default 30 s.
    pub write_stall: Duration,
    /// What a client must take a second of what the kernel still holds for it when its connection has ended, on
    /// average over a `send_window`. Default 1 KiB: the slowest modem takes three times that; 0 lets it take
    /// its time.
    pub send_bytes_per_s_min: u64,
    /// Over how long that is measured, in whole seconds, at least one. Default 60 s, behind `idle_timeout`.
    pub send_window: Duration,
    /// Time in which a client must send at least 16 KiB of a request body, or its end, while somebody waits
    /// for it. Default 30 s. Bodies of media requests are not waited for.
    pub body_stall: Duration,
    /// Streams of one HTTP/2 connection at once. Default 100: the least RFC 9113 §6.5.2 recommends, and
    /// more than players and CDNs use.
    pub streams_max: u32,
    /// Unfinished HTTP/2 answers of one peer at once, over all its connections; one beyond it is 503. Default
    /// 4,096, a quarter of all there may be: one address must not take the place of all others.
    pub streams_per_ip_max: usize,
    /// TLS handshakes at once; one beyond it is closed. Default 1,024: each costs up to a millisecond of a core
    /// and some 20 KiB until it ends. Its deadline is `head_timeout`.
    pub handshakes_max: usize,
    /// Path and query of a request, in bytes; longer is 414. Default 8 KiB.
    pub uri_bytes_max: usize,
    /// Header fields of a request, in bytes; more is 431. Default 16 KiB. hyper also refuses more than
    /// 100 fields, and a whole head over 64 KiB.
    pub head_bytes_max: usize,
    /// Time for started answers to finish after `Draining`. Default 10 s.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 32_768,
            connections_per_ip_max: 1_024,
            loopback_exempt: true,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            park_after: Duration::from_secs(2),
            write_stall: Duration::from_secs(30),
            send_bytes_per_s_min: 1 << 10,
            send_window: Duration::from_secs(60),
            body_stall: Duration::from_secs(30),
            streams_max: 100,
            streams_per_ip_max: 4_096,
            handshakes_max: 1_024,
            uri_bytes_max: 8 << 10,
            head_bytes_max: 16 << 10,
            drain: Duration::from_secs(10),
        }
    }
}

impl Options {
    /// The defaults, listening on `listen`.
    pub fn new(listen: SocketAddr) -> Options {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Options { listen, tls: None, cores, pin_cores: false, io: IoMode::Auto, limits: Limits::default() }
    }
}

/// A running server. Dropping it does not stop it: the shutdown signal does.
#[derive(Debug)]
pub struct Handle {
    local_addr: SocketAddr,
    tls_addr: Option<SocketAddr>,
    on_uring: bool,
    tallies: Vec<Arc<Tally>>,
    threads: Vec<JoinHandle<()>>,
}

impl Handle {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where it listens for TLS, when it does.
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        self.tls_addr
    }

    /// Whether the file side runs on io_uring.
    pub fn on_uring(&self) -> bool {
        self.on_uring
    }

    /// Body bytes that have left so far, by path, over all cores.
    pub fn socket_bytes(&self) -> SocketBytes {
        self.tallies.iter().map(|tally| tally.read()).fold(SocketBytes::default(), |sum, core| SocketBytes {
            sendfile: sum.sendfile + core.sendfile,
            edges: sum.edges + core.edges,
            copied: sum.copied + core.copied,
            plain: sum.plain + core.plain,
            encrypted: sum.encrypted + core.encrypted,
        })
    }

    /// Connections between two requests that are nothing but a socket, a quarter of a second ago at most.
    pub fn idle_connections(&self) -> u64 {
        self.tallies.iter().map(|tally| tally.idle()).sum()
    }

    /// Waits for every core to end. Blocks; call it after the shutdown signal.
    ///
    /// # Errors
    /// When a core panicked.
    pub fn join(self) -> Result<()> {
        let panicked = self.threads.into_iter().map(JoinHandle::join).filter(|end| end.is_err()).count();
        match panicked {
            0 => Ok(()),
            n => Err(Error::internal(format!("{n} server cores panicked"))),
        }
    }
}

/// Binds the listener, starts the cores and returns when all of them serve. Blocks briefly.
///
/// Requests that `service` does not take go through `handover`; without one they are answered 404.
///
/// # Errors
/// When the address cannot be bound, a thread cannot start, or `IoMode::Uring` cannot be had.
pub fn start<S: Service>(
    options: &Options,
    service: Arc<S>,
    handover: Option<Handover>,
    shutdown: &Shutdown,
) -> Result<Handle> {
    let on_uring = choose(options.io)?;
    raise_descriptor_limit(options.limits.connections_max);
    let cores = options.cores.max(1);
    let (plain, local_addr) = listen_on_all(options.listen, cores)?;
    let (mut tls, tls_addr) = match &options.tls {
        None => (vec![], None),
        Some(tls) => listen_on_all(tls.listen, cores).map(|(listeners, addr)| (listeners, Some(addr)))?,
    };
    let tls_config = options.tls.as_ref().map(|tls| tls.certificate.server_config()).transpose()?;
    let places = Arc::new(Places::new(&options.limits));
    let mut handle = Handle { local_addr, tls_addr, on_uring, tallies: vec![], threads: vec![] };
    let (ready, started) = mpsc::channel();
    for (number, plain) in plain.into_iter().enumerate() {
        let listeners = Listeners { plain, tls: tls.pop() };
        let tls = tls_config.clone();
        let tally = Arc::new(Tally::new());
        handle.tallies.push(tally.clone());
        let (service, handover, places) = (service.clone(), handover.clone(), places.clone());
        let (limits, shutdown, ready) = (options.limits.clone(), shutdown.clone(), ready.clone());
        let pin = options.pin_cores;
        let run = move || {
            if pin {
                pin_to(number);
            }
            let runtime = match CoreRuntime::new(on_uring) {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let idle = match Idle::new(deadlines(&limits).idle) {
                Ok(idle) => idle,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let watch = Watch::new(deadlines(&limits));
            let (http1, http2, published) = (conn::protocol(), h2::protocol(&limits), Default::default());
            let scratch = plain::Scratch::new();
            let core =
                Core { service, handover, limits, watch, idle, http1, http2, tls, tally, published, scratch, places };
            let _ = ready.send(Ok(()));
            drop(ready); // `start` waits until every core has dropped its end
            runtime.run(Rc::new(core).run(listeners, shutdown));
        };
        let thread = std::thread::Builder::new().name(format!("segue-core-{number}"));
        handle.threads.push(thread.spawn(run).context(|| "cannot start a server thread")?);
    }
    drop(ready);
    for result in started {
        result.context(|| "a server core cannot start its runtime")?;
    }
    Ok(handle)
}

/// Decides about io_uring, once, and says so.
fn choose(mode: IoMode) -> Result<bool> {
    let on_uring = match mode {
        IoMode::Plain => false,
        IoMode::Auto | IoMode::Uring => match runtime::probe() {
            Ok(()) => true,
            Err(cause) if mode == IoMode::Auto => {
                tracing::info!(%cause, "io_uring is not available; cold files are read by threads");
                false
            }
            Err(cause) => return Err(Error::new(Kind::Unavailable, "io_uring is not available here").because(cause)),
        },
    };
    tracing::info!(io_uring = on_uring, "file side chosen");
    metrics::counter!(telemetry::COLD_BYTES).increment(0); // shown from the start
    metrics::gauge!(telemetry::IO_URING).set(f64::from(u8::from(on_uring)));
    Ok(on_uring)
}

/// A listener for each core, all on one port, and where that is.
fn listen_on_all(address: SocketAddr, cores: usize) -> Result<(Vec<TcpListener>, SocketAddr)> {
    let first = listen(address)?;
    let address = first.local_addr().context(|| "the listener has no address")?;
    let mut listeners = vec![first];
    for _ in 1..cores {
        listeners.push(listen(address)?);
    }
    Ok((listeners, address))
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    /// Handshakes the kernel completes for us while a core is busy; the system's own limit cuts it.
    const BACKLOG: i32 = 4096;
    let bind = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bind().context(|| format!("cannot listen on {address}"))
}

/// Lets the process open as many files as the system allows: connections and mapped rungs need them.
fn raise_descriptor_limit(connections_max: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if allowed < connections_max as u64 {
        tracing::warn!(allowed, connections_max, "fewer files may be open than connections are admitted");
    }
}

fn pin_to(processor: usize) {
    let mut only = rustix::thread::CpuSet::new();
    only.set(processor);
    if let Err(cause) = rustix::thread::sched_setaffinity(None, &only) {
        tracing::warn!(%cause, processor, "cannot pin a core");
    }
}

fn deadlines(limits: &Limits) -> Deadlines {
    let ticks = |time: Duration| u32::try_from(time.as_millis() / watch::TICK.as_millis()).unwrap_or(u32::MAX).max(1);
    Deadlines {
        head: ticks(limits.head_timeout),
        idle: ticks(limits.idle_timeout),
        park: ticks(limits.park_after),
        stall: ticks(limits.write_stall),
        linger: ticks(Duration::from_secs(1)),
    }
}
