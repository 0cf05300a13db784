//! The way of one download: fetched, named, queued. Each step may be repeated, in this process or in the next.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use tokio::sync::SemaphorePermit;
use url::Url;

use upscaled_core::clock::unix_now;
use upscaled_core::config::chosen::Chosen;
use upscaled_core::fault::{Fault, caught, one_line};
use upscaled_core::path_text::escape;
use upscaled_jobs::state::downloads::{self, DownloadEnd, DownloadRecord, PAYLOAD};

use super::name::names;
use super::{AGAIN, DownloadManager, DownloadStage};
use crate::daemon::control::{Command, Request};
use crate::ingest::fetch::{FetchError, place};

impl DownloadManager {
    /// All of one download.
    pub(super) async fn carry(self: &Arc<Self>, id: &str) {
        let Ok(turn) = self.turns.acquire().await else { return };
        let Some(record) = self.change(id, DownloadStage::Fetching, |_| {}).await else { return };
        let host = Url::parse(&record.url).map(|url| place(&url)).unwrap_or_default();
        match self.work(record, turn).await {
            Ok(job) => {
                tracing::info!("{}: downloaded from {host}", escape(&job));
                let end = |record: &mut DownloadRecord| {
                    (record.job, record.end, record.ended) = (job, Some(DownloadEnd::Queued), unix_now())
                };
                self.change(id, DownloadStage::Queued, end).await;
            }
            // It goes on in the next process.
            Err(error) if Fault::of(&error) == Fault::Stopped => {}
            Err(error) => {
                tracing::error!("a download from {host} failed: {}", one_line(&error));
                let store = self.store.clone();
                let own = id.to_owned();
                let dropped = tokio::task::spawn_blocking(move || {
                    caught("removing what a download left", || store.drop_payload(&own))
                });
                if let Ok(Err(error)) = dropped.await {
                    tracing::warn!("what a download left stays: {}", one_line(&error));
                }
                let reason = self.shown.words(&one_line(&error));
                let end = |record: &mut DownloadRecord| {
                    (record.end, record.ended) = (Some(DownloadEnd::Failed(reason)), unix_now())
                };
                self.change(id, DownloadStage::Failed, end).await;
            }
        }
    }

    /// Fetched, named, queued; its job. `turn` is given back once it is there.
    async fn work(self: &Arc<Self>, record: DownloadRecord, turn: SemaphorePermit<'_>) -> Result<PathBuf> {
        let id = record.id.clone();
        self.homes.there().await;
        let has_name = !record.job.as_os_str().is_empty();
        if has_name && !self.store.is_whole(&id)? {
            // It had got its name when the process before ended: a scan queues it, if that did not. Or it was a job that
            // has ended since.
            let status = Request::Status { job: escape(&record.job) };
            if self.store.named(&record.job).exists() || self.ask(status).await.is_ok() {
                return Ok(record.job);
            }
        }
        self.fetched(&record).await?;
        drop(turn);
        for name in names(&record.name) {
            let job = PathBuf::from(name);
            while self.store.named(&job).symlink_metadata().is_err() {
                let (own, gone) = (job.clone(), || Fault::Stopped.because("it was cancelled"));
                self.change(&id, DownloadStage::Naming, |record| record.job = own).await.ok_or_else(gone)?;
                let error = match self.bring(&id, &job, record.settings.clone()).await {
                    Ok(()) => return Ok(job),
                    Err(error) => error,
                };
                let away = self.homes.away().is_some();
                if !away && !self.store.is_whole(&id)? && self.store.named(&job).exists() {
                    // It has its name, and its settings: a scan queues it.
                    tracing::warn!("{}: is queued a little later: {}", escape(&job), one_line(&error));
                    return Ok(job);
                }
                match Fault::of(&error) {
                    Fault::Conflict => break,
                    fault if away || matches!(fault, Fault::Busy | Fault::NoSpace | Fault::ReadOnly) => {
                        tracing::warn!("{}: cannot be queued yet: {}", escape(&job), one_line(&error));
                        self.change(&id, DownloadStage::Waiting, |_| {}).await.ok_or_else(gone)?;
                        tokio::time::sleep(AGAIN).await;
                        self.homes.there().await;
                    }
                    _ => return Err(error),
                }
            }
        }
        Err(Fault::Conflict.because(format!("all names like {} are taken in input/", record.name)))
    }

    /// Fetches it, unless that is done. A disk that goes away meanwhile takes what has come with it; with it, it goes on.
    async fn fetched(self: &Arc<Self>, record: &DownloadRecord) -> Result<()> {
        let id = &record.id;
        let url = self.fetcher.check(&record.url)?;
        loop {
            self.homes.there().await;
            let error = match self.fetch_once(id, &url).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let Some(words) = self.homes.away() else { return Err(error) };
            tracing::warn!("a download from {} waits: {words}", place(&url));
            let gone = || Fault::Stopped.because("it was cancelled");
            self.change(id, DownloadStage::Waiting, |_| {}).await.ok_or_else(gone)?;
            self.homes.there().await;
            self.change(id, DownloadStage::Fetching, |_| {}).await.ok_or_else(gone)?;
        }
    }

    async fn fetch_once(self: &Arc<Self>, id: &str, url: &Url) -> Result<()> {
        if self.store.is_whole(id)? {
            return Ok(());
        }
        let folder = self.store.place(id)?;
        let target = folder.at(PAYLOAD);
        let fetched = tokio::select! {
            fetched = self.fetcher.fetch(url, &target, self.limits) => fetched,
            () = self.homes.gone() => return Err(Fault::Busy.because("its disk went away")),
        };
        fetched.map_err(|error| match error {
            FetchError::Here(error) => folder.named(error),
            other => other.fault().because(other.to_string()),
        })
    }

    /// Gives it its name and its place in the queue, in one step of the daemon's loop.
    async fn bring(&self, id: &str, job: &Path, settings: Chosen) -> Result<()> {
        let from = escape(&downloads::DownloadStore::payload(id));
        self.ask(Request::Bring { from, job: escape(job), settings }).await
    }

    async fn ask(&self, request: Request) -> Result<()> {
        Command::send(&self.asked, request).await?.into_result().map(drop)
    }
}
