//! `<root>/.upscaled`: records that this program alone writes, and the move of those that earlier versions kept elsewhere.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use upscaled_core::atomic_file::{self, Access};
use upscaled_core::fault::{Fault, one_line};
use upscaled_core::own_folder::{self, OwnFolder};
use upscaled_core::path_text::escape;

use crate::state::paths::RootLayout;
use crate::state::{downloads, job_scan, requests, versions};

/// Its name in the root.
pub const NAME: &str = ".upscaled";
/// Largest record that is moved, in bytes.
const RECORD_MAX: u64 = 4 << 20;

/// The folder, held from the start.
#[derive(Clone, Debug)]
pub struct StateFolder {
    home: OwnFolder,
    /// It was made just now.
    is_new: bool,
}

impl StateFolder {
    /// Opens it, or makes it, for this user alone.
    ///
    /// # Errors
    /// [`Fault::Config`] where others could have put something into it.
    pub fn open(layout: &RootLayout) -> Result<StateFolder> {
        let root = layout.root();
        std::fs::create_dir_all(root).with_context(|| format!("making the folder {}", escape(root)))?;
        let path = root.join(NAME);
        let is_new = path.symlink_metadata().is_err();
        Ok(StateFolder { home: OwnFolder::made(&path)?, is_new })
    }

    /// A folder of records in it.
    pub fn records(&self, name: &str) -> Result<OwnFolder> {
        self.home.made_folder(name)
    }

    /// Moves records of earlier versions here, from folders that others may write to, where folder and file are ours alone;
    /// what is not stays and is told. The caller holds the daemon's lock.
    pub fn adopt(&self, layout: &RootLayout) {
        for (folder, record, records) in [
            (requests::FOLDER, requests::OLD_RECORD, requests::RECORDS),
            (downloads::FOLDER, downloads::OLD_RECORD, downloads::RECORDS),
        ] {
            let adopted = self.records(records).and_then(|to| adopt_all(&layout.input().join(folder), record, &to));
            if let Err(error) = adopted {
                tracing::warn!("records of an earlier version stay where they are: {}", one_line(&error));
            }
        }
        if self.is_new {
            tighten(layout);
        }
    }
}

fn adopt_all(home: &Path, record: &str, to: &OwnFolder) -> Result<()> {
    let Some(home) = OwnFolder::open(home)? else { return Ok(()) };
    for name in home.names()? {
        let Some(name) = name.to_str() else { continue };
        if !home.at(name).symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            continue;
        }
        match adopt(&home, name, record, to) {
            Ok(false) => {}
            Ok(true) => tracing::info!("the record of {} lies in {} now", name, escape(to.path())),
            Err(error) => tracing::warn!("a record of an earlier version stays where it is: {}", one_line(&error)),
        }
    }
    Ok(())
}

fn adopt(home: &OwnFolder, name: &str, record: &str, to: &OwnFolder) -> Result<bool> {
    let Some(folder) = home.folder(name)? else { return Ok(false) };
    let Some(file) = folder.file(record)? else { return Ok(false) };
    if let Some(why) = folder.owner().stranger(&file.metadata()?) {
        return Err(Fault::Config.because(format!("{} {why}", escape(&folder.path().join(record)))));
    }
    let target = to.at(format!("{name}.json"));
    if target.symlink_metadata().is_err() {
        let bytes = versions::read_bytes(&folder.at(record), RECORD_MAX, false).map_err(|error| folder.named(error))?;
        let written = atomic_file::write_as(&target, &bytes.unwrap_or_default(), Access::Private);
        written.map_err(|error| to.named(error))?;
    }
    atomic_file::remove(&folder.at(record)).map_err(|error| folder.named(error))?;
    Ok(true)
}

/// What earlier versions made as the umask said is written by this user alone from now on. It happens once, at the first start:
/// later, what others may write to is not believed.
fn tighten(layout: &RootLayout) {
    let home = layout.output().join(requests::FOLDER);
    let of_requests = std::iter::once(home.clone()).chain(inside(&home));
    let results = of_requests.filter(|path| path.symlink_metadata().is_ok_and(|meta| meta.is_dir()));
    let jobs =
        job_scan::marked(layout.output()).into_iter().map(|folder| inside(&folder).chain([folder]).collect::<Vec<_>>());
    // A job folder last: it is believed when all that is in it is ours.
    for paths in results.map(|path| vec![path]).chain(jobs) {
        if let Err(error) = paths.iter().try_for_each(|path| own_folder::tighten(path)) {
            tracing::warn!("what an earlier version left is not gone on with: {}", one_line(&error));
        }
    }
}

fn inside(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}
