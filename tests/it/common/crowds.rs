//! Crowds of clients that stall, and those who want to be answered meanwhile.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Clients of a crowd; more than an earlier version had connections, and than bodies are read at a time.
const CROWD: usize = 1000;
const BODIES: usize = 512;
/// Connections of a listener.
const CONNECTIONS: usize = 4096;
/// Others are to be answered within this time, on a machine with nothing else to do; a busy one has so many tries.
const QUICK: Duration = Duration::from_secs(1);
const TRIES: usize = 20;

/// A listener under attack.
pub(crate) struct Target<'a> {
    pub address: SocketAddr,
    pub token: &'a str,
    /// A request with a body: path, type, body, and the status that it has.
    pub post: (&'a str, &'a str, &'a [u8], u16),
}

/// Where the clients of a crowd stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stall {
    Header,
    Body,
    Reading,
}

/// As many open files as a crowd needs; whether there are so many.
fn may_open(count: usize) -> bool {
    let need = count as u64 + 256;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    soft >= need || setrlimit(Resource::RLIMIT_NOFILE, need.min(hard), hard).is_ok() && hard >= need
}

impl Target<'_> {
    fn head(&self, method: &str, path: &str, signed: bool, more: &str) -> String {
        let token = if signed { format!("Authorization: Bearer {}\r\n", self.token) } else { String::new() };
        format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{token}{more}\r\n", self.address)
    }

    fn send(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("the listener takes connections");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
        // One that is closed at once is closed.
        let _ = stream.write_all(bytes);
        stream
    }

    /// The status of a request, and how long it took.
    fn ask(&self, request: &[u8]) -> (u16, Duration) {
        let start = Instant::now();
        (status(&mut self.send(request)), start.elapsed())
    }

    fn health(&self) -> (u16, Duration) {
        self.ask(self.head("GET", "/health", false, "Connection: close\r\n").as_bytes())
    }

    fn post(&self) -> (u16, Duration) {
        let (path, kind, body, _) = self.post;
        let more = format!("Connection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
        self.ask(&[self.head("POST", path, true, &more).as_bytes(), body].concat())
    }

    /// Returns what a client sends before it stands still.
    fn begun(&self, stall: Stall, signed: bool) -> Vec<u8> {
        let (path, kind, body, _) = self.post;
        let length = format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
        let head = self.head("POST", path, signed, &length);
        match stall {
            Stall::Header => head.as_bytes()[..head.len() - 2].to_vec(),
            Stall::Body => [head.as_bytes(), &body[..1]].concat(),
            // More answers than sockets hold; those who may not ask have short ones, and are to cost the test no more
            Stall::Reading => {
                self.head("GET", "/openapi.json", signed, "").repeat(if signed { 50 } else { 5 }).into_bytes()
            }
        }
    }

    fn crowd(&self, count: usize, begun: &[u8]) -> Vec<TcpStream> {
        (0..count).map(|_| self.send(begun)).collect()
    }

    /// Whether others are answered quickly.
    fn is_open(&self, what: &str) {
        let mut told = Vec::new();
        let quick = (0..TRIES).any(|_| {
            let answers = [self.health(), self.post()];
            let right = [200, self.post.3] == answers.map(|(status, _)| status);
            told.push(answers);
            right && answers.iter().all(|(_, time)| *time <= QUICK)
        });
        assert!(quick, "{what}: {told:?}");
    }

    /// Holds a listener to it that no crowd keeps others out.
    pub(crate) fn stands_crowds(&self) {
        assert!(may_open(CROWD), "too few file descriptors for this test");
        self.is_open("nobody else");
        for stall in [Stall::Header, Stall::Body, Stall::Reading] {
            for signed in [false, true] {
                let mut crowd = self.crowd(CROWD, &self.begun(stall, signed));
                self.is_open(&format!("{stall:?}, signed: {signed}"));
                match (stall, signed) {
                    // Nothing is read of those who may not ask
                    (Stall::Body, false) => crowd.iter_mut().for_each(|client| assert_eq!(status(client), 401)),
                    (Stall::Body, true) => {
                        // The first make room for the last, and are told so
                        let mut ended = crowd.iter_mut().take(CROWD - BODIES).map(status);
                        assert!(ended.all(|status| status == 408));
                    }
                    _ => {}
                }
            }
        }
    }

    /// More connections than there may be: those that do nothing go for those that come.
    pub(crate) fn stands_floods(&self) {
        if !may_open(2 * CONNECTIONS) {
            return eprintln!("skipped: too few file descriptors");
        }
        let begun = self.begun(Stall::Header, false);
        let mut crowd = self.crowd(CONNECTIONS + 200, &begun);
        self.is_open("more than there may be");
        let first = &mut crowd[0];
        assert_eq!(first.read(&mut [0; 100]).unwrap_or(0), 0, "the first one is still there");
        let last = crowd.last_mut().expect("a client");
        last.write_all(b"Connection: close\r\n\r\n").expect("the last one is still there");
        assert_eq!(status(last), 401);
    }
}

/// The status of an answer that is read to its end; 0 where there is none.
fn status(stream: &mut TcpStream) -> u16 {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let line = String::from_utf8_lossy(&answer);
    line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}
