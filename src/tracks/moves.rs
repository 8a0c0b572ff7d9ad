//! How a track may move from one state to another. Forward only, but for what a person asks for: a failed track is tried
//! again, a listed one is taken off the list and back, a blocked one returns to what it was.
//!
//! ```text
//! draft ─▶ uploaded ─▶ processing ─▶ ready ─▶ published ⇄ unlisted
//!    └─────────┴────────────┴─▶ failed ─ again ▶ processing
//! any but deleted ─▶ blocked ─ lifted ▶ what it was          any ─▶ deleted, for good
//! ```

use super::State;

impl State {
    /// All of them.
    pub const ALL: [State; 9] = [
        State::Draft,
        State::Uploaded,
        State::Processing,
        State::Ready,
        State::Published,
        State::Unlisted,
        State::Failed,
        State::Blocked,
        State::Deleted,
    ];

    /// The legal moves. What is published from the command line may be shown from any state in which nothing was shown.
    pub fn may_become(self, next: State) -> bool {
        use State::{Blocked, Deleted, Draft, Failed, Processing, Published, Ready, Unlisted, Uploaded};
        match self {
            Draft => matches!(next, Uploaded | Processing | Ready | Published | Failed | Blocked | Deleted),
            Uploaded => matches!(next, Processing | Ready | Published | Failed | Blocked | Deleted),
            Processing => matches!(next, Ready | Published | Failed | Blocked | Deleted),
            Ready => matches!(next, Published | Unlisted | Blocked | Deleted),
            Published => matches!(next, Unlisted | Blocked | Deleted),
            Unlisted => matches!(next, Published | Blocked | Deleted),
            Failed => matches!(next, Uploaded | Processing | Ready | Published | Blocked | Deleted),
            Blocked => !matches!(next, Blocked),
            Deleted => false,
        }
    }

    /// Whether work on its first version is under way or about to be.
    pub fn is_on_its_way(self) -> bool {
        matches!(self, State::Uploaded | State::Processing)
    }
}

/// What an event of its job makes of a track; `None`: nothing. A track that shows a version already is not moved by
/// the job that makes another.
pub fn after_job(event: &str, state: State) -> Option<State> {
    let next = match (event, state) {
        ("started", State::Draft | State::Uploaded | State::Failed) => State::Processing,
        ("retried", State::Failed) => State::Processing,
        ("dead" | "cancelled", State::Draft | State::Uploaded | State::Processing) => State::Failed,
        _ => return None,
    };
    debug_assert!(state.may_become(next));
    Some(next)
}

/// What a whole version makes of a track; `publish`: its owner does not want to decide that first.
pub fn when_shown(state: State, publish: bool) -> State {
    match state {
        State::Published | State::Unlisted | State::Blocked | State::Deleted => state,
        _ if publish => State::Published,
        _ => State::Ready,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Product T1, control.md §2. Every pair: what is not named here is refused.
    #[test]
    fn the_legal_moves_are_these_and_no_others() {
        const TABLE: [(&str, &str); 9] = [
            ("draft", "uploaded processing ready published failed blocked deleted"),
            ("uploaded", "processing ready published failed blocked deleted"),
            ("processing", "ready published failed blocked deleted"),
            ("ready", "published unlisted blocked deleted"),
            ("published", "unlisted blocked deleted"),
            ("unlisted", "published blocked deleted"),
            ("failed", "uploaded processing ready published blocked deleted"),
            ("blocked", "draft uploaded processing ready published unlisted failed deleted"),
            ("deleted", ""),
        ];
        let mut pairs = 0;
        for (from, legal) in TABLE {
            let from: State = from.parse().unwrap();
            for to in State::ALL {
                let wanted = legal.split_whitespace().any(|word| word == to.as_str());
                assert_eq!(from.may_become(to), wanted, "{} > {}", from.as_str(), to.as_str());
                pairs += 1;
            }
        }
        assert_eq!(pairs, 81);
    }

    #[test]
    fn whatever_happens_moves_a_track_legally_or_not_at_all() {
        for state in State::ALL {
            for event in [
                "queued",
                "started",
                "rung",
                "playable",
                "published",
                "succeeded",
                "failed",
                "dead",
                "cancelled",
                "retried",
            ] {
                assert!(after_job(event, state).is_none_or(|next| state.may_become(next)), "{event} {state:?}");
            }
            for publish in [false, true] {
                let next = when_shown(state, publish);
                assert!(next == state || state.may_become(next), "{state:?}");
            }
        }
        assert_eq!(after_job("dead", State::Published), None, "a second version that fails leaves the first alone");
        assert_eq!(when_shown(State::Processing, false), State::Ready);
        assert_eq!(when_shown(State::Processing, true), State::Published);
        assert_eq!(when_shown(State::Unlisted, true), State::Unlisted);
    }
}
