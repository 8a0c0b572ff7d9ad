//! Response bodies. In: bytes, a range of a mapped file, or a foreign stream. Out: frames for hyper.
//!
//! A mapped range leaves in frames that borrow the mapping, so that the socket can send them from the
//! page cache. A frame is handed out only when its pages are resident: a page fault or a blocking
//! `sendfile` would stop every connection of the core. Cold blocks are fetched beside the core first, and
//! what a file of the disk cache does not hold yet, before that, from the bucket.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Frame, SizeHint};

use super::gate::Permit;
use super::runtime::{self, Arrival, Warming};
use super::turns::{self, Turn};
use super::watch;
use crate::store::mapped::{BLOCK_BYTES, Fetch, Mapped};

/// What a failing body says; hyper then cuts the connection, which the client sees as a short body.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// The largest frame: enough to fill any socket buffer at once, small enough that the cores' other
/// connections wait at most ~0.1 ms for it.
const FRAME_BYTES_MAX: u64 = 1 << 20;
/// How many blocks of a cold file a body asks for at once, the one it waits for included: while one is on
/// its way to the listener, the disk reads the next.
const AHEAD_BLOCKS: u64 = 4;

/// The body of every response of this server.
pub struct Body {
    kind: Kind,
    /// Comes back when the body is done or dropped.
    permit: Option<Permit>,
}

/// A body that passes through a framework which would put it into a box: it travels beside the answer, and is put
/// back before the core sends it, so that a file still leaves from the page cache.
#[derive(Clone)]
pub struct Beside(Arc<Mutex<Option<Body>>>);

impl Beside {
    /// Takes the body along.
    pub fn new(body: Body) -> Beside {
        Beside(Arc::new(Mutex::new(Some(body))))
    }

    /// How many bytes it has, as far as that is known; 0 when it was taken.
    pub fn bytes(&self) -> u64 {
        use hyper::body::Body as _;
        let body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        body.as_ref().and_then(|body| body.size_hint().exact()).unwrap_or(0)
    }

    /// The body; once.
    pub fn take(&self) -> Option<Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A body on its way, with what wants to see it go.
pub(super) struct Sent<C> {
    body: Body,
    carrier: C,
}

/// Turns the bytes of a body into what the protocol holds of them. Dropped when the body is done or given up.
pub(super) trait Carrier {
    type Data: bytes::Buf;

    fn carry(&self, bytes: Bytes) -> Self::Data;
}

impl<C: Carrier> Sent<C> {
    pub(super) fn new(body: Body, carrier: C) -> Sent<C> {
        Sent { body, carrier }
    }
}

impl<C: Carrier + Unpin> hyper::body::Body for Sent<C> {
    type Data = C::Data;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<C::Data>, BoxError>>> {
        let next = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(next.map(|frame| frame.map(|frame| frame.map_data(|bytes| self.carrier.carry(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

enum Kind {
    Empty,
    Bytes(Bytes),
    Mapped(FileRange),
    Boxed(UnsyncBoxBody<Bytes, BoxError>),
}

struct FileRange {
    file: Mapped,
    /// Invariant: `at <= end <= file.len()`.
    at: u64,
    end: u64,
    /// From the first cold block on. Boxed: most bodies never meet one.
    cold: Option<Box<Cold>>,
}

/// What a body has asked the disk for.
#[derive(Default)]
struct Cold {
    /// Blocks by ascending number; the first may be the one that is waited for.
    asked: VecDeque<(u64, Warming)>,
    /// Whether the body can only go on when the first has arrived.
    waits: bool,
    /// Bytes that are not in the file yet.
    fetch: Option<Fetch>,
    /// Where it stands among those who waited: what arrives wakes all of them at once, and they leave one after another.
    turn: Turn,
    /// Whether it has waited since it last had a turn.
    waited: bool,
}

impl Body {
    /// No body at all.
    pub fn empty() -> Body {
        Body { kind: Kind::Empty, permit: None }
    }

    /// A small body in memory.
    pub fn bytes(bytes: impl Into<Bytes>) -> Body {
        let bytes = bytes.into();
        let kind = if bytes.is_empty() { Kind::Empty } else { Kind::Bytes(bytes) };
        Body { kind, permit: None }
    }

    /// Bytes `range` of a mapped file.
    ///
    /// # Panics
    /// When the range does not lie in the file.
    pub fn mapped(file: Mapped, range: Range<u64>) -> Body {
        assert!(range.start <= range.end && range.end <= file.len(), "the range lies in the file");
        let kind = match range.is_empty() {
            true => Kind::Empty,
            false => Kind::Mapped(FileRange { file, at: range.start, end: range.end, cold: None }),
        };
        Body { kind, permit: None }
    }

    /// Bytes `range` of a file if they may leave at once: in the page cache, and not more than a frame.
    pub fn resident(file: &Mapped, range: Range<u64>) -> Option<Bytes> {
        let all = FileRange { file: file.clone(), at: range.start, end: range.end, cold: None };
        let whole = range.end - range.start <= FRAME_BYTES_MAX && all.resident_until(watch::now_tick()) == range.end;
        whole.then(|| all.file.slice(range))
    }

    /// The wait for its first bytes, when they are not even on this machine: an answer that cannot be begun is
    /// better refused than broken off.
    pub fn fetch(&self) -> Option<Fetch> {
        match &self.kind {
            Kind::Mapped(range) => range.file.fetch(range.at, range.end),
            _ => None,
        }
    }

    /// Waits for its turn among all whose first bytes have come meanwhile.
    pub fn take_turn(&self) -> impl Future<Output = ()> + Send + use<> {
        let bytes = hyper::body::Body::size_hint(self).lower().min(turns::LONG_BYTES as u64);
        turns::take(bytes as usize)
    }

    /// A body from elsewhere, such as axum's.
    pub fn boxed<B>(body: B) -> Body
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Body { kind: Kind::Boxed(body.map_err(Into::into).boxed_unsync()), permit: None }
    }

    /// The permit, for whoever will hold it longer than the body lives.
    pub(super) fn take_permit(&mut self) -> Option<Permit> {
        self.permit.take()
    }

    /// Keeps `permit` until the body is done.
    #[must_use]
    pub fn with_permit(mut self, permit: Permit) -> Body {
        self.permit = Some(permit);
        self
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let body = self.get_mut();
        match &mut body.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Bytes(bytes) => {
                let frame = Frame::data(std::mem::take(bytes));
                body.kind = Kind::Empty;
                Poll::Ready(Some(Ok(frame)))
            }
            Kind::Mapped(range) => range.poll_next(cx).map(|next| next.map(|frame| frame.map(Frame::data))),
            Kind::Boxed(inner) => Pin::new(inner).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Bytes(bytes) => bytes.is_empty(),
            Kind::Mapped(range) => range.at == range.end,
            Kind::Boxed(inner) => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Mapped(range) => SizeHint::with_exact(range.end - range.at),
            Kind::Boxed(inner) => inner.size_hint(),
        }
    }
}

impl FileRange {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        loop {
            if let Some(cold) = &mut self.cold
                && cold.waits
                && let Some((_, warming)) = cold.asked.front_mut()
            {
                let arrival = ready!(warming.poll(cx));
                cold.asked.pop_front();
                cold.waits = false;
                match arrival {
                    // Sent even if the kernel took the pages back meanwhile: waiting again may never end.
                    Arrival::Read => {
                        self.ask_ahead();
                        let present = self.file.present_until(self.at); // past `at`: only such blocks are waited for
                        return Poll::Ready(Some(Ok(self.take(block_end(self.at).min(present)))));
                    }
                    Arrival::Failed(cause) => return Poll::Ready(Some(Err(cause.into()))),
                    Arrival::Lost => {}
                }
            }
            if self.at == self.end {
                return Poll::Ready(None);
            }
            if let Err(cause) = ready!(self.poll_present(cx)) {
                return Poll::Ready(Some(Err(cause)));
            }
            let mut resident = self.resident_until(watch::now_tick());
            if resident > self.at {
                if let Some(cold) = &mut self.cold {
                    if cold.waited {
                        ready!(cold.turn.poll(cx));
                        cold.waited = false;
                        // Or the socket would make it wait once more.
                        resident = resident.min(self.at + turns::LONG_BYTES as u64);
                        turns::spend((resident - self.at) as usize);
                    }
                    self.ask_ahead();
                }
                return Poll::Ready(Some(Ok(self.take(resident))));
            }
            self.ask();
        }
    }

    /// Waits until the byte at `at` is in the file.
    fn poll_present(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        loop {
            if let Some(fetch) = self.cold.as_mut().and_then(|cold| cold.fetch.as_mut()) {
                let landed = match fetch.as_mut().poll(cx) {
                    Poll::Ready(landed) => landed,
                    Poll::Pending => {
                        self.cold.get_or_insert_default().waited = true;
                        return Poll::Pending;
                    }
                };
                self.cold.get_or_insert_default().fetch = None;
                if let Err(cause) = landed {
                    return Poll::Ready(Err(cause.into()));
                }
            }
            match self.file.fetch(self.at, self.end) {
                None => return Poll::Ready(Ok(())),
                fetch => self.cold.get_or_insert_default().fetch = fetch,
            }
        }
    }

    /// Asks for the block at `at`, which is cold, and for the next ones.
    fn ask(&mut self) {
        let block = self.at / BLOCK_BYTES;
        let cold = self.cold.get_or_insert_default();
        cold.asked.retain(|(asked, _)| *asked >= block);
        if cold.asked.front().is_none_or(|(asked, _)| *asked != block) {
            let Some(warming) = runtime::warm(&self.file, block) else { return }; // it is here by now
            cold.asked.push_front((block, warming));
        }
        cold.waits = true;
        self.ask_ahead();
    }

    /// Asks for the cold ones of the blocks behind the one at `at`, as far as the range goes.
    fn ask_ahead(&mut self) {
        let Some(cold) = &mut self.cold else { return };
        let block = self.at / BLOCK_BYTES;
        cold.asked.retain(|(asked, _)| *asked >= block);
        let from = cold.asked.back().map_or(block, |(asked, _)| *asked) + 1;
        let to = (block + AHEAD_BLOCKS).min(self.end.div_ceil(BLOCK_BYTES));
        for next in from..to {
            if self.file.present_until(next * BLOCK_BYTES) > next * BLOCK_BYTES
                && !self.file.is_resident(next * BLOCK_BYTES, watch::now_tick())
                && let Some(warming) = runtime::warm_ahead(&self.file, next)
            {
                cold.asked.push_back((next, warming));
            }
        }
    }

    /// The end of the resident bytes from `at` on, within one frame.
    fn resident_until(&self, now_tick: u32) -> u64 {
        let limit = self.end.min(self.at + FRAME_BYTES_MAX).min(self.file.present_until(self.at));
        let mut until = self.at;
        while until < limit && self.file.is_resident(until, now_tick) {
            until = limit.min(block_end(until));
        }
        until
    }

    fn take(&mut self, until: u64) -> Bytes {
        let from = self.at;
        self.at = until.min(self.end);
        self.file.slice(from..self.at)
    }
}

fn block_end(offset: u64) -> u64 {
    (offset / BLOCK_BYTES + 1) * BLOCK_BYTES
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = hyper::body::Body::size_hint(self);
        f.debug_struct("Body").field("bytes", &hint.exact()).finish_non_exhaustive()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Body {
        Body::bytes(text)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write as _;
    use std::rc::Rc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;
    use crate::store::mapped::Source;

    async fn frames(mut body: Body) -> Vec<Bytes> {
        let mut frames = vec![];
        while let Some(frame) = body.frame().await {
            frames.push(frame.unwrap().into_data().unwrap());
        }
        assert!(hyper::body::Body::is_end_stream(&body));
        frames
    }

    #[tokio::test]
    async fn a_range_of_a_file_leaves_in_bounded_frames_that_borrow_it() {
        let content: Vec<u8> = (0..2_500_000u32).map(|i| (i / 7) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        let mapped = Mapped::open(file, 2_500_000).unwrap();
        let body = Body::mapped(mapped, 100..2_400_000);
        assert_eq!(hyper::body::Body::size_hint(&body).exact(), Some(2_399_900));
        let frames = frames(body).await;
        assert!(frames.iter().all(|f| f.len() as u64 <= FRAME_BYTES_MAX));
        assert!(frames.iter().all(|f| crate::store::mapped::locate(f.as_ptr()).is_some()));
        assert_eq!(frames.concat(), content[100..2_400_000]);
    }

    const COLD_BYTES: u64 = 3_000_000;

    /// A file of noise that is not in the page cache, and what is in it; `None` where files live in memory
    /// and the kernel cannot forget them.
    fn cold_file() -> Option<(Mapped, Vec<u8>)> {
        // The test's own binary lies where the build does: on a disk, unlike the temporary directory of some.
        let binary = std::env::current_exe().unwrap();
        let content: Vec<u8> = (0..COLD_BYTES as u32).map(|i| (i / 11) as u8).collect();
        let mut file = tempfile::tempfile_in(binary.parent().unwrap()).unwrap();
        file.write_all(&content).unwrap();
        file.sync_all().unwrap();
        let mapped = Mapped::open(file, COLD_BYTES).unwrap();
        for _ in 0..50 {
            rustix::fs::fadvise(mapped.file(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
            if (0..COLD_BYTES).step_by(BLOCK_BYTES as usize).all(|at| !mapped.is_resident(at, 1)) {
                return Some((mapped, content));
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        const TMPFS: u64 = 0x0102_1994;
        let kind = rustix::fs::fstatfs(mapped.file()).unwrap().f_type as u64;
        assert_eq!(kind, TMPFS, "a file on a disk can be forgotten");
        None
    }

    fn modes() -> &'static [bool] {
        if runtime::probe().is_ok() { &[false, true] } else { &[false] }
    }

    #[test]
    fn a_cold_file_is_fetched_beside_the_core_and_then_sent_from_memory() {
        for on_uring in modes() {
            let Some((mapped, content)) = cold_file() else { return };
            runtime::CoreRuntime::new(*on_uring).unwrap().run(async move {
                let mut body = Body::mapped(mapped, 300_000..2_900_000);
                let waits = std::future::poll_fn(|cx| {
                    Poll::Ready(hyper::body::Body::poll_frame(Pin::new(&mut body), cx).is_pending())
                });
                assert!(waits.await, "a cold frame is waited for, not faulted in");
                assert_eq!(frames(body).await.concat(), content[300_000..2_900_000]);
            });
        }
    }

    #[test]
    fn what_the_kernel_forgets_in_the_middle_is_fetched_again() {
        let Some((mapped, content)) = cold_file() else { return };
        runtime::CoreRuntime::new(false).unwrap().run(async move {
            let mut body = Body::mapped(mapped.clone(), 0..COLD_BYTES);
            let mut got = vec![];
            while let Some(frame) = body.frame().await {
                got.extend_from_slice(&frame.unwrap().into_data().unwrap());
                rustix::fs::fadvise(mapped.file(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
                // Longer than a block is believed to have stayed.
                watch::advance(4);
            }
            assert!(got == content);
        });
    }

    /// `/cold` is the file, anything else is three bytes.
    struct ColdAndHot(Mapped);

    impl crate::server::Service for ColdAndHot {
        fn takes(&self, _: &str) -> bool {
            true
        }

        async fn call(
            &self,
            request: hyper::Request<hyper::body::Incoming>,
            _: std::net::SocketAddr,
        ) -> hyper::Response<Body> {
            hyper::Response::new(match request.uri().path() {
                "/cold" => Body::mapped(self.0.clone(), 0..self.0.len()),
                _ => Body::bytes("hot"),
            })
        }
    }

    #[test]
    fn a_disk_that_hangs_holds_up_only_those_who_wait_for_it() {
        use std::io::Read as _;
        use std::net::TcpStream;

        let Some((mapped, content)) = cold_file() else { return };
        let (trigger, shutdown) = crate::base::shutdown::channel();
        let options = crate::server::Options {
            cores: 1, // hot and cold share it
            io: crate::server::IoMode::Auto,
            ..crate::server::Options::new("127.0.0.1:0".parse().unwrap())
        };
        let service = Arc::new(ColdAndHot(mapped.clone()));
        let server = crate::server::start(&options, service, None, &shutdown).unwrap();
        let ask = |path: &str| {
            let mut stream = TcpStream::connect(server.local_addr()).unwrap();
            stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
            stream
        };
        let answer = |mut stream: TcpStream| {
            let mut bytes = vec![];
            stream.read_to_end(&mut bytes).unwrap();
            bytes
        };

        let hung_disk = runtime::hang();
        let mut waiting: Vec<TcpStream> = (0..40).map(|_| ask("/cold")).collect();
        while runtime::waiting(&mapped) < 40 {
            std::thread::yield_now(); // until all of them are in front of the disk
        }
        for _ in 0..100 {
            assert!(answer(ask("/hot")).ends_with(b"hot"), "the same core answers");
        }
        // Half of them give up. A client that only listens on says goodbye the same way (RFC 9112 §9.6), so
        // that is found out when the disk comes back; until then they cost what they cost before.
        drop(waiting.split_off(20));
        assert!(answer(ask("/hot")).ends_with(b"hot"));
        drop(hung_disk);
        for stream in waiting {
            assert!(answer(stream).ends_with(&content), "those who stayed get all of it");
        }
        while runtime::waiting(&mapped) > 0 {
            std::thread::yield_now(); // nothing of those who left stays behind
        }
        trigger.advance(crate::base::shutdown::Phase::Now);
        server.join().unwrap();
    }

    /// Bytes that are on their way until they are let in.
    #[derive(Debug, Default)]
    struct Late {
        here: AtomicBool,
        asked: AtomicUsize,
        news: tokio::sync::Notify,
    }

    impl Source for Late {
        fn present_until(&self, at: u64) -> u64 {
            if self.here.load(Ordering::Relaxed) { u64::MAX } else { at }
        }

        fn fetch(self: Arc<Self>, _: u64, _: u64) -> Fetch {
            Box::pin(async move {
                self.asked.fetch_add(1, Ordering::Relaxed);
                self.news.notified().await;
                Ok(())
            })
        }

        fn touch(&self, _: u64) {}

        fn is_evicted(&self) -> bool {
            false
        }
    }

    #[test]
    fn those_whose_bytes_have_come_go_on_one_after_another() {
        const LISTENERS: usize = 400;
        const BYTES: usize = 64 << 10;
        runtime::CoreRuntime::new(false).unwrap().run(async {
            tokio::task::spawn_local(turns::give());
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&[7; BYTES]).unwrap();
            let late = Arc::new(Late::default());
            let mapped = Mapped::open(file, BYTES as u64).unwrap().fed_by(late.clone());
            let gone = Rc::new(Cell::new(0));
            let listeners: Vec<_> = (0..LISTENERS)
                .map(|_| {
                    let (mut body, gone) = (Body::mapped(mapped.clone(), 0..BYTES as u64), gone.clone());
                    tokio::task::spawn_local(async move {
                        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), BYTES);
                        gone.set(gone.get() + 1);
                    })
                })
                .collect();
            let (mine, its) = std::os::unix::net::UnixStream::pair().unwrap();
            mine.set_nonblocking(true).unwrap();
            let mut mine = tokio::net::UnixStream::from_std(mine).unwrap();
            let (before, seen) = (gone.clone(), Rc::new(Cell::new(0)));
            let at = seen.clone();
            let short = tokio::task::spawn_local(async move {
                for _ in 0..20 {
                    tokio::io::AsyncReadExt::read_u8(&mut mine).await.unwrap();
                }
                at.set(before.get());
            });
            while late.asked.load(Ordering::Relaxed) < LISTENERS {
                tokio::task::yield_now().await;
            }
            assert_eq!(gone.get(), 0, "all of them wait");
            late.here.store(true, Ordering::Relaxed);
            late.news.notify_waiters();
            for _ in 0..20 {
                std::io::Write::write_all(&mut &its, &[1]).unwrap();
                tokio::task::yield_now().await;
            }
            short.await.unwrap();
            assert!(
                seen.get() < LISTENERS / 2,
                "twenty short answers left when {} of {LISTENERS} had gone",
                seen.get()
            );
            for listener in listeners {
                listener.await.unwrap();
            }
        });
    }

    #[tokio::test]
    async fn small_and_empty_bodies_say_their_length() {
        assert_eq!(frames(Body::bytes("abc")).await, ["abc"]);
        assert!(frames(Body::bytes("")).await.is_empty());
        assert!(frames(Body::empty()).await.is_empty());
        assert_eq!(frames(Body::boxed(Body::bytes("abc"))).await, ["abc"]);
    }
}
