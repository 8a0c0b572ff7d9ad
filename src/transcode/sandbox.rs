//! Takes away from the child what decoding does not need. Every call is one-way.

use rustix::process::{Resource, Rlimit, Signal, setrlimit};

use super::plan::Plan;
use crate::base::{Error, Result};

/// First thing in the child: it dies with its parent, gains nothing by executing, leaves no core dump,
/// and has bounded memory and processor time.
pub(super) fn enter(plan: &Plan) -> Result<()> {
    let refused = |cause| Error::internal("the sandbox cannot be entered").because(cause);
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(refused)?;
    rustix::thread::set_no_new_privs(true).map_err(refused)?;
    // A process of many small heaps pays for huge pages with memory it never touches.
    rustix::thread::disable_transparent_huge_pages(true).map_err(refused)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, 256)?;
    // Past its allowance, malloc fails and GLib aborts: one attempt ends, the machine does not swap.
    limit(Resource::As, plan.memory_bytes_max)?;
    // SIGKILL at the hard limit: no decoder can talk its way out.
    limit(Resource::Cpu, plan.cpu_s_max)
}

/// After GStreamer has read or written its registry, before the first byte of input: no file can grow
/// beyond what liborc needs for the code it generates (64 KiB, unlinked at once). Pipes are not files.
pub(super) fn seal() -> Result<()> {
    limit(Resource::Fsize, 64 << 10)
}

fn limit(resource: Resource, most: u64) -> Result<()> {
    // Never above what we were given: an operator's lower limit stands.
    let given = rustix::process::getrlimit(resource).maximum;
    let most = Some(given.map_or(most, |given| given.min(most)));
    setrlimit(resource, Rlimit { current: most, maximum: most })
        .map_err(|cause| Error::internal(format!("the limit {resource:?} cannot be set")).because(cause))
}
