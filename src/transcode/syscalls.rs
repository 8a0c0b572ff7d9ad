//! The child's system calls, as three seccomp filters (seccomp(2)). The kernel runs all of them and obeys
//! the strictest answer.
//!
//! 1. What no decoder has a reason to do ends the process (SIGSYS): it is an attack or a grave defect.
//! 2. Looking for files answers "permission denied": libraries look for settings and go on without them.
//! 3. Everything that is on neither list nor among what decoding needs answers "no such system call",
//!    which libraries that try something new are prepared for.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

use super::sandbox::State;

/// Puts the filters in force for every thread, for good.
pub(super) fn filter() -> State {
    let build = || -> Result<[BpfProgram; 3], seccompiler::BackendError> {
        let (fatal, denied) = (fatal()?, denied()?);
        let mut known = needed()?;
        // The first two filters decide about theirs.
        known.extend(fatal.keys().chain(denied.keys()).map(|call| (*call, vec![])));
        Ok([
            program(denied, SeccompAction::Allow, SeccompAction::Errno(libc::EACCES as u32))?,
            program(fatal, SeccompAction::Allow, SeccompAction::KillProcess)?,
            // Last: it forbids to add filters.
            program(known, SeccompAction::Errno(libc::ENOSYS as u32), SeccompAction::Allow)?,
        ])
    };
    let programs = match build() {
        Ok(programs) => programs,
        Err(cause) => return State::Refused(cause.to_string()),
    };
    for program in programs {
        match apply_filter_all_threads(&program) {
            Ok(()) => {}
            Err(seccompiler::Error::Seccomp(cause)) if cause.raw_os_error() == Some(libc::ENOSYS) => {
                return State::Lacking;
            }
            Err(cause) => return State::Refused(cause.to_string()),
        }
    }
    State::InForce
}

/// Calls and when they match; no condition: always.
type Rules = BTreeMap<c_long, Vec<SeccompRule>>;
type Built<T> = Result<T, seccompiler::BackendError>;

fn program(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Built<BpfProgram> {
    SeccompFilter::new(rules, otherwise, matched, ARCH)?.try_into()
}

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

fn always(calls: &[c_long]) -> Rules {
    calls.iter().map(|call| (*call, vec![])).collect()
}

/// One rule of one condition on an argument.
fn when(argument: u8, compare: SeccompCmpOp, value: u64) -> Built<Vec<SeccompRule>> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, value)?;
    Ok(vec![SeccompRule::new(vec![condition])?])
}

/// What ends the child.
#[rustfmt::skip] // a call a line says no more
fn fatal() -> Built<Rules> {
    let mut rules = always(&[
        // talk to anybody
        libc::SYS_socket, libc::SYS_connect, libc::SYS_bind, libc::SYS_listen,
        libc::SYS_accept, libc::SYS_accept4, libc::SYS_sendto, libc::SYS_sendmsg, libc::SYS_sendmmsg,
        libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_recvmmsg,
        // become or reach another process
        libc::SYS_execve, libc::SYS_execveat, libc::SYS_ptrace, libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev, libc::SYS_kill, libc::SYS_tkill, libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo, libc::SYS_pidfd_open, libc::SYS_pidfd_getfd, libc::SYS_pidfd_send_signal,
        libc::SYS_process_madvise, libc::SYS_kcmp,
        // System V queues and memory, which know no descriptor
        libc::SYS_msgget, libc::SYS_semget, libc::SYS_shmget, libc::SYS_shmat, libc::SYS_mq_open,
        // change what the machine looks like
        libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root, libc::SYS_chroot, libc::SYS_move_mount,
        libc::SYS_open_tree, libc::SYS_fsopen, libc::SYS_fsconfig, libc::SYS_fsmount, libc::SYS_fspick,
        libc::SYS_mount_setattr, libc::SYS_unshare, libc::SYS_setns, libc::SYS_swapon, libc::SYS_swapoff,
        libc::SYS_reboot, libc::SYS_sethostname, libc::SYS_setdomainname, libc::SYS_settimeofday,
        libc::SYS_clock_settime, libc::SYS_clock_adjtime, libc::SYS_adjtimex, libc::SYS_acct, libc::SYS_quotactl,
        libc::SYS_syslog, libc::SYS_vhangup, libc::SYS_personality, libc::SYS_mknodat,
        // become somebody else
        libc::SYS_setuid, libc::SYS_setgid, libc::SYS_setreuid, libc::SYS_setregid, libc::SYS_setresuid,
        libc::SYS_setresgid, libc::SYS_setfsuid, libc::SYS_setfsgid, libc::SYS_setgroups, libc::SYS_capset,
        // large and rarely used parts of the kernel
        libc::SYS_bpf, libc::SYS_perf_event_open, libc::SYS_userfaultfd, libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_io_setup, libc::SYS_keyctl,
        libc::SYS_add_key, libc::SYS_request_key, libc::SYS_init_module, libc::SYS_finit_module,
        libc::SYS_delete_module, libc::SYS_kexec_load, libc::SYS_open_by_handle_at, libc::SYS_name_to_handle_at,
        libc::SYS_fanotify_init, libc::SYS_splice, libc::SYS_tee, libc::SYS_vmsplice,
    ]);
    #[cfg(target_arch = "x86_64")]
    rules.extend(always(&[
        libc::SYS_fork, libc::SYS_vfork, libc::SYS_kexec_file_load, libc::SYS_iopl, libc::SYS_ioperm,
        libc::SYS_modify_ldt, libc::SYS_uselib, libc::SYS_mknod,
    ]));
    // GStreamer wakes its pollers by an unnamed pair, which leads nowhere.
    rules.insert(libc::SYS_socketpair, when(0, SeccompCmpOp::Ne, libc::AF_UNIX as u64)?);
    // A thread shares everything with its process; what does not is a process.
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, when(0, SeccompCmpOp::MaskedEq(thread), 0)?);
    // abort() signals itself.
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, when(0, SeccompCmpOp::Ne, own)?);
    Ok(rules)
}

/// What answers "permission denied".
#[rustfmt::skip] // a call a line says no more
fn denied() -> Built<Rules> {
    let mut rules = always(&[
        libc::SYS_openat, libc::SYS_openat2, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_readlinkat,
        libc::SYS_getdents64, libc::SYS_getcwd, libc::SYS_chdir, libc::SYS_fchdir, libc::SYS_mkdirat,
        libc::SYS_unlinkat, libc::SYS_renameat2, libc::SYS_linkat, libc::SYS_symlinkat, libc::SYS_fchmod,
        libc::SYS_fchmodat, libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_truncate, libc::SYS_ftruncate,
        libc::SYS_fallocate, libc::SYS_statfs, libc::SYS_utimensat, libc::SYS_inotify_init1, libc::SYS_memfd_create,
        libc::SYS_getxattr, libc::SYS_setxattr, libc::SYS_fsetxattr, libc::SYS_sched_setscheduler,
        libc::SYS_sched_setattr, libc::SYS_setpriority,
    ]);
    #[cfg(target_arch = "x86_64")]
    rules.extend(always(&[
        libc::SYS_open, libc::SYS_creat, libc::SYS_access, libc::SYS_stat, libc::SYS_lstat, libc::SYS_readlink,
        libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_unlink, libc::SYS_rename, libc::SYS_link, libc::SYS_symlink,
        libc::SYS_chmod, libc::SYS_chown, libc::SYS_lchown, libc::SYS_inotify_init,
    ]));
    // The length of an open file is asked for with an empty path; other paths are denied.
    let empty = libc::AT_EMPTY_PATH as u64;
    rules.insert(libc::SYS_newfstatat, when(3, SeccompCmpOp::MaskedEq(empty), 0)?);
    rules.insert(libc::SYS_statx, when(2, SeccompCmpOp::MaskedEq(empty), 0)?);
    Ok(rules)
}

/// What decoding and encoding do.
#[rustfmt::skip] // a call a line says no more
fn needed() -> Built<Rules> {
    let mut rules = always(&[
        // descriptors that are open
        libc::SYS_read, libc::SYS_readv, libc::SYS_pread64, libc::SYS_preadv, libc::SYS_write, libc::SYS_writev,
        libc::SYS_lseek, libc::SYS_fstat, libc::SYS_close, libc::SYS_dup, libc::SYS_fcntl,
        // GLib's main contexts and GStreamer's buses
        libc::SYS_ppoll, libc::SYS_eventfd2, libc::SYS_pipe2,
        // memory; liborc generates code, so pages may become executable
        libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_mprotect, libc::SYS_madvise, libc::SYS_brk,
        libc::SYS_membarrier,
        // threads and their locks
        libc::SYS_futex, libc::SYS_set_robust_list, libc::SYS_get_robust_list, libc::SYS_rseq,
        libc::SYS_set_tid_address, libc::SYS_sched_yield, libc::SYS_sched_getaffinity, libc::SYS_sched_getparam,
        libc::SYS_sched_getscheduler, libc::SYS_sched_getattr, libc::SYS_sched_get_priority_max, libc::SYS_sched_get_priority_min,
        libc::SYS_getcpu, libc::SYS_gettid, libc::SYS_getpid, libc::SYS_getppid, libc::SYS_exit,
        libc::SYS_exit_group, libc::SYS_restart_syscall,
        // signals to oneself
        libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_sigaltstack,
        // time, chance, who and where
        libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep, libc::SYS_nanosleep,
        libc::SYS_gettimeofday, libc::SYS_times, libc::SYS_getrusage, libc::SYS_getrandom, libc::SYS_getuid,
        libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid, libc::SYS_uname, libc::SYS_sysinfo,
    ]);
    #[cfg(target_arch = "x86_64")]
    rules.extend(always(&[
        libc::SYS_poll, libc::SYS_dup2, libc::SYS_pipe, libc::SYS_getrlimit, libc::SYS_time, libc::SYS_arch_prctl,
    ]));
    // Names of threads and of anonymous memory.
    let mut names = Vec::new();
    for option in [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA] {
        names.extend(when(0, SeccompCmpOp::Eq, option as u64)?);
    }
    rules.insert(libc::SYS_prctl, names);
    // Limits may be asked for, not set: there is no new value.
    let unset = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![unset])?]);
    Ok(rules)
}
