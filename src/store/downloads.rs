//! Films on their way from elsewhere into input/: one folder each in it, hidden from scans, with a record and what has come
//! so far.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::base::atomic_file::{self, Access};
use crate::base::path_text::{self, escape};
use crate::config::chosen::Chosen;
use crate::store::paths::Layout;
use crate::store::versions;

/// Folder of input/ in which they lie.
pub const FOLDER: &str = ".downloads";
/// Version of download.json that this program writes.
pub const DOWNLOAD_VERSION: u32 = 1;
const RECORD: &str = "download.json";
const PAYLOAD: &str = "payload";
/// Tries at removing a folder into which something is put at the same time.
const REMOVALS: u32 = 3;

/// How a download ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It is a job.
    Queued,
    /// Why not, fit for whoever asked.
    Failed(String),
}

/// download.json.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
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
    pub end: Option<End>,
    /// Unix time.
    pub ended: u64,
}

/// The downloads of one installation.
#[derive(Clone, Debug)]
pub struct Downloads {
    layout: Layout,
}

impl Downloads {
    pub fn new(layout: Layout) -> Downloads {
        Downloads { layout }
    }

    fn folder(&self, id: &str) -> PathBuf {
        self.layout.input().join(FOLDER).join(id)
    }

    /// The whole file, relative to input/.
    pub fn payload(id: &str) -> PathBuf {
        [FOLDER, id, PAYLOAD].iter().collect()
    }

    /// Where it is fetched to.
    pub fn target(&self, id: &str) -> PathBuf {
        self.layout.source(&Downloads::payload(id))
    }

    /// Where it is once it has its name.
    pub fn named(&self, job: &Path) -> PathBuf {
        self.layout.source(job)
    }

    /// Keeps a record, durably, for this user alone.
    pub fn write(&self, record: &Record) -> Result<()> {
        let folder = self.folder(&record.id);
        atomic_file::create_dirs(&folder, 0o700)?;
        versions::write(&folder.join(RECORD), record, Access::Private)
    }

    /// Removes what a kill left of downloads that were being removed: what has no record. Nothing may be on its way yet.
    pub fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(self.layout.input().join(FOLDER)) else { return };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let record = entry.path().join(RECORD).symlink_metadata();
            if !record.is_err_and(|error| error.kind() == ErrorKind::NotFound) {
                continue;
            }
            let name = escape(&entry.path());
            match std::fs::remove_dir_all(entry.path()) {
                Ok(()) => tracing::info!("removed what is left of a download: {name}"),
                Err(error) => tracing::warn!("what is left of a download stays: {name}: {error}"),
            }
        }
    }

    /// All that are kept, the oldest first. What cannot be read is told and left.
    pub fn all(&self) -> Vec<Record> {
        let home = self.layout.input().join(FOLDER);
        let mut all = versions::read_each(&home, RECORD, DOWNLOAD_VERSION, "a download", |record: &Record| &record.id);
        all.sort_by(|a, b| (a.asked, &a.id).cmp(&(b.asked, &b.id)));
        all
    }

    /// Removes what has come so far; the record stays.
    pub fn drop_payload(&self, id: &str) -> Result<()> {
        let Ok(entries) = std::fs::read_dir(self.folder(id)) else { return Ok(()) };
        for entry in entries.flatten().filter(|entry| entry.file_name() != RECORD) {
            atomic_file::remove(&entry.path())?;
        }
        Ok(())
    }

    /// Forgets a download. Its record goes last: while it is there, the rest can be found.
    pub fn remove(&self, id: &str) -> Result<()> {
        self.drop_payload(id)?;
        let folder = self.folder(id);
        for tries in (0..REMOVALS).rev() {
            match std::fs::remove_dir_all(&folder) {
                // What was being fetched may get its last name meanwhile.
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty && tries > 0 => {}
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                removed => {
                    return removed.with_context(|| format!("removing {}", escape(&folder)));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Folders;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn records_come_back_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let folders =
            Folders { root: root.into(), input: root.join("i"), output: root.join("o"), logs: root.join("l") };
        let downloads = Downloads::new(Layout::new(&folders));
        let record = |id: &str, asked| Record {
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
        std::fs::create_dir(root.join("i/.downloads/stranger")).unwrap();
        assert_eq!(downloads.all(), [early, late]);
        let mode = std::fs::metadata(root.join("i/.downloads/0a/download.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for name in ["payload", "payload.part"] {
            std::fs::write(downloads.target("0a").with_file_name(name), "x").unwrap();
        }
        downloads.drop_payload("0a").unwrap();
        assert_eq!(std::fs::read_dir(root.join("i/.downloads/0a")).unwrap().count(), 1);
        downloads.remove("0a").unwrap();
        downloads.remove("0a").unwrap();
        assert_eq!(downloads.all().len(), 1);
    }
}
