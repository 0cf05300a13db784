//! `/files/`: results kept for a while on disk under names that nobody can guess.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_DISPOSITION;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};

use upscaled_core::fault::Fault;

use crate::server::kit::error::ApiError;
use crate::server::kit::reply::{self, FileSource};

/// Random bytes of a name.
const SECRET: usize = 16;
/// Links at a time.
const LINKS_MAX: usize = 4096;

/// A temporary file without a name: whatever ends the program, the kernel removes it.
pub struct Spool {
    file: Arc<File>,
    length: u64,
}

impl Spool {
    /// An empty one, in the system's temporary folder (`TMPDIR`).
    pub fn new() -> Result<Spool> {
        Spool::new_in(&std::env::temp_dir()).context("set TMPDIR to another folder")
    }

    /// An empty one on the file system of a folder; [`upscaled_core::atomic_file::name`] may give it a name there.
    pub fn new_in(folder: &std::path::Path) -> Result<Spool> {
        let file = tempfile::tempfile_in(folder);
        let file = file.with_context(|| format!("making a temporary file in {}", folder.display()))?;
        Ok(Spool { file: Arc::new(file), length: 0 })
    }

    /// Appends; answers the place where `bytes` begin.
    pub fn append(&mut self, bytes: &[u8]) -> Result<u64> {
        let at = self.length;
        self.file.write_all_at(bytes, at).context("writing to a temporary file")?;
        self.length += bytes.len() as u64;
        Ok(at)
    }

    pub fn file(&self) -> &Arc<File> {
        &self.file
    }
}

/// A part of a spool.
#[derive(Clone)]
struct Link {
    secret: String,
    name: String,
    kind: &'static str,
    file: Arc<File>,
    at: u64,
    length: u64,
    until: Instant,
}

/// The links of a server, the oldest first.
pub struct Links {
    links: Mutex<VecDeque<Link>>,
    life: Duration,
    bytes_max: u64,
}

impl Links {
    /// Links that live so long, and so many bytes of them at most: the oldest make room.
    pub fn new(life: Duration, bytes_max: u64) -> Links {
        Links { links: Mutex::default(), life, bytes_max }
    }

    /// Adds a part of a spool; answers its path, `/files/<secret>/<name>`. `name` is plain: no
    /// slash, no quote, no control character.
    pub fn add(&self, spool: &Spool, at: u64, length: u64, name: &str, kind: &'static str) -> Result<String> {
        if length > self.bytes_max {
            return Err(Fault::NoSpace.because(format!("{name} is too large to be kept under a link")));
        }
        let secret = secret()?;
        let path = format!("/files/{secret}/{}", escaped(name));
        let until = Instant::now() + self.life;
        let link = Link { secret, name: name.to_owned(), kind, file: spool.file.clone(), at, length, until };
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        expire(&mut links);
        let mut bytes: u64 = links.iter().map(|l| l.length).sum();
        while bytes + length > self.bytes_max || links.len() >= LINKS_MAX {
            let Some(oldest) = links.pop_front() else { break };
            bytes -= oldest.length;
        }
        links.push_back(link);
        Ok(path)
    }

    /// Forgets links whose time is over; what no link holds any more is gone from the disk.
    pub fn expire(&self) {
        expire(&mut self.links.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn find(&self, secret: &str) -> Option<Link> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        expire(&mut links);
        links.iter().find(|link| link.secret == secret).cloned()
    }
}

fn expire(links: &mut VecDeque<Link>) {
    let now = Instant::now();
    links.retain(|link| link.until > now);
}

/// Hex digits that nobody can guess.
pub fn secret() -> Result<String> {
    let mut bytes = [0u8; SECRET];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).context("random bytes")?;
    if got != SECRET {
        return Err(Fault::Internal.because("too few random bytes"));
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A name as a part of a URL.
fn escaped(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// `GET /files/{secret}/{name}`; HEAD too.
pub async fn get(
    State(links): State<Arc<Links>>,
    Path((secret, _)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let Some(link) = links.find(&secret) else {
        return Err(ApiError::new(StatusCode::NOT_FOUND, "There is no such file, or its time is over"));
    };
    let (source, tag) = (FileSource(link.file, link.at), format!("\"{secret}\""));
    let mut response = reply::ranged(&headers, source, link.length, link.kind, &tag);
    let ascii: String = link.name.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '_' }).collect();
    if let Ok(value) = HeaderValue::from_str(&format!("inline; filename=\"{ascii}\"")) {
        response.headers_mut().insert(CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(life: Duration, bytes: u64) -> Links {
        Links::new(life, bytes)
    }

    fn secret_of(path: &str) -> String {
        path.split('/').nth(2).unwrap().to_owned()
    }

    #[test]
    fn the_oldest_make_room_and_time_ends() {
        let mut spool = Spool::new().unwrap();
        assert_eq!((spool.append(b"abcd").unwrap(), spool.append(b"efgh").unwrap()), (0, 4));
        let store = links(Duration::from_secs(60), 9);
        let add = |at| secret_of(&store.add(&spool, at, 4, "a b\u{e9}.png", "image/png").unwrap());
        let (first, second) = (add(0), add(4));
        assert_ne!(first, second);
        assert_eq!(first.len(), 2 * SECRET);
        let third = add(0);
        assert!(store.find(&first).is_none() && store.find(&second).is_some() && store.find(&third).is_some());
        let path = store.add(&spool, 0, 4, "a b\u{e9}.png", "image/png").unwrap();
        assert!(path.ends_with("/a%20b%C3%A9.png"), "{path}");
        assert_eq!(Fault::of(&store.add(&spool, 0, 10, "x", "image/png").unwrap_err()), Fault::NoSpace);
        let brief = links(Duration::ZERO, 100);
        let gone = secret_of(&brief.add(&spool, 0, 4, "x", "image/png").unwrap());
        assert!(brief.find(&gone).is_none());
    }

    #[test]
    fn nothing_is_left_on_the_disk() {
        let mut spool = Spool::new().unwrap();
        spool.append(b"x").unwrap();
        let target = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&**spool.file())));
        let target = target.unwrap();
        assert!(!target.exists(), "{}", target.display());
    }
}
