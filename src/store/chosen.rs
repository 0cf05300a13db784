//! settings.json: what was chosen for one job by whoever added it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::base::atomic_file;
use crate::base::fault::Fault;
use crate::base::path_text::escape;
use crate::config::chosen::Chosen;
use crate::store::job_dir::JobDir;
use crate::store::paths::Layout;
use crate::store::versions;

/// The file's name in the job's folder.
pub const FILE: &str = "settings.json";
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    settings: Chosen,
}

impl JobDir {
    fn chosen_file(&self) -> (PathBuf, String) {
        (self.path().join(FILE), escape(&self.marker().job))
    }

    /// Keeps what was chosen, in the place of what was before. Needs the lock.
    pub fn write_chosen(&self, settings: &Chosen) -> Result<()> {
        self.must_hold_lock()?;
        let (path, key) = self.chosen_file();
        match settings.is_empty() {
            true => atomic_file::remove(&path),
            false => versions::write_checked(&path, &Kept { version: VERSION, settings: settings.clone() }, &key),
        }
    }

    /// What was chosen; nothing where there is no such file.
    ///
    /// # Errors
    /// [`Fault::DamagedState`]: the job would become another than was asked for.
    pub fn read_chosen(&self) -> Result<Chosen> {
        let (path, key) = self.chosen_file();
        let kept = versions::read_checked::<Kept>(&path, VERSION, &key).map_err(|error| match Fault::of(&error) {
            Fault::DamagedState => {
                let job = escape(&self.marker().job);
                let cure = "give it its settings again with `upscaled add --set`";
                Fault::DamagedState.because(format!("the settings chosen for {job} are damaged: {cure} ({error})"))
            }
            _ => error,
        })?;
        Ok(kept.map(|kept| kept.settings).unwrap_or_default())
    }
}

/// What was chosen for a job, where it has a folder.
pub fn of_job(layout: &Layout, job: &Path) -> Result<Chosen> {
    let folder = JobDir::open(&layout.job_dir(job)?)?;
    folder.map_or_else(|| Ok(Chosen::new()), |folder| folder.read_chosen())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn what_was_chosen_stays_with_the_job() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = JobDir::create(&dir.path().join("a.mkv.job"), Path::new("a.mkv"), "1-2").unwrap();
        let chosen = json!({"scale": 4, "codec": "hevc"}).as_object().unwrap().clone();
        assert!(folder.write_chosen(&chosen).is_err(), "without the lock");
        folder.lock(Duration::ZERO).unwrap();
        folder.write_chosen(&chosen).unwrap();
        assert_eq!(folder.read_chosen().unwrap(), chosen);
        folder.tidy(None).unwrap();
        folder.discard().unwrap();
        assert_eq!(folder.read_chosen().unwrap(), chosen);
        let path = folder.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace('4', "3")).unwrap();
        let error = folder.read_chosen().unwrap_err();
        assert_eq!(Fault::of(&error), Fault::DamagedState);
        assert!(error.to_string().contains("a.mkv are damaged: give it"), "{error}");
        folder.write_chosen(&Chosen::new()).unwrap();
        assert!(folder.read_chosen().unwrap().is_empty() && !path.exists());
    }
}
