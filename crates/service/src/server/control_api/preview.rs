//! `/api/jobs/{job}/preview/{side}`: what the job at work has made last, before and after.

use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, StatusCode};

use upscaled_core::fault::Fault;
use upscaled_core::path_text::unescape;
use upscaled_jobs::state::job_dir::JobDir;
use upscaled_jobs::state::paths::{RootLayout, clean_relative};
use upscaled_jobs::state::preview::PreviewSide;

use crate::server::control_api::ControlApi;
use crate::server::kit::error::ApiError;

type Picture = ([(HeaderName, &'static str); 2], Vec<u8>);

pub(super) async fn picture(
    State(control): State<ControlApi>,
    Path((job, side)): Path<(String, String)>,
) -> Result<Picture, ApiError> {
    let layout = control.layout.clone();
    let read = tokio::task::spawn_blocking(move || read(&layout, &job, &side)).await;
    let read = read.map_err(|_| ApiError::kept(&Fault::Internal.because("reading a picture")))?;
    let none = || ApiError::new(StatusCode::NOT_FOUND, "There is no picture of this job");
    let bytes = read.map_err(|error| ApiError::kept(&error))?.ok_or_else(none)?;
    Ok(([(CONTENT_TYPE, "image/jpeg"), (CACHE_CONTROL, "no-store")], bytes))
}

fn read(layout: &RootLayout, job: &str, side: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(job) = unescape(job).and_then(|job| clean_relative(&job)) else { return Ok(None) };
    let Some(side) = PreviewSide::named(side) else { return Ok(None) };
    match JobDir::open(&layout.job_dir(&job)?)? {
        Some(folder) => folder.read_preview(side),
        None => Ok(None),
    }
}
