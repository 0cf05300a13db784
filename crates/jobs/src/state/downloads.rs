//! Films on their way from elsewhere into input/: a record each in `<root>/.upscaled`, and in input/, hidden from scans, a
//! folder with what has come so far.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use upscaled_core::atomic_file::{self, Access};
use upscaled_core::config::chosen::Chosen;
use upscaled_core::fault::{Fault, one_line};
use upscaled_core::own_folder::OwnFolder;
use upscaled_core::path_text::{self, escape};

use crate::state::paths::RootLayout;
use crate::state::state_folder::StateFolder;
use crate::state::versions;

/// Folder of input/ in which they lie.
pub const FOLDER: &str = ".downloads";
/// Folder of [`StateFolder`] with the records, and where earlier versions kept each, beside what had come.
pub const RECORDS: &str = "downloads";
pub const OLD_RECORD: &str = "download.json";
/// Version of a record that this program writes.
pub const DOWNLOAD_VERSION: u32 = 1;
/// The whole file, in its folder.
pub const PAYLOAD: &str = "payload";
/// Longest id, in bytes.
const ID_MAX: usize = 64;
/// Tries at removing a folder into which something is put at the same time.
const REMOVALS: u32 = 3;

/// How a download ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DownloadEnd {
    /// It is a job.
    Queued,
    /// Why not, fit for whoever asked.
    Failed(String),
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownloadRecord {
    pub version: u32,
    /// Random.
    pub id: String,
    /// It may hold secrets.
    pub url: String,
    /// The file's name in input/, but for a number where it is taken.
    pub name: String,
    /// Chosen for its job alone.
    pub settings: Chosen,
    /// Unix time.
    pub asked: u64,
    /// Its job, from the moment at which it is about to get that name.
    #[serde(with = "path_text")]
    pub job: PathBuf,
    pub end: Option<DownloadEnd>,
    /// Unix time.
    pub ended: u64,
}

/// The downloads of one installation.
#[derive(Clone, Debug)]
pub struct DownloadStore {
    layout: RootLayout,
    records: OwnFolder,
}

/// Returns whether a text can be the id of a download.
fn is_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= ID_MAX && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The folder with a whole file that is called by its path in input/, as [`DownloadStore::payload`] gives it.
///
/// # Errors
/// [`Fault::Config`] for another path, and where others could have put something there.
pub fn place_of(layout: &RootLayout, payload: &Path) -> Result<OwnFolder> {
    let parts: Option<Vec<&str>> = payload.iter().map(|part| part.to_str()).collect();
    let none = || Fault::NotFound.because(format!("there is no file {}", escape(payload)));
    match parts.as_deref() {
        Some([FOLDER, id, PAYLOAD]) if is_id(id) => {
            let home = OwnFolder::open(&layout.input().join(FOLDER))?.ok_or_else(none)?;
            let place = home.folder(id)?.ok_or_else(none)?;
            place.file(PAYLOAD)?.map(|_| place).ok_or_else(none)
        }
        _ => Err(Fault::Config.because(format!("{} is no download", escape(payload)))),
    }
}

impl DownloadStore {
    /// # Errors
    /// [`Fault::Config`] where others could have put something into the folder of the records.
    pub fn new(layout: RootLayout, state: &StateFolder) -> Result<DownloadStore> {
        Ok(DownloadStore { layout, records: state.records(RECORDS)? })
    }

    /// The whole file, relative to input/.
    pub fn payload(id: &str) -> PathBuf {
        [FOLDER, id, PAYLOAD].iter().collect()
    }

    /// The folder it is fetched to, made where it is not there.
    pub fn place(&self, id: &str) -> Result<OwnFolder> {
        OwnFolder::made(&self.layout.input().join(FOLDER))?.made_folder(id)
    }

    /// Returns whether the whole file is there.
    ///
    /// # Errors
    /// [`Fault::Config`] where others could have put it there.
    pub fn is_whole(&self, id: &str) -> Result<bool> {
        match place_of(&self.layout, &DownloadStore::payload(id)) {
            Err(error) if Fault::of(&error) == Fault::NotFound => Ok(false),
            place => place.map(|_| true),
        }
    }

    /// Bytes that have come so far.
    pub fn bytes(&self, id: &str) -> u64 {
        let whole = self.layout.source(&DownloadStore::payload(id));
        let size = |path: &Path| path.symlink_metadata().map_or(0, |meta| meta.len());
        size(&whole.with_extension("part")).max(size(&whole))
    }

    /// Where it is once it has its name.
    pub fn named(&self, job: &Path) -> PathBuf {
        self.layout.source(job)
    }

    fn file(&self, id: &str) -> PathBuf {
        self.records.at(format!("{id}.json"))
    }

    /// Keeps a record, durably, for this user alone.
    pub fn write(&self, record: &DownloadRecord) -> Result<()> {
        let written = versions::write(&self.file(&record.id), record, Access::Private);
        written.map_err(|error| self.records.named(error))
    }

    /// Removes what a kill left of downloads that were being removed: what has no record. Nothing may be on its way yet.
    pub fn sweep(&self) {
        if let Err(error) = self.try_sweep() {
            tracing::warn!("what is left of downloads stays: {}", one_line(&error));
        }
    }

    fn try_sweep(&self) -> Result<()> {
        let Some(home) = OwnFolder::open(&self.layout.input().join(FOLDER))? else { return Ok(()) };
        for name in home.names()? {
            let Some(id) = name.to_str() else { continue };
            let at = home.at(id);
            // A record that stays where an earlier version kept it is a person's to look at.
            if !at.symlink_metadata().is_ok_and(|meta| meta.is_dir())
                || at.join(OLD_RECORD).symlink_metadata().is_ok()
                || self.file(id).symlink_metadata().is_ok()
            {
                continue;
            }
            let name = escape(&home.path().join(id));
            match home.remove(id) {
                Ok(()) => tracing::info!("removed what is left of a download: {name}"),
                Err(error) => tracing::warn!("what is left of a download stays: {}", one_line(&error)),
            }
        }
        Ok(())
    }

    /// All that are kept, the oldest first. What cannot be read is told and left.
    pub fn all(&self) -> Vec<DownloadRecord> {
        let mut all: Vec<DownloadRecord> = Vec::new();
        for name in self.records.names().unwrap_or_default() {
            let id = name.to_str().and_then(|name| name.strip_suffix(".json"));
            let Some(id) = id.filter(|id| is_id(id)) else { continue };
            match versions::read::<DownloadRecord>(&self.file(id), DOWNLOAD_VERSION) {
                Ok(record) => all.extend(record.filter(|record| record.id == id && is_plain(&record.job))),
                Err(error) => {
                    tracing::warn!("a download is left as it is: {}", one_line(&self.records.named(error)));
                }
            }
        }
        all.sort_by(|a, b| (a.asked, &a.id).cmp(&(b.asked, &b.id)));
        all
    }

    /// Removes what has come so far; the record stays.
    pub fn drop_payload(&self, id: &str) -> Result<()> {
        match OwnFolder::open(&self.layout.input().join(FOLDER)) {
            Ok(Some(home)) => self.drop_from(&home, id),
            Ok(None) => Ok(()),
            Err(error) => {
                tracing::warn!("nothing is removed there: {}", one_line(&error));
                Ok(())
            }
        }
    }

    fn drop_from(&self, home: &OwnFolder, id: &str) -> Result<()> {
        // What is being fetched may get its last name meanwhile.
        for tries in (0..REMOVALS).rev() {
            match home.remove(id) {
                Err(_) if tries > 0 => {}
                removed => return removed,
            }
        }
        Ok(())
    }

    /// Forgets a download. Its record goes last: while it is there, the rest can be found.
    pub fn remove(&self, id: &str) -> Result<()> {
        self.drop_payload(id)?;
        atomic_file::remove(&self.file(id)).map_err(|error| self.records.named(error))
    }
}

/// Returns whether it is the name of a file of input/ itself, or none yet.
fn is_plain(job: &Path) -> bool {
    job.as_os_str().is_empty() || job.file_name() == Some(job.as_os_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use upscaled_core::config::settings::Folders;

    #[test]
    fn records_come_back_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let folders =
            Folders { root: root.into(), input: root.join("i"), output: root.join("o"), logs: root.join("l") };
        let layout = RootLayout::new(&folders);
        let downloads = DownloadStore::new(layout.clone(), &StateFolder::open(&layout).unwrap()).unwrap();
        let record = |id: &str, asked| DownloadRecord {
            version: DOWNLOAD_VERSION,
            id: id.into(),
            url: "http://x/y?secret=1".into(),
            name: "y".into(),
            settings: Chosen::new(),
            asked,
            job: PathBuf::new(),
            end: None,
            ended: 0,
        };
        let (late, early) = (record("0a", 8), record("1b", 7));
        downloads.write(&late).unwrap();
        downloads.write(&early).unwrap();
        let records = root.join(".upscaled/downloads");
        std::fs::write(records.join("stranger"), "x").unwrap();
        std::fs::copy(records.join("0a.json"), records.join("2c.json")).unwrap();
        downloads.write(&DownloadRecord { job: "../x".into(), ..record("3d", 9) }).unwrap();
        assert_eq!(downloads.all(), [early, late]);
        let mode = std::fs::metadata(records.join("0a.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!downloads.is_whole("0a").unwrap());
        let place = downloads.place("0a").unwrap();
        for name in ["payload", "payload.part"] {
            std::fs::write(place.at(name), "x").unwrap();
        }
        assert!(downloads.is_whole("0a").unwrap());
        assert_eq!(downloads.bytes("0a"), 1);
        for path in [".downloads/0a/x", ".downloads/../payload", "a/0a/payload", ".downloads/0a/payload/x"] {
            assert_eq!(Fault::of(&place_of(&layout, Path::new(path)).unwrap_err()), Fault::Config, "{path}");
        }
        downloads.sweep();
        assert!(downloads.is_whole("0a").unwrap());
        downloads.drop_payload("0a").unwrap();
        assert!(!root.join("i/.downloads/0a").exists() && records.join("0a.json").exists());
        downloads.place("4e").unwrap();
        downloads.sweep();
        assert!(!root.join("i/.downloads/4e").exists());
        downloads.remove("0a").unwrap();
        downloads.remove("0a").unwrap();
        assert_eq!(downloads.all().len(), 1);
    }
}
