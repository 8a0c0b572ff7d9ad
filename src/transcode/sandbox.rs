//! Takes away from the child what decoding does not need, in two steps that nothing undoes, and says
//! which fence stands. In: the plan's bounds. Out: a `Report`.
//!
//! `enter` comes first of all, `seal` when every plugin is loaded and before the first byte of the source.
//! Several fences stand in the same place on purpose: kernels and containers lack one or the other.

use std::fs::{self, File};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, LandlockStatus, RestrictSelfAttr as _, Ruleset, RulesetAttr as _,
    RulesetStatus, Scope,
};
use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};
use serde::{Deserialize, Serialize};

use super::plan::Plan;
use super::syscalls;
use crate::base::{Error, Result};

/// What to do where a fence is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sandbox {
    /// Decode behind those that stand, and warn once.
    BestEffort,
    /// Decode nothing unless all that matter stand.
    Require,
}

/// One fence around the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fence {
    /// Memory, processor time, file size and descriptors are bounded.
    Limits,
    /// A user, network and IPC namespace of its own.
    Namespaces,
    /// No capability, not even those of a root that started it.
    Capabilities,
    /// Landlock: no file.
    LandlockFiles,
    /// Landlock: no TCP, no abstract socket, no signal to others.
    LandlockNetwork,
    /// A list of system calls.
    Seccomp,
}

/// Whether a fence stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It stands.
    InForce,
    /// This kernel has no such thing, or it is switched off.
    Lacking,
    /// The kernel has it and said no.
    Refused(String),
}

/// Every fence and its state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    fences: Vec<(Fence, State)>,
}

impl Report {
    /// One line for each fence: its state and what that means.
    pub fn lines(&self) -> Vec<String> {
        self.fences.iter().map(|(fence, state)| line(*fence, state)).collect()
    }

    /// The lines of fences that do not stand.
    pub fn missing(&self) -> Vec<String> {
        self.fences
            .iter()
            .filter(|(_, state)| *state != State::InForce)
            .map(|(fence, state)| line(*fence, state))
            .collect()
    }

    /// The state of one fence.
    pub fn state(&self, fence: Fence) -> Option<&State> {
        self.fences.iter().find(|(known, _)| *known == fence).map(|(_, state)| state)
    }

    fn note(&mut self, fence: Fence, state: State) {
        self.fences.push((fence, state));
    }

    /// Refuses to go on where `Require` asks for more than there is. Namespaces and Landlock's network
    /// rules are a second fence behind seccomp's, which many containers do not allow: they may miss.
    pub(super) fn enough(&self, wanted: Sandbox) -> Result<()> {
        let needed = |fence: &Fence| matches!(fence, Fence::Limits | Fence::LandlockFiles | Fence::Seccomp);
        let gaps: Vec<String> = self
            .fences
            .iter()
            .filter(|(fence, state)| needed(fence) && *state != State::InForce)
            .map(|(fence, state)| line(*fence, state))
            .collect();
        if wanted == Sandbox::BestEffort || gaps.is_empty() {
            return Ok(());
        }
        Err(Error::internal(format!(
            "the transcoder's sandbox is incomplete ({}); run it on a kernel that has it, or accept that with \
             transcode.sandbox = \"best-effort\"",
            gaps.join("; ")
        )))
    }
}

fn line(fence: Fence, state: &State) -> String {
    let (name, holds, without) = match fence {
        Fence::Limits => ("limits", "memory, processor time, files and descriptors are bounded", "nothing is bounded"),
        Fence::Namespaces => (
            "namespaces",
            "it has a network of its own with nothing in it",
            "it shares the machine's network, from which only seccomp keeps it",
        ),
        Fence::Capabilities => ("capabilities", "it has none", "it keeps those of whoever started it"),
        Fence::LandlockFiles => {
            ("landlock files", "it can open no file", "it is kept from files by seccomp and its user's rights only")
        }
        Fence::LandlockNetwork => (
            "landlock network",
            "it can neither connect nor listen, nor signal other processes",
            "it is kept from sockets by seccomp only (Landlock has network rules since Linux 6.7)",
        ),
        Fence::Seccomp => (
            "seccomp",
            "it can only make the system calls that decoding needs",
            "a broken decoder could make any system call",
        ),
    };
    match state {
        State::InForce => format!("{name}: in force: {holds}"),
        State::Lacking => format!("{name}: this kernel lacks it: {without}"),
        State::Refused(why) => format!("{name}: refused ({why}): {without}"),
    }
}

/// Closes what the parent's own parents left open: only the source, the pipe and standard error stay.
/// Before anything in this process has opened a descriptor.
#[allow(unsafe_code)]
pub(super) fn close_inherited() {
    // SAFETY: the process is at its beginning: no value owns a descriptor above 2 that this could close
    // under it. A kernel without the call (before 5.9) leaves them open; ours are all close-on-exec.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32);
    }
}

/// First thing in the child, while it is one thread: it has its own namespaces, dies with its parent, gains
/// nothing by executing, leaves no core dump, and has bounded memory and processor time.
pub(super) fn enter(plan: &Plan) -> Result<Report> {
    let mut report = Report::default();
    let refused = |cause| Error::internal("the sandbox cannot be entered").because(cause);
    let namespaces = own_namespaces();
    rustix::thread::set_no_new_privs(true).map_err(refused)?;
    // A process of many small heaps pays for huge pages with memory it never touches.
    rustix::thread::disable_transparent_huge_pages(true).map_err(refused)?;
    let capabilities = drop_capabilities();
    // After the credentials changed: that would reset it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(refused)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, 256)?;
    // Past its allowance, malloc fails and GLib aborts: one attempt ends, the machine does not swap.
    limit(Resource::As, plan.memory_bytes_max)?;
    // SIGXCPU says why it ends; SIGKILL ten seconds later ends what does not listen.
    limit_soft(Resource::Cpu, plan.cpu_s_max, plan.cpu_s_max.saturating_add(10))?;
    if namespaces == State::InForce {
        // Counted in the namespace, so these are its own threads; 512 is an encoder and a queue per rung and
        // a decoder on every core of a large machine. The kernel does not count root's.
        limit(Resource::Nproc, 512)?;
    }
    report.note(Fence::Limits, State::InForce);
    report.note(Fence::Namespaces, namespaces);
    report.note(Fence::Capabilities, capabilities);
    Ok(report)
}

/// After GStreamer has read or written its registry and loaded every plugin, before the first byte of
/// input: no file, no socket, no process.
pub(super) fn seal(report: &mut Report, trial: Option<&Trial>) -> Result<()> {
    // What liborc needs for the code it generates where files are not forbidden (64 KiB, unlinked at once).
    // Pipes are not files.
    limit(Resource::Fsize, 64 << 10)?;
    let (files, network) = landlock();
    report.note(Fence::LandlockFiles, files);
    report.note(Fence::LandlockNetwork, network);
    if !matches!(trial, Some(Trial::BehindLandlock(_))) {
        report.note(Fence::Seccomp, syscalls::filter());
    }
    Ok(())
}

/// Nobody is reachable from a network namespace that was just made: its loopback is down.
#[allow(unsafe_code)]
fn own_namespaces() -> State {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let flags = UnshareFlags::NEWUSER | UnshareFlags::NEWNET | UnshareFlags::NEWIPC;
    // SAFETY: the process has one thread, and the descriptor table is not among what is unshared.
    match unsafe { rustix::thread::unshare_unsafe(flags) } {
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => return State::Lacking,
        Err(cause) => return State::Refused(cause.to_string()),
        Ok(()) => {}
    }
    // It stays who it was: GStreamer looks for its registry in that user's home. (user_namespaces(7))
    let maps = [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{uid} {uid} 1")),
        ("gid_map", format!("{gid} {gid} 1")),
    ];
    for (name, text) in maps {
        if let Err(cause) = fs::write(format!("/proc/self/{name}"), text) {
            return State::Refused(format!("{name}: {cause}"));
        }
    }
    State::InForce
}

/// A user namespace gives every capability inside of it; they would only widen what of the kernel is in reach.
fn drop_capabilities() -> State {
    let none = CapabilitySet::empty();
    match rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
    {
        Ok(()) => State::InForce,
        Err(cause) => State::Refused(cause.to_string()),
    }
}

/// A ruleset without a rule: everything it knows of is denied. States of its file and its network part.
fn landlock() -> (State, State) {
    let alone = fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    let restrict = || {
        Ruleset::default()
            .handle_access(AccessFs::from_all(ABI::V6))?
            .handle_access(AccessNet::from_all(ABI::V6))?
            .scope(Scope::from_all(ABI::V6))?
            .create()?
            .all_threads(true)? // where the kernel can (Linux 7.0)
            .restrict_self()
    };
    let refused = |cause: String| (State::Refused(cause.clone()), State::Refused(cause));
    match restrict() {
        Err(cause) => refused(cause.to_string()),
        Ok(status) => match (status.ruleset, status.landlock) {
            (RulesetStatus::NotEnforced, _) => (State::Lacking, State::Lacking),
            // It binds the calling thread and those it starts; others would stay free.
            _ if !status.all_threads && !alone => refused("a plugin has started threads".to_owned()),
            (_, LandlockStatus::Available { effective_abi, .. }) if effective_abi < ABI::V4 => {
                (State::InForce, State::Lacking)
            }
            _ => (State::InForce, State::InForce),
        },
    }
}

fn limit(resource: Resource, most: u64) -> Result<()> {
    limit_soft(resource, most, most)
}

fn limit_soft(resource: Resource, soft: u64, hard: u64) -> Result<()> {
    // Never above what we were given: an operator's lower limit stands.
    let given = rustix::process::getrlimit(resource).maximum;
    let within = |most: u64| Some(given.map_or(most, |given| given.min(most)));
    setrlimit(resource, Rlimit { current: within(soft), maximum: within(hard) })
        .map_err(|cause| Error::internal(format!("the limit {resource:?} cannot be set")).because(cause))
}

/// What a broken decoder might try. For tests of the sandbox and for nothing else: it happens inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trial {
    /// Nothing: only look which fences stand.
    Look,
    /// Open this file to read it.
    Read(String),
    /// Make this file.
    Write(String),
    /// Connect to this address.
    Connect(String),
    /// Start a program.
    Spawn,
    /// Start a thread, which is allowed.
    Thread,
    /// Make a system call with arguments of zero.
    Call(i64),
    /// Allocate memory and touch it, without end.
    Memory,
    /// Compute without end.
    Compute,
    /// Do nothing without end.
    Sleep,
    /// Lose the way: a pointer to nowhere.
    Crash,
    /// The same without the fence in front of Landlock and the namespaces.
    BehindLandlock(Box<Trial>),
}

impl Trial {
    /// Tries it. Comes back only when nothing has stopped it; the answer is what the system said.
    #[allow(unsafe_code)]
    pub(super) fn run(&self) -> Error {
        let said = |what: std::io::Result<()>| match what {
            Ok(()) => Error::internal("the trial was not stopped"),
            Err(cause) => Error::internal("the trial was stopped").because(cause),
        };
        match self {
            Trial::BehindLandlock(trial) => trial.run(),
            Trial::Look => said(Err(std::io::Error::other("nothing was tried"))),
            Trial::Read(path) => said(File::open(path).map(drop)),
            Trial::Write(path) => said(File::create(path).map(drop)),
            Trial::Connect(address) => said(std::net::TcpStream::connect(address).map(drop)),
            Trial::Spawn => said(std::process::Command::new("/bin/true").status().map(drop)),
            Trial::Thread => said(std::thread::Builder::new().spawn(|| ()).map(|thread| drop(thread.join()))),
            Trial::Call(number) => {
                // SAFETY: a call with zeros for arguments: it reads and writes no memory of ours. Those that end
                // the process or a thread end only this child.
                let answer = unsafe { libc::syscall(*number as libc::c_long, 0, 0, 0, 0, 0, 0) };
                said(if answer == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) })
            }
            Trial::Memory => {
                let mut held: Vec<Vec<u8>> = Vec::new();
                loop {
                    held.push(std::hint::black_box(vec![held.len() as u8 | 1; 1 << 20]));
                }
            }
            Trial::Compute => loop {
                std::hint::spin_loop();
            },
            Trial::Sleep => loop {
                std::thread::sleep(std::time::Duration::from_secs(1));
            },
            Trial::Crash => {
                // SAFETY: none: it shall crash. Page zero is never mapped (vm.mmap_min_addr).
                unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) };
                said(Ok(()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(files: State, network: State, seccomp: State) -> Report {
        let fences = vec![
            (Fence::Limits, State::InForce),
            (Fence::Namespaces, State::Refused("Operation not permitted".into())),
            (Fence::LandlockFiles, files),
            (Fence::LandlockNetwork, network),
            (Fence::Seccomp, seccomp),
        ];
        Report { fences }
    }

    #[test]
    fn require_needs_seccomp_and_landlock_and_no_second_fences() {
        use State::{InForce, Lacking};
        assert!(report(InForce, Lacking, InForce).enough(Sandbox::Require).is_ok());
        assert!(report(Lacking, Lacking, Lacking).enough(Sandbox::BestEffort).is_ok());
        let gap = report(Lacking, Lacking, InForce).enough(Sandbox::Require).unwrap_err().chain();
        assert!(gap.contains("landlock files: this kernel lacks it") && !gap.contains("network"), "{gap}");
        let gap = report(InForce, InForce, State::Refused("EPERM".into())).enough(Sandbox::Require).unwrap_err();
        assert!(gap.chain().contains("seccomp: refused (EPERM)") && gap.chain().contains("transcode.sandbox"));
    }

    #[test]
    fn every_fence_has_a_line_and_the_missing_ones_say_what_that_means() {
        let report = report(State::InForce, State::Lacking, State::InForce);
        assert_eq!(report.lines().len(), 5);
        let missing = report.missing();
        assert_eq!(missing.len(), 2);
        assert!(missing[0].starts_with("namespaces: refused (Operation not permitted): it shares"), "{missing:?}");
        assert_eq!(report.state(Fence::Seccomp), Some(&State::InForce));
    }
}
