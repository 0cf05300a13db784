//! Requests on their way: fetched, queued, waited for, stored. All that must outlive this process is in
//! the request's record, the queue and the history; what is here only saves doing it twice at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::http::StatusCode;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use upscaled_core::clock::unix_now;
use upscaled_core::config::settings::ServiceSettings;
use upscaled_core::fault::one_line;
use upscaled_jobs::scratch::memory;
use upscaled_jobs::state::history::History;
use upscaled_jobs::state::paths::RootLayout;
use upscaled_jobs::state::requests::{Finished, PayloadOrigin, RequestRecord, Requests};

use super::VidaioOptions;
use super::places::RequestSlots;
use super::results::Mark;
use super::store::Store;
use super::work::failed_fetch;
use crate::daemon::control::{Command, Request};
use crate::daemon::mount_guard::Homes;
use crate::ingest::fetch::Fetcher;
use crate::server::kit::error::ApiError;
use crate::server::kit::form::Uploads;
use crate::server::kit::limits::Limits;
use crate::server::kit::shown::ClientPaths;

/// Requests at hand, of both contracts.
const REQUESTS_MAX: usize = 64;
/// Between two looks for results whose time is over, at most.
const TIDY_EVERY: Duration = Duration::from_secs(30);
/// Hex digits of a request's key.
const KEY_DIGITS: usize = 32;
/// A client that found no place may come back after this.
const FULL_RETRY: Duration = Duration::from_secs(10);

/// What is made before the daemon runs, so that a wrong setting ends the program at once.
pub(super) struct Prepared {
    layout: RootLayout,
    requests: Requests,
    settings: ServiceSettings,
    fetcher: Fetcher,
    store: Option<Store>,
    model: String,
}

impl Prepared {
    pub(super) fn new(options: &VidaioOptions) -> Result<Prepared> {
        Ok(Prepared {
            layout: options.layout.clone(),
            requests: options.requests.clone(),
            settings: options.settings.clone(),
            fetcher: Fetcher::new(options.settings.fetch_private)?,
            store: Store::open(&options.settings, &options.variables)?,
            model: options.model.clone(),
        })
    }
}

/// What a client wants.
#[derive(Clone, Debug)]
pub(super) struct ServiceRequest {
    pub origin: PayloadOrigin,
    pub task: Option<&'static str>,
    pub scale: u32,
    pub max_size_mb: Option<u64>,
    /// Apart from the origin: what tells one payload from another.
    pub identity: String,
    /// The payload, where it came with the request.
    pub upload: Option<Arc<File>>,
}

impl ServiceRequest {
    /// The key of the request: the same wish has the same.
    pub(super) fn key(&self) -> String {
        let task = self.task.unwrap_or_default();
        let text = format!("{}\n{task}\n{}\n{:?}", self.identity, self.scale, self.max_size_mb);
        blake3::hash(text.as_bytes()).to_hex()[..KEY_DIGITS].to_owned()
    }
}

/// Status of a request whose clip came with it and is not kept any more.
pub(super) const UPLOAD_LOST: StatusCode = StatusCode::GONE;

/// Why a request came to nothing, fit for the client.
#[derive(Clone, Debug)]
pub struct RequestError {
    pub status: StatusCode,
    pub words: String,
}

impl From<RequestError> for ApiError {
    fn from(failed: RequestError) -> ApiError {
        match failed.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                ApiError::later(failed.status, failed.words, FULL_RETRY)
            }
            status => ApiError::new(status, failed.words),
        }
    }
}

pub(super) type RequestResult = Result<RequestRecord, RequestError>;

/// What all requests share.
pub(super) struct VidaioService {
    pub requests: Requests,
    pub layout: RootLayout,
    pub(super) shown: ClientPaths,
    pub settings: ServiceSettings,
    pub limits: Limits,
    /// Of clips that come with their request.
    pub upload_limits: Limits,
    pub places: RequestSlots,
    pub uploads: Uploads,
    pub model: String,
    pub(super) fetcher: Fetcher,
    pub store: Option<Store>,
    pub(super) asked: mpsc::Sender<Command>,
    pub(super) history: Mutex<History>,
    pub(super) homes: Homes,
    /// What results looked like when their bytes were last compared with the record, by the key.
    pub(super) seen: Mutex<HashMap<String, Mark>>,
    at_work: Mutex<HashMap<String, watch::Receiver<Option<RequestResult>>>>,
    /// Keys of finished requests by the secret of their link.
    pub(super) links: Mutex<HashMap<String, String>>,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Work on files, apart from the loop.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("work on files was given up")?
}

impl VidaioService {
    pub(super) fn start(prepared: Prepared, asked: mpsc::Sender<Command>) -> Result<VidaioService> {
        let Prepared { layout, requests, settings, fetcher, store, model } = prepared;
        Ok(VidaioService {
            requests,
            homes: Homes::new(&layout),
            seen: Mutex::default(),
            history: Mutex::new(History::open(&layout.history())?),
            shown: ClientPaths::new(&layout),
            layout,
            upload_limits: super::upload::limits(&settings),
            places: RequestSlots::new(settings.vidaio_workers),
            settings,
            limits: Limits::within(memory::whole()),
            uploads: Uploads::default(),
            model,
            fetcher,
            store,
            asked,
            at_work: Mutex::default(),
            links: Mutex::default(),
        })
    }

    /// Goes on with what an earlier process left unfinished, and tidies from now on.
    pub(super) fn take_up(self: Arc<Self>) {
        for record in self.requests.all() {
            if record.finished.is_some() {
                locked(&self.links).insert(record.secret, record.key);
            } else {
                tracing::info!("request {}: going on with it", record.key);
                let _ = self.begin(record.key, &mut None);
            }
        }
        tokio::spawn(async move {
            while !self.asked.is_closed() {
                self.tidy().await;
                sleep(TIDY_EVERY.min(Duration::from_secs(self.settings.result_seconds))).await;
            }
        });
    }

    /// Requests at hand.
    pub(super) fn at_hand(&self) -> usize {
        locked(&self.at_work).len()
    }

    /// Whether another request can be taken at this moment.
    pub(super) fn room(&self) -> Result<(), RequestError> {
        self.must_be_there()?;
        room_beside(self.at_hand())
    }

    /// Nothing is fetched, queued or begun while input/ or output/ is away.
    pub(super) fn must_be_there(&self) -> Result<(), RequestError> {
        match self.homes.away() {
            Some(words) => {
                tracing::warn!("a request is refused: {words}");
                Err(stopping())
            }
            None => Ok(()),
        }
    }

    pub(super) fn check_url(&self, text: &str) -> Result<(), RequestError> {
        self.fetcher.check(text).map(drop).map_err(|error| failed_fetch(&error))
    }

    /// Does what is wanted, or joins those who do; whoever leaves, it goes on.
    pub(super) async fn fulfil(self: &Arc<Self>, wish: ServiceRequest) -> RequestResult {
        let (key, mut wish) = (wish.key(), Some(wish));
        loop {
            self.must_be_there()?;
            let mut ended = self.begin(key.clone(), &mut wish)?;
            let end = loop {
                if let Some(end) = ended.borrow_and_update().clone() {
                    break end;
                }
                ended.changed().await.map_err(|_| stopping())?;
            };
            match end {
                // Joined what an earlier process left without its clip, which has come here anew.
                Err(failed) if failed.status == UPLOAD_LOST && wish.is_some() => {}
                end => return end,
            }
        }
    }

    /// Begins a request, which takes the wish with it, or joins those who are at it already.
    fn begin(
        self: &Arc<Self>,
        key: String,
        wish: &mut Option<ServiceRequest>,
    ) -> Result<watch::Receiver<Option<RequestResult>>, RequestError> {
        let mut at_work = locked(&self.at_work);
        if let Some(ended) = at_work.get(&key) {
            return Ok(ended.clone());
        }
        room_beside(at_work.len())?;
        let (tell, ended) = watch::channel(None);
        at_work.insert(key.clone(), ended.clone());
        let (service, wish) = (self.clone(), wish.take());
        tokio::spawn(async move {
            let carried = tokio::spawn({
                let (service, key) = (service.clone(), key.clone());
                async move { service.carry(&key, wish).await }
            });
            let end = carried.await.unwrap_or_else(|_| Err(internal()));
            if let Err(RequestError { status, words }) = &end {
                tracing::warn!("request {key}: {} {words}", status.as_u16());
            }
            // First out of the list: whoever comes now finds the record.
            locked(&service.at_work).remove(&key);
            tell.send_replace(Some(end));
        });
        Ok(ended)
    }

    /// Asks the daemon's loop.
    pub(super) async fn ask(&self, request: Request) -> Result<crate::daemon::control::Response> {
        Command::send(&self.asked, request).await?.into_result()
    }

    /// Drops all that is kept of a request whose job has ended.
    pub(super) async fn forget(&self, key: &str) {
        // Its loop is over with the job when it answers.
        let _ = self.ask(Request::Glance { from: 0, count: 0 }).await;
        let (requests, key) = (self.requests.clone(), key.to_owned());
        if let Err(error) = blocking(move || requests.remove(&key)).await {
            tracing::warn!("what a request left cannot be removed: {}", one_line(&error));
        }
    }

    async fn tidy(&self) {
        if self.homes.away().is_some() {
            return;
        }
        let requests = self.requests.clone();
        let all = blocking(move || Ok(requests.all())).await.unwrap_or_default();
        let now = unix_now();
        for record in all {
            let since = record.finished.as_ref().map_or(record.asked, |finished| finished.at);
            if now < since.saturating_add(self.settings.result_seconds) {
                continue;
            }
            // Whoever asks for it meanwhile is to ask again.
            let (tell, gone) = watch::channel(None);
            match locked(&self.at_work).entry(record.key.clone()) {
                Entry::Occupied(_) => continue,
                Entry::Vacant(place) => drop(place.insert(gone)),
            }
            let object = record.finished.as_ref().and_then(|finished| finished.object.as_ref());
            if let (Some(store), Some(object)) = (&self.store, object)
                && let Err(error) = store.delete(object).await
            {
                tracing::warn!("an old result stays in the store: {}", one_line(&error));
            }
            locked(&self.links).remove(&record.secret);
            locked(&self.seen).remove(&record.key);
            tracing::info!("request {}: its time is over, removed", record.key);
            self.forget(&record.key).await;
            locked(&self.at_work).remove(&record.key);
            tell.send_replace(Some(Err(stopping())));
        }
    }

    /// The finished request behind a link.
    pub(super) async fn behind(&self, secret: &str) -> Option<RequestRecord> {
        let key = locked(&self.links).get(secret).cloned()?;
        let requests = self.requests.clone();
        let record = blocking(move || requests.read(&key)).await.ok().flatten()?;
        let over = |finished: &Finished| unix_now() >= finished.at.saturating_add(self.settings.result_seconds);
        record.finished.as_ref().is_some_and(|finished| !over(finished)).then_some(record)
    }
}

/// Whether another request can be taken beside so many.
fn room_beside(at_hand: usize) -> Result<(), RequestError> {
    let words = || "Too many requests at the moment; try again later".into();
    let full = || RequestError { status: StatusCode::TOO_MANY_REQUESTS, words: words() };
    if at_hand < REQUESTS_MAX { Ok(()) } else { Err(full()) }
}

pub(super) fn stopping() -> RequestError {
    RequestError {
        status: StatusCode::SERVICE_UNAVAILABLE,
        words: "Not at this moment; ask again, and it goes on".into(),
    }
}

pub(super) fn internal() -> RequestError {
    RequestError { status: StatusCode::INTERNAL_SERVER_ERROR, words: "The server failed; its log says why".into() }
}
