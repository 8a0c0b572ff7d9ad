//! Signals of commands that work for a terminal: the first asks for an end, the second makes one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::app;
use crate::base::Result;
use crate::base::error::Context as _;

/// Sets the flag on Ctrl-C or SIGTERM, so that a transcode stops its child and removes its files.
/// The thread lives as long as the process; a second signal ends the process at once.
pub(super) fn cancel() -> Result<Arc<AtomicBool>> {
    let cancel = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&cancel);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(|| "cannot start the signal listener")?;
    {
        // Without a handler a file that reaches its limit (ulimit -f) kills the process where it stands; with
        // one, which stays for good, the write fails and says so.
        let _inside = runtime.enter();
        let size_limit = tokio::signal::unix::SignalKind::from_raw(libc::SIGXFSZ);
        drop(tokio::signal::unix::signal(size_limit).context(|| "cannot start the signal listener")?);
    }
    let listen = move || {
        runtime.block_on(async {
            for _ in 0..2 {
                if app::hangup_or_stop_signal().await.is_err() || flag.swap(true, Ordering::Relaxed) {
                    break;
                }
            }
            std::process::exit(130);
        });
    };
    std::thread::Builder::new().name("signals".into()).spawn(listen).context(|| "cannot start the signal listener")?;
    Ok(cancel)
}
