//! Events of input/: they carry no news themselves, they only wake a rescan.

use std::path::Path;

use anyhow::{Context, Result};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Listens as long as it lives.
pub(crate) struct FolderWatch {
    _watcher: RecommendedWatcher,
}

impl FolderWatch {
    /// Wakes `wake` whenever anything changes below `folder`. The channel holds one word: more say
    /// no more. Fails for example when the limit of inotify watches is reached; polling goes on then.
    pub(crate) fn start(folder: &Path, wake: mpsc::Sender<()>) -> Result<FolderWatch> {
        let mut told = false;
        let listen = move |event: notify::Result<Event>| {
            if matches!(&event, Err(error) if matches!(error.kind, notify::ErrorKind::MaxFilesWatch))
                && !std::mem::replace(&mut told, true)
            {
                tracing::warn!(
                    "not all of input/ can be watched, what is not is looked for every rescan_seconds: raise \
                     fs.inotify.max_user_watches to hear of it at once"
                );
            }
            // Reading a file is no news; an error (queue overflow) is a reason to look.
            if !matches!(event, Ok(Event { kind: EventKind::Access(_), .. })) || closed_after_write(&event) {
                let _ = wake.try_send(());
            }
        };
        let mut watcher = notify::recommended_watcher(listen).context("starting to watch input/")?;
        watcher.watch(folder, RecursiveMode::Recursive).context("watching input/")?;
        Ok(FolderWatch { _watcher: watcher })
    }
}

fn closed_after_write(event: &notify::Result<Event>) -> bool {
    use notify::event::{AccessKind, AccessMode};
    matches!(event, Ok(Event { kind: EventKind::Access(AccessKind::Close(AccessMode::Write)), .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(flavor = "current_thread")]
    async fn a_new_file_in_a_new_folder_wakes() {
        let dir = tempfile::tempdir().unwrap();
        let (wake, mut woken) = mpsc::channel(1);
        let _watch = match FolderWatch::start(dir.path(), wake) {
            Ok(watch) => watch,
            Err(error) => return eprintln!("skipped: no inotify here: {error:#}"),
        };
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        tokio::time::timeout(Duration::from_secs(10), woken.recv()).await.unwrap().unwrap();
    }
}
