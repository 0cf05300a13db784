//! settings.json: what was chosen for one job by whoever added it.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use upscaled_core::atomic_file;
use upscaled_core::config::chosen::Chosen;
use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;

use crate::state::job_dir::JobDir;
use crate::state::paths::RootLayout;
use crate::state::versions;

/// The file's name in the job's folder.
pub const FILE: &str = "settings.json";
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct StoredOverrides {
    version: u32,
    settings: Chosen,
}

impl JobDir {
    /// Keeps what was chosen, in the place of what was before. Needs the lock.
    pub fn write_chosen(&self, settings: &Chosen) -> Result<()> {
        self.must_hold_lock()?;
        let path = self.path().join(FILE);
        let kept = StoredOverrides { version: VERSION, settings: settings.clone() };
        match settings.is_empty() {
            true => atomic_file::remove(&path),
            false => versions::write_checked(&path, &kept, &escape(&self.marker().job)),
        }
    }

    /// [`JobDir::write_chosen`] for a job that has work done with others, which is thrown away. Nothing of it goes before
    /// the new settings lie on the disk, and they count only when all of it has gone: a plan keeps those it was made with.
    pub fn choose_anew(&self, settings: &Chosen) -> Result<()> {
        self.must_hold_lock()?;
        if settings.is_empty() {
            self.discard()?;
            return self.write_chosen(settings);
        }
        let path = self.path().join(FILE);
        let kept = StoredOverrides { version: VERSION, settings: settings.clone() };
        let part = versions::write_checked_part(&path, &kept, &escape(&self.marker().job))?;
        let named = self.discard().and_then(|()| atomic_file::rename(&part, &path));
        named.inspect_err(|_| drop(std::fs::remove_file(&part)))
    }

    /// What was chosen; nothing where there is no such file.
    ///
    /// # Errors
    /// [`Fault::DamagedState`]: the job would become another than was asked for.
    pub fn read_chosen(&self) -> Result<Chosen> {
        read(self.path(), &self.marker().job)
    }
}

fn read(folder: &Path, job: &Path) -> Result<Chosen> {
    let job = escape(job);
    let kept = versions::read_checked::<StoredOverrides>(&folder.join(FILE), VERSION, &job).map_err(|error| {
        if Fault::of(&error) != Fault::DamagedState {
            return error;
        }
        let cure = "give it its settings again with `upscaled add --set`";
        Fault::DamagedState.because(format!("the settings chosen for {job} are damaged: {cure} ({error})"))
    })?;
    Ok(kept.map(|kept| kept.settings).unwrap_or_default())
}

/// What was chosen for a job, where it has a folder. A damaged marker is no hindrance: the job's next attempt writes it
/// anew.
pub fn of_job(layout: &RootLayout, job: &Path) -> Result<Chosen> {
    let folder = layout.job_dir(job)?;
    match JobDir::open(&folder) {
        Ok(None) => Ok(Chosen::new()),
        Err(error) if Fault::of(&error) != Fault::DamagedState => Err(error),
        _ => read(&folder, job),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::fixture;
    use serde_json::json;
    use std::time::Duration;
    use upscaled_core::config::settings::Folders;
    use upscaled_core::failpoint;

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
        folder.write_chosen(&chosen).unwrap();
        let root = dir.path().to_path_buf();
        let folders = Folders { input: root.join("i"), output: root.clone(), logs: root.join("l"), root };
        let layout = RootLayout::new(&folders);
        let marker = folder.path().join(crate::state::job_dir::MARKER);
        std::fs::write(&marker, "{").unwrap();
        assert_eq!(of_job(&layout, Path::new("a.mkv")).unwrap(), chosen);
        assert!(of_job(&layout, Path::new("b.mkv")).unwrap().is_empty());
        folder.write_chosen(&Chosen::new()).unwrap();
        assert!(folder.read_chosen().unwrap().is_empty() && !path.exists());
    }

    #[test]
    fn work_goes_only_for_settings_that_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let (folder, plan) = fixture::job(root.path(), 2);
        let [before, after] = [2, 4].map(|scale| json!({"scale": scale}).as_object().unwrap().clone());
        folder.write_chosen(&before).unwrap();
        let whole = || (folder.read_plan().unwrap().is_some(), fixture::sealed(&folder, &plan).clips.len());
        for point in ["atomic_file.write=enospc", "atomic_file.fsync=enospc"] {
            let _plan = failpoint::scoped(&format!("{point}@1"));
            assert_eq!(Fault::of(&folder.choose_anew(&after).unwrap_err()), Fault::NoSpace, "{point}");
            assert_eq!((folder.read_chosen().unwrap(), whole()), (before.clone(), (true, 2)), "{point}");
        }
        // A plan that is left is one of the settings that are left
        for nth in 1..=7 {
            let _plan = failpoint::scoped(&format!("job_dir.unlink=eio@{nth}"));
            assert!(folder.choose_anew(&after).is_err(), "{nth}");
            assert_eq!(folder.read_chosen().unwrap(), before, "{nth}");
        }
        folder.choose_anew(&after).unwrap();
        assert_eq!((folder.read_chosen().unwrap(), whole()), (after, (false, 0)));
        let parts = std::fs::read_dir(folder.path()).unwrap().flatten();
        assert_eq!(parts.filter(|entry| entry.path().extension().is_some_and(|e| e == "part")).count(), 0);
        folder.choose_anew(&Chosen::new()).unwrap();
        assert!(folder.read_chosen().unwrap().is_empty());
    }
}
