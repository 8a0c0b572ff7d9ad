//! `segue serve --demo`: a track to play in any data directory, made by the same path that every other
//! track takes, while the server is already up.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::{say, transcode_options};
use crate::api::Demo;
use crate::base::Result;
use crate::base::error::Context as _;
use crate::base::id::TrackId;
use crate::config::Config;
use crate::hls::ladder::Ladder;
use crate::store::Store;
use crate::transcode::{self, Options};
use crate::{demo, publish, tracks};

const TRACK: &str = "trk_demo";
const TITLE: &str = "First light";

/// What has to be done for the demo, and what its page needs to know.
pub(super) struct Prepared {
    pub(super) page: Arc<Demo>,
    store: Store,
    missing: bool,
}

/// A demo being made; dropping it stops the transcode and waits for its end.
pub(super) struct Running {
    cancel: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Looks whether the store needs a demo track: when it has none that is whole, whatever else it has. A server
/// that was stopped before the track was ready makes it at its next start.
pub(super) fn prepare(store: &Store) -> Result<Prepared> {
    let track = TrackId::decode(TRACK).expect("a constant within the alphabet");
    let have = match tracks::read(store, track) {
        Ok(record) => store.has_version(track, record.version)?,
        Err(_) => false, // one that cannot be read is made anew
    };
    let page = Arc::new(Demo { track, title: TITLE.into(), failed: AtomicBool::new(false) });
    Ok(Prepared { page, store: store.clone(), missing: !have })
}

impl Prepared {
    /// Prints the page's URL and makes the track, when it is missing, on a thread of its own.
    pub(super) fn start(self, config: &Config, addr: SocketAddr) -> Result<Running> {
        say(format_args!("demo: open http://{addr}/watch/{} in a browser", self.page.track));
        let cancel = Arc::new(AtomicBool::new(false));
        if !self.missing {
            return Ok(Running { cancel, thread: None });
        }
        say(format_args!("demo: making the track; its page waits for it"));
        let options = transcode_options(config);
        let (page, store, flag) = (self.page, self.store, Arc::clone(&cancel));
        let make = move || match make(&store, page.track, &options, &flag) {
            Ok(()) => say(format_args!("demo: ready")),
            Err(_) if flag.load(Ordering::Relaxed) => {}
            Err(error) => {
                page.failed.store(true, Ordering::Relaxed);
                tracing::error!(error = error.chain(), "the demo track could not be made");
            }
        };
        let thread = std::thread::Builder::new().name("demo".into()).spawn(make);
        Ok(Running { cancel, thread: Some(thread.context(|| "cannot start the demo")?) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic was already printed by its own thread
        }
    }
}

fn make(store: &Store, track: TrackId, options: &Options, cancel: &AtomicBool) -> Result<()> {
    let source = store.stage()?;
    let wav = source.dir().join("demo.wav");
    demo::write_wav(&wav)?;
    let staging = store.stage()?;
    let index = encode(&wav, staging.dir(), options, cancel)?;
    publish::to_store(store, staging, track, TITLE, &index)?;
    Ok(())
}

fn encode(wav: &Path, dir: &Path, options: &Options, cancel: &AtomicBool) -> Result<crate::hls::version::VersionIndex> {
    transcode::run(wav, &Ladder::default_audio(), dir, options, &mut |_| {}, cancel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::VersionId;
    use crate::store::LocalStore;
    use crate::tracks::Track;

    #[test]
    fn the_demo_is_made_when_it_is_missing_and_only_then() {
        let dir = tempfile::tempdir().unwrap();
        let local = LocalStore::open(dir.path()).unwrap();
        let store = Store::from(local.clone());
        let missing = || prepare(&store).unwrap().missing;
        assert!(missing(), "nothing was published");
        let version = VersionId::from_digest(&[7; 32]);
        let record = |id: &str| Track {
            id: id.parse().unwrap(),
            title: "x".into(),
            version,
            samples: 1,
            rate: 44_100,
            flac: true,
            lossless: true,
            video: false,
        };
        tracks::write(&store, &record("trk_other")).unwrap();
        assert!(missing(), "only another track was published");
        tracks::write(&store, &record(TRACK)).unwrap();
        assert!(missing(), "a record without its version");
        let dir = local.version_dir(TRACK.parse().unwrap(), version);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("version.json"), "{}").unwrap();
        assert!(!missing());
    }
}
