//! The daemon's own listener: its page, its jobs as JSON, events and metrics.
//!
//! Nothing is decided here: each request goes to the daemon's loop as the control socket's do
//! ([`crate::daemon::control`]), and what it answers is told.

mod downloads;
mod events;
mod jobs;
mod login;
mod metrics;
mod page;
mod preview;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::routing::{get, post};
use downloads::DownloadManager;
use tokio::sync::{Semaphore, mpsc};

use upscaled_core::config::settings::ServiceSettings;
use upscaled_core::fault::{Fault, one_line};
use upscaled_jobs::scratch::memory;
use upscaled_jobs::state;
use upscaled_jobs::state::paths::RootLayout;

use crate::daemon::Frontend;
use crate::daemon::control::{Command, Request, Response};
use crate::server::kit::auth::Guard;
use crate::server::kit::error::ApiError;
use crate::server::kit::limits::Limits;
use crate::server::kit::listener::Listener;
use crate::server::kit::shown::ClientPaths;
use crate::server::kit::{openapi, router};

/// Bytes of a request's body.
const BODY_MAX: usize = 64 << 10;

/// What a browser needs before it has told the token: the page, which holds nothing secret.
const OPEN: &[&str] = &["/", "/app.js", "/style.css", "/icon.svg", "/api/login"];

/// A client may ask again so long after a disk was away.
const AWAY_RETRY: Duration = Duration::from_secs(30);

/// What the listener is of.
pub struct ControlApiOptions {
    pub layout: RootLayout,
    /// Records of films on their way.
    pub downloads: state::downloads::DownloadStore,
    pub settings: ServiceSettings,
}

/// What the handlers share.
#[derive(Clone)]
pub struct ControlApi {
    asked: mpsc::Sender<Command>,
    guard: Guard,
    /// Places for those who listen to events.
    listeners: Arc<Semaphore>,
    feed: Arc<events::EventFeed>,
    downloads: Arc<DownloadManager>,
    layout: RootLayout,
    shown: ClientPaths,
}

impl ControlApi {
    fn new(asked: mpsc::Sender<Command>, guard: Guard, options: ControlApiOptions) -> Result<ControlApi> {
        let ControlApiOptions { layout, downloads, settings } = options;
        Ok(ControlApi {
            downloads: Arc::new(DownloadManager::new(&layout, downloads, &settings, asked.clone())?),
            asked,
            guard,
            listeners: Arc::new(Semaphore::new(events::LISTENERS_MAX)),
            feed: Arc::default(),
            shown: ClientPaths::new(&layout),
            layout,
        })
    }

    /// The daemon's answer; its refusals as errors.
    async fn ask(&self, request: Request) -> Result<Response, ApiError> {
        let answer = Command::send(&self.asked, request).await.map_err(|error| ApiError::kept(&error))?;
        answer.into_result().map(|response| self.told(response)).map_err(|error| self.refusal(&error))
    }

    /// Refuses what would fetch, queue or begin anything while input/ or output/ is away.
    fn must_be_there(&self) -> Result<(), ApiError> {
        let later =
            |words: String| ApiError::later(StatusCode::SERVICE_UNAVAILABLE, self.shown.words(&words), AWAY_RETRY);
        self.downloads.away().map_or(Ok(()), |words| Err(later(words)))
    }

    /// An error in its own words, without paths of this machine.
    fn refusal(&self, error: &anyhow::Error) -> ApiError {
        ApiError::told(&Fault::of(error).because(self.shown.words(&one_line(error))))
    }

    /// The answer without paths of this machine.
    fn told(&self, mut response: Response) -> Response {
        let words = |text: &mut String| *text = self.shown.words(text);
        words(&mut response.message);
        response.daemon.iter_mut().filter_map(|daemon| daemon.held.as_mut()).for_each(words);
        for job in &mut response.jobs {
            words(&mut job.activity);
            job.output.iter_mut().for_each(|output| *output = self.shown.path(output));
            if let Some(status) = &mut job.status {
                words(&mut status.activity);
                status.remarks.iter_mut().for_each(words);
                status.last_error.iter_mut().for_each(|error| words(&mut error.reason));
            }
        }
        response
    }
}

/// Serves a listener for as long as the daemon runs; give it to [`crate::daemon::DaemonOptions`].
pub fn front(listener: Listener, guard: Guard, options: ControlApiOptions) -> Frontend {
    let guard = guard.with_login(OPEN);
    Box::new(move |asked| {
        Box::pin(async move {
            let limits = Limits::within(memory::whole());
            let control = ControlApi::new(asked, guard.clone(), options);
            let control = control.and_then(|control| control.downloads.take_up().map(|()| control));
            let control = match control {
                Ok(control) => control,
                Err(error) => return tracing::error!("the page is not served: {}", one_line(&error)),
            };
            let app = router::guarded(routes(control.clone()), guard, &limits);
            tracing::info!("the page is at http://{}/", listener.address);
            let served = tokio::select! {
                served = listener.serve(app, &limits, std::future::pending()) => served,
                () = events::look(control) => Ok(true),
            };
            if let Err(error) = served {
                tracing::error!("the page is not served: {}", one_line(&error));
            }
        })
    })
}

fn routes(control: ControlApi) -> Router {
    Router::new()
        .route("/", get(page::index))
        .route("/app.js", get(page::script))
        .route("/style.css", get(page::style))
        .route("/icon.svg", get(page::icon))
        .route("/health", get(jobs::health))
        .route("/api/login", post(login::log_in))
        .route("/api/jobs", get(jobs::all).post(jobs::add))
        .route("/api/jobs/{job}", get(jobs::one))
        .route("/api/jobs/{job}/pause", post(jobs::steer(|job| Request::Pause { job: Some(job) })))
        .route("/api/jobs/{job}/resume", post(jobs::steer(|job| Request::Resume { job: Some(job) })))
        .route("/api/jobs/{job}/cancel", post(jobs::steer(|job| Request::Cancel { job: Some(job) })))
        .route("/api/jobs/{job}/retry", post(jobs::steer(Request::retry)))
        .route("/api/jobs/{job}/move", post(jobs::reorder))
        .route("/api/jobs/{job}/preview/{side}", get(preview::picture))
        .route("/api/downloads", get(downloads::all))
        .route("/api/downloads/{id}", get(downloads::one).delete(downloads::cancel))
        .route("/api/pause", post(jobs::steer_all(|| Request::Pause { job: None })))
        .route("/api/resume", post(jobs::steer_all(|| Request::Resume { job: None })))
        .route("/api/events", get(events::listen))
        .route("/metrics", get(metrics::tell))
        .route("/openapi.json", get(async || openapi::answer(include_str!("openapi.json"))))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(control)
}
