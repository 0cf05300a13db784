//! What clients of the video service asked for: one folder a request in input/, hidden from scans, with
//! the request's record, and its payload, which is the source of an ordinary job.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::base::atomic_file::{self, Access};
use crate::base::fault::one_line;
use crate::base::path_text::{self, escape};
use crate::config::settings::{CodecChoice, JobSettings, OnSuccess, RunSettings, VIDAIO};
use crate::store::paths::Layout;
use crate::store::versions;

/// Folder of input/ and of output/ in which all of it lies.
pub const FOLDER: &str = ".requests";
/// Version of request.json that this program writes.
pub const REQUEST_VERSION: u32 = 1;
const RECORD: &str = "request.json";
/// The payload, whatever the client called it.
const PAYLOAD: &str = "payload";

/// Where a payload comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// To be downloaded.
    Url(String),
    /// A file of the shared folder, canonical, and where its result goes.
    Shared {
        #[serde(with = "path_text")]
        source: PathBuf,
        #[serde(with = "path_text")]
        target: PathBuf,
        /// The client chose the target: no other name will do.
        #[serde(default)]
        named: bool,
    },
    /// It came with the request.
    Upload,
}

/// What is in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    pub bytes: u64,
    /// BLAKE3, in hex.
    pub hash: String,
}

/// The result in the shared folder; kept before it gets its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    #[serde(with = "path_text")]
    pub path: PathBuf,
    #[serde(flatten)]
    pub content: Content,
    /// An earlier result of this request that lay there.
    #[serde(default)]
    pub replaces: Option<Content>,
}

/// How a request ended well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// The published output.
    #[serde(with = "path_text")]
    pub output: PathBuf,
    pub bytes: u64,
    pub frames: u64,
    /// From the request to its end.
    pub seconds: f64,
    /// Unix time.
    pub at: u64,
    /// Where a store keeps it: the object's name, and an address that needs no key.
    pub object: Option<String>,
    pub url: Option<String>,
}

/// request.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    /// Follows from what was asked: the same request has the same.
    pub key: String,
    /// The unguessable part of the result's link.
    pub secret: String,
    pub origin: Origin,
    /// The task's name, or nothing where only a scale was asked for.
    pub task: Option<String>,
    pub scale: u32,
    /// MiB.
    pub max_size_mb: Option<u64>,
    /// Unix time.
    pub asked: u64,
    #[serde(default)]
    pub delivered: Option<Delivered>,
    pub finished: Option<Finished>,
}

/// The job of a request.
pub fn job(key: &str) -> PathBuf {
    [FOLDER, key, PAYLOAD].iter().collect()
}

/// The request that a job is of.
pub fn key_of(job: &Path) -> Option<&str> {
    let mut parts = job.iter();
    let (folder, key, payload) = (parts.next()?, parts.next()?, parts.next()?);
    (folder == FOLDER && payload == PAYLOAD && parts.next().is_none()).then(|| key.to_str()).flatten()
}

/// The requests of one installation.
#[derive(Clone, Debug)]
pub struct Requests {
    layout: Layout,
}

impl Requests {
    pub fn new(layout: Layout) -> Requests {
        Requests { layout }
    }

    /// The folder of a request.
    pub fn folder(&self, key: &str) -> PathBuf {
        self.layout.input().join(FOLDER).join(key)
    }

    pub fn payload(&self, key: &str) -> PathBuf {
        self.layout.source(&job(key))
    }

    fn file(&self, key: &str) -> PathBuf {
        self.folder(key).join(RECORD)
    }

    /// Keeps a record, durably; nobody else may read it, for addresses may hold secrets.
    pub fn write(&self, record: &Record) -> Result<()> {
        let folder = self.folder(&record.key);
        atomic_file::create_dirs(&folder, 0o700)?;
        versions::write(&self.file(&record.key), record, Access::Private)
    }

    /// The record of a request; an error when it is damaged or of a newer version.
    pub fn read(&self, key: &str) -> Result<Option<Record>> {
        versions::read(&self.file(key), REQUEST_VERSION)
    }

    /// The folder of all requests, made where it is not there.
    pub fn made_home(&self) -> Result<PathBuf> {
        let home = self.layout.input().join(FOLDER);
        atomic_file::create_dirs(&home, 0o700)?;
        Ok(home)
    }

    /// Removes what an earlier process left in the middle of a removal or an upload: all that has no record. Nobody may
    /// be at work on requests yet.
    pub fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(self.layout.input().join(FOLDER)) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            let removed = match entry.file_type() {
                Ok(kind) if !kind.is_dir() => std::fs::remove_file(&path).map_err(Into::into),
                _ => match entry.file_name().to_str().map(|key| (key, self.file(key).symlink_metadata())) {
                    Some((key, Err(error))) if error.kind() == std::io::ErrorKind::NotFound => self.remove(key),
                    _ => continue,
                },
            };
            match removed {
                Ok(()) => tracing::info!("removed what an interrupted request left: {}", escape(&path)),
                Err(error) => tracing::warn!("what an interrupted request left stays: {}", one_line(&error)),
            }
        }
    }

    /// All that are kept. What cannot be read is told and left.
    pub fn all(&self) -> Vec<Record> {
        let home = self.layout.input().join(FOLDER);
        let mut all = versions::read_each(&home, RECORD, REQUEST_VERSION, "a request", |record: &Record| &record.key);
        all.sort_by_key(|record| record.asked);
        all
    }

    /// Forgets a request: payload and result, the record last. Its job must not be at work.
    pub fn remove(&self, key: &str) -> Result<()> {
        let output = self.layout.output_dir(&job(key));
        for folder in [output, self.folder(key)] {
            if folder.symlink_metadata().is_ok() {
                std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", escape(&folder)))?;
            }
        }
        Ok(())
    }
}

impl Record {
    /// Lays what was asked over the settings of its job.
    pub fn apply(&self, job: &mut JobSettings, run: &mut RunSettings) {
        (job.task, job.size, job.height, job.scale) = (None, None, None, self.scale);
        job.profile = Some(VIDAIO.into());
        job.pixel_format = None;
        job.max_size_mb = self.max_size_mb;
        if job.codec == CodecChoice::H264 {
            job.codec = CodecChoice::Auto;
        }
        // The payload is ours, and goes when its time is over.
        run.on_success = OnSuccess::Keep;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Folders;

    #[test]
    fn records_come_back_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let folders =
            Folders { root: root.into(), input: root.join("i"), output: root.join("o"), logs: root.join("l") };
        let requests = Requests::new(Layout::new(&folders));
        let record = Record {
            version: REQUEST_VERSION,
            key: "0a1b".into(),
            secret: "s".into(),
            origin: Origin::Url("http://x/y?secret=1".into()),
            task: Some("HD24K".into()),
            scale: 2,
            max_size_mb: Some(100),
            asked: 7,
            delivered: None,
            finished: None,
        };
        // As earlier versions wrote it
        let mut older = serde_json::to_value(&record).unwrap();
        older.as_object_mut().unwrap().remove("delivered");
        assert_eq!(serde_json::from_value::<Record>(older).unwrap(), record);
        let shared = serde_json::json!({"shared": {"source": "/s/a", "target": "/s/b"}});
        assert!(matches!(serde_json::from_value(shared).unwrap(), Origin::Shared { named: false, .. }));
        let content = Content { bytes: 3, hash: "00ff".into() };
        let delivered = Delivered { path: "/s/b".into(), content: content.clone(), replaces: Some(content) };
        let record = Record { delivered: Some(delivered), ..record };
        requests.write(&record).unwrap();
        assert_eq!(requests.read("0a1b").unwrap(), Some(record.clone()));
        assert_eq!(requests.all(), [record]);
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(requests.file("0a1b")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::create_dir_all(root.join("o/.requests/0a1b/x")).unwrap();
        requests.remove("0a1b").unwrap();
        assert!(requests.all().is_empty() && !root.join("o/.requests/0a1b").exists());
        requests.remove("0a1b").unwrap();
    }

    #[test]
    fn what_has_no_record_is_swept_away() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let folders =
            Folders { root: root.into(), input: root.join("i"), output: root.join("o"), logs: root.join("l") };
        let requests = Requests::new(Layout::new(&folders));
        requests.sweep();
        let home = requests.made_home().unwrap();
        for (key, files) in [("whole", &["request.json", "payload"][..]), ("torn", &["payload"]), ("none", &[])] {
            std::fs::create_dir(home.join(key)).unwrap();
            files.iter().for_each(|name| std::fs::write(home.join(key).join(name), "damaged").unwrap());
        }
        std::fs::create_dir_all(root.join("o/.requests/torn/x")).unwrap();
        std::fs::write(home.join(".tmp1"), "a part").unwrap();
        requests.sweep();
        let left: Vec<_> = std::fs::read_dir(&home).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["whole"]);
        assert!(requests.payload("whole").is_file() && !root.join("o/.requests/torn").exists());
    }

    #[test]
    fn jobs_of_requests_are_known_by_their_place() {
        assert_eq!(key_of(&job("ab")), Some("ab"));
        for other in ["payload", ".requests/ab", ".requests/ab/film.mkv", "x/.requests/ab/payload"] {
            assert_eq!(key_of(Path::new(other)), None, "{other}");
        }
    }
}
