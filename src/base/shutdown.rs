//! One signal that every part watches: run, drain until a deadline, stop now.

use tokio::sync::watch;

/// How the process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Serving.
    Running,
    /// Not ready any more, accepting nothing new, finishing what has started.
    Draining,
    /// Dropping everything.
    Now,
}

/// The side that decides. Dropping it means `Phase::Now`.
#[derive(Debug)]
pub struct Trigger(watch::Sender<Phase>);

/// The side that watches; cheap to clone, one per task.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<Phase>);

/// A new pair, running.
pub fn channel() -> (Trigger, Shutdown) {
    let (tx, rx) = watch::channel(Phase::Running);
    (Trigger(tx), Shutdown(rx))
}

impl Trigger {
    /// Moves to `phase`; phases only move forward.
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let forward = (*now as u8) < (phase as u8);
            if forward {
                *now = phase;
            }
            forward
        });
    }
}

impl Shutdown {
    /// How the process stands.
    pub fn phase(&self) -> Phase {
        if self.0.has_changed().is_err() {
            return Phase::Now;
        }
        *self.0.borrow()
    }

    /// Resolves once the phase is `phase` or later. Cancel safe.
    pub async fn reached(&mut self, phase: Phase) {
        // An error means the trigger is gone: that is `Now`.
        let _ = self.0.wait_for(|now| *now as u8 >= phase as u8).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_only_move_forward_and_a_lost_trigger_means_now() {
        let (trigger, mut shutdown) = channel();
        assert_eq!(shutdown.phase(), Phase::Running);
        trigger.advance(Phase::Now);
        trigger.advance(Phase::Draining);
        shutdown.reached(Phase::Draining).await;
        assert_eq!(shutdown.phase(), Phase::Now);
        drop(trigger);
        shutdown.reached(Phase::Now).await;
        assert_eq!(shutdown.phase(), Phase::Now);
    }
}
