//! What people have here, as a whole: an archive of all of it, or its end. Both are jobs, so that neither a restart nor a
//! bucket that is away leaves one half done.
//!
//! ```text
//! POST …/export ─▶ row, job ─▶ rows and files into a ZIP ─▶ store ─▶ one transaction: row, job, mail with a link
//! DELETE …/me   ─▶ row, job, mail, sessions end ─▶ tracks go dark ─▶ sleep ─▶ files go ─▶ one transaction: rows go
//!                                                  ▲ came back: tracks are shown again
//! ```
//! `db/people.rs` says which rows these are.

mod erase;
mod export;
pub mod zip;

use std::path::PathBuf;
use std::sync::Arc;

pub use erase::Next;
pub use export::Opened;

use crate::base::clock::Clock;
use crate::base::{Error, Result};
use crate::db::Db;
use crate::intake::Intake;
use crate::store::Store;

/// What is needed for it.
#[derive(Debug)]
pub struct People {
    /// Where everything is written down.
    pub db: Db,
    store: Store,
    intake: Arc<Intake>,
    /// Whether there is a CDN to be asked to forget.
    purges: bool,
    clock: Clock,
}

/// Until when an archive can be had, in microseconds after it was made: a week.
pub const EXPORT_KEPT_US: i64 = 7 * 86_400_000_000;

impl People {
    /// Over these stores.
    pub fn new((db, store, intake): (Db, Store, Arc<Intake>), purges: bool, clock: Clock) -> People {
        People { db, store, intake, purges, clock }
    }

    /// Microseconds since 1970.
    pub fn now_us(&self) -> i64 {
        self.clock.unix_us()
    }

    /// Where archives lie on this machine.
    fn dir(&self) -> PathBuf {
        self.store.uploads_dir().with_file_name("exports")
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|cause| Error::internal("a task panicked").because(cause))?
}
