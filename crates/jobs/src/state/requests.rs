//! What clients of the video service asked for: a record each in `<root>/.upscaled`, and in input/, hidden from scans, a
//! folder with its payload, which is the source of an ordinary job.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use upscaled_core::atomic_file::{self, Access};
use upscaled_core::config::settings::{CodecChoice, JobSettings, OnSuccess, RunSettings, VIDAIO};
use upscaled_core::fault::{Fault, one_line};
use upscaled_core::own_folder::OwnFolder;
use upscaled_core::path_text::{self, escape};

use crate::state::paths::RootLayout;
use crate::state::state_folder::StateFolder;
use crate::state::versions;

/// Folder of input/ and of output/ in which payloads and results lie.
pub const FOLDER: &str = ".requests";
/// Folder of [`StateFolder`] with the records, and where earlier versions kept each, beside its payload.
pub const RECORDS: &str = "requests";
pub const OLD_RECORD: &str = "request.json";
/// Version of a record that this program writes.
pub const REQUEST_VERSION: u32 = 1;
/// The payload, whatever the client called it.
pub const PAYLOAD: &str = "payload";
/// Longest key, in bytes.
const KEY_MAX: usize = 64;

/// Where a payload comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayloadOrigin {
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
    /// The published output's name; where it lies follows from the key. Earlier versions kept a path, of which only the
    /// name counts.
    #[serde(with = "path_text")]
    pub output: PathBuf,
    pub bytes: u64,
    /// BLAKE3 of its bytes, in hex; nothing in records of earlier versions.
    #[serde(default)]
    pub hash: Option<String>,
    pub frames: u64,
    /// From the request to its end.
    pub seconds: f64,
    /// Unix time.
    pub at: u64,
    /// Where a store keeps it: the object's name, and an address that needs no key.
    pub object: Option<String>,
    pub url: Option<String>,
}

/// A record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestRecord {
    pub version: u32,
    /// Follows from what was asked: the same request has the same.
    pub key: String,
    /// The unguessable part of the result's link.
    pub secret: String,
    pub origin: PayloadOrigin,
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
    layout: RootLayout,
    records: OwnFolder,
}

/// Returns whether a text can be the key of a request.
fn is_key(text: &str) -> bool {
    !text.is_empty() && text.len() <= KEY_MAX && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The payload of a request, open, below an input/; `None` where there is none.
///
/// # Errors
/// [`Fault::Config`] where others could have put it there.
pub fn open_payload(input: &Path, key: &str) -> Result<Option<File>> {
    match OwnFolder::open(&input.join(FOLDER))?.map(|home| home.folder(key)).transpose()?.flatten() {
        Some(folder) => folder.file(PAYLOAD),
        None => Ok(None),
    }
}

/// The folder of a request's result, made below an output/ for this user alone.
pub fn make_result_folder(output: &Path, key: &str) -> Result<OwnFolder> {
    OwnFolder::made(&output.join(FOLDER))?.made_folder(key)
}

impl Requests {
    /// # Errors
    /// [`Fault::Config`] where others could have put something into the folder of the records.
    pub fn new(layout: RootLayout, state: &StateFolder) -> Result<Requests> {
        Ok(Requests { layout, records: state.records(RECORDS)? })
    }

    /// The folder of a request's payload, made where it is not there.
    pub fn place(&self, key: &str) -> Result<OwnFolder> {
        self.made_home()?.made_folder(key)
    }

    /// The folder of all payloads, made where it is not there.
    pub fn made_home(&self) -> Result<OwnFolder> {
        OwnFolder::made(&self.layout.input().join(FOLDER))
    }

    /// The result of a request by its name, open; `None` where there is none. The folder of a path counts for nothing.
    ///
    /// # Errors
    /// [`Fault::Config`] where others could have put it there.
    pub fn result(&self, key: &str, output: &Path) -> Result<Option<File>> {
        let Some(name) = output.file_name() else { return Ok(None) };
        let home = OwnFolder::open(&self.layout.output().join(FOLDER))?;
        match home.map(|home| home.folder(key)).transpose()?.flatten() {
            Some(folder) => folder.file(name),
            None => Ok(None),
        }
    }

    /// Removes the result of a request, whatever has come of it.
    pub fn drop_result(&self, key: &str) -> Result<()> {
        let home = OwnFolder::open(&self.layout.output().join(FOLDER))?;
        home.map_or(Ok(()), |home| home.remove(key))
    }

    fn file(&self, key: &str) -> PathBuf {
        self.records.at(format!("{key}.json"))
    }

    /// Keeps a record, durably; nobody else may read it, for addresses may hold secrets.
    pub fn write(&self, record: &RequestRecord) -> Result<()> {
        if !is_key(&record.key) {
            return Err(Fault::Internal.because(format!("{:?} is no key of a request", record.key)));
        }
        let written = versions::write(&self.file(&record.key), record, Access::Private);
        written.map_err(|error| self.records.named(error))
    }

    /// The record of a request; an error when it is damaged or of a newer version.
    pub fn read(&self, key: &str) -> Result<Option<RequestRecord>> {
        if !is_key(key) {
            return Ok(None);
        }
        let read = versions::read::<RequestRecord>(&self.file(key), REQUEST_VERSION)
            .map_err(|error| self.records.named(error))?;
        let other = || Fault::DamagedState.because(format!("the record of request {key} is of another one"));
        match read {
            Some(record) if record.key != key || !is_key(&record.secret) => Err(other()),
            read => Ok(read),
        }
    }

    /// Removes what an earlier process left in the middle of a removal or an upload: all that has no record. Nobody may
    /// be at work on requests yet.
    pub fn sweep(&self) {
        let swept = self.try_sweep();
        if let Err(error) = swept {
            tracing::warn!("what interrupted requests left stays: {}", one_line(&error));
        }
    }

    fn try_sweep(&self) -> Result<()> {
        let Some(home) = OwnFolder::open(&self.layout.input().join(FOLDER))? else { return Ok(()) };
        for name in home.names()? {
            let key = name.to_str().filter(|key| is_key(key));
            // A record that stays where an earlier version kept it is a person's to look at.
            if home.at(&name).join(OLD_RECORD).symlink_metadata().is_ok()
                || key.is_some_and(|key| self.file(key).symlink_metadata().is_ok())
            {
                continue;
            }
            let removed = home.remove(&name).and_then(|()| key.map_or(Ok(()), |key| self.remove(key)));
            match removed {
                Ok(()) => {
                    tracing::info!("removed what an interrupted request left: {}", escape(&home.path().join(name)))
                }
                Err(error) => tracing::warn!("what an interrupted request left stays: {}", one_line(&error)),
            }
        }
        Ok(())
    }

    /// All that are kept. What cannot be read is told and left.
    pub fn all(&self) -> Vec<RequestRecord> {
        let mut all: Vec<RequestRecord> = Vec::new();
        for name in self.records.names().unwrap_or_default() {
            let Some(key) = name.to_str().and_then(|name| name.strip_suffix(".json")) else { continue };
            match self.read(key) {
                Ok(record) => all.extend(record),
                Err(error) => tracing::warn!("a request is left as it is: {}", one_line(&error)),
            }
        }
        all.sort_by_key(|record| record.asked);
        all
    }

    /// Forgets a request: payload and result, the record last. Its job must not be at work.
    pub fn remove(&self, key: &str) -> Result<()> {
        for folder in [self.layout.output(), self.layout.input()] {
            match OwnFolder::open(&folder.join(FOLDER)) {
                Ok(home) => home.map_or(Ok(()), |home| home.remove(key))?,
                Err(error) => tracing::warn!("nothing is removed there: {}", one_line(&error)),
            }
        }
        atomic_file::remove(&self.file(key)).map_err(|error| self.records.named(error))
    }
}

impl RequestRecord {
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
    use upscaled_core::config::settings::Folders;

    fn requests(root: &Path) -> Requests {
        let folders =
            Folders { root: root.into(), input: root.join("i"), output: root.join("o"), logs: root.join("l") };
        let layout = RootLayout::new(&folders);
        let state = StateFolder::open(&layout).unwrap();
        Requests::new(layout, &state).unwrap()
    }

    fn record() -> RequestRecord {
        RequestRecord {
            version: REQUEST_VERSION,
            key: "0a1b".into(),
            secret: "5ec".into(),
            origin: PayloadOrigin::Url("http://x/y?secret=1".into()),
            task: Some("HD24K".into()),
            scale: 2,
            max_size_mb: Some(100),
            asked: 7,
            delivered: None,
            finished: None,
        }
    }

    #[test]
    fn records_come_back_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let (requests, record) = (requests(dir.path()), record());
        // As earlier versions wrote it
        let mut older = serde_json::to_value(&record).unwrap();
        older.as_object_mut().unwrap().remove("delivered");
        assert_eq!(serde_json::from_value::<RequestRecord>(older).unwrap(), record);
        let shared = serde_json::json!({"shared": {"source": "/s/a", "target": "/s/b"}});
        assert!(matches!(serde_json::from_value(shared).unwrap(), PayloadOrigin::Shared { named: false, .. }));
        let content = Content { bytes: 3, hash: "00ff".into() };
        let delivered = Delivered { path: "/s/b".into(), content: content.clone(), replaces: Some(content) };
        let record = RequestRecord { delivered: Some(delivered), ..record };
        requests.write(&record).unwrap();
        assert_eq!(requests.read("0a1b").unwrap(), Some(record.clone()));
        assert_eq!(requests.all(), std::slice::from_ref(&record));
        use std::os::unix::fs::PermissionsExt;
        let file = dir.path().join(".upscaled/requests/0a1b.json");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::copy(&file, file.with_file_name("ffff.json")).unwrap();
        assert_eq!(Fault::of(&requests.read("ffff").unwrap_err()), Fault::DamagedState);
        assert_eq!(requests.all(), std::slice::from_ref(&record));
        for key in ["", "..", "../0a1b", "a/b", ".json"] {
            assert!(requests.read(key).unwrap().is_none(), "{key}");
            assert!(requests.write(&RequestRecord { key: key.into(), ..record.clone() }).is_err(), "{key}");
        }
        make_result_folder(&dir.path().join("o"), "0a1b").unwrap();
        requests.remove("0a1b").unwrap();
        std::fs::remove_file(file.with_file_name("ffff.json")).unwrap();
        assert!(requests.all().is_empty() && !dir.path().join("o/.requests/0a1b").exists());
        requests.remove("0a1b").unwrap();
    }

    #[test]
    fn what_has_no_record_is_swept_away() {
        let dir = tempfile::tempdir().unwrap();
        let (requests, root) = (requests(dir.path()), dir.path());
        requests.sweep();
        for (key, files) in
            [("whole", &["payload"][..]), ("torn", &["payload"]), ("none", &[]), ("old", &["request.json"])]
        {
            let place = requests.place(key).unwrap();
            files.iter().for_each(|name| std::fs::write(place.at(name), "damaged").unwrap());
        }
        requests.write(&RequestRecord { key: "whole".into(), ..record() }).unwrap();
        make_result_folder(&root.join("o"), "torn").unwrap();
        std::fs::write(root.join("i/.requests/.tmp1"), "a part").unwrap();
        requests.sweep();
        assert_eq!(requests.made_home().unwrap().names().unwrap(), ["old", "whole"]);
        assert!(open_payload(&root.join("i"), "whole").unwrap().is_some() && !root.join("o/.requests/torn").exists());
    }

    #[test]
    fn of_a_result_only_the_name_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (requests, root) = (requests(dir.path()), dir.path());
        std::fs::write(root.join("secret"), "s").unwrap();
        make_result_folder(&root.join("o"), "0a1b").unwrap();
        let output = root.join("o/.requests/0a1b/payload_upscaled.mp4");
        std::fs::write(&output, "r").unwrap();
        std::os::unix::fs::symlink(root.join("secret"), output.with_file_name("link")).unwrap();
        assert!(requests.result("0a1b", &output).unwrap().is_some());
        assert!(requests.result("0a1b", Path::new("payload_upscaled.mp4")).unwrap().is_some());
        for path in ["../../../secret", "..", "/", ""] {
            assert!(requests.result("0a1b", Path::new(path)).unwrap().is_none(), "{path}");
        }
        assert!(requests.result("0a1b", &root.join("secret")).unwrap().is_none());
        assert!(
            requests.result("0a1b", Path::new("link")).is_err() && requests.result("ff", &output).unwrap().is_none()
        );
    }

    #[test]
    fn records_of_earlier_versions_move_where_they_are_ours() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let folders =
            Folders { root: root.into(), input: root.join("i"), output: root.join("o"), logs: root.join("l") };
        let layout = RootLayout::new(&folders);
        let home = root.join("i/.requests");
        std::fs::create_dir_all(&home).unwrap();
        for (key, folder, file) in
            [("0a", 0o700, 0o600), ("1b", 0o755, 0o644), ("2c", 0o775, 0o600), ("3d", 0o700, 0o660)]
        {
            let at = home.join(key);
            std::fs::create_dir(&at).unwrap();
            let text = serde_json::to_string(&RequestRecord { key: key.into(), ..record() }).unwrap();
            std::fs::write(at.join(OLD_RECORD), text).unwrap();
            std::fs::set_permissions(at.join(OLD_RECORD), PermissionsExt::from_mode(file)).unwrap();
            std::fs::set_permissions(&at, PermissionsExt::from_mode(folder)).unwrap();
        }
        std::fs::set_permissions(&home, PermissionsExt::from_mode(0o700)).unwrap();
        let state = StateFolder::open(&layout).unwrap();
        state.adopt(&layout);
        state.adopt(&layout);
        let requests = Requests::new(layout, &state).unwrap();
        let keys: Vec<_> = requests.all().into_iter().map(|record| record.key).collect();
        assert_eq!(keys, ["0a", "1b"]);
        let stays = |key: &str| home.join(key).join(OLD_RECORD).exists();
        assert_eq!(["0a", "1b", "2c", "3d"].map(stays), [false, false, true, true]);
        requests.sweep();
        assert!(stays("2c") && stays("3d"));
    }

    #[test]
    fn jobs_of_requests_are_known_by_their_place() {
        assert_eq!(key_of(&job("ab")), Some("ab"));
        for other in ["payload", ".requests/ab", ".requests/ab/film.mkv", "x/.requests/ab/payload"] {
            assert_eq!(key_of(Path::new(other)), None, "{other}");
        }
    }
}
