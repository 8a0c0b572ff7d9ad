//! What a broken decoder can do in the child: each thing that is forbidden is tried, and what ends it is
//! told in words that somebody can act on.

use std::net::TcpListener;

use segue::base::Kind;
use segue::transcode::{Fence, Limits, Options, Sandbox, State, Trial, look_at_sandbox, misbehave};

use super::bench::{Bench, options};

fn check(trial: Trial, limits: Limits, kind: Kind, said: &str) {
    let error = misbehave(trial.clone(), &Options { limits, ..options() });
    let line = error.chain();
    assert!(line.contains(said), "{trial:?}: {line}");
    assert_eq!(error.kind(), kind, "{trial:?}: {line}");
    assert!(!line.contains('\n'), "{line}");
}

fn stopped(trial: Trial, said: &str) {
    check(trial, Limits::default(), Kind::Internal, &format!("the trial was stopped: {said}"));
}

fn ended(trial: Trial) {
    check(trial, Limits::default(), Kind::Invalid, "do what its sandbox forbids, so it was ended (SIGSYS); export it");
}

#[test]
fn every_fence_says_whether_it_stands_and_what_that_means() {
    let report = look_at_sandbox(&Options { sandbox: Sandbox::BestEffort, ..options() }).unwrap();
    assert_eq!(report.lines().len(), 6, "{report:?}");
    assert_eq!(report.state(Fence::Limits), Some(&State::InForce));
    assert_eq!(report.state(Fence::Seccomp), Some(&State::InForce));
    assert_eq!(report.state(Fence::Capabilities), Some(&State::InForce));
    for line in report.lines() {
        assert!(line.matches(": ").count() >= 2, "{line}");
    }
    // What `require` asks for is what the report says.
    let whole = report.state(Fence::LandlockFiles) == Some(&State::InForce);
    assert_eq!(look_at_sandbox(&Options { sandbox: Sandbox::Require, ..options() }).is_ok(), whole);
}

#[test]
fn no_file_can_be_opened_or_made() {
    let bench = Bench::new();
    let file = bench.file("secret", "secret").display().to_string();
    let new = bench.path("new").display().to_string();
    for path in [file.clone(), "/etc/passwd".into(), "/proc/self/maps".into(), "/dev/null".into()] {
        stopped(Trial::Read(path), "Permission denied");
    }
    stopped(Trial::Write(new.clone()), "Permission denied");
    stopped(Trial::Write(file), "Permission denied");
    assert!(!std::fs::exists(new).unwrap());
}

#[test]
fn sockets_and_programs_end_the_child() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    ended(Trial::Connect(server.local_addr().unwrap().to_string()));
    ended(Trial::Spawn);
    assert!(server.accept().is_err(), "the child connected");
    // The trial itself works: what is allowed goes through.
    check(Trial::Thread, Limits::default(), Kind::Internal, "the trial was not stopped");
}

#[test]
fn system_calls_that_no_decoder_needs_end_the_child() {
    for call in [
        libc::SYS_socketpair,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_kill,
        libc::SYS_mount,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_keyctl,
        libc::SYS_setuid,
        libc::SYS_clone, // without CLONE_THREAD: a process
    ] {
        ended(Trial::Call(call));
    }
    stopped(Trial::Call(libc::SYS_clone3), "Function not implemented");
    stopped(Trial::Call(100_000), "Function not implemented");
    stopped(Trial::Call(libc::SYS_memfd_create), "Permission denied");
}

/// The second fence, with the first one taken away.
#[test]
fn landlock_and_the_namespaces_hold_alone() {
    let report = look_at_sandbox(&options()).unwrap();
    let behind = |trial| Trial::BehindLandlock(Box::new(trial));
    if report.state(Fence::LandlockFiles) == Some(&State::InForce) {
        stopped(behind(Trial::Read("/etc/passwd".into())), "Permission denied");
        let bench = Bench::new();
        stopped(behind(Trial::Write(bench.path("new").display().to_string())), "Permission denied");
    }
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    if report.state(Fence::LandlockNetwork) == Some(&State::InForce) {
        stopped(behind(Trial::Connect(address)), "Permission denied");
    } else if report.state(Fence::Namespaces) == Some(&State::InForce) {
        stopped(behind(Trial::Connect(address)), "Network is unreachable");
    }
}

#[test]
fn each_bound_ends_the_child_in_its_own_words() {
    let limits = Limits::default;
    let roomy = Limits { memory_bytes_max: 1 << 30, resident_bytes_max: 8 << 30, ..limits() };
    check(Trial::Memory, roomy, Kind::Invalid, "needs more memory than the 1024 MiB it may use; export it");
    let tight = Limits { memory_bytes_max: 8 << 30, resident_bytes_max: 200 << 20, ..limits() };
    check(Trial::Memory, tight, Kind::Invalid, "needs more memory than the 200 MiB it may use; export it");
    let brief = Limits { cpu_s_max: Some(1), first_sample_s: 60, ..limits() };
    check(Trial::Compute, brief, Kind::Invalid, "more processor time than an input of its size may use; export it");
    let silent = Limits { first_sample_s: 1, ..limits() };
    check(Trial::Sleep, silent, Kind::Invalid, "no audio could be decoded within 1 s; export it");
    let hurry = Limits { wall_s_min: 0, ..limits() };
    check(Trial::Sleep, hurry, Kind::Invalid, "gave up after 0 s, the most that an input of its size may take; export");
    check(Trial::Crash, limits(), Kind::Internal, "the decoder crashed on it, ended by SIGSEGV");
}

#[test]
fn config_check_prints_every_fence() {
    let output = crate::support::run(["config", "check"]);
    let said = crate::support::said(&output);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("sandbox: ")).count(), 6, "{said}");
    assert!(
        said.contains("sandbox: seccomp: in force: it can only make the system calls that decoding needs"),
        "{said}"
    );
    assert!(said.ends_with("the configuration is fine\n"), "{said}");
}
