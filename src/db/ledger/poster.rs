//! Group commit: journals of many callers in one transaction. A commit costs a flush of the disk however much is in it,
//! and the chain lets nobody in before it has ended; so whoever comes meanwhile shares the next one.

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::base::clock::Clock;
use crate::base::{Error, Kind, Result};
use crate::db::Db;
use crate::ledger::{Journal, Posted};

/// Journals in one transaction at most.
const GROUP_MAX: usize = 128;
/// Callers that wait for a place in the line; those beyond wait to be let in.
const LINE_MAX: usize = 1024;

struct Wish {
    journal: Journal,
    answer: oneshot::Sender<Result<Posted>>,
}

/// The door to a ledger for journals that belong to no other change. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Poster(mpsc::Sender<Wish>);

impl Poster {
    /// Starts posting; the task ends when the last clone of the door is gone.
    pub fn start(db: Db, clock: Clock) -> (Poster, JoinHandle<()>) {
        let (door, line) = mpsc::channel(LINE_MAX);
        (Poster(door), tokio::spawn(post_groups(db, clock, line)))
    }

    /// Posts a journal and waits until it is durable.
    ///
    /// # Errors
    /// When the database refuses or the poster has ended. Whether it was posted is unknown then: post it again.
    pub async fn post(&self, journal: Journal) -> Result<Posted> {
        let ended = || Error::new(Kind::Unavailable, "the ledger is closing; post the journal again");
        let (answer, answered) = oneshot::channel();
        self.0.send(Wish { journal, answer }).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

async fn post_groups(db: Db, clock: Clock, mut line: mpsc::Receiver<Wish>) {
    let mut group = Vec::new();
    while line.recv_many(&mut group, GROUP_MAX).await > 0 {
        let journals: Vec<&Journal> = group.iter().map(|wish| &wish.journal).collect();
        match db.post_journals(&journals, clock.unix_us()).await {
            Ok(outcomes) => {
                for (wish, posted) in group.drain(..).zip(outcomes) {
                    let _ = wish.answer.send(Ok(posted)); // a caller that has left can ask again
                }
            }
            Err(error) => {
                let what = format!("cannot post a group of {} journals: {}", group.len(), error.chain());
                for wish in group.drain(..) {
                    let _ = wish.answer.send(Err(Error::new(error.kind(), what.clone())));
                }
            }
        }
    }
}
