//! The daemon's own listener: its page, its jobs as JSON, events and metrics.
//!
//! Nothing is decided here: each request goes to the daemon's loop as the control socket's do
//! ([`crate::daemon::control`]), and what it answers is told.

mod events;
mod jobs;
mod metrics;
mod page;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::base::fault::Fault;
use crate::daemon::control::{Asked, Request, Response};
use crate::http::error::ApiError;

/// What the handlers share.
#[derive(Clone)]
pub struct Control {
    asked: mpsc::Sender<Asked>,
    /// Places for those who listen to events.
    listeners: Arc<Semaphore>,
}

impl Control {
    /// Asks the daemon through `asked`.
    pub fn new(asked: mpsc::Sender<Asked>) -> Control {
        Control { asked, listeners: Arc::new(Semaphore::new(events::LISTENERS_MAX)) }
    }

    /// The daemon's answer; its refusals as errors.
    async fn ask(&self, request: Request) -> Result<Response, ApiError> {
        let stopping = || ApiError::kept(&Fault::Stopped.because("the daemon stops"));
        let (reply, answer) = oneshot::channel();
        self.asked.send(Asked { request, reply }).await.map_err(|_| stopping())?;
        let response = answer.await.map_err(|_| stopping())?;
        response.into_result().map_err(|error| ApiError::told(&error))
    }
}

/// The routes, without guard and limits.
pub fn router(control: Control) -> Router {
    Router::new()
        .route("/", get(page::index))
        .route("/app.js", get(page::script))
        .route("/style.css", get(page::style))
        .route("/icon.svg", get(page::icon))
        .route("/health", get(jobs::health))
        .route("/api/jobs", get(jobs::all).post(jobs::add))
        .route("/api/jobs/{job}", get(jobs::one))
        .route("/api/jobs/{job}/pause", post(jobs::pause))
        .route("/api/jobs/{job}/resume", post(jobs::resume))
        .route("/api/jobs/{job}/cancel", post(jobs::cancel))
        .route("/api/jobs/{job}/retry", post(jobs::retry))
        .route("/api/jobs/{job}/move", post(jobs::reorder))
        .route("/api/pause", post(jobs::pause_all))
        .route("/api/resume", post(jobs::resume_all))
        .route("/api/events", get(events::listen))
        .route("/metrics", get(metrics::tell))
        .with_state(control)
}
