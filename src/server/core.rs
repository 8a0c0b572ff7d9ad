//! One core: a thread, a runtime, a listener of its own (`SO_REUSEPORT`), its connections.
//!
//! `listener → TcpStream → place in the limits → connection task`. At the end: stop accepting, tell
//! every connection to finish, wait for them until the deadline, drop the rest.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use hyper::server::conn::{http1, http2};
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::SocketBytes;
use super::h2::{self, OnThisCore};
use super::handover::Handover;
use super::idle::{Entry, Idle};
use super::plain::Scratch;
use super::socket::{self, Socket, Tally};
use super::tls::{self, Failed};
use super::watch::{self, Phase, TICK, Watch, Watched};
use super::{Limits, Service, conn, leaving, reply, turns};
use crate::base::shutdown::{self, Shutdown};
use crate::base::{memory, telemetry};

/// What a connection needs of its core.
pub(super) struct Core<S> {
    pub(super) service: Arc<S>,
    pub(super) handover: Option<Handover>,
    pub(super) limits: Limits,
    pub(super) watch: Watch,
    pub(super) idle: Idle,
    pub(super) http1: http1::Builder,
    pub(super) http2: http2::Builder<OnThisCore>,
    /// How to accept on the TLS listener.
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) tally: Arc<Tally>,
    pub(super) published: Cell<SocketBytes>,
    pub(super) scratch: RefCell<Scratch>,
    pub(super) places: Arc<Places>,
}

/// Where a core accepts.
pub(super) struct Listeners {
    pub(super) plain: std::net::TcpListener,
    pub(super) tls: Option<std::net::TcpListener>,
}

/// What a listener does with a connection.
type Welcome<S> = fn(&Rc<Core<S>>, TcpStream, SocketAddr);

/// What the kernel holds for a connection beside what is on its way to the peer: a segment fits, so that one call is
/// enough for it, and a download of hundreds of megabytes does not come along.
const UNSENT_BYTES_MAX: u32 = 512 << 10;

/// Connections of the whole process, and what is counted about them.
#[derive(Debug)]
pub(super) struct Places {
    all_max: usize,
    taken: AtomicUsize,
    by_peer: Arc<Peers>,
    /// Unfinished HTTP/2 answers.
    streams_by_peer: Arc<Peers>,
    open: metrics::Gauge,
    idle: metrics::Gauge,
    refused: [metrics::Counter; 3],
    sent_by_kernel: metrics::Counter,
    sent_edges: metrics::Counter,
    sent_by_copy: metrics::Counter,
    plain: metrics::Counter,
    sent_encrypted: metrics::Counter,
    /// HTTP/2 connections that wore out our patience.
    pub(super) worn_out: metrics::Counter,
    handshakes_max: usize,
    /// TLS handshakes that have not ended.
    handshaking: AtomicUsize,
    handshakes: [metrics::Counter; OUTCOMES.len()],
}

/// How a TLS handshake can end, as the metrics call it.
const OUTCOMES: [&str; 9] =
    ["full", "resumed", "timeout", "closed", "not_tls", "incompatible", "refused", "broken", "busy"];
/// Of `OUTCOMES`: too many at once.
const BUSY: usize = 8;

fn outcome(end: &Result<HandshakeKind, Failed>) -> usize {
    match end {
        Ok(HandshakeKind::Resumed) => 1,
        Ok(_) => 0,
        Err(Failed::Timeout) => 2,
        Err(Failed::Closed) => 3,
        Err(Failed::NotTls) => 4,
        Err(Failed::Incompatible) => 5,
        Err(Failed::Refused) => 6,
        Err(Failed::Broken) => 7,
    }
}

/// The right to be connected; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    _of_peer: Option<OfPeer>,
}

/// How many of something each peer has.
#[derive(Debug)]
struct Peers {
    most: usize,
    loopback_exempt: bool,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// One of what a peer has; dropping it gives it back. None for peers that are not counted.
#[derive(Debug)]
pub(super) struct OfPeer(Option<(Arc<Peers>, IpAddr)>);

impl Places {
    pub(super) fn new(limits: &Limits) -> Places {
        let refused = |reason: &'static str| metrics::counter!(telemetry::REFUSED, "reason" => reason);
        Places {
            all_max: limits.connections_max,
            taken: AtomicUsize::new(0),
            by_peer: Peers::new(limits.connections_per_ip_max, limits.loopback_exempt),
            streams_by_peer: Peers::new(limits.streams_per_ip_max, limits.loopback_exempt),
            open: metrics::gauge!(telemetry::CONNECTIONS),
            idle: metrics::gauge!(telemetry::CONNECTIONS_IDLE),
            refused: [refused("connections"), refused("connections_per_ip"), refused("streams_per_ip")],
            sent_by_kernel: metrics::counter!(telemetry::SOCKET_BYTES, "path" => "sendfile"),
            sent_edges: metrics::counter!(telemetry::SOCKET_BYTES, "path" => "edge"),
            sent_by_copy: metrics::counter!(telemetry::SOCKET_BYTES, "path" => "copy"),
            plain: metrics::counter!(telemetry::PLAIN),
            sent_encrypted: metrics::counter!(telemetry::SOCKET_BYTES, "path" => "tls"),
            worn_out: refused("flood"),
            handshakes_max: limits.handshakes_max,
            handshaking: AtomicUsize::new(0),
            handshakes: OUTCOMES.map(|outcome| metrics::counter!(telemetry::TLS_HANDSHAKES, "outcome" => outcome)),
        }
    }

    /// Lets one more TLS handshake begin; `None` when too many have.
    fn begin_handshake(&self) -> Option<Handshaking<'_>> {
        let handshaking = Handshaking(self);
        let before = self.handshaking.fetch_add(1, Ordering::Relaxed);
        (before < self.handshakes_max).then_some(handshaking)
    }

    fn take(self: &Arc<Places>, peer: SocketAddr) -> Option<Place> {
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        let mut place = Place { places: self.clone(), _of_peer: None };
        if before >= self.all_max {
            self.refused[0].increment(1);
            return None;
        }
        place._of_peer = self.by_peer.count(peer);
        if place._of_peer.is_none() {
            self.refused[1].increment(1);
            return None;
        }
        Some(place)
    }

    /// Lets one more HTTP/2 answer begin; `None` when the peer has too many.
    pub(super) fn begin_stream(&self, peer: SocketAddr) -> Option<OfPeer> {
        let counted = self.streams_by_peer.count(peer);
        if counted.is_none() {
            self.refused[2].increment(1);
        }
        counted
    }
}

impl Peers {
    fn new(most: usize, loopback_exempt: bool) -> Arc<Peers> {
        Arc::new(Peers { most, loopback_exempt, counts: Mutex::default() })
    }

    /// Counts one more for a peer; `None` when it has as many as it may.
    fn count(self: &Arc<Peers>, peer: SocketAddr) -> Option<OfPeer> {
        let ip = neighbourhood(peer.ip());
        if self.loopback_exempt && ip.is_loopback() {
            return Some(OfPeer(None));
        }
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(ip).or_insert(0);
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(OfPeer(Some((self.clone(), ip))))
    }
}

/// One TLS handshake; dropping it gives its place back.
struct Handshaking<'a>(&'a Places);

impl Drop for Handshaking<'_> {
    fn drop(&mut self) {
        self.0.handshaking.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for OfPeer {
    fn drop(&mut self) {
        let Some((peers, ip)) = self.0.take() else { return };
        let mut counts = peers.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&ip);
            }
        }
    }
}

/// What counts as one peer: an IPv4 address, or an IPv6 /64, the least a household gets.
fn neighbourhood(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
        other => other,
    }
}

impl<S: Service> Core<S> {
    /// Serves the listeners until `shutdown` says otherwise.
    pub(super) async fn run(self: Rc<Core<S>>, listeners: Listeners, mut shutdown: Shutdown) {
        let watched = |listener| TcpListener::from_std(listener);
        let (plain, tls) = match (watched(listeners.plain), listeners.tls.map(watched).transpose()) {
            (Ok(plain), Ok(tls)) => (plain, tls),
            (Err(cause), _) | (_, Err(cause)) => {
                return tracing::error!(%cause, "a core cannot watch its listener");
            }
        };
        leaving::begin(&self.limits);
        let looking = tokio::task::spawn_local(self.clone().look());
        let waking = tokio::task::spawn_local(self.clone().wake_idle());
        let giving = tokio::task::spawn_local(turns::give());
        let mut until_now = shutdown.clone();
        tokio::select! {
            () = self.accept(&plain, Core::welcome) => {}
            () = self.accept_tls(tls.as_ref()) => {}
            () = shutdown.reached(shutdown::Phase::Draining) => {}
        }
        let drained = async {
            // The kernel has completed these handshakes: dropping the listeners now would reset them.
            self.accept_waiting(&plain, Core::welcome).await;
            if let Some(tls) = &tls {
                self.accept_waiting(tls, Core::welcome_tls).await;
            }
            drop((plain, tls));
            self.watch.drain();
            self.end_idle();
            self.wait_until_empty().await;
        };
        tokio::select! {
            () = drained => {}
            () = until_now.reached(shutdown::Phase::Now) => {}
        }
        looking.abort();
        waking.abort();
        giving.abort();
        leaving::end();
        self.publish_tally();
    }

    async fn accept(self: &Rc<Core<S>>, listener: &TcpListener, welcome: Welcome<S>) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => welcome(self, stream, peer),
                // Out of descriptors or memory: taking a breath lets connections end; spinning would not.
                Err(error) if is_exhaustion(&error) => {
                    tracing::warn!(%error, "cannot accept");
                    sleep(Duration::from_millis(50)).await;
                }
                Err(_) => {} // that connection is gone already
            }
        }
    }

    async fn accept_tls(self: &Rc<Core<S>>, listener: Option<&TcpListener>) {
        match listener {
            Some(listener) => self.accept(listener, Core::welcome_tls).await,
            None => std::future::pending().await,
        }
    }

    async fn accept_waiting(self: &Rc<Core<S>>, listener: &TcpListener, welcome: Welcome<S>) {
        while let Ok(Ok((stream, peer))) = timeout(Duration::from_millis(1), listener.accept()).await {
            welcome(self, stream, peer);
        }
    }

    fn welcome(self: &Rc<Core<S>>, stream: TcpStream, peer: SocketAddr) {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let Some(place) = self.places.take(peer) else {
            return turn_away(stream);
        };
        let _ = stream.set_nodelay(true); // heads are held back by MSG_MORE, nothing else should be
        self.attend(stream, peer, place, Socket::new, Phase::New);
    }

    /// Serves a connection in a task of its own, until it ends or is idle.
    fn attend(
        self: &Rc<Core<S>>,
        stream: TcpStream,
        peer: SocketAddr,
        place: Place,
        socket: fn(TcpStream, Rc<Watched>, Arc<Tally>, Place) -> Socket,
        phase: Phase,
    ) {
        socket::bound_unsent(&stream, UNSENT_BYTES_MAX);
        let core = self.clone();
        let watched = self.watch.register();
        watched.enter(phase);
        // Nobody joins this task: its place and its entry in the watch say that it has ended.
        tokio::task::spawn_local(async move {
            let socket = socket(stream, watched.clone(), core.tally.clone(), place);
            if let Some(socket) = conn::serve(socket, watched, peer, core.clone()).await {
                core.idle.keep(socket, peer);
            }
        });
    }

    /// Gives idle connections a task again when something comes from their peers.
    async fn wake_idle(self: Rc<Core<S>>) {
        let waking = async {
            let ready = self.idle.readiness()?;
            let mut woken = Vec::new();
            loop {
                self.idle.wait(&ready, &mut woken).await?;
                woken.drain(..).for_each(|entry| self.resume(entry));
            }
        };
        let ended: io::Result<()> = waking.await;
        if let Err(cause) = ended {
            tracing::error!(%cause, "idle connections cannot be watched; they are closed");
            drop(self.idle.close());
        }
    }

    fn resume(self: &Rc<Core<S>>, Entry { stream, peer, place, .. }: Entry) {
        // It fails when the reactor cannot take it: out of memory, and so the connection ends.
        if let (Ok(stream), Some(place)) = (TcpStream::from_std(stream), place) {
            self.attend(stream, peer, place, Socket::opaque, Phase::Parked);
        }
    }

    /// Ends idle connections, except those whose next request has come.
    fn end_idle(self: &Rc<Core<S>>) {
        for entry in self.idle.close() {
            if entry.has_unread() {
                self.resume(entry);
            }
        }
    }

    /// As `welcome`. Who is turned away here hears nothing: an answer would need a handshake.
    fn welcome_tls(self: &Rc<Core<S>>, stream: TcpStream, peer: SocketAddr) {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let (Some(place), Some(config)) = (self.places.take(peer), self.tls.clone()) else { return };
        let _ = stream.set_nodelay(true); // records are put together before they are sent
        let core = self.clone();
        tokio::task::spawn_local(async move {
            core.serve_tls(stream, peer, place, config).await;
        });
    }

    async fn serve_tls(
        self: Rc<Core<S>>,
        stream: TcpStream,
        peer: SocketAddr,
        place: Place,
        config: Arc<ServerConfig>,
    ) {
        let watched = self.watch.register();
        let socket = Socket::opaque(stream, watched.clone(), self.tally.clone(), place);
        let Some(handshaking) = self.places.begin_handshake() else {
            return self.places.handshakes[BUSY].increment(1);
        };
        let accepted = tls::accept(socket, config).await;
        drop(handshaking);
        let (wire, end) = match accepted {
            Ok((wire, kind)) => (Some(wire), Ok(kind)),
            Err(failed) => (None, Err(failed)),
        };
        self.places.handshakes[outcome(&end)].increment(1);
        match wire {
            None => tracing::debug!(%peer, failed = ?end.err(), "TLS handshake failed"),
            Some(wire) if wire.chose_http2() => h2::serve(wire, watched, peer, self).await,
            Some(wire) => {
                self.tally.http1.increment(1);
                // It never comes back: the state of its encryption is part of it.
                conn::serve(wire, watched, peer, self).await;
            }
        }
    }

    /// Looks at the connections four times a second and keeps the sampled gauges fresh.
    async fn look(self: Rc<Core<S>>) {
        /// Looks between two trims. The last one comes when nothing has changed since the one before.
        const TRIM_EVERY: u32 = 6;
        let (mut looks, mut trims_due) = (0u32, 0u32);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.watch.look(self.service.is_pressed());
            let idle = self.idle.look(watch::now_tick()) as u64;
            let before = self.tally.set_idle(idle);
            self.places.idle.increment(idle as f64 - before as f64);
            // Their tasks have been freed: what was memory of listeners shall not stay ours.
            if idle != before {
                trims_due = 2;
            }
            looks = looks.wrapping_add(1);
            if trims_due > 0 && looks.is_multiple_of(TRIM_EVERY) {
                trims_due -= 1;
                memory::trim(if trims_due == 0 { memory::Trim::All } else { memory::Trim::Old });
            }
            leaving::look();
            self.scratch.borrow_mut().tell_date(SystemTime::now());
            self.publish_tally();
            self.places.open.set(self.places.taken.load(Ordering::Relaxed) as f64);
            self.service.on_tick();
        }
    }

    /// Moves what has left since the last call into the metrics.
    fn publish_tally(&self) {
        let now = self.tally.read();
        let before = self.published.replace(now);
        self.places.sent_by_kernel.increment(now.sendfile - before.sendfile);
        self.places.sent_edges.increment(now.edges - before.edges);
        self.places.sent_by_copy.increment(now.copied - before.copied);
        self.places.plain.increment(now.plain - before.plain);
        self.places.sent_encrypted.increment(now.encrypted - before.encrypted);
    }

    async fn wait_until_empty(&self) {
        let deadline = Instant::now() + self.limits.drain;
        while self.watch.open() > 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Answers a connection too many without reading its request, and waits a moment for it to hang up:
/// closing at once would reset the answer away.
fn turn_away(stream: TcpStream) {
    /// Turned away, but not yet gone: a bound on what a flood can hold.
    static LEAVING: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(256);
    telemetry::door_refused(503);
    let _ = stream.try_write(&reply::last(StatusCode::SERVICE_UNAVAILABLE, false));
    let Ok(leaving) = LEAVING.try_acquire() else { return };
    tokio::task::spawn_local(async move {
        let mut stream = stream;
        let _ = rustix::net::shutdown(&stream, rustix::net::Shutdown::Write);
        let mut scratch = [0; 1024];
        let gone = async { while matches!(stream.read(&mut scratch).await, Ok(1..)) {} };
        let _ = timeout(Duration::from_millis(500), gone).await;
        drop(leaving);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_for_all_and_for_each_neighbourhood() {
        let limits = Limits { connections_max: 3, connections_per_ip_max: 2, ..Limits::default() };
        let places = Arc::new(Places::new(&limits));
        let from = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 1);
        let first = places.take(from("2001:db8::1")).unwrap();
        let _second = places.take(from("2001:db8::ffff:2")).unwrap();
        assert!(places.take(from("2001:db8::3")).is_none(), "one /64 is one peer");
        let third = places.take(from("192.0.2.1")).unwrap();
        assert!(places.take(from("192.0.2.2")).is_none(), "all places are taken");
        drop((first, third));
        assert!(places.take(from("2001:db8::3")).is_some());
        assert_eq!(places.by_peer.counts.lock().unwrap().len(), 1, "nobody is remembered who has left");
    }
}
