//! The image worker: pictures in, larger pictures out, with the models kept open.

mod about;
mod archive;
mod batch;
mod diffusion;
mod engines;
mod fitted;
mod manifest;
mod networks;
mod picture;
mod queue;
mod request;
mod upscale;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::routing::{get, post};
use engines::Engines;
use manifest::Manifests;
use queue::CallQueue;
use tokio::sync::oneshot;

use upscaled_core::config::settings::{JobSettings, RunSettings};
use upscaled_core::fault::Fault;
use upscaled_core::shutdown::Shutdown;
use upscaled_jobs::scratch::{budget, memory};

use crate::daemon::systemd::Systemd;
use crate::server::kit::auth::Guard;
use crate::server::kit::error::ApiError;
use crate::server::kit::form::Uploads;
use crate::server::kit::limits::Limits;
use crate::server::kit::listener::Listener;
use crate::server::kit::result_links::{self, Links};
use crate::server::kit::shared_folders::Shared;
use crate::server::kit::{openapi, router};

/// Life of the links of a batch's results, and bytes of them on the disk.
const LINK_LIFE: Duration = Duration::from_secs(3600);
const LINK_BYTES: u64 = 2 << 30;
/// Bytes of a request that names a manifest.
const MANIFEST_REQUEST_BYTES: usize = 64 << 10;
/// How often the word to stop is looked for, and whether there are engines left.
const LOOK: Duration = Duration::from_millis(100);
/// How often what was done is told, and old links are forgotten.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// How long the runtime waits for work that did not end in its time.
const END_LIMIT: Duration = Duration::from_millis(200);

/// What a worker is started with.
pub struct WorkerOptions {
    pub host: String,
    pub port: u16,
    /// Engines behind the port.
    pub workers: u32,
    /// Calls that may wait while others run.
    pub waiting: usize,
    pub defaults: Defaults,
    pub settings: JobSettings,
    pub run: RunSettings,
    pub token: Option<String>,
    /// Serve other machines without a token.
    pub insecure: bool,
    /// Folders that manifests may name.
    pub shared: Vec<PathBuf>,
}

/// What a request that does not say otherwise gets.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    pub upscale: u32,
    pub process_size: u32,
}

/// What happened since the start.
#[derive(Default)]
struct RequestCounts {
    done: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
}

/// What all requests share.
struct ImageWorker {
    /// Empty until the models are loaded.
    engines: OnceLock<Arc<Engines>>,
    queue: CallQueue,
    uploads: Uploads,
    links: Arc<Links>,
    manifests: Manifests,
    limits: Limits,
    defaults: Defaults,
    counts: RequestCounts,
    model: String,
    start: Instant,
}

impl ImageWorker {
    fn engines(&self) -> Result<&Arc<Engines>, ApiError> {
        self.engines.get().ok_or_else(|| {
            let words = "The model is being loaded";
            ApiError::later(StatusCode::SERVICE_UNAVAILABLE, words, Duration::from_secs(2))
        })
    }
}

fn resources(worker: Arc<ImageWorker>) -> Router {
    let files = Router::new().route("/files/{secret}/{name}", get(result_links::get)).with_state(worker.links.clone());
    Router::new()
        .route("/upscale", post(upscale::post))
        .route("/upscale_batch", post(batch::post))
        .route("/process_manifest", post(manifest::process).layer(DefaultBodyLimit::max(MANIFEST_REQUEST_BYTES)))
        .route("/status", get(manifest::status))
        .route("/reset", post(manifest::reset))
        .route("/health", get(about::health))
        .route("/info", get(about::info))
        .route("/stats", get(about::stats))
        .route("/openapi.json", get(async || openapi::answer(include_str!("openapi.json"))))
        .with_state(worker)
        .merge(files)
}

/// Serves pictures until `shutdown`; what runs then is finished.
///
/// # Errors
/// [`Fault::Config`] and [`Fault::Busy`] for an address that cannot be had or needs a token;
/// otherwise what kept the model from being loaded.
pub fn run(options: WorkerOptions, shutdown: &Shutdown) -> Result<()> {
    let listener = Listener::bind(&options.host, options.port, "--host and --port")?;
    let guard = Guard::new(listener.address, options.token.as_deref(), options.insecure)?;
    let shared = Shared::new(&options.shared)?;
    let limits = Limits { listeners: 1, ..Limits::within(memory::whole()) };
    let slots = engines::pictures_at_once(&options.settings.model, options.workers);
    let worker = Arc::new(ImageWorker {
        engines: OnceLock::new(),
        queue: CallQueue::new(slots, options.waiting, budget::engine_bytes(&options.run)),
        uploads: Uploads::default(),
        links: Arc::new(Links::new(LINK_LIFE, LINK_BYTES)),
        manifests: Manifests::new(shared),
        limits,
        defaults: options.defaults,
        counts: RequestCounts::default(),
        model: options.settings.model.clone(),
        start: Instant::now(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2 * slots + 8)
        .build()
        .context("starting the worker's loop")?;
    let ended = runtime.block_on(serve(listener, guard, worker, &options, shutdown));
    runtime.shutdown_timeout(END_LIMIT);
    ended
}

async fn serve(
    listener: Listener,
    guard: Guard,
    worker: Arc<ImageWorker>,
    options: &WorkerOptions,
    shutdown: &Shutdown,
) -> Result<()> {
    let app = router::guarded(resources(worker.clone()), guard, &worker.limits);
    let address = listener.address;
    let (fail, failed) = oneshot::channel();
    let open = EngineOptions { settings: options.settings.clone(), run: options.run.clone(), workers: options.workers };
    let loading = tokio::spawn(load(worker.clone(), open, address, fail));
    let telling = tokio::spawn(tell(worker.clone()));
    let mut failure = None;
    let stop = async {
        tokio::select! {
            error = failed => failure = error.ok(),
            () = told_to_stop(shutdown) => {}
        }
        Systemd::new().stopping();
        // Those that wait are told so; those that run are finished.
        worker.queue.close();
    };
    let ended = listener.serve(app, &worker.limits, stop).await?;
    loading.abort();
    telling.abort();
    if let Some(error) = failure {
        return Err(error);
    }
    let all = if ended { "" } else { "; what still ran was given up" };
    tracing::info!("stopped: {}{all}", summary(&worker));
    Ok(())
}

/// Waits for the word to stop; for ever where it does not come.
async fn told_to_stop(shutdown: &Shutdown) {
    while !shutdown.is_set() {
        tokio::time::sleep(LOOK).await;
    }
}

/// What the engines are opened with.
struct EngineOptions {
    settings: JobSettings,
    run: RunSettings,
    workers: u32,
}

/// Opens the engines beside the listener, which says "loading" until then.
async fn load(
    worker: Arc<ImageWorker>,
    open: EngineOptions,
    address: std::net::SocketAddr,
    fail: oneshot::Sender<anyhow::Error>,
) {
    let start = Instant::now();
    let opened = tokio::task::spawn_blocking(move || Engines::open(&open.settings, &open.run, open.workers)).await;
    let opened = opened.unwrap_or_else(|error| Err(Fault::Internal.because(format!("loading the model: {error}"))));
    match opened {
        Ok(engines) => {
            let (words, seconds) = (engines.words(), start.elapsed().as_secs_f64());
            tracing::info!("ready on http://{address}: {words}, loaded in {seconds:.1} s");
            let engines = worker.engines.get_or_init(|| Arc::new(engines));
            let mut systemd = Systemd::new();
            systemd.ready();
            systemd.status(&words);
            let error = loop {
                tokio::time::sleep(LOOK).await;
                if let Some(error) = engines.over() {
                    break error;
                }
            };
            drop(fail.send(error));
        }
        Err(error) => drop(fail.send(error)),
    }
}

/// Tells once in a while what was done, where something was.
async fn tell(worker: Arc<ImageWorker>) {
    let mut told = String::new();
    loop {
        tokio::time::sleep(TOLD_EVERY).await;
        worker.links.expire();
        let now = summary(&worker);
        let any = worker.counts.done.load(Ordering::Relaxed) + worker.counts.failed.load(Ordering::Relaxed) > 0;
        if any && now != told {
            tracing::info!("{now}");
            told = now;
        }
    }
}

fn summary(worker: &ImageWorker) -> String {
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
    let RequestCounts { done, failed, refused } = &worker.counts;
    let (done, failed, refused) = (count(done), count(failed), count(refused));
    format!("{done} pictures done, {failed} failed, {refused} calls refused as the queue was full")
}
