//! The child process: one attempt at one input. In: the source on descriptor 0, the plan as its
//! argument. Out: events on descriptor 1. Plugins are loaded first; from then on it can open nothing (`sandbox`).

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use super::plan::Plan;
use super::protocol::{Event, Fault, write_event};
use super::{gst, sandbox};
use crate::base::error::Context as _;
use crate::base::{Error, Kind, Result};

/// The way to the parent, shared by all encoder threads. One event at a time.
#[derive(Clone, Debug)]
pub(super) struct Pipe(Arc<Mutex<File>>);

impl Pipe {
    /// Sends an event. A parent that is gone needs no answer: the process ends.
    pub(super) fn send(&self, event: &Event, payload: &[u8]) {
        let mut pipe = self.0.lock().expect("no panic while locked");
        if write_event(&mut *pipe, event, payload).is_err() {
            std::process::exit(3);
        }
    }
}

/// `segue child PLAN`: not for people.
pub fn child_main() -> ExitCode {
    sandbox::close_inherited();
    let Ok(out) = std::io::stdout().as_fd().try_clone_to_owned() else { return ExitCode::from(3) };
    let pipe = Pipe(Arc::new(Mutex::new(File::from(out))));
    let status = File::open("/proc/self/status"); // later nothing can be opened
    let (last, code) = match attempt(&pipe) {
        Ok(outcome) => (Event::Done(outcome), ExitCode::SUCCESS),
        // Somebody typed it: no parent listens, so it is said where people read.
        Err(error) if error.kind() == Kind::Usage => {
            eprintln!("segue: {}", error.chain());
            return ExitCode::from(2);
        }
        Err(error) => {
            let fault = match error.kind() {
                Kind::Invalid => Fault::Input,
                _ if status.is_ok_and(is_starved) => Fault::Memory,
                _ => Fault::Internal,
            };
            (Event::Failed { fault, message: error.chain() }, ExitCode::FAILURE)
        }
    };
    pipe.send(&last, &[]);
    code
}

/// Whether this process has had most of the address space that it may have: what fails then mostly fails for want of
/// it, whatever it says. Threads without a stack are pipelines that do not start, libraries that are not loaded.
fn is_starved(mut status: File) -> bool {
    let mut text = String::new();
    let read = status.read_to_string(&mut text).is_ok();
    let peak =
        text.lines().find_map(|line| line.strip_prefix("VmPeak:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let most = rustix::process::getrlimit(rustix::process::Resource::As).current;
    read && peak.zip(most).is_some_and(|(peak, most)| is_most(peak.saturating_mul(1024), most))
}

/// Whether `bytes` are most of what there may be.
pub(super) fn is_most(bytes: u64, most: u64) -> bool {
    bytes >= most / 4 * 3
}

fn attempt(pipe: &Pipe) -> Result<super::protocol::Outcome> {
    let plan = std::env::args_os().nth(2).and_then(|text| serde_json::from_slice(text.as_encoded_bytes()).ok());
    let plan: Plan = plan.ok_or_else(|| {
        Error::usage(
            "segue child takes a plan, which other commands give it; run segue transcode FILE --out DIR instead",
        )
    })?;
    let mut fences = sandbox::enter(&plan)?;
    let source = std::io::stdin().as_fd().try_clone_to_owned().context(|| "descriptor 0 is not the source")?;
    gst::init(plan.video.is_some())?;
    sandbox::seal(&mut fences, plan.trial.as_ref())?;
    fences.enough(plan.sandbox)?;
    pipe.send(&Event::Sandboxed(fences), &[]);
    if let Some(trial) = &plan.trial {
        return Err(trial.run());
    }
    gst::run(&plan, File::from(source), pipe)
}
