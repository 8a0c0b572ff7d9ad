//! Lets a few encoders run at a time: while the first rung is not whole, one core is its own, and the other rungs
//! share the rest. An encoder holds its turn for one buffer and never while it waits for input.

use std::sync::{Arc, Condvar, Mutex, OnceLock};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;

/// Turns that are free, shared by the encoders that take them.
#[derive(Debug)]
pub(super) struct Turns {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Turns {
    pub(super) fn new(free: usize) -> Arc<Turns> {
        Arc::new(Turns { free: Mutex::new(free), freed: Condvar::new() })
    }

    /// Adds turns; enough of them let everybody pass, also those who wait when a pipeline is stopped.
    pub(super) fn add(&self, count: usize) {
        *self.free.lock().expect("no panic while locked") += count;
        self.freed.notify_all();
    }

    /// Lets everybody pass from now on.
    pub(super) fn open(&self) {
        self.add(usize::MAX / 2); // more than there are threads, and room for those that come back
    }

    fn take(&self) {
        let free = self.free.lock().expect("no panic while locked");
        let mut free = self.freed.wait_while(free, |free| *free == 0).expect("no panic while locked");
        *free -= 1;
    }
}

glib::wrapper! {
    /// Passes a buffer on when it has a turn, and gives the turn back when what is behind has taken the buffer.
    pub(super) struct Turnstile(ObjectSubclass<imp::Turnstile>) @extends gst::Element, gst::Object;
}

impl Turnstile {
    pub(super) fn element(turns: Arc<Turns>) -> gst::Element {
        let element: Turnstile = glib::Object::new();
        element.imp().turns.set(turns).expect("the element is new");
        element.upcast()
    }
}

mod imp {
    use super::*;

    pub(in super::super) struct Turnstile {
        sink: gst::Pad,
        source: gst::Pad,
        pub(super) turns: OnceLock<Arc<Turns>>,
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
            let Some(turns) = self.turns.get() else { return self.source.push(buffer) };
            turns.take();
            let passed = self.source.push(buffer);
            turns.add(1);
            passed
        }
    }
}
