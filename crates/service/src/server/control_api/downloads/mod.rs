//! Films that are told of by URL: fetched a few at a time into input/, then queued as any other. What must outlive this
//! process is in their records; a start goes on with those that have not ended.

mod answers;
mod name;
mod work;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use name::{name_of, plain};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use url::Url;

use upscaled_core::clock::unix_now;
use upscaled_core::config::chosen::Chosen;
use upscaled_core::config::settings::ServiceSettings;
use upscaled_core::fault::{Fault, one_line};
use upscaled_core::path_text::escape;
use upscaled_jobs::state::downloads::{self, DOWNLOAD_VERSION, DownloadEnd, DownloadRecord};
use upscaled_jobs::state::paths::RootLayout;

use crate::daemon::control::Command;
use crate::daemon::mount_guard::Homes;
use crate::ingest::fetch::{FetchLimits, Fetcher, place};
use crate::server::kit::result_links;
use crate::server::kit::shown::ClientPaths;

pub(super) use answers::{all, cancel, fetch, one};

/// DownloadManager at a time, and those that wait for their turn.
const AT_ONCE: usize = 2;
const WAITING_MAX: usize = 50;
/// Seconds, and number, of those that are kept after their end.
const KEPT_SECONDS: u64 = 86_400;
const KEPT_MAX: usize = 50;
/// Between two tries at a place in the queue, while the disk or its folder cannot be used.
const AGAIN: Duration = Duration::from_secs(5);
/// How long the runtime waits for writes that did not end in time.
const END_LIMIT: Duration = Duration::from_millis(200);

/// Where a download stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DownloadStage {
    /// For its turn.
    #[default]
    Waiting,
    Fetching,
    /// It is there, and about to become a job.
    Naming,
    /// It is a job.
    Queued,
    Failed,
}

/// A download, as clients are told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct DownloadView {
    pub id: String,
    pub state: DownloadStage,
    /// The host it comes from: paths and queries may hold secrets.
    pub host: String,
    pub name: String,
    /// Those that have come so far.
    pub bytes: u64,
    /// Its job, once it is one.
    pub job: Option<String>,
    /// Why it failed.
    pub reason: Option<String>,
    /// Unix time.
    pub asked: u64,
}

/// What a client wants.
pub(super) struct DownloadRequest {
    pub url: String,
    pub name: Option<String>,
    pub settings: Chosen,
}

struct HeldDownload {
    record: DownloadRecord,
    stage: DownloadStage,
    task: Option<AbortHandle>,
}

/// All of them.
pub(super) struct DownloadManager {
    store: downloads::DownloadStore,
    fetcher: Fetcher,
    limits: FetchLimits,
    shown: ClientPaths,
    asked: mpsc::Sender<Command>,
    homes: Homes,
    turns: Semaphore,
    held: Mutex<BTreeMap<String, HeldDownload>>,
    /// Of a thread of their own, so that nothing that comes holds up the daemon.
    runtime: OnceLock<Handle>,
}

impl DownloadManager {
    pub(super) fn new(
        layout: &RootLayout,
        store: downloads::DownloadStore,
        settings: &ServiceSettings,
        asked: mpsc::Sender<Command>,
    ) -> Result<DownloadManager> {
        Ok(DownloadManager {
            fetcher: Fetcher::new(settings.fetch_private)?,
            limits: FetchLimits {
                bytes: settings.fetch_max_mb << 20,
                time: Duration::from_secs(settings.fetch_seconds),
            },
            shown: ClientPaths::new(layout),
            homes: Homes::new(layout),
            store,
            asked,
            turns: Semaphore::new(AT_ONCE),
            held: Mutex::default(),
            runtime: OnceLock::new(),
        })
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, HeldDownload>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins, and goes on with what an earlier process left.
    pub(super) fn take_up(self: &Arc<Self>) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(2 * AT_ONCE + 2)
            .build()
            .context("preparing downloads")?;
        let _ = self.runtime.set(runtime.handle().clone());
        let asked = self.asked.clone();
        let work = move || {
            runtime.block_on(async move { asked.closed().await });
            runtime.shutdown_timeout(END_LIMIT);
        };
        std::thread::Builder::new().name("downloads".into()).spawn(work).context("preparing downloads")?;
        self.store.sweep();
        for record in self.store.all() {
            let stage = match &record.end {
                None => DownloadStage::Waiting,
                Some(DownloadEnd::Queued) => DownloadStage::Queued,
                Some(DownloadEnd::Failed(_)) => DownloadStage::Failed,
            };
            let id = record.id.clone();
            self.held().insert(id.clone(), HeldDownload { record, stage, task: None });
            if stage == DownloadStage::Waiting {
                tracing::info!("download {id}: going on with it");
                self.begin(&id);
            }
        }
        self.tidy();
        Ok(())
    }

    fn begin(self: &Arc<Self>, id: &str) {
        let Some(runtime) = self.runtime.get() else { return };
        let (downloads, own) = (self.clone(), id.to_owned());
        let task = runtime.spawn(async move { downloads.carry(&own).await });
        if let Some(held) = self.held().get_mut(id) {
            held.task = Some(task.abort_handle());
        }
    }

    /// Why nothing is fetched now, in words: input/ or output/ is away.
    pub(super) fn away(&self) -> Option<String> {
        self.homes.away()
    }

    /// Takes a wish up; the same one again, while it is on its way, is the same download.
    ///
    /// # Errors
    /// What is wrong with the address is a [`FetchError`]; [`Fault::Config`] for a name that cannot be,
    /// [`Fault::Busy`] when too many wait, and while input/ or output/ is away.
    pub(super) fn add(self: &Arc<Self>, wish: DownloadRequest) -> Result<DownloadView> {
        self.homes.must_be_there()?;
        let url = self.fetcher.check(&wish.url)?;
        let name = match wish.name {
            Some(name) if plain(&name) == name => name,
            Some(name) => {
                let words = "it must be the plain name of a film or picture, without folders";
                return Err(Fault::Config.because(format!("name = {name:?}: {words}")));
            }
            None => name_of(&url),
        };
        let record = DownloadRecord {
            version: DOWNLOAD_VERSION,
            id: result_links::secret()?,
            url: wish.url,
            name,
            settings: wish.settings,
            asked: unix_now(),
            job: PathBuf::new(),
            end: None,
            ended: 0,
        };
        let same = |held: &&HeldDownload| {
            let known = &held.record;
            known.end.is_none()
                && (&known.url, &known.name, &known.settings) == (&record.url, &record.name, &record.settings)
        };
        let view = {
            let mut all = self.held();
            if let Some(held) = all.values().find(same) {
                return Ok(self.view(held));
            }
            if all.values().filter(|held| held.record.end.is_none()).count() >= WAITING_MAX {
                return Err(Fault::Busy.because("too many downloads wait already; try again later"));
            }
            let held = HeldDownload { record: record.clone(), stage: DownloadStage::Waiting, task: None };
            let view = self.view(&held);
            all.insert(record.id.clone(), held);
            view
        };
        self.tidy();
        if let Err(error) = self.store.write(&record) {
            self.held().remove(&record.id);
            return Err(error);
        }
        if !self.held().contains_key(&record.id) {
            // Cancelled meanwhile: nothing of it is to come back.
            self.store.remove(&record.id)?;
        }
        self.begin(&record.id);
        Ok(view)
    }

    /// Forgets what ended long ago.
    fn tidy(&self) {
        let mut ended: Vec<(u64, String)> = {
            let held = self.held();
            let ended = held.values().filter(|held| held.record.end.is_some());
            ended.map(|held| (held.record.ended, held.record.id.clone())).collect()
        };
        ended.sort_unstable();
        let many = ended.len().saturating_sub(KEPT_MAX);
        let old = unix_now().saturating_sub(KEPT_SECONDS);
        for (n, (at, id)) in ended.into_iter().enumerate() {
            if n < many || at < old {
                self.held().remove(&id);
                if let Err(error) = self.store.remove(&id) {
                    tracing::warn!("the record of a download stays: {}", one_line(&error));
                }
            }
        }
    }

    /// All, the oldest first.
    pub(super) fn all(&self) -> Vec<DownloadView> {
        self.views(|_| true)
    }

    /// Those that are no jobs, the oldest first.
    pub(super) fn no_jobs(&self) -> Vec<DownloadView> {
        self.views(|held| held.stage != DownloadStage::Queued)
    }

    fn views(&self, wanted: impl Fn(&HeldDownload) -> bool) -> Vec<DownloadView> {
        let old = unix_now().saturating_sub(KEPT_SECONDS);
        let held = self.held();
        let kept = held.values().filter(|held| held.record.end.is_none() || held.record.ended >= old);
        let mut all: Vec<DownloadView> = kept.filter(|held| wanted(held)).map(|held| self.view(held)).collect();
        all.sort_by(|a, b| (a.asked, &a.id).cmp(&(b.asked, &b.id)));
        all
    }

    pub(super) fn one(&self, id: &str) -> Option<DownloadView> {
        self.held().get(id).map(|held| self.view(held))
    }

    /// Stops a download, or forgets one that has ended; its job, where it has become one, stays.
    ///
    /// # Errors
    /// [`Fault::NotFound`]; [`Fault::Conflict`] in the moment in which it becomes a job.
    pub(super) fn cancel(&self, id: &str) -> Result<()> {
        let mut held = {
            let mut all = self.held();
            let held = all.get(id).ok_or_else(|| Fault::NotFound.because("there is no such download"))?;
            if held.stage == DownloadStage::Naming {
                return Err(Fault::Conflict.because("it is becoming a job at this moment: cancel that"));
            }
            if let Some(task) = &held.task {
                task.abort();
            }
            all.remove(id)
        };
        self.store.remove(id).inspect_err(|error| {
            // It can be asked for again.
            if let Some(mut held) = held.take() {
                let reason = self.shown.words(&format!("cancelled, and something of it stays: {}", one_line(error)));
                (held.record.end, held.record.ended) = (Some(DownloadEnd::Failed(reason)), unix_now());
                held.stage = DownloadStage::Failed;
                self.held().insert(id.to_owned(), held);
            }
        })
    }

    fn view(&self, HeldDownload { record, stage, .. }: &HeldDownload) -> DownloadView {
        DownloadView {
            id: record.id.clone(),
            state: *stage,
            host: Url::parse(&record.url).map_or_else(|_| String::new(), |url| place(&url)),
            name: record.name.clone(),
            bytes: match stage {
                DownloadStage::Waiting | DownloadStage::Fetching | DownloadStage::Naming => {
                    self.store.bytes(&record.id)
                }
                DownloadStage::Queued => std::fs::metadata(self.store.named(&record.job)).map_or(0, |meta| meta.len()),
                DownloadStage::Failed => 0,
            },
            job: (*stage == DownloadStage::Queued).then(|| escape(&record.job)),
            reason: match &record.end {
                Some(DownloadEnd::Failed(reason)) => Some(reason.clone()),
                _ => None,
            },
            asked: record.asked,
        }
    }

    /// The record as changed, on disk and here; `None` when it was cancelled meanwhile.
    async fn change(
        self: &Arc<Self>,
        id: &str,
        stage: DownloadStage,
        change: impl FnOnce(&mut DownloadRecord),
    ) -> Option<DownloadRecord> {
        let mut record = self.held().get(id)?.record.clone();
        let before = record.clone();
        change(&mut record);
        if record != before {
            let (downloads, kept) = (self.clone(), record.clone());
            let write = move || {
                downloads.store.write(&kept)?;
                // Cancelled meanwhile: nothing of it is to come back.
                let gone = !downloads.held().contains_key(&kept.id);
                if gone { downloads.store.remove(&kept.id) } else { Ok(()) }
            };
            let written = tokio::task::spawn_blocking(write).await;
            if let Ok(Err(error)) = written {
                // It is told all the same; only the next process knows less.
                tracing::error!("the record of a download cannot be written: {}", one_line(&error));
            }
        }
        let mut all = self.held();
        let held = all.get_mut(id)?;
        (held.record, held.stage) = (record.clone(), stage);
        Some(record)
    }
}
