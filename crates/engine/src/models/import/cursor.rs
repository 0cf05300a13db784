//! Bytes of a pickle, read from the front.

use anyhow::Result;

use super::weights::damaged;

/// Longest line of the old text instructions, and longest name of a function, in bytes.
const MAX_LINE: usize = 4096;

/// Bytes and the place reached in them.
pub(super) struct ByteReader<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl<'a> ByteReader<'a> {
    /// The next bytes, as many as told.
    pub(super) fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(count).ok().and_then(|count| rest.get(..count));
        let taken = taken.ok_or_else(|| damaged("its pickle ends early"))?;
        self.at += taken.len();
        Ok(taken)
    }

    /// An unsigned number, little endian, of up to eight bytes.
    pub(super) fn number(&mut self, bytes: u64) -> Result<u64> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |sum, &b| sum << 8 | u64::from(b)))
    }

    /// A line of text, without its end.
    pub(super) fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let end =
            rest.iter().take(MAX_LINE).position(|&b| b == b'\n').ok_or_else(|| damaged("a line in its pickle"))?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| damaged("a line in its pickle is not UTF-8"))
    }
}
