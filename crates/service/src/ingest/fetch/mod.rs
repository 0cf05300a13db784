//! Downloads to disk: within limits of bytes, time and redirects, resumed where they broke off, and
//! only from where a setting allows.

mod address;
mod own;
mod resolver;

use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use own::NotOwn;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, ETAG, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE};
use reqwest::{Client, Response, StatusCode};
use resolver::{AddressRefused, PublicResolver, check_literal};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout_at};
use url::Url;

use upscaled_core::atomic_file;
use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_jobs::state::versions;

/// A server has to take a connection, and then to send something, within so long.
const CONNECT: Duration = Duration::from_secs(10);
const STALL: Duration = Duration::from_secs(20);
/// From one address to the next.
const REDIRECTS_MAX: usize = 5;
/// Tries at a download that breaks off, and the rest before the second; it doubles with each.
const TRIES_MAX: u32 = 5;
const REST: Duration = Duration::from_millis(500);
/// Longest address, in bytes.
pub const URL_MAX: usize = 8192;
/// Version of the file that tells what a part is a part of.
const VERSION: u32 = 1;

/// How much a download may take.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    pub bytes: u64,
    pub time: Duration,
}

/// A download that did not come about.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address cannot be one, or is of no kind that is fetched.
    #[error("{0}")]
    Address(String),
    /// It leads where nobody may be asked for.
    #[error("downloads from {0} are not allowed")]
    Forbidden(String),
    #[error("the file is larger than {} MiB", .0 >> 20)]
    TooLarge(u64),
    #[error("the download took longer than {} s", .0.as_secs())]
    TooSlow(Duration),
    /// What the server or the way to it said.
    #[error("{0}")]
    Unreachable(String),
    /// The disk here failed.
    #[error(transparent)]
    Here(#[from] anyhow::Error),
}

/// What a part on the disk is a part of; beside it, so that another process can go on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct PartOf {
    version: u32,
    /// `ETag` or `Last-Modified`, as it came: without one nothing is gone on with.
    validator: String,
}

/// How one request ended, short of an error for good.
enum FetchStep {
    Whole,
    /// Broke off; another try may go on.
    Broken(String),
}

/// Fetches files.
#[derive(Clone)]
pub struct Fetcher {
    client: Client,
    private: bool,
}

impl Fetcher {
    /// `private`: addresses of this machine and of private networks are allowed too.
    pub fn new(private: bool) -> Result<Fetcher> {
        Ok(Fetcher { client: Fetcher::client(private, private)?, private })
    }

    /// `names` may lead to such addresses; connections (`own`) to this machine.
    fn client(names: bool, own: bool) -> Result<Client> {
        crate::tls::init();
        Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .dns_resolver(Arc::new(PublicResolver { private: names }))
            .connector_layer(NotOwn { private: own })
            .connect_timeout(CONNECT)
            .read_timeout(STALL)
            .referer(false)
            .user_agent(concat!("upscaled/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("preparing downloads")
    }

    /// An address that may be fetched, as far as can be told before anybody is asked.
    pub fn check(&self, text: &str) -> Result<Url, FetchError> {
        if text.len() > URL_MAX {
            return Err(FetchError::Address(format!("the URL is longer than {URL_MAX} bytes")));
        }
        let url = Url::parse(text).map_err(|error| FetchError::Address(format!("this is no URL: {error}")))?;
        self.check_url(&url)?;
        Ok(url)
    }

    fn check_url(&self, url: &Url) -> Result<(), FetchError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(FetchError::Address(format!("only http and https are fetched, not {}", url.scheme())));
        }
        let Some(host) = url.host() else { return Err(FetchError::Address("the URL names no host".into())) };
        check_literal(host, self.private).map_err(|AddressRefused(host)| FetchError::Forbidden(host))
    }

    /// Fetches `url` into `target`, durably; what an earlier try left beside it is gone on with.
    pub async fn fetch(&self, url: &Url, target: &Path, limits: FetchLimits) -> Result<(), FetchError> {
        let end = Instant::now() + limits.time;
        let part = part_of(target);
        let mut rest = REST;
        let mut tries = 0;
        loop {
            tries += 1;
            let step = timeout_at(end, self.try_once(url, target, &part, limits));
            let broken = match step.await.map_err(|_| FetchError::TooSlow(limits.time))?? {
                FetchStep::Whole => break,
                FetchStep::Broken(why) => why,
            };
            if tries >= TRIES_MAX {
                return Err(FetchError::Unreachable(broken));
            }
            tracing::info!("a download from {} broke off, going on: {broken}", place(url));
            sleep(rest).await;
            rest *= 2;
        }
        let target = target.to_owned();
        let sealed = move || atomic_file::seal(&part, &target).and_then(|()| atomic_file::remove(&sidecar(&target)));
        tokio::task::spawn_blocking(sealed).await.context("keeping a download")??;
        Ok(())
    }

    /// Sends a small body; no redirect is followed, and the answer's body is not read. Its status.
    pub async fn post(
        &self,
        url: &Url,
        headers: &[(&'static str, String)],
        body: Vec<u8>,
        time: Duration,
    ) -> Result<u16, FetchError> {
        self.check_url(url)?;
        let mut request = self.client.post(url.clone()).timeout(time).body(body);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        match request.send().await {
            Ok(response) => Ok(response.status().as_u16()),
            Err(error) => Err(refused(&error).unwrap_or_else(|| FetchError::Unreachable(words(&error)))),
        }
    }

    /// One request, redirects followed, from where the part ends.
    async fn try_once(
        &self,
        url: &Url,
        target: &Path,
        part: &Path,
        limits: FetchLimits,
    ) -> Result<FetchStep, FetchError> {
        let known: PartOf = versions::read(&sidecar(target), VERSION).ok().flatten().unwrap_or_default();
        let there = std::fs::metadata(part).map_or(0, |meta| meta.len());
        let there = if known.validator.is_empty() { 0 } else { there };
        let mut at = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            self.check_url(&at)?;
            let mut request = self.client.get(at.clone()).header(ACCEPT_ENCODING, "identity");
            if there > 0 {
                request = request.header(RANGE, format!("bytes={there}-")).header(IF_RANGE, &known.validator);
            }
            let response = match request.send().await {
                Ok(response) => response,
                Err(error) => return refused(&error).map_or_else(|| Ok(FetchStep::Broken(words(&error))), Err),
            };
            let status = response.status();
            if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
                let next = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
                let next = next.and_then(|to| at.join(to).ok());
                at = next.ok_or_else(|| FetchError::Unreachable(format!("{} redirects to nowhere", place(&at))))?;
                continue;
            }
            return self.take(response, there, target, part, limits).await;
        }
        Err(FetchError::Unreachable(format!("more than {REDIRECTS_MAX} redirects from {}", place(url))))
    }

    /// Writes an answer to the part.
    async fn take(
        &self,
        mut response: Response,
        there: u64,
        target: &Path,
        part: &Path,
        limits: FetchLimits,
    ) -> Result<FetchStep, FetchError> {
        let start = match response.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT if starts_at(&response) == Some(there) => there,
            StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT if there > 0 => {
                // It is another file now, or the part was whole: from the start, without a doubt.
                atomic_file::remove(&sidecar(target))?;
                return Ok(FetchStep::Broken("the server cannot go on where it broke off".into()));
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Ok(FetchStep::Broken(format!("the server answered {status}")));
            }
            status => return Err(FetchError::Unreachable(format!("the server answered {status}"))),
        };
        let length = response.content_length();
        if length.is_some_and(|length| start.saturating_add(length) > limits.bytes) {
            return Err(FetchError::TooLarge(limits.bytes));
        }
        let said = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        // A weak tag says that bytes may differ.
        let validator = said(ETAG).filter(|tag| !tag.starts_with("W/")).or_else(|| said(LAST_MODIFIED));
        let mut file = open_part(part, start)?;
        let of = PartOf { version: VERSION, validator: validator.unwrap_or_default() };
        versions::write(&sidecar(target), &of, atomic_file::Access::Private)?;
        let mut got = start;
        loop {
            let piece = match response.chunk().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(error) => return Ok(FetchStep::Broken(words(&error))),
            };
            got += piece.len() as u64;
            if got > limits.bytes {
                return Err(FetchError::TooLarge(limits.bytes));
            }
            let (back, written) = tokio::task::spawn_blocking(move || {
                let written = file.write_all(&piece);
                (file, written)
            })
            .await
            .context("writing a download")?;
            file = back;
            written.with_context(|| format!("writing {}", escape(part)))?;
        }
        match length {
            Some(length) if got != start + length => {
                Ok(FetchStep::Broken("the connection was closed too early".into()))
            }
            _ => Ok(FetchStep::Whole),
        }
    }
}

fn part_of(target: &Path) -> PathBuf {
    target.with_extension("part")
}

fn sidecar(target: &Path) -> PathBuf {
    target.with_extension("part-of.json")
}

fn open_part(part: &Path, at: u64) -> Result<std::fs::File, FetchError> {
    let open = || {
        // Never through a link that somebody put there.
        let mut options = std::fs::File::options();
        options.write(true).create(true).truncate(false).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let mut file = options.open(part)?;
        file.set_len(at)?;
        file.seek(SeekFrom::Start(at))?;
        Ok::<_, std::io::Error>(file)
    };
    Ok(open().with_context(|| format!("writing {}", escape(part)))?)
}

/// The byte at which an answer of 206 begins.
fn starts_at(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// Host and port of an address: paths and queries may hold secrets.
pub fn place(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}{port}", url.host_str().unwrap_or("?"))
}

/// That the resolver refused, if it did.
fn refused(error: &reqwest::Error) -> Option<FetchError> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(AddressRefused(host)) = error.downcast_ref() {
            return Some(FetchError::Forbidden(host.clone()));
        }
        cause = error.source();
    }
    None
}

/// What kept a request from its answer, without the address.
fn words(error: &reqwest::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    let what = if error.is_connect() {
        "no connection"
    } else if error.is_timeout() {
        "the server was silent for too long"
    } else {
        "the download broke off"
    };
    if error.is_timeout() { what.into() } else { format!("{what} ({last})") }
}

impl FetchError {
    /// The fault that others decide on.
    pub fn fault(&self) -> Fault {
        match self {
            FetchError::Here(error) => Fault::of(error),
            FetchError::TooLarge(_) => Fault::Unsupported,
            FetchError::Unreachable(_) | FetchError::TooSlow(_) => Fault::NotFound,
            FetchError::Address(_) | FetchError::Forbidden(_) => Fault::Config,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    const LIMITS: FetchLimits = FetchLimits { bytes: 1000, time: Duration::from_secs(10) };

    /// A server that gives this answer to everybody, and its port.
    fn server(answer: impl Fn(u16) -> String + Send + 'static) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                if stream.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {
                    let _ = stream.write_all(answer(port).as_bytes());
                }
            }
        });
        port
    }

    async fn fetched(fetcher: &Fetcher, url: &str) -> Result<Vec<u8>, FetchError> {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("payload");
        fetcher.fetch(&fetcher.check(url)?, &target, LIMITS).await?;
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["payload"]);
        Ok(std::fs::read(&target).unwrap())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn every_step_of_a_redirect_is_looked_at() {
        let port = server(|port| {
            format!(
                "HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: http://127.0.0.1:{port}/\r\nContent-Length: 0\r\n\r\n"
            )
        });
        // Names may lead here, addresses may not: so the first step is taken, and the second refused.
        let fetcher = Fetcher { private: false, ..Fetcher::new(true).unwrap() };
        let error = fetched(&fetcher, &format!("http://localhost:{port}/")).await.unwrap_err();
        assert!(matches!(&error, FetchError::Forbidden(host) if host == "127.0.0.1"), "{error}");
        // A name that leads here is refused by the resolver.
        let error = fetched(&Fetcher::new(false).unwrap(), &format!("http://localhost:{port}/")).await.unwrap_err();
        assert!(matches!(&error, FetchError::Forbidden(host) if host == "localhost"), "{error}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_connection_to_this_machine_is_closed_before_anything_is_asked() {
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = asked.clone();
        let port = server(move |_| {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc".into()
        });
        // As if a name had led here in spite of the resolver.
        let fetcher = Fetcher { private: false, client: Fetcher::client(true, false).unwrap() };
        let url = format!("http://localhost:{port}/");
        let error = fetched(&fetcher, &url).await.unwrap_err();
        assert!(matches!(&error, FetchError::Forbidden(host) if host == "127.0.0.1" || host == "::1"), "{error}");
        let error = fetcher.post(&fetcher.check(&url).unwrap(), &[], Vec::new(), LIMITS.time).await.unwrap_err();
        assert!(matches!(error, FetchError::Forbidden(_)), "{error}");
        // The server hears of a closed connection, and of no request.
        let fetcher = Fetcher::new(true).unwrap();
        assert_eq!(fetched(&fetcher, &url).await.unwrap(), b"abc");
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn bodies_with_and_without_a_length() {
        let fetcher = Fetcher::new(true).unwrap();
        for (answer, want) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc", Some("abc")),
            ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcd", Some("abcd")),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1001\r\nConnection: close\r\n\r\n", None),
            ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", None),
        ] {
            let port = server(move |_| answer.into());
            let got = fetched(&fetcher, &format!("http://localhost:{port}/")).await;
            assert_eq!(got.ok(), want.map(|want| want.as_bytes().to_vec()), "{answer}");
        }
    }
}
