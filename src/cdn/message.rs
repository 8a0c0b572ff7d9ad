//! What is signed, put together on the stack: verification allocates nothing.

use super::Refused;

/// Up to `N` bytes. A longer message is a malformed token.
pub(super) struct Message<const N: usize> {
    pub(super) buffer: [u8; N],
    pub(super) length: usize,
}

impl<const N: usize> Default for Message<N> {
    fn default() -> Message<N> {
        Message { buffer: [0; N], length: 0 }
    }
}

impl<const N: usize> Message<N> {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let room = self.buffer.get_mut(self.length..self.length + bytes.len()).ok_or(Refused::Malformed)?;
        room.copy_from_slice(bytes);
        self.length += bytes.len();
        Ok(())
    }

    /// Appends with percent escapes undone (RFC 3986 §2.1).
    pub(super) fn push_decoded(&mut self, escaped: &str) -> Result<(), Refused> {
        let mut pieces = escaped.split('%');
        self.push(pieces.next().unwrap_or_default().as_bytes())?;
        for piece in pieces {
            let digits = piece.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
            let byte = u8::from_str_radix(digits.ok_or(Refused::Malformed)?, 16).map_err(|_| Refused::Malformed)?;
            self.push(&[byte])?;
            self.push(&piece.as_bytes()[2..])?;
        }
        Ok(())
    }
}
