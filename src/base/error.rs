//! One error for the whole program: what kind, what failed for which input, and what caused it.
//!
//! The kind decides the HTTP status and the exit code at the boundary; the message is for a person
//! and names the input; the source keeps the chain, printed once, at the boundary.

use std::error::Error as StdError;
use std::fmt;

use super::redact;

/// Shorthand used throughout the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The command line or the configuration is wrong: exit code 2.
    Usage,
    /// The input is wrong and will stay wrong: refuse it.
    Invalid,
    /// There is no such thing.
    NotFound,
    /// A limit is reached; trying later may work.
    Busy,
    /// A part we depend on is not answering; trying later may work.
    Unavailable,
    /// Somebody asked for it to stop.
    Cancelled,
    /// Our own fault or the machine's.
    Internal,
}

/// An error with its kind, its message and the chain below it.
pub struct Error {
    kind: Kind,
    message: String,
    tag: Option<&'static str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A new error without a cause. `message` is lowercase, without a full stop, and names the input.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), tag: None, source: None }
    }

    /// The command line or configuration is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Error::new(Kind::Usage, message)
    }

    /// The input is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::new(Kind::Invalid, message)
    }

    /// There is no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Error::new(Kind::NotFound, message)
    }

    /// Our own fault or the machine's.
    pub fn internal(message: impl Into<String>) -> Self {
        Error::new(Kind::Internal, message)
    }

    /// Adds the cause below this message.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says in one word of a fixed list what it was, for whoever counts errors.
    #[must_use]
    pub fn tagged(mut self, tag: &'static str) -> Self {
        self.tag = Some(tag);
        self
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The word of this error, or of the nearest below it that has one.
    pub fn tag(&self) -> Option<&'static str> {
        let below = || self.source.as_ref()?.downcast_ref::<Error>()?.tag();
        self.tag.or_else(below)
    }

    /// The message and every cause below it on one line, for the boundary; without the secrets of URLs.
    pub fn chain(&self) -> String {
        let mut line = self.message.clone();
        let mut next = self.source();
        while let Some(cause) = next {
            line.push_str(": ");
            line.push_str(&cause.to_string());
            next = cause.source();
        }
        // Names and causes are other people's text: no line break and nothing that steers a terminal.
        redact::text(&line.replace(char::is_control, " ")).into_owned()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.chain())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Adds the place and the input to an error from below (`STYLE` 14: `?` should not lose the place).
pub trait Context<T> {
    /// Wraps the error with a message made only when there is one. The kind is kept when the cause
    /// is already ours; an I/O error keeps "not found" and is otherwise internal.
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T> Context<T> for std::io::Result<T> {
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|cause| {
            let kind = match cause.kind() {
                std::io::ErrorKind::NotFound => Kind::NotFound,
                _ => Kind::Internal,
            };
            Error::new(kind, message()).because(cause)
        })
    }
}

impl<T> Context<T> for Result<T> {
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|cause| Error::new(cause.kind, message()).because(cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_one_line_from_the_outside_in() {
        let inner = std::io::Error::other("disk\nfull\x1b[2J");
        let outer: Result<()> = Err(inner).context(|| "cannot write segment 7");
        let top = outer.context(|| "cannot publish song.wav").unwrap_err();
        assert_eq!(top.chain(), "cannot publish song.wav: cannot write segment 7: disk full [2J");
        assert_eq!(top.kind(), Kind::Internal);
    }

    #[test]
    fn a_tag_is_found_below_and_the_nearest_counts() {
        let inner: Result<()> = Err(Error::invalid("it crashed").tagged("crashed"));
        let outer = inner.context(|| "cannot decode song.wav").unwrap_err();
        assert_eq!((outer.tag(), outer.chain()), (Some("crashed"), "cannot decode song.wav: it crashed".into()));
        assert_eq!(Error::new(outer.kind(), "no").because(outer).tagged("memory").tag(), Some("memory"));
        assert_eq!(Error::internal("disk full").because(std::io::Error::other("no room")).tag(), None);
    }
}
