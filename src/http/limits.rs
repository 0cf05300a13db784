//! What a client may take of a server: connections, time, bytes.

use std::time::Duration;

const MIB: u64 = 1 << 20;

/// The limits of one listener.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time; further ones wait to be accepted.
    pub connections: usize,
    /// For a request's header, and for the next request of a connection.
    pub header_time: Duration,
    /// Bytes of a request's header.
    pub header_bytes: usize,
    /// A body, or an answer's reader, may stand still for so long.
    pub stall: Duration,
    /// Bodies and answers may be as slow as they like for so long; then `rate` is asked for.
    pub grace: Duration,
    /// Bytes a second that a body or answer must move on average.
    pub rate: u64,
    /// For a whole upload, however it gets on.
    pub upload_time: Duration,
    /// Bytes of one uploaded file, and of all files of a request.
    pub file_bytes: u64,
    pub form_bytes: u64,
    /// Bytes of uploads in memory, or on the disk, at a time, over all requests.
    pub uploads_bytes: u64,
    /// Files in a request.
    pub files: usize,
    /// Bytes read on from a refused request, so that its client gets to read why.
    pub drain_bytes: u64,
    /// For what runs when the server is told to stop.
    pub end_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 256,
            header_time: Duration::from_secs(30),
            header_bytes: 64 << 10,
            stall: Duration::from_secs(20),
            grace: Duration::from_secs(30),
            rate: 16 << 10,
            upload_time: Duration::from_secs(86_400),
            file_bytes: 256 * MIB,
            form_bytes: 512 * MIB,
            uploads_bytes: 1024 * MIB,
            files: 256,
            drain_bytes: 64 * MIB,
            end_time: Duration::from_secs(20),
        }
    }
}

/// Share of the memory that uploads may take.
const UPLOADS_SHARE: u64 = 8;

impl Limits {
    /// The limits on a machine with so many bytes of memory.
    pub fn within(memory: u64) -> Limits {
        let mut limits = Limits::default();
        limits.uploads_bytes = limits.uploads_bytes.min(memory / UPLOADS_SHARE);
        limits.form_bytes = limits.form_bytes.min(limits.uploads_bytes);
        limits.file_bytes = limits.file_bytes.min(limits.form_bytes);
        limits
    }

    /// The time within which so many bytes must have moved.
    pub fn time_for(&self, bytes: u64) -> Duration {
        self.grace + Duration::from_secs(bytes / self.rate.max(1))
    }
}
