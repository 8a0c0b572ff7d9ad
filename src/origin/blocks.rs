//! Which tracks are not served. In: documents from whoever decides. Out: a snapshot in memory that every
//! request asks, without a lock and without I/O.
//!
//! ```text
//! blocks.json ─ Source::poll ─▶ Snapshot ─ swap ─▶ Blocks ◀─ standing(track) ─ every request
//!               own thread, twice a second
//! ```
//! A document that cannot be read changes nothing: the last good snapshot stays, the log says so, and
//! `segue_origin_blocks_age_seconds` grows. A mistake in a file must not show what a court has closed. Before
//! the first one, while the bucket cannot be asked, nothing is served at all.
//!
//! A store of two halves has two documents. A track is served when neither closes it, and both are changed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hyper::header::HeaderValue;
use metrics::{Counter, Gauge, counter, gauge};
use serde::{Deserialize, Serialize};

use crate::base::error::Context as _;
use crate::base::id::TrackId;
use crate::base::telemetry::{Histogram, histogram};
use crate::base::{Error, Kind, Result, telemetry};
use crate::store::Store;
use crate::store::local::Stamp;

/// Why a track is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// A legal demand: 451 for everybody, the owner too (RFC 7725).
    Blocked,
    /// Withdrawn by its owner: 404, as if it did not exist.
    Private,
    /// Erased: 404 for ever. The tombstone outlives files that were not removed yet.
    Deleted,
}

impl State {
    fn weight(self) -> u8 {
        match self {
            State::Private => 0,
            State::Blocked => 1,
            State::Deleted => 2,
        }
    }
}

/// One track that is not served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Why.
    pub state: State,
    /// Who demands it, under which law; everybody who asks for a blocked track reads it (RFC 7725 §3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when, in seconds since 1970.
    pub since_s: u64,
}

/// All tracks that are not served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// The document's format: 1.
    format: u32,
    /// The entries.
    pub tracks: BTreeMap<TrackId, Entry>,
    /// Private tracks whose addresses strangers may know: what of them is public takes a token, too.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub guarded: BTreeSet<TrackId>,
    /// Tracks that cost something and whose preview was taken back: it takes a token, too.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unheard: BTreeSet<TrackId>,
}

/// What a track that is guarded keeps from those without a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// All that is public of others: preview, poster, waveform.
    All,
    /// Its preview.
    Preview,
}

const FORMAT: u32 = 1;
/// The longest reason, in bytes: some sentences in a short answer.
const REASON_BYTES_MAX: usize = 1_000;

impl Default for Snapshot {
    fn default() -> Snapshot {
        Snapshot { format: FORMAT, tracks: BTreeMap::new(), guarded: BTreeSet::new(), unheard: BTreeSet::new() }
    }
}

impl Snapshot {
    /// Reads a document.
    ///
    /// # Errors
    /// `Invalid` when it is damaged, or written by a later program.
    pub fn decode(document: &[u8]) -> Result<Snapshot> {
        let snapshot: Snapshot = serde_json::from_slice(document)
            .map_err(|cause| Error::invalid("the document of blocked tracks cannot be read").because(cause))?;
        if snapshot.format != FORMAT {
            let format = snapshot.format;
            return Err(Error::invalid(format!("blocked tracks are in format {format}, this program reads {FORMAT}")));
        }
        Ok(snapshot)
    }

    /// Takes over the entries of another; of two for one track, what closes it more.
    fn add(&mut self, other: Snapshot) {
        for (track, entry) in other.tracks {
            match self.tracks.get(&track) {
                Some(known) if known.state.weight() >= entry.state.weight() => {}
                _ => drop(self.tracks.insert(track, entry)),
            }
        }
        self.guarded.extend(other.guarded);
        self.unheard.extend(other.unheard);
    }

    /// The tracks of which this is kept.
    fn of(&mut self, guard: Guard) -> &mut BTreeSet<TrackId> {
        match guard {
            Guard::All => &mut self.guarded,
            Guard::Preview => &mut self.unheard,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut document = serde_json::to_vec_pretty(self).expect("plain data always serialises");
        document.push(b'\n');
        document
    }
}

/// What is blocked in a store. Blocks.
///
/// # Errors
/// When the document, or that of either half, cannot be read.
pub fn read(store: &Store) -> Result<Snapshot> {
    let mut all = Snapshot::default();
    for half in store.halves() {
        let found = half.read_blocks()?.map_or(Ok(Snapshot::default()), |document| Snapshot::decode(&document))?;
        all.add(found);
    }
    Ok(all)
}

/// Carries what one store does not serve over to another. Blocks.
///
/// # Errors
/// When either document cannot be read, or the other cannot be written.
pub fn carry_over(from: &Store, to: &Store) -> Result<()> {
    let found = read(from)?;
    let known = read(to)?;
    let mut all = known.clone();
    all.add(found);
    if all == known {
        return Ok(());
    }
    edit(to, |snapshot| {
        snapshot.add(all);
        Ok(())
    })
}

/// Takes a track off every origin of this store, within a second. Durable when it returns. Blocks.
///
/// # Errors
/// `Invalid` for a reason that cannot be shown; else as `Store::edit_blocks`.
pub fn block(store: &Store, track: TrackId, entry: Entry) -> Result<()> {
    if let Some(reason) = &entry.reason
        && (reason.len() > REASON_BYTES_MAX || reason.chars().any(char::is_control))
    {
        return Err(Error::invalid(format!("the reason has a line break or more than {REASON_BYTES_MAX} bytes")));
    }
    for half in store.halves() {
        edit(&half, |snapshot| {
            if let Some(Entry { state: State::Deleted, .. }) = snapshot.tracks.get(&track)
                && entry.state != State::Deleted
            {
                return Err(Error::invalid(format!("track {track} was deleted: there is nothing left to block")));
            }
            snapshot.tracks.insert(track, entry.clone());
            if entry.state == State::Deleted {
                snapshot.guarded.remove(&track);
                snapshot.unheard.remove(&track);
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Guards tracks or not: what a guard keeps of them takes a token as everything else, at every origin of this store within
/// a second. Blocks of the same tracks stay what they are. Durable when it returns; writes nothing
/// when nothing changes. Blocks.
///
/// # Errors
/// As `Store::edit_blocks`.
pub fn guard(store: &Store, guard: Guard, tracks: &[TrackId], guarded: bool) -> Result<()> {
    for half in store.halves() {
        let mut known = read(&half)?;
        let listed = std::mem::take(known.of(guard));
        let is_gone = |track: &TrackId| known.tracks.get(track).is_some_and(|entry| entry.state == State::Deleted);
        let change = |track: &&TrackId| listed.contains(track) != guarded && !(guarded && is_gone(track));
        let changed: Vec<TrackId> = tracks.iter().filter(change).copied().collect();
        if changed.is_empty() {
            continue;
        }
        edit(&half, |snapshot| {
            for track in changed {
                match guarded {
                    true => snapshot.of(guard).insert(track),
                    false => snapshot.of(guard).remove(&track),
                };
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Serves a track again, within a second. Durable when it returns. Blocks.
///
/// # Errors
/// `NotFound` when it is not blocked, `Invalid` when it was deleted; else as `Store::edit_blocks`.
pub fn unblock(store: &Store, track: TrackId) -> Result<Entry> {
    let mut was = None;
    for half in store.halves() {
        let removed = edit(&half, |snapshot| match snapshot.tracks.get(&track) {
            None => Err(Error::not_found(format!("track {track} is not blocked"))),
            Some(Entry { state: State::Deleted, .. }) => {
                Err(Error::invalid(format!("track {track} was deleted for good: publish it again as a new track")))
            }
            Some(_) => Ok(snapshot.tracks.remove(&track).expect("it was just seen")),
        });
        match removed {
            Err(error) if error.kind() == Kind::NotFound => {}
            removed => was = Some(removed?),
        }
    }
    was.ok_or_else(|| Error::not_found(format!("track {track} is not blocked")))
}

fn edit<T>(half: &Store, edit: impl FnOnce(&mut Snapshot) -> Result<T>) -> Result<T> {
    let mut outcome = None;
    half.edit_blocks(|document| {
        let mut snapshot = document.map_or(Ok(Snapshot::default()), |document| Snapshot::decode(&document))?;
        outcome = Some(edit(&mut snapshot)?);
        Ok(snapshot.encode())
    })?;
    Ok(outcome.expect("the edit was made"))
}

/// Where snapshots come from: a document today, a database or another node's API later.
pub trait Source: Send + 'static {
    /// The snapshot, when it may have changed since the last call. Called again and again, on a thread
    /// that may block.
    ///
    /// # Errors
    /// When there is nothing trustworthy; the caller keeps what it has.
    fn poll(&mut self) -> Result<Option<Snapshot>>;
}

/// The document of a store.
#[derive(Debug)]
pub struct StoreSource {
    store: Store,
    /// What the document of each half looked like when it was last read, and whether all were settled by then.
    read: Option<(Vec<Option<Stamp>>, bool)>,
    /// Tracks that were deleted, until the disk cache has none of them: that is after requests have heard of it.
    deleted: HashSet<TrackId>,
}

impl StoreSource {
    /// The document in `store`.
    pub fn new(store: Store) -> StoreSource {
        StoreSource { store, read: None, deleted: HashSet::new() }
    }
}

impl Source for StoreSource {
    fn poll(&mut self) -> Result<Option<Snapshot>> {
        let deleted = std::mem::take(&mut self.deleted);
        if !deleted.is_empty() {
            self.store.evict_tracks(|track| deleted.contains(&track));
        }
        let stamps: Vec<Option<Stamp>> = self.store.halves().iter().map(Store::stamp_blocks).collect::<Result<_>>()?;
        if self.read.as_ref().is_some_and(|(known, settled)| *settled && *known == stamps) {
            return Ok(None);
        }
        // Looked at before it is read: a change in between shows at the next look.
        let snapshot = read(&self.store)?;
        let settled = stamps.iter().all(|stamp| is_settled(*stamp));
        self.read = Some((stamps, settled));
        let deleted = snapshot.tracks.iter().filter(|(_, entry)| entry.state == State::Deleted);
        self.deleted = deleted.map(|(track, _)| *track).collect();
        Ok(Some(snapshot))
    }
}

/// Whether a later change would show in the stamp. A file changed twice within one tick of the kernel's
/// clock may look the same; one that has been left alone for two seconds cannot.
fn is_settled(stamp: Option<Stamp>) -> bool {
    let Some((.., modified_ns, changed_ns)) = stamp else { return true };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_nanos());
    now as i128 - modified_ns.max(changed_ns) > 2_000_000_000
}

/// How a track stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is held against it.
    Open,
    /// 451.
    Blocked,
    /// 404, as for what never was.
    Hidden,
    /// Of it this takes a token, too, though it is public of others.
    Guarded(Guard),
    /// Nobody could be asked yet: 503.
    Unknown,
}

/// The snapshot requests ask; one for the process.
pub struct Blocks {
    entries: ArcSwap<Held>,
    /// `NONE`, `SOME` entries, or `UNKNOWN` before the first snapshot.
    any: AtomicU8,
    link: HeaderValue,
    started: Instant,
    /// When the source was last understood, in milliseconds since `started`.
    checked_ms: AtomicU64,
    tracks: Gauge,
    age_s: Gauge,
    failures: Counter,
    dark: &'static Histogram,
}

/// A snapshot, as requests ask it.
#[derive(Debug, Default)]
struct Held {
    tracks: HashMap<TrackId, Entry>,
    guarded: HashSet<TrackId>,
    unheard: HashSet<TrackId>,
}

const NONE: u8 = 0;
const SOME: u8 = 1;
const UNKNOWN: u8 = 2;

impl Blocks {
    /// Reads `source` once and starts to look at it again every `every`. Blocks. The thread that looks
    /// ends when the last handle is dropped; should it die, the age grows and says so. `blocked_by` is
    /// whom answers name as the one who blocks: a URL, or a reference from this server's root.
    ///
    /// # Errors
    /// `Usage` when `blocked_by` cannot stand in a header. What the source says, when its document cannot be
    /// understood: an origin that does not know what it must not serve may not start. A bucket that cannot be asked
    /// now is asked again; until it answers every track is `Unknown`.
    pub fn start(mut source: impl Source, every: Duration, blocked_by: &str) -> Result<Arc<Blocks>> {
        let link = link(blocked_by)?;
        let what = "cannot learn which tracks are blocked, so nothing may be served";
        let first = match source.poll() {
            Err(error) if error.kind() == Kind::Unavailable => {
                tracing::error!(error = error.chain(), "{what} until this can be read; asking again");
                None
            }
            first => Some(first.context(|| what)?.unwrap_or_default()),
        };
        let blocks = Arc::new(Blocks {
            entries: ArcSwap::default(),
            any: AtomicU8::new(UNKNOWN),
            link,
            started: Instant::now(),
            checked_ms: AtomicU64::new(0),
            tracks: gauge!(telemetry::BLOCKS),
            age_s: gauge!(telemetry::BLOCKS_AGE),
            failures: counter!(telemetry::BLOCKS_FAILURES),
            dark: histogram(telemetry::BLOCKS_DARK, &[], &histogram::SECONDS),
        });
        let failing = first.is_none();
        if let Some(first) = first {
            blocks.take(first);
        }
        let weak = Arc::downgrade(&blocks);
        let thread = std::thread::Builder::new().name("blocks".into());
        thread
            .spawn(move || keep_fresh(&weak, source, every, failing))
            .context(|| "cannot start to watch blocked tracks")?;
        Ok(blocks)
    }

    /// How a track stands. One plain load while nothing is blocked; else a hash, and never a lock.
    pub fn standing(&self, track: TrackId) -> Standing {
        match self.any.load(Ordering::Acquire) {
            NONE => return Standing::Open,
            UNKNOWN => return Standing::Unknown,
            _ => {}
        }
        let held = self.entries.load();
        match held.tracks.get(&track).map(|entry| entry.state) {
            None if held.guarded.contains(&track) => Standing::Guarded(Guard::All),
            None if held.unheard.contains(&track) => Standing::Guarded(Guard::Preview),
            None => Standing::Open,
            Some(State::Blocked) => Standing::Blocked,
            Some(State::Private | State::Deleted) => Standing::Hidden,
        }
    }

    /// Whether it was ever learned what is blocked.
    pub fn is_known(&self) -> bool {
        self.any.load(Ordering::Acquire) != UNKNOWN
    }

    /// How long ago it was last learned what is blocked, or tried for the first time.
    pub fn age(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.checked_ms.load(Ordering::Relaxed)))
    }

    /// The `Link` of a 451: who implements the block, not who demands it (RFC 7725 §4).
    pub fn link(&self) -> &HeaderValue {
        &self.link
    }

    /// Who demands a block and why, in their words.
    pub fn reason(&self, track: TrackId) -> Option<String> {
        self.entries.load().tracks.get(&track)?.reason.clone()
    }

    /// The text of a 451 (RFC 7725 §3: it should say who demands it and why).
    pub fn explanation(&self, track: TrackId) -> String {
        match self.reason(track) {
            Some(reason) => format!("unavailable for legal reasons: {reason}\n"),
            None => "unavailable for legal reasons\n".into(),
        }
    }

    /// Keeps the gauges fresh.
    pub(super) fn sample(&self) {
        self.age_s.set(self.age().as_secs_f64());
        self.tracks.set(self.entries.load().tracks.len() as f64);
    }

    /// How long the blocks took that are new in this snapshot; not of the first, whose blocks were made while this
    /// process did not run.
    fn measure(&self, snapshot: &Snapshot) {
        if !self.is_known() {
            return;
        }
        let known = self.entries.load();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let is_new = |track: &TrackId| known.tracks.get(track).is_none_or(|entry| entry.state != State::Blocked);
        for (_, entry) in snapshot.tracks.iter().filter(|(track, entry)| entry.state == State::Blocked && is_new(track))
        {
            self.dark.record_duration(now.saturating_sub(Duration::from_secs(entry.since_s)));
        }
    }

    fn take(&self, snapshot: Snapshot) {
        self.measure(&snapshot);
        let empty = snapshot.tracks.is_empty() && snapshot.guarded.is_empty() && snapshot.unheard.is_empty();
        let any = if empty { NONE } else { SOME };
        let held = Held {
            tracks: snapshot.tracks.into_iter().collect(),
            guarded: snapshot.guarded.into_iter().collect(),
            unheard: snapshot.unheard.into_iter().collect(),
        };
        self.entries.store(Arc::new(held));
        self.any.store(any, Ordering::Release);
        self.understood();
    }

    fn understood(&self) {
        self.checked_ms.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocks").field("tracks", &self.entries.load().tracks.len()).finish_non_exhaustive()
    }
}

fn keep_fresh(blocks: &Weak<Blocks>, mut source: impl Source, every: Duration, mut failing: bool) {
    loop {
        std::thread::sleep(every);
        let polled = source.poll();
        let Some(blocks) = blocks.upgrade() else { return };
        match polled {
            Ok(changed) => {
                if failing {
                    tracing::info!("blocked tracks can be read again");
                }
                failing = false;
                match changed {
                    Some(snapshot) => blocks.take(snapshot),
                    None => blocks.understood(),
                }
            }
            Err(error) => {
                blocks.failures.increment(1);
                // Once, not twice a second.
                if !failing {
                    tracing::error!(error = error.chain(), "blocked tracks cannot be read; the last snapshot stays");
                }
                failing = true;
            }
        }
    }
}

fn link(blocked_by: &str) -> Result<HeaderValue> {
    let plain = |b: u8| b.is_ascii_graphic() && !b"<>\"\\".contains(&b);
    if blocked_by.is_empty() || !blocked_by.bytes().all(plain) {
        return Err(Error::usage(format!("{blocked_by:?} cannot name who blocks tracks; give a URL")));
    }
    Ok(HeaderValue::try_from(format!("<{blocked_by}>; rel=\"blocked-by\"")).expect("made of visible ASCII"))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::store::LocalStore;

    fn track(text: &str) -> TrackId {
        TrackId::decode(text).unwrap()
    }

    fn entry(state: State) -> Entry {
        Entry { state, reason: Some("Example Ltd, 17 USC 512".into()), since_s: 1_800_000_000 }
    }

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(dir.path()).unwrap();
        (dir, store.into())
    }

    #[test]
    fn what_is_blocked_is_kept_and_what_is_lifted_is_gone() {
        let (_dir, store) = store();
        assert_eq!(read(&store).unwrap(), Snapshot::default());
        block(&store, track("trk_1"), entry(State::Blocked)).unwrap();
        block(&store, track("trk_2"), entry(State::Private)).unwrap();
        let snapshot = read(&store).unwrap();
        assert_eq!(snapshot.tracks[&track("trk_1")], entry(State::Blocked));
        assert_eq!(Snapshot::decode(&snapshot.encode()).unwrap(), snapshot);
        assert_eq!(unblock(&store, track("trk_1")).unwrap().state, State::Blocked);
        assert_eq!(unblock(&store, track("trk_1")).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(read(&store).unwrap().tracks.len(), 1);
    }

    #[test]
    fn a_tombstone_is_not_lifted_and_not_softened() {
        let (_dir, store) = store();
        block(&store, track("trk_1"), entry(State::Deleted)).unwrap();
        assert!(unblock(&store, track("trk_1")).is_err());
        assert!(block(&store, track("trk_1"), entry(State::Blocked)).is_err());
        assert_eq!(read(&store).unwrap().tracks[&track("trk_1")].state, State::Deleted);
    }

    #[test]
    fn a_guard_and_a_block_of_one_track_do_not_touch_each_other_and_a_tombstone_ends_both() {
        let (dir, store) = store();
        let one = track("trk_1");
        let is_guarded = || read(&store).unwrap().guarded.contains(&one);
        let guard = |tracks: &[TrackId], guarded| guard(&store, Guard::All, tracks, guarded).unwrap();
        guard(&[one, track("trk_2")], true);
        block(&store, one, entry(State::Blocked)).unwrap();
        assert!(is_guarded());
        unblock(&store, one).unwrap();
        assert!(is_guarded());
        let snapshot = read(&store).unwrap();
        assert_eq!(Snapshot::decode(&snapshot.encode()).unwrap(), snapshot);
        let blocks = Blocks::start(StoreSource::new(store.clone()), Duration::from_secs(60), "/").unwrap();
        assert_eq!(blocks.standing(one), Standing::Guarded(Guard::All));
        let stamp = || std::fs::metadata(dir.path().join("blocks.json")).unwrap().modified().unwrap();
        let before = stamp();
        guard(&[one], true);
        assert_eq!(stamp(), before, "nothing changed, nothing was written");
        guard(&[one], false);
        assert!(!is_guarded());
        guard(&[one], true);
        super::guard(&store, Guard::Preview, &[one, track("trk_3")], true).unwrap();
        let blocks = Blocks::start(StoreSource::new(store.clone()), Duration::from_secs(60), "/").unwrap();
        assert_eq!(blocks.standing(one), Standing::Guarded(Guard::All), "the one that keeps more");
        assert_eq!(blocks.standing(track("trk_3")), Standing::Guarded(Guard::Preview));
        block(&store, one, entry(State::Deleted)).unwrap();
        guard(&[one], true);
        assert!(!is_guarded());
        assert!(!read(&store).unwrap().unheard.contains(&one));
    }

    #[test]
    fn a_reason_that_could_break_an_answer_is_refused() {
        let (_dir, store) = store();
        for reason in ["a\nb".to_owned(), "\u{7f}".into(), "x".repeat(1_001)] {
            let entry = Entry { reason: Some(reason), ..entry(State::Blocked) };
            assert!(block(&store, track("trk_1"), entry).is_err());
        }
        assert_eq!(store.read_blocks().unwrap(), None);
    }

    #[test]
    fn a_document_of_another_kind_is_refused() {
        for document in [
            "",
            "{",
            "[]",
            "{}",
            r#"{"format":2,"tracks":{}}"#,
            r#"{"format":1,"tracks":{"../x":{"state":"blocked","since_s":1}}}"#,
            r#"{"format":1,"tracks":{"t":{"state":"open","since_s":1}}}"#,
            r#"{"format":1,"tracks":{},"more":1}"#,
        ] {
            assert!(Snapshot::decode(document.as_bytes()).is_err(), "{document}");
        }
    }

    #[test]
    fn the_store_is_read_again_only_when_it_changed_and_a_broken_document_is_an_error() {
        let (dir, store) = store();
        let path = dir.path().join("blocks.json");
        let mut source = StoreSource::new(store.clone());
        assert_eq!(source.poll().unwrap(), Some(Snapshot::default()));
        assert_eq!(source.poll().unwrap(), None, "nothing there, nothing new");
        block(&store, track("trk_1"), entry(State::Blocked)).unwrap();
        assert_eq!(source.poll().unwrap().unwrap().tracks.len(), 1);
        assert!(source.poll().unwrap().is_some(), "so young that a change might not show");
        std::fs::write(&path, "{").unwrap();
        assert!(source.poll().is_err());
        assert!(source.poll().is_err(), "and it stays one until it is repaired");
        std::fs::remove_file(&path).unwrap();
        assert!(source.poll().is_err(), "gone is not the same as empty");
        assert!(StoreSource::new(store.clone()).poll().is_err(), "not for who comes later either");
        let again = block(&store, track("trk_2"), entry(State::Private)).unwrap_err();
        assert!(again.chain().contains("has vanished"), "a new document would lift the old blocks: {again}");
    }

    /// Hands out what the test put in, once.
    struct Scripted(Arc<Mutex<Vec<Result<Option<Snapshot>>>>>);

    impl Source for Scripted {
        fn poll(&mut self) -> Result<Option<Snapshot>> {
            self.0.lock().unwrap().pop().unwrap_or(Ok(None))
        }
    }

    fn of(entries: &[(&str, State)]) -> Snapshot {
        let tracks = entries.iter().map(|(id, state)| (track(id), entry(*state)));
        Snapshot { tracks: tracks.collect(), ..Snapshot::default() }
    }

    #[test]
    fn a_source_that_fails_changes_nothing_and_ages() {
        let script = Arc::new(Mutex::new(vec![Ok(Some(of(&[("trk_1", State::Blocked), ("trk_2", State::Private)])))]));
        let blocks = Blocks::start(Scripted(script.clone()), Duration::from_millis(1), "/").unwrap();
        let standings = |blocks: &Blocks| ["trk_1", "trk_2", "trk_3"].map(|id| blocks.standing(track(id)));
        assert_eq!(standings(&blocks), [Standing::Blocked, Standing::Hidden, Standing::Open]);
        assert_eq!(blocks.reason(track("trk_1")).unwrap(), "Example Ltd, 17 USC 512");
        script.lock().unwrap().push(Err(Error::invalid("broken")));
        wait_for(|| script.lock().unwrap().is_empty());
        assert_eq!(standings(&blocks), [Standing::Blocked, Standing::Hidden, Standing::Open]);
        script.lock().unwrap().push(Ok(Some(of(&[("trk_3", State::Deleted)]))));
        wait_for(|| standings(&blocks) == [Standing::Open, Standing::Open, Standing::Hidden]);
    }

    #[test]
    fn who_blocks_is_named_in_a_header_that_nothing_can_break_out_of() {
        assert_eq!(link("https://x.example/legal").unwrap(), "<https://x.example/legal>; rel=\"blocked-by\"");
        for bad in ["", "a b", "x>; rel=\"y", "é", "a\nb"] {
            assert!(link(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_origin_that_does_not_know_what_is_blocked_does_not_start() {
        let script = Arc::new(Mutex::new(vec![Err(Error::invalid("broken"))]));
        let error = Blocks::start(Scripted(script), Duration::from_millis(1), "/").unwrap_err();
        assert!(error.chain().contains("nothing may be served: broken"), "{error}");
    }

    #[track_caller]
    fn wait_for(holds: impl Fn() -> bool) {
        for _ in 0..10_000 {
            if holds() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("it never held");
    }
}
