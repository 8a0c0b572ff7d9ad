//! Lets as many encoders run at a time as there are cores for them, and of those that wait the one whose sound is furthest
//! behind. While the first rung is not whole, its cores are not theirs. An encoder holds its turn for one buffer and never
//! while it waits for input.
//!
//! By themselves the encoders of a pass share the cores evenly, which is wrong: the one with the most to do falls behind
//! until its queue is full, nobody is fed while it is, and a core stands still (docs/decisions/0090).

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;

/// Turns, shared by the encoders that take them.
#[derive(Debug)]
pub(super) struct Turns {
    state: Mutex<State>,
    changed: Condvar,
    /// Turns that there are in the end.
    most: usize,
}

#[derive(Debug, Default)]
struct State {
    free: usize,
    /// Turns that there are, free or taken.
    all: usize,
    /// Who waits, by the time of their next sample, in ns; of two at the same place the later one first: rungs come with
    /// their bit rates rising, and the last has the most to do.
    waiting: BTreeSet<(u64, usize)>,
    /// Encoders so far.
    encoders: usize,
}

impl State {
    fn add(&mut self, count: usize) {
        self.free += count;
        self.all += count;
    }
}

impl Turns {
    /// So many at first, and `most` in the end.
    pub(super) fn new(first: usize, most: usize) -> Arc<Turns> {
        let turns = Turns { state: Mutex::default(), changed: Condvar::new(), most };
        turns.add(first);
        Arc::new(turns)
    }

    /// Adds turns; enough of them let everybody pass, also those who wait when a pipeline is stopped.
    pub(super) fn add(&self, count: usize) {
        self.state().add(count);
        self.changed.notify_all();
    }

    /// Adds all that are still missing.
    pub(super) fn open(&self) {
        let mut state = self.state();
        let missing = self.most.saturating_sub(state.all);
        state.add(missing);
        self.changed.notify_all();
    }

    /// The place of another encoder.
    fn place(&self) -> usize {
        let mut state = self.state();
        state.encoders += 1;
        usize::MAX - state.encoders
    }

    fn take(&self, time_ns: u64, place: usize) {
        let mut state = self.state();
        state.waiting.insert((time_ns, place));
        let is_next = |state: &State| state.free > 0 && state.waiting.first() == Some(&(time_ns, place));
        let mut state = self.changed.wait_while(state, |state| !is_next(state)).expect("no panic while locked");
        state.waiting.pop_first();
        state.free -= 1;
        if state.free > 0 {
            self.changed.notify_all(); // for whoever is first now
        }
    }

    fn give_back(&self) {
        self.state().free += 1;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }
}

glib::wrapper! {
    /// Passes a buffer on when it has a turn, and gives the turn back when what is behind has taken the buffer.
    pub(super) struct Turnstile(ObjectSubclass<imp::Turnstile>) @extends gst::Element, gst::Object;
}

impl Turnstile {
    pub(super) fn element(turns: Arc<Turns>) -> gst::Element {
        let element: Turnstile = glib::Object::new();
        let place = turns.place();
        element.imp().turns.set((turns, place)).expect("the element is new");
        element.upcast()
    }
}

mod imp {
    use super::*;

    pub(in super::super) struct Turnstile {
        sink: gst::Pad,
        source: gst::Pad,
        /// Whose, and which place among them.
        pub(super) turns: OnceLock<(Arc<Turns>, usize)>,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for Turnstile {
        const NAME: &'static str = "SegueTurnstile";
        type Type = super::Turnstile;
        type ParentType = gst::Element;

        fn with_class(class: &Self::Class) -> Self {
            let flags = gst::PadFlags::PROXY_CAPS | gst::PadFlags::PROXY_ALLOCATION;
            let template = |name| class.pad_template(name).expect("the class has two templates");
            let sink = gst::Pad::builder_from_template(&template("sink")).flags(flags);
            let chain = |_: &gst::Pad, parent: Option<&gst::Object>, buffer| {
                Turnstile::catch_panic_pad_function(parent, || Err(gst::FlowError::Error), |this| this.pass(buffer))
            };
            Turnstile {
                sink: sink.chain_function(chain).build(),
                source: gst::Pad::builder_from_template(&template("src")).flags(flags).build(),
                turns: OnceLock::new(),
            }
        }
    }

    impl ObjectImpl for Turnstile {
        fn constructed(&self) {
            self.parent_constructed();
            let element = self.obj();
            element.add_pad(&self.sink).expect("the element is new");
            element.add_pad(&self.source).expect("the element is new");
        }
    }

    impl GstObjectImpl for Turnstile {}

    impl ElementImpl for Turnstile {
        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: OnceLock<Vec<gst::PadTemplate>> = OnceLock::new();
            TEMPLATES.get_or_init(|| {
                [("sink", gst::PadDirection::Sink), ("src", gst::PadDirection::Src)]
                    .map(|(name, direction)| {
                        let caps = gst::Caps::new_any();
                        gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps)
                            .expect("the template is sound")
                    })
                    .into()
            })
        }
    }

    impl Turnstile {
        fn pass(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
            let Some((turns, place)) = self.turns.get() else { return self.source.push(buffer) };
            turns.take(buffer.pts().map_or(0, gst::ClockTime::nseconds), *place);
            let passed = self.source.push(buffer);
            turns.give_back();
            passed
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn whoever_is_furthest_behind_is_next_and_no_more_run_than_there_are_turns() {
        let turns = Turns::new(0, 1);
        let places: Vec<usize> = (0..4).map(|_| turns.place()).collect();
        let (told, ran) = mpsc::channel();
        std::thread::scope(|scope| {
            for (number, time_ns) in [30, 10, 20, 10].into_iter().enumerate() {
                let (turns, told, place) = (&turns, told.clone(), places[number]);
                scope.spawn(move || {
                    turns.take(time_ns, place);
                    assert_eq!(turns.state().free, 0);
                    told.send(number).unwrap();
                    turns.give_back();
                });
            }
            while turns.state().waiting.len() < 4 {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(ran.try_recv().is_err(), "nobody has a turn yet");
            turns.open();
            turns.open(); // again: nothing more
        });
        assert_eq!(ran.try_iter().collect::<Vec<_>>(), [3, 1, 2, 0]);
        assert_eq!((turns.state().free, turns.state().all), (1, 1));
    }
}
