//! `/api/downloads`: what is on its way from elsewhere, and `POST /api/jobs` with a URL.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderName, StatusCode};
use serde::Serialize;

use upscaled_core::fault::Fault;

use super::{DownloadRequest, DownloadView};
use crate::ingest::fetch::FetchError;
use crate::server::control_api::ControlApi;
use crate::server::control_api::jobs::ActionSummary;
use crate::server::kit::error::ApiError;

/// What has been begun.
#[derive(Serialize)]
pub(crate) struct Accepted {
    message: String,
    download: DownloadView,
}

#[derive(Serialize)]
pub(crate) struct DownloadList {
    downloads: Vec<DownloadView>,
}

pub(super) type Begun = (StatusCode, [(HeaderName, String); 1], Json<Accepted>);

/// Begins a download, and answers at once.
pub(crate) async fn fetch(control: &ControlApi, wish: DownloadRequest) -> Result<Begun, ApiError> {
    control.must_be_there()?;
    let downloads = control.downloads.clone();
    let download = off_the_loop(control, move || downloads.add(wish)).await?;
    let message = format!("{} is being downloaded from {}", download.name, download.host);
    let place = [(LOCATION, format!("/api/downloads/{}", download.id))];
    Ok((StatusCode::ACCEPTED, place, Json(Accepted { message, download })))
}

pub(crate) async fn all(State(control): State<ControlApi>) -> Json<DownloadList> {
    Json(DownloadList { downloads: control.downloads.all() })
}

pub(crate) async fn one(
    State(control): State<ControlApi>,
    Path(id): Path<String>,
) -> Result<Json<DownloadView>, ApiError> {
    let none = || ApiError::new(StatusCode::NOT_FOUND, "There is no such download");
    control.downloads.one(&id).map(Json).ok_or_else(none)
}

pub(crate) async fn cancel(
    State(control): State<ControlApi>,
    Path(id): Path<String>,
) -> Result<Json<ActionSummary>, ApiError> {
    let downloads = control.downloads.clone();
    off_the_loop(&control, move || downloads.cancel(&id)).await?;
    Ok(Json(ActionSummary { message: "the download is cancelled".into() }))
}

/// Work on the records, which may have to wait for the disk.
async fn off_the_loop<T: Send + 'static>(
    control: &ControlApi,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.unwrap_or_else(|_| Err(Fault::Internal.because("work on a download was given up")));
    done.map_err(|error| match error.downcast_ref() {
        Some(FetchError::Forbidden(_)) => ApiError::new(StatusCode::FORBIDDEN, error.to_string()),
        Some(FetchError::Address(_)) => ApiError::new(StatusCode::BAD_REQUEST, error.to_string()),
        _ => control.refusal(&error),
    })
}
