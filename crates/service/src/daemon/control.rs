//! The control socket: one request and one answer a line, JSON both, and the types of both.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use upscaled_core::config::chosen::Chosen;
use upscaled_core::fault::{Fault, one_line};
use upscaled_core::path_text::escape;
use upscaled_core::types::progress::Progress;
use upscaled_core::types::status::{JobState, JobStatus};

/// Connections served at once; more are closed.
const CONNECTIONS_MAX: usize = 16;
/// Bytes of a request's line, and of an answer's as the client takes it.
const REQUEST_MAX: u64 = 4 << 20;
const ANSWER_MAX: u64 = 1 << 30;
/// Requests not yet taken up by the daemon.
pub const REQUESTS_MAX: usize = 32;
/// The client waits so long for an answer; stopping a job takes up to 5 s.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Longest path of a socket's address (`sun_path` less its final zero).
const ADDRESS_MAX: usize = 107;

/// A request to a daemon. Jobs are paths relative to input/, as `core::path_text`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The daemon and one job.
    Status {
        job: String,
    },
    /// The daemon and its jobs, at little cost: the daemon, the running jobs, `count` jobs of the queue behind its first
    /// `from`, and the last that ended. Of status.json only those of running jobs are read.
    Glance {
        from: usize,
        count: usize,
    },
    /// Files of people, none of them hidden. `settings`: chosen for these jobs alone; without, they keep those they have.
    Add {
        jobs: Vec<String>,
        #[serde(default)]
        settings: Option<Chosen>,
    },
    /// The payload of a request of the video service, by the request's key.
    Serve {
        key: String,
    },
    /// A finished download, its path in input/, becomes the file and the job of that name, with these settings. Refused
    /// as a [`Fault::Conflict`] where the name is taken.
    Bring {
        from: String,
        job: String,
        settings: Chosen,
    },
    Remove {
        job: String,
    },
    /// To this place of the queue, the first being 1.
    Move {
        job: String,
        place: usize,
    },
    /// One job; without one, all work.
    Pause {
        job: Option<String>,
    },
    Resume {
        job: Option<String>,
    },
    /// Without a job: the running one; an error where several run.
    Cancel {
        job: Option<String>,
    },
    /// Without a job: all that have failed; with `removed` those that were taken out of the queue instead, `since` a
    /// moment ([`clock::since`](upscaled_core::clock::since)). `fresh` throws away what was done and takes today's settings.
    Retry {
        job: Option<String>,
        fresh: bool,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        removed: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<String>,
    },
}

/// What is shown of a queue where nothing else is asked for.
pub const PAGE: usize = 100;

impl Request {
    /// One job again, with what was done.
    pub fn retry(job: String) -> Request {
        Request::Retry { job: Some(job), fresh: false, removed: false, since: None }
    }

    /// What people see of the daemon who ask for nothing more.
    pub fn first_page() -> Request {
        Request::Glance { from: 0, count: PAGE }
    }
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// Why it could not be done.
    pub fault: Option<Fault>,
    /// What was done or went wrong, in words.
    pub message: String,
    /// `None` when no daemon runs.
    pub daemon: Option<DaemonView>,
    pub jobs: Vec<JobView>,
}

impl Response {
    pub fn done(message: impl Into<String>) -> Response {
        Response { message: message.into(), ..Response::default() }
    }

    /// The answer as a result: an error carries the daemon's fault and words.
    pub fn into_result(self) -> Result<Response> {
        match self.fault {
            Some(fault) => Err(fault.because(self.message)),
            None => Ok(self),
        }
    }
}

impl From<anyhow::Error> for Response {
    fn from(error: anyhow::Error) -> Response {
        Response { fault: Some(Fault::of(&error)), message: one_line(&error), ..Response::default() }
    }
}

/// The daemon at a glance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DaemonView {
    pub pid: u32,
    pub version: String,
    /// All work is paused by a person.
    pub paused: bool,
    /// Why nothing runs, in words, when there is a reason.
    pub held: Option<String>,
    /// Files in input/ that are not settled yet.
    pub settling: usize,
    pub queued: usize,
    /// Those of them that are paused one by one, and those that wait for something.
    #[serde(default)]
    pub paused_jobs: usize,
    #[serde(default)]
    pub waiting: usize,
    /// Requests of the video service that keep a place while they do not run: they go on after a failure.
    #[serde(default)]
    pub kept: usize,
    /// Jobs that ended since it began.
    #[serde(default)]
    pub done: u64,
    #[serde(default)]
    pub failed: u64,
    /// Of those that are done: frames, and bytes of their sources and outputs.
    #[serde(default)]
    pub frames: u64,
    #[serde(default)]
    pub source_bytes: u64,
    #[serde(default)]
    pub output_bytes: u64,
}

/// A job at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    pub job: String,
    pub state: JobState,
    /// What it does or why it ended, in words.
    pub activity: String,
    /// Place in the queue, the first being 1; `None` for jobs that have left it.
    pub place: Option<usize>,
    /// A running job's figures.
    pub progress: Option<Progress>,
    /// Its status.json; left out of a glance, but for running jobs.
    pub status: Option<JobStatus>,
    /// The finished file, as `core::path_text`.
    pub output: Option<String>,
    /// Those that were chosen for it alone; left out of a glance, but for the running job and those that ended.
    #[serde(default, skip_serializing_if = "Chosen::is_empty")]
    pub settings: Chosen,
}

/// A request on its way to the daemon's loop.
pub struct Command {
    pub request: Request,
    pub reply: oneshot::Sender<Response>,
}

impl Command {
    /// Puts a request to the daemon's loop, and waits for its answer, which may be a refusal.
    ///
    /// # Errors
    /// [`Fault::Stopped`] when there is no loop to answer any more.
    pub async fn send(to: &mpsc::Sender<Command>, request: Request) -> Result<Response> {
        let stopping = || Fault::Stopped.because("the daemon stops");
        let (reply, answer) = oneshot::channel();
        to.send(Command { request, reply }).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }
}

/// The listening socket; its file is removed with it.
pub struct Server {
    path: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Server {
    /// Listens at `path`, replacing what a dead daemon left there. Call it only under the daemon's lock.
    pub fn start(path: &Path, asked: mpsc::Sender<Command>) -> Result<Server> {
        let fresh = path.with_extension("sock-new");
        let _ = std::fs::remove_file(&fresh);
        let listener = with_address(&fresh, |address| UnixListener::bind(address))
            .with_context(|| format!("opening the control socket {}", escape(path)))?;
        // Renamed to its name only when nobody else can use it.
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))
            .and_then(|()| std::fs::rename(&fresh, path))
            .with_context(|| format!("opening the control socket {}", escape(path)))?;
        tokio::spawn(accept(listener, asked));
        Ok(Server { path: path.to_path_buf() })
    }
}

async fn accept(listener: UnixListener, asked: mpsc::Sender<Command>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while !asked.is_closed() {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Ok(place) = places.clone().try_acquire_owned() else { continue };
                let asked = asked.clone();
                tokio::spawn(async move {
                    let _place = place;
                    if let Err(error) = serve(stream, asked).await {
                        tracing::debug!("control connection: {error:#}");
                    }
                });
            }
            Err(error) => {
                tracing::warn!("the control socket: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, asked: mpsc::Sender<Command>) -> Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = tokio::io::BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let read = (&mut reader).take(REQUEST_MAX).read_until(b'\n', &mut line).await?;
        if read == 0 {
            return Ok(());
        }
        let response = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => {
                let (reply, answer) = oneshot::channel();
                asked.send(Command { request, reply }).await.context("the daemon stops")?;
                answer.await.unwrap_or_else(|_| Fault::Stopped.because("the daemon stops").into())
            }
            Err(error) => Fault::Config.because(format!("no request this daemon knows: {error}")).into(),
        };
        let mut answer = serde_json::to_vec(&response)?;
        answer.push(b'\n');
        writer.write_all(&answer).await?;
        if line.last() != Some(&b'\n') {
            return Ok(());
        }
    }
}

/// The other end, for the command line.
pub struct Client {
    stream: BlockingStream,
}

impl Client {
    /// `None` when no daemon listens at `path`.
    pub fn connect(path: &Path) -> Result<Option<Client>> {
        use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
        match with_address(path, |address| BlockingStream::connect(address)) {
            Ok(stream) => {
                stream.set_read_timeout(Some(ANSWER_LIMIT))?;
                stream.set_write_timeout(Some(ANSWER_LIMIT))?;
                Ok(Some(Client { stream }))
            }
            Err(error) if matches!(error.kind(), ConnectionRefused | NotFound) => Ok(None),
            Err(error) if error.kind() == PermissionDenied => Err(Fault::Io.because(format!(
                "the daemon at {} is another user's: give the command as that user (sudo -u USER upscaled ..) or as root",
                escape(path)
            ))),
            Err(error) => Err(error).with_context(|| format!("connecting to the daemon at {}", escape(path))),
        }
    }

    /// Asks and waits for the answer. What the daemon refuses is an error with its fault.
    pub fn ask(&mut self, request: &Request) -> Result<Response> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.write_all(&line).context("asking the daemon")?;
        let mut answer = Vec::new();
        let read = BufReader::new(&self.stream).take(ANSWER_MAX).read_until(b'\n', &mut answer);
        if read.context("waiting for the daemon's answer")? == 0 {
            return Err(Fault::Io.because("the daemon went away without an answer; see its log"));
        }
        serde_json::from_slice::<Response>(&answer).context("reading the daemon's answer")?.into_result()
    }
}

/// Calls `use_it` with a path that fits into a socket's address, whatever the length of `path`.
fn with_address<T>(path: &Path, use_it: impl FnOnce(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
    use std::os::fd::AsRawFd;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return use_it(path) };
    if path.as_os_str().len() <= ADDRESS_MAX {
        return use_it(path);
    }
    let folder = std::fs::File::open(folder)?;
    use_it(&Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asks_and_hears(path: PathBuf) {
        let (sender, mut requests) = mpsc::channel(REQUESTS_MAX);
        let server = Server::start(&path, sender).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (at, wrong_at) = (path.clone(), path.clone());
        let client = tokio::task::spawn_blocking(move || {
            let mut client = Client::connect(&at).unwrap().unwrap();
            let first = client.ask(&Request::first_page()).unwrap();
            (first, client.ask(&Request::Cancel { job: Some("a.mkv".into()) }).unwrap_err())
        });
        let asked = requests.recv().await.unwrap();
        assert_eq!(asked.request, Request::first_page());
        asked.reply.send(Response::done("nothing")).unwrap();
        let asked = requests.recv().await.unwrap();
        asked.reply.send(Fault::NotFound.because("no such job").into()).unwrap();
        let (first, second) = client.await.unwrap();
        assert_eq!((first.message.as_str(), Fault::of(&second)), ("nothing", Fault::NotFound));
        let wrong = tokio::task::spawn_blocking(move || {
            let mut stream = with_address(&wrong_at, |a| BlockingStream::connect(a)).unwrap();
            stream.write_all(b"{\"do\":\"dance\"}\n").unwrap();
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer).unwrap();
            serde_json::from_str::<Response>(&answer).unwrap()
        });
        assert_eq!(wrong.await.unwrap().fault, Some(Fault::Config));
        drop(server);
        assert!(Client::connect(&path).unwrap().is_none());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn requests_are_answered() {
        let dir = tempfile::tempdir().unwrap();
        asks_and_hears(dir.path().join(".upscaled.sock")).await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_long_path_is_no_hindrance() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(200));
        std::fs::create_dir(&long).unwrap();
        asks_and_hears(long.join(".upscaled.sock")).await;
    }

    #[test]
    fn a_dead_socket_is_no_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(Client::connect(&path).unwrap().is_none());
    }
}
