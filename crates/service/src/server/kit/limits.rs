//! What a client may take of a server: connections, time, bytes.

use std::time::Duration;

use crate::server::kit::pace::Least;

const MIB: u64 = 1 << 20;

/// The limits of one listener.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time; for a further one that goes whose client has longest done nothing.
    pub connections: usize,
    /// Listeners of this process, which share its file descriptors out.
    pub listeners: usize,
    /// For a request's header, and for the next request of a connection.
    pub header_time: Duration,
    /// Bytes of a request's header.
    pub header_bytes: usize,
    /// Bodies that are read at a time; for a further one the slowest goes.
    pub bodies: usize,
    /// What is asked of bodies, and of those who read answers.
    pub body: Least,
    pub answer: Least,
    /// Bytes of answers in memory that are not read yet, over all connections.
    pub answers_bytes: u64,
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
        let (stall, grace) = (Duration::from_secs(20), Duration::from_secs(30));
        Limits {
            connections: 4096,
            listeners: 3,
            header_time: Duration::from_secs(30),
            header_bytes: 64 << 10,
            bodies: 512,
            body: Least { stall, grace, rate: 16 << 10 },
            answer: Least { stall, grace, rate: 4 << 10 },
            answers_bytes: 256 * MIB,
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

/// Shares of the memory that uploads may take, and answers.
const UPLOADS_SHARE: u64 = 8;
const ANSWERS_SHARE: u64 = 16;

impl Limits {
    /// The limits on a machine with so many bytes of memory.
    pub fn within(memory: u64) -> Limits {
        let mut limits = Limits::default();
        limits.uploads_bytes = limits.uploads_bytes.min(memory / UPLOADS_SHARE);
        limits.form_bytes = limits.form_bytes.min(limits.uploads_bytes);
        limits.file_bytes = limits.file_bytes.min(limits.form_bytes);
        limits.answers_bytes = limits.answers_bytes.min(memory / ANSWERS_SHARE);
        limits
    }
}
