//! The `segue` command.

use std::process::ExitCode;

/// Many small, short-lived allocations on one thread each: mimalloc's strength.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    segue::cli::main()
}
