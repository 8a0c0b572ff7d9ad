//! Memory that was freed and not given back. In: nothing. Out: a smaller process.
//!
//! The allocator (mimalloc, chosen in `main.rs`) keeps freed pages for a second, in case they are wanted again,
//! and gives them back when it next asks the system for more. A server that has become quiet does not ask.
#![allow(unsafe_code)]

/// Which free pages to give back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trim {
    /// Those that have been free for a second.
    Old,
    /// All: they are taken back page by page, so only when nothing goes on.
    All,
}

/// Gives free pages back to the system. Some tens of microseconds, `All` up to a millisecond; for now and then,
/// not for the way of a request.
pub fn trim(which: Trim) {
    // SAFETY: it may be called at any time and on any thread; it looks at the calling thread's free memory only.
    unsafe { libmimalloc_sys::mi_collect(which == Trim::All) };
}
