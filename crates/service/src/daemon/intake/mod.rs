//! From input/ to jobs: scans, settling, probes; the half of the daemon before the queue.

pub(crate) mod filesystem;
pub mod probe;
pub(crate) mod scan;
pub(crate) mod stability;
pub(crate) mod symlinks;
pub(crate) mod watch;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::mpsc;

use upscaled_core::config::settings::DaemonSettings;
use upscaled_core::fault::{caught, one_line, panicked};
use upscaled_core::path_text::escape;

use super::Message;
use crate::daemon::intake::filesystem::locality;
use crate::daemon::intake::probe::Prober;
use crate::daemon::intake::scan::{FoundFile, Scan, ScanRules};
use crate::daemon::intake::stability::{Checked, FileStamp, StabilityRules, StabilityTracker, Verdict};
use crate::daemon::supervision::spawn::Spawner;

/// Files probed at once.
const PROBES_MAX: usize = 2;
/// A child that waits for files to probe is ended when none came for so long.
const PROBER_REST: Duration = Duration::from_secs(5);
/// Between the end of a scan and the next, however often events wake it; and this many times as
/// long as the scan took.
const SCAN_PAUSE: Duration = Duration::from_millis(500);
const SCAN_SHARE: u32 = 4;
/// Remarks about passed-over files that are remembered, so that each is made once.
const NOTED_MAX: usize = 10_000;
/// Files of sound that are remembered; more are asked again at each scan.
const PASSED_MAX: usize = 200_000;

/// A file that has become a job, or never will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    Ready(PathBuf, FileStamp),
    GivenUp(PathBuf, FileStamp, String),
}

/// Files of sound, in the state in which they were looked at: they are not asked again.
type Passed = HashMap<PathBuf, FileStamp>;

/// What a look at a due file came to.
pub struct ProbedFile {
    relative: PathBuf,
    /// `None` when the file is gone.
    checked: Result<Option<(FileStamp, Checked)>>,
    /// The child that probed it, ready for the next one.
    prober: Option<Prober>,
}

/// What has been seen in input/ and is no job yet.
pub struct Intake {
    rules: ScanRules,
    settle: StabilityTracker,
    rescan: Duration,
    spawner: Spawner,
    messages: mpsc::Sender<Message>,
    /// When the next scan is due at the latest, and at the earliest.
    due: Duration,
    not_before: Duration,
    woken: bool,
    scanning: Option<Duration>,
    /// When the last finished scan began.
    seen_at: Option<Duration>,
    probing: usize,
    /// Children that wait for files, and since when they have nothing to do.
    idle: Vec<Prober>,
    idle_since: Duration,
    noted: HashSet<PathBuf>,
    passed: Passed,
    unreadable: bool,
    /// The folder that is input/, as last scanned.
    identity: Option<(u64, u64)>,
    moved: bool,
}

impl Intake {
    pub fn new(
        rules: ScanRules,
        settings: &DaemonSettings,
        spawner: Spawner,
        messages: mpsc::Sender<Message>,
    ) -> Intake {
        let settle = StabilityTracker::new(StabilityRules {
            rest: Duration::from_millis(settings.settle_ms),
            give_up: Duration::from_secs(settings.unreadable_seconds),
            locality: locality(&rules.input),
        });
        let rescan = Duration::from_secs(settings.rescan_seconds.max(1));
        Intake {
            rules,
            settle,
            rescan,
            spawner,
            messages,
            due: Duration::ZERO,
            not_before: Duration::ZERO,
            woken: true,
            scanning: None,
            seen_at: None,
            probing: 0,
            idle: Vec::new(),
            idle_since: Duration::ZERO,
            noted: HashSet::new(),
            passed: Passed::new(),
            unreadable: false,
            identity: None,
            moved: false,
        }
    }

    /// Something changed in input/: look soon.
    pub fn wake(&mut self) {
        self.woken = true;
    }

    /// Whether input/ is another folder since this was last asked: its events have to be asked for anew.
    pub fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Whether input/ could not be read.
    pub fn is_unreadable(&self) -> bool {
        self.unreadable
    }

    /// Files that are not settled yet.
    pub fn pending(&self) -> usize {
        self.settle.len()
    }

    /// Nothing is being looked at just now.
    pub fn is_quiet(&self) -> bool {
        self.probing == 0 && self.scanning.is_none()
    }

    /// Whether everything that was in input/ at `moment` has been dealt with.
    pub fn is_done_since(&self, moment: Duration) -> bool {
        self.settle.is_empty() && self.scanning.is_none() && self.seen_at.is_some_and(|at| at >= moment)
    }

    /// Starts what is due: a scan, probes.
    pub fn turn(&mut self, now: Duration) {
        if self.scanning.is_none() && now >= self.not_before && (self.woken || now >= self.due) {
            self.start_scan(now);
        }
        let free = PROBES_MAX.saturating_sub(self.probing);
        for path in self.settle.take_due(now, free) {
            self.start_probe(path);
        }
        if self.probing == 0 && now.saturating_sub(self.idle_since) >= PROBER_REST {
            self.idle.clear();
        }
    }

    fn start_scan(&mut self, now: Duration) {
        self.woken = false;
        self.scanning = Some(now);
        let (rules, messages) = (self.rules.clone(), self.messages.clone());
        tokio::task::spawn_blocking(move || {
            // The receiver is gone only when the daemon ends.
            let _ = messages.blocking_send(Message::Scanned(caught("a scan of input/", || scan::scan(&rules))));
        });
    }

    /// A scan has ended. `known` tells which files are jobs, or were.
    /// Returns the files that were seen, for those who wait for one.
    pub fn scanned(
        &mut self,
        scan: Result<Scan>,
        now: Duration,
        known: impl Fn(&Path, FileStamp) -> bool,
    ) -> Vec<FoundFile> {
        let begun = self.scanning.take().unwrap_or(now);
        let took = now.saturating_sub(begun);
        self.due = now + self.rescan;
        self.not_before = now + SCAN_PAUSE.max(took * SCAN_SHARE);
        let scan = match scan {
            Ok(scan) => scan,
            Err(error) => {
                if !std::mem::replace(&mut self.unreadable, true) {
                    tracing::error!(
                        "input/ cannot be read; trying again every {} s: {}",
                        self.rescan.as_secs(),
                        one_line(&error)
                    );
                }
                return Vec::new();
            }
        };
        if std::mem::replace(&mut self.unreadable, false) {
            tracing::info!("input/ can be read again");
        }
        self.seen_at = Some(begun);
        self.moved |= self.identity.replace(scan.identity).is_some_and(|before| before != scan.identity);
        for (path, why) in scan.notes {
            self.note(path, why);
        }
        let mut there = HashSet::new();
        let mut passed = Passed::new();
        for found in &scan.files {
            if self.passed.get(&found.relative) == Some(&found.stamp) {
                passed.extend(self.passed.remove_entry(&found.relative));
            } else if known(&found.relative, found.stamp) {
                self.settle.forget(&found.relative);
            } else {
                self.settle.seen(&found.relative, found.stamp, now);
                there.insert(found.relative.as_path());
            }
        }
        if scan.complete {
            self.settle.retain(|path| there.contains(path));
            self.passed = passed;
        } else {
            self.passed.extend(passed);
        }
        scan.files
    }

    /// Says once that a file is passed over.
    fn note(&mut self, path: PathBuf, why: &str) {
        if self.noted.len() < NOTED_MAX && self.noted.insert(path.clone()) {
            tracing::info!("{}: passed over: {why}", escape(&path));
        }
    }

    fn start_probe(&mut self, relative: PathBuf) {
        self.probing += 1;
        let (spawner, messages) = (self.spawner.clone(), self.messages.clone());
        let path = self.rules.input.join(&relative);
        let mut prober = self.idle.pop();
        let check = async move {
            let stamp = {
                let path = path.clone();
                tokio::task::spawn_blocking(move || scan::stamp_of(&path)).await
            };
            let checked = match stamp {
                Ok(Ok(stamp)) => probe::check(&spawner, &mut prober, &path).await.map(|checked| Some((stamp, checked))),
                _ => Ok(None),
            };
            (checked, prober)
        };
        tokio::spawn(async move {
            // A task of its own: whatever happens in it, the loop hears of its end.
            let (checked, prober) = tokio::spawn(check).await.unwrap_or_else(|_| (Err(panicked("a probe")), None));
            let _ = messages.send(Message::Checked(ProbedFile { relative, checked, prober })).await;
        });
    }

    /// A probe has ended.
    pub fn checked(&mut self, probed: ProbedFile, now: Duration) -> Option<Arrival> {
        let ProbedFile { relative, checked, prober } = probed;
        self.probing = self.probing.saturating_sub(1);
        self.idle.extend(prober);
        self.idle_since = now;
        let (stamp, checked) = match checked {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.settle.forget(&relative);
                return None;
            }
            Err(error) => {
                // No child could be started: that says nothing about the file.
                tracing::error!("{}: cannot be probed: {}", escape(&relative), one_line(&error));
                self.settle.forget(&relative);
                return None;
            }
        };
        if let Checked::Refused(reason) = &checked {
            tracing::debug!("{}: does not open yet: {reason}", escape(&relative));
        }
        match self.settle.checked(&relative, stamp, checked, now) {
            Verdict::Ready(stamp) => Some(Arrival::Ready(relative, stamp)),
            Verdict::GiveUp(stamp, reason) => Some(Arrival::GivenUp(relative, stamp, reason)),
            Verdict::PassOver(stamp) => {
                if self.passed.len() < PASSED_MAX {
                    self.passed.insert(relative.clone(), stamp);
                }
                self.note(relative, "there is sound or text in it, and no picture");
                None
            }
            Verdict::Wait => None,
        }
    }
}
