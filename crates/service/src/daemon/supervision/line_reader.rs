//! Lines out of a child's pipe, with a bound on their length.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

/// Bytes read at once.
const CHUNK: usize = 16 << 10;

/// Reads a pipe line by line. What is longer than the bound is dropped, line by line.
pub(crate) struct Lines {
    pipe: Receiver,
    buffer: Vec<u8>,
    /// Bytes of `buffer` already given out.
    taken: usize,
    longest: usize,
    /// The rest of the current line is dropped.
    skipping: bool,
    ended: bool,
}

impl Lines {
    /// Lines of at most `longest` bytes out of the reading end of a pipe.
    pub(crate) fn new(pipe: impl Into<OwnedFd>, longest: usize) -> Result<Lines> {
        let pipe = Receiver::from_owned_fd(pipe.into()).context("reading a child's pipe")?;
        Ok(Lines { pipe, buffer: Vec::new(), taken: 0, longest, skipping: false, ended: false })
    }

    /// The next line without its end; `None` at the end of the pipe. Safe to drop while it waits.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(line) = self.buffered() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            let mut chunk = [0u8; CHUNK];
            match self.pipe.read(&mut chunk).await {
                Ok(0) | Err(_) => {
                    self.ended = true;
                    // A last line without an end is still a line.
                    if !self.skipping && self.taken < self.buffer.len() {
                        self.buffer.push(b'\n');
                    }
                }
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
            }
        }
    }

    fn buffered(&mut self) -> Option<Vec<u8>> {
        loop {
            let rest = &self.buffer[self.taken..];
            match rest.iter().position(|&byte| byte == b'\n') {
                Some(end) => {
                    let line = rest[..end].to_vec();
                    self.taken += end + 1;
                    let skipped = std::mem::take(&mut self.skipping);
                    if !skipped && line.len() <= self.longest {
                        return Some(line);
                    }
                }
                None => {
                    self.buffer.drain(..self.taken);
                    self.taken = 0;
                    if self.buffer.len() > self.longest {
                        self.buffer.clear();
                        self.skipping = true;
                    }
                    return None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test(flavor = "current_thread")]
    async fn lines_are_split_and_bounded() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut lines = Lines::new(reader, 20_000).unwrap();
        writer.write_all(b"one\n\ntwo\n").unwrap();
        assert_eq!(lines.next().await.unwrap(), b"one");
        assert_eq!(lines.next().await.unwrap(), b"");
        assert_eq!(lines.next().await.unwrap(), b"two");
        writer.write_all(&[b'x'; 50_000]).unwrap();
        writer.write_all(b"\nlast").unwrap();
        drop(writer);
        assert_eq!(lines.next().await.unwrap(), b"last");
        assert_eq!(lines.next().await, None);
    }
}
