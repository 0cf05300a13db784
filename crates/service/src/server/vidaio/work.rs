//! The way of one request: fetched, queued, waited for, delivered or stored; each step may be repeated, in
//! this process or in the next.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use axum::http::StatusCode;
use tokio::time::sleep;

use upscaled_core::atomic_file;
use upscaled_core::clock::unix_now;
use upscaled_core::fault::{Fault, one_line};
use upscaled_core::own_folder::path_of;
use upscaled_core::path_text::{escape, unescape};
use upscaled_jobs::state::history::{Ending, HistoryEntry};
use upscaled_jobs::state::requests::{
    Finished, PAYLOAD, PayloadOrigin, REQUEST_VERSION, RequestRecord, job, key_of, make_result_folder,
};

use super::results::hash_of;
use super::service::{
    RequestError, RequestResult, ServiceRequest, UPLOAD_LOST, VidaioService, blocking, internal, locked, stopping,
};
use super::store::ADDRESS_LIFE;
use super::{deliver, shared};
use crate::daemon::control::Request;
use crate::ingest::fetch::{FetchError, FetchLimits};
use crate::server::kit::result_links;

/// A clip that came with its request, which an earlier process took, did not outlive that process.
#[derive(Debug, thiserror::Error)]
#[error("the upload is not kept any more; send it again")]
struct UploadLost;

/// Between two looks at the history.
const LOOK: Duration = Duration::from_millis(50);

impl VidaioService {
    /// All of it, whoever still listens.
    pub(super) async fn carry(&self, key: &str, wish: Option<ServiceRequest>) -> RequestResult {
        let upload = wish.as_ref().and_then(|wish| wish.upload.clone());
        // Also those that an earlier process left, which nobody asks for now.
        self.homes.there().await;
        let record = self.record(key, wish).await.map_err(|error| self.failed(&error))?;
        let start = Instant::now();
        match self.work(record, upload, start).await {
            Ok(record) => {
                locked(&self.links).insert(record.secret.clone(), record.key.clone());
                Ok(record)
            }
            Err(error) => {
                let failed = error.downcast_ref::<FetchError>().map_or_else(|| self.failed(&error), failed_fetch);
                // What came of it without its disk says nothing: it goes on when it is asked for again.
                if self.homes.away().is_some() {
                    return Err(stopping());
                }
                // A result that only could not be stored is stored when it is asked for again.
                if failed.status != StatusCode::SERVICE_UNAVAILABLE && self.published(&job(key)).is_none() {
                    self.forget(key).await;
                }
                Err(failed)
            }
        }
    }

    /// The record as it is kept, a new one where there is none, or the result of the old is gone.
    async fn record(&self, key: &str, wish: Option<ServiceRequest>) -> Result<RequestRecord> {
        let (requests, key) = (self.requests.clone(), key.to_owned());
        blocking(move || {
            let kept = match requests.read(&key) {
                Err(error) if Fault::of(&error) == Fault::DamagedState => None,
                kept => kept?,
            };
            // Whether the client named the result's path, the key does not tell.
            let origin =
                |kept: &RequestRecord| wish.as_ref().map_or_else(|| kept.origin.clone(), |wish| wish.origin.clone());
            let kept = kept.map(|kept| RequestRecord { origin: origin(&kept), ..kept });
            let good = |finished: &Finished| unix_now() < finished.at.saturating_add(ADDRESS_LIFE.as_secs());
            let lies = |finished: &Finished| {
                let file = requests.result(&key, &finished.output).ok().flatten();
                file.and_then(|file| file.metadata().ok()).is_some_and(|meta| meta.len() == finished.bytes)
            };
            let whole = |finished: &Finished| finished.url.as_ref().map_or_else(|| lies(finished), |_| good(finished));
            if let Some(record) = &kept
                && record.finished.as_ref().is_none_or(whole)
            {
                return Ok(record.clone());
            }
            let record = match (kept, wish) {
                (Some(kept), _) => RequestRecord { finished: None, ..kept },
                (None, Some(wish)) => RequestRecord {
                    version: REQUEST_VERSION,
                    key,
                    secret: result_links::secret()?,
                    origin: wish.origin,
                    task: wish.task.map(str::to_owned),
                    scale: wish.scale,
                    max_size_mb: wish.max_size_mb,
                    asked: unix_now(),
                    delivered: None,
                    finished: None,
                },
                (None, None) => return Err(Fault::NotFound.because("the request is not kept any more")),
            };
            requests.write(&record)?;
            Ok(record)
        })
        .await
    }

    async fn work(
        &self,
        mut record: RequestRecord,
        upload: Option<Arc<File>>,
        start: Instant,
    ) -> Result<RequestRecord> {
        let key = record.key.clone();
        if let Some(finished) = record.finished.take() {
            let kept = RequestRecord { finished: Some(finished.clone()), ..record.clone() };
            match self.result(&kept).await {
                Some(file) => return self.deliver(kept, path_of(&file)).await,
                // The store has it, or had it: it is not looked at here.
                None if finished.url.is_some() => return Ok(kept),
                // It is not what was made any more: made anew.
                None => {
                    let (requests, own) = (self.requests.clone(), key.clone());
                    blocking(move || requests.drop_result(&own)).await?;
                }
            }
        }
        if self.published(&job(&key)).is_none() {
            let (folder, record) = (self.settings.shared_folder.clone(), record.clone());
            blocking(move || deliver::check(folder.as_deref(), &record)).await?;
        }
        let folder = {
            let (requests, layout, key) = (self.requests.clone(), self.layout.clone(), key.clone());
            blocking(move || {
                make_result_folder(layout.output(), &key)?;
                requests.place(&key)
            })
            .await?
        };
        let payload = folder.at(PAYLOAD);
        let there = folder.file(PAYLOAD)?.is_some();
        let fetched = tokio::select! {
            fetched = self.fetched(&record, upload, &payload, there) => fetched,
            () = self.homes.gone() => Err(Fault::Stopped.because("the disk of its payload or result went away")),
        };
        fetched.map_err(|error| match error.downcast::<FetchError>() {
            Ok(FetchError::Here(error)) => FetchError::Here(folder.named(error)).into(),
            Ok(other) => other.into(),
            Err(error) if error.is::<UploadLost>() => error,
            Err(error) => folder.named(error),
        })?;
        drop(folder);
        let entry = self.upscaled(&key).await?;
        let output = entry.outcome.as_ref().and_then(|outcome| unescape(&outcome.output));
        let output = output.filter(|_| entry.state == Ending::Done);
        let Some(output) = output else { return Err(self.came_to_nothing(&entry)) };
        let name = PathBuf::from(output.file_name().unwrap_or_default());
        let (requests, own) = (self.requests.clone(), key.clone());
        let (file, hash, meta) = blocking(move || {
            let gone = || Fault::NotFound.because("the output is not there any more");
            let file = requests.result(&own, &output)?.ok_or_else(gone)?;
            let (hash, meta) = (hash_of(&file)?, file.metadata()?);
            Ok((file, hash, meta))
        })
        .await?;
        // Whatever comes to lie under its name: this is what was made.
        let output = path_of(&file);
        record = self.deliver(record, output.clone()).await?;
        let (mut object, mut url) = (None, None);
        if let (Some(store), false) = (&self.store, matches!(record.origin, PayloadOrigin::Shared { .. })) {
            let stored = store.put(&output, &record.secret).await.map_err(|error| {
                // What a store says may hold its address and the name of the key.
                tracing::error!("request {key}: the store: {}", one_line(&error));
                Fault::Io.because("the result cannot be put into the store; the server's log says why")
            })?;
            (object, url) = (Some(stored.object), Some(stored.url));
        }
        self.saw(&key, &meta);
        record.finished = Some(Finished {
            bytes: meta.len(),
            hash: Some(hash),
            frames: entry.outcome.unwrap_or_default().frames,
            seconds: start.elapsed().as_secs_f64(),
            at: unix_now(),
            output: name,
            object,
            url,
        });
        let (requests, kept) = (self.requests.clone(), record.clone());
        blocking(move || requests.write(&kept)).await?;
        Ok(record)
    }

    /// Puts the result beside its clip, where that was named by path.
    async fn deliver(&self, record: RequestRecord, output: PathBuf) -> Result<RequestRecord> {
        let (folder, requests) = (self.settings.shared_folder.clone(), self.requests.clone());
        blocking(move || deliver::deliver(folder.as_deref(), &requests, record, &output)).await
    }

    /// The payload in its place, unless it is `there`.
    async fn fetched(
        &self,
        record: &RequestRecord,
        upload: Option<Arc<File>>,
        payload: &Path,
        there: bool,
    ) -> Result<()> {
        match &record.origin {
            _ if there => {}
            PayloadOrigin::Url(url) => {
                let url = self.fetcher.check(url)?;
                let time = Duration::from_secs(self.settings.fetch_seconds);
                let limits = FetchLimits { bytes: self.settings.fetch_max_mb << 20, time };
                self.fetcher.fetch(&url, payload, limits).await?;
            }
            PayloadOrigin::Shared { source, .. } => {
                let (source, most) = (source.clone(), self.settings.fetch_max_mb << 20);
                let folder = self.settings.shared_folder.clone();
                let target = payload.to_owned();
                blocking(move || shared::take(folder.as_deref(), &source, &target, most)).await?;
            }
            PayloadOrigin::Upload if let Some(upload) = upload => {
                let target = payload.to_owned();
                blocking(move || atomic_file::name(&upload, &target)).await?;
            }
            PayloadOrigin::Upload => return Err(UploadLost.into()),
        }
        Ok(())
    }

    /// The end of a job, which is queued where it has not ended already.
    async fn upscaled(&self, key: &str) -> Result<HistoryEntry> {
        let job = &job(key);
        if let Some(entry) = self.published(job) {
            return Ok(entry);
        }
        self.ask(Request::Serve { key: key.to_owned() }).await?;
        loop {
            if let Some(entry) = self.end_of(job)? {
                return Ok(entry);
            }
            if self.asked.is_closed() {
                return Err(Fault::Stopped.because("the daemon stops"));
            }
            sleep(LOOK).await;
        }
    }

    /// The end of a job whose output is there.
    fn published(&self, job: &Path) -> Option<HistoryEntry> {
        self.end_of(job).ok().flatten().filter(|entry| {
            let output = entry.outcome.as_ref().and_then(|outcome| unescape(&outcome.output));
            let lies = |output: &Path| {
                key_of(job).is_some_and(|key| self.requests.result(key, output).is_ok_and(|file| file.is_some()))
            };
            entry.state == Ending::Done && output.is_some_and(|output| lies(&output))
        })
    }

    fn end_of(&self, job: &Path) -> Result<Option<HistoryEntry>> {
        let mut history = locked(&self.history);
        history.refresh()?;
        Ok(history.last(job).filter(|entry| entry.state != Ending::Retried).cloned())
    }

    /// What is told of a job that ended without an output.
    fn came_to_nothing(&self, entry: &HistoryEntry) -> anyhow::Error {
        let reason = entry.reason.clone().unwrap_or_default();
        match entry.state {
            Ending::Cancelled | Ending::Removed => Fault::Internal.because("the job was cancelled"),
            _ => entry.fault.unwrap_or(Fault::Internal).because(self.named(&reason, &entry.job)),
        }
    }

    /// A job's reason with its own files called by what they are.
    fn named(&self, words: &str, job: &Path) -> String {
        let (source, output) = (self.layout.source(job), self.layout.output_dir(job));
        let words = words.replace(&escape(&source), "the payload").replace(&escape(job), "the payload");
        words.replace(&escape(&output), "the output")
    }

    /// An error as the client is told it; the whole of it in the log.
    fn failed(&self, error: &anyhow::Error) -> RequestError {
        let status = match Fault::of(error) {
            _ if error.is::<UploadLost>() => UPLOAD_LOST,
            Fault::BadInput | Fault::Unsupported => StatusCode::BAD_REQUEST,
            Fault::Stopped => return stopping(),
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        RequestError { status, words: self.shown.words(&one_line(error)) }
    }
}

/// A download's failure as the client is told it.
pub(super) fn failed_fetch(error: &FetchError) -> RequestError {
    let status = match error {
        FetchError::Address(_) | FetchError::Unreachable(_) | FetchError::TooSlow(_) => StatusCode::BAD_REQUEST,
        FetchError::Forbidden(_) => StatusCode::FORBIDDEN,
        FetchError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        FetchError::Here(error) => {
            tracing::error!("a download: {}", one_line(error));
            return internal();
        }
    };
    RequestError { status, words: format!("The payload cannot be fetched: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_not_told() {
        let failed = failed_fetch(&FetchError::Here(Fault::NoSpace.because("writing /srv/x")));
        assert_eq!((failed.status.as_u16(), failed.words.contains("/srv")), (500, false));
        assert_eq!(failed_fetch(&FetchError::TooLarge(5 << 20)).status.as_u16(), 413);
    }
}
