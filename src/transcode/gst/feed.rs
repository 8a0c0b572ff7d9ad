//! A way into a pipeline that is bounded, and tells when there is room again: asking again and again would wake a
//! thread hundreds of times a second.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// A source element and whoever fills it.
pub(super) struct Feed {
    source: gst_app::AppSrc,
    hungry: Arc<(Mutex<bool>, Condvar)>,
}

/// How long is waited for room before somebody looks whether there is a reason to stop.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Feed {
    /// A source of `caps` that holds so many bytes.
    pub(super) fn new(caps: &gst::Caps, bytes_max: u64) -> Feed {
        let source = gst_app::AppSrc::builder().caps(caps).format(gst::Format::Time).max_bytes(bytes_max).build();
        // It asks when half of it is empty.
        gst::prelude::ObjectExt::set_property(&source, "min-percent", 50u32);
        let hungry = Arc::new((Mutex::new(false), Condvar::new()));
        let asked = Arc::clone(&hungry);
        let callbacks = gst_app::AppSrcCallbacks::builder().need_data(move |_, _| {
            *asked.0.lock().expect("no panic while locked") = true;
            asked.1.notify_all();
        });
        source.set_callbacks(callbacks.build());
        Feed { source, hungry }
    }

    pub(super) fn element(&self) -> &gst_app::AppSrc {
        &self.source
    }

    pub(super) fn is_full(&self) -> bool {
        self.source.current_level_bytes() >= self.source.max_bytes()
    }

    /// Waits until there may be room, or a little.
    pub(super) fn wait(&self) {
        let (hungry, asked) = &*self.hungry;
        let hungry = hungry.lock().expect("no panic while locked");
        let waited = asked.wait_timeout_while(hungry, LOOK_EVERY, |hungry| !*hungry);
        *waited.expect("no panic while locked").0 = false;
    }
}
