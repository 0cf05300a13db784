//! Whether a folder is still where it was: its disk may be unmounted, or the folder be removed, while the daemon runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_jobs::scratch::mount::is_mount_point;
use upscaled_jobs::state::paths::RootLayout;

/// Between two looks for a disk that goes or comes back.
const LOOK: Duration = Duration::from_millis(500);

/// input/ and output/, as they were at the start: while one of them is away nothing is fetched, queued or begun.
#[derive(Clone, Debug)]
pub struct Homes(Arc<[Home; 2]>);

impl Homes {
    pub fn new(layout: &RootLayout) -> Homes {
        Homes(Arc::new([Home::new(layout.output()), Home::new(layout.input())]))
    }

    /// Why nothing may be begun now, in words.
    pub fn away(&self) -> Option<String> {
        self.0.iter().find_map(Home::away)
    }

    /// [`Homes::away`] of output/ alone.
    pub fn output_away(&self) -> Option<String> {
        self.0[0].away()
    }

    /// # Errors
    /// [`Fault::Busy`] while one of them is away.
    pub fn must_be_there(&self) -> Result<()> {
        self.away().map_or(Ok(()), |words| Err(Fault::Busy.because(words)))
    }

    /// Comes back once both are there.
    pub async fn there(&self) {
        while self.away().is_some() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Comes back once one of them is away.
    pub async fn gone(&self) {
        while self.away().is_none() {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// input/ or output/, and what it was at the start.
#[derive(Debug)]
pub struct Home {
    folder: PathBuf,
    /// It was there. One that never was is made when it is needed.
    there: bool,
    /// A disk of its own was mounted there.
    mounted: bool,
}

impl Home {
    pub fn new(folder: &Path) -> Home {
        Home { folder: folder.to_path_buf(), there: folder.is_dir(), mounted: is_mounted(folder) }
    }

    /// Why nothing may be read or written there, in words; `None` when all is well. The folder under an unmounted
    /// disk is not taken for it: what is written there would be hidden by the disk when it is back.
    pub fn away(&self) -> Option<String> {
        let name = escape(&self.folder);
        if !self.folder.is_dir() {
            return self.there.then(|| format!("{name} is not there: mount its disk, or make the folder again"));
        }
        (self.mounted && !is_mounted(&self.folder))
            .then(|| format!("the disk of {name} is not mounted: mount it again, or start the daemon anew without it"))
    }
}

fn is_mounted(folder: &Path) -> bool {
    folder.canonicalize().is_ok_and(|real| is_mount_point(&real))
}

#[cfg(test)]
mod tests {
    use super::*;
    use upscaled_core::test_util::small_disk::SmallDisk;

    #[test]
    fn a_removed_folder_is_away_until_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("output");
        std::fs::create_dir(&folder).unwrap();
        let home = Home::new(&folder);
        assert_eq!(home.away(), None);
        std::fs::remove_dir(&folder).unwrap();
        assert!(home.away().is_some_and(|words| words.contains("is not there")));
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(home.away(), None);
    }

    #[test]
    fn the_folder_under_a_disk_is_not_the_disk() {
        let Some(disk) = SmallDisk::mount(1 << 20) else { return };
        let link = tempfile::tempdir().unwrap();
        let link = link.path().join("output");
        std::os::unix::fs::symlink(disk.path(), &link).unwrap();
        let homes = [Home::new(disk.path()), Home::new(&link)];
        assert!(homes.iter().all(|home| home.away().is_none()));
        disk.unmount();
        assert!(homes.iter().all(|home| home.away().is_some_and(|words| words.contains("not mounted"))));
    }
}
