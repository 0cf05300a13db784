//! The video service: clips that clients name or send, upscaled by the daemon as jobs of its ordinary
//! queue, ahead of all others, under the profile `vidaio`.
//!
//! Two contracts that exist, each with a listener of its own, on one [`service::VidaioService`].

mod about;
mod body;
mod current;
mod deliver;
mod files;
mod original;
mod places;
mod results;
mod service;
mod shared;
mod store;
mod store_variables;
pub mod tasks;
mod upload;
mod work;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use service::VidaioService;
use tokio::sync::{mpsc, oneshot};

use upscaled_core::config::settings::ServiceSettings;
use upscaled_core::fault::one_line;
use upscaled_jobs::state::paths::RootLayout;
use upscaled_jobs::state::requests::Requests;

use crate::daemon::Frontend;
use crate::daemon::control::Command;
use crate::server::kit::auth::Guard;
use crate::server::kit::listener::Listener;
use crate::server::kit::{openapi, router};

pub use store_variables::StoreVariables;

/// Bytes of a request's JSON.
const BODY_MAX: usize = 256 << 10;
/// Threads for files and the names of hosts.
const BLOCKING_MAX: usize = 16;
/// How long the runtime waits for work that did not end in its time.
const END_LIMIT: Duration = Duration::from_millis(200);

/// What the service is started with.
pub struct VidaioOptions {
    pub layout: RootLayout,
    pub requests: Requests,
    pub settings: ServiceSettings,
    /// The variables that other programs name a store by; settings go before them.
    pub variables: StoreVariables,
    /// The model's name, for `/info`.
    pub model: String,
    /// Of `/upscale-video`, and of the current `/upscale`.
    pub original: Option<(Listener, Guard)>,
    pub current: Option<(Listener, Guard)>,
}

/// Serves the listeners for as long as the daemon runs; give it to [`crate::daemon::DaemonOptions`].
///
/// # Errors
/// [`upscaled_core::fault::Fault::Config`] for settings that cannot be.
pub fn front(options: VidaioOptions) -> Result<Frontend> {
    let prepared = service::Prepared::new(&options)?;
    Ok(Box::new(move |asked| {
        Box::pin(async move {
            // A thread and a loop of its own: downloads and readers do not hold up the daemon.
            let (over, ended) = oneshot::channel::<()>();
            let serve = move || {
                if let Err(error) = run(options, prepared, asked) {
                    tracing::error!("the video service has ended: {}", one_line(&error));
                }
                drop(over);
            };
            if let Err(error) = std::thread::Builder::new().name("service".into()).spawn(serve) {
                tracing::error!("the video service cannot start: {error}");
            }
            let _ = ended.await;
        })
    }))
}

fn run(options: VidaioOptions, prepared: service::Prepared, asked: mpsc::Sender<Command>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_MAX)
        .build()
        .context("starting the video service's loop")?;
    let ended = runtime.block_on(async move {
        let service = Arc::new(VidaioService::start(prepared, asked.clone())?);
        service.requests.sweep();
        service.clone().take_up();
        let closed = || {
            let asked = asked.clone();
            async move { asked.closed().await }
        };
        let VidaioOptions { original, current, .. } = options;
        let serve = |name: &'static str, bound: Option<(Listener, Guard)>, resources: Router| {
            let (limits, stop) = (service.limits.clone(), closed());
            async move {
                let Some((listener, guard)) = bound else { return Ok(()) };
                tracing::info!("the video service ({name}) is at http://{}/", listener.address);
                let app = router::guarded(resources, guard, &limits);
                listener.serve(app, &limits, stop).await.map(drop)
            }
        };
        let (first, second) = tokio::join!(
            serve("upscale-video", original, of_original(service.clone())),
            serve("upscale", current, of_current(service.clone()))
        );
        first.and(second)
    });
    runtime.shutdown_timeout(END_LIMIT);
    ended
}

fn of_original(service: Arc<VidaioService>) -> Router {
    let upload = upload::body_max(&service.settings);
    Router::new()
        .route("/upscale-video", post(original::post).layer(DefaultBodyLimit::max(BODY_MAX)))
        .route("/process_video", post(upload::post).layer(DefaultBodyLimit::max(upload)))
        .route("/health", get(about::health))
        .route("/stats", get(about::stats))
        .route("/task_types", get(about::task_types))
        .route("/info", get(about::info))
        .route("/openapi.json", get(async || openapi::answer(include_str!("original.openapi.json"))))
        .route("/files/{secret}/{name}", get(files::get))
        .with_state(service)
}

fn of_current(service: Arc<VidaioService>) -> Router {
    Router::new()
        .route("/upscale", post(current::post).layer(DefaultBodyLimit::max(BODY_MAX)))
        .route("/health", get(about::current_health))
        .route("/queue", get(about::queue))
        .route("/openapi.json", get(async || openapi::answer(include_str!("current.openapi.json"))))
        .route("/files/{secret}/{name}", get(files::get))
        .with_state(service)
}
