//! `POST /process_video`: a clip that comes with the request, as a form. It goes to the disk as it comes, into a file without
//! a name, which becomes the request's payload once its record is written.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use serde_json::json;

use upscaled_core::config::settings::ServiceSettings;
use upscaled_core::fault::one_line;
use upscaled_jobs::state::requests::PayloadOrigin;

use super::service::{ServiceRequest, VidaioService, blocking, internal};
use super::{files, tasks};
use crate::server::kit::error::{ApiError, Problem};
use crate::server::kit::form::UploadForm;
use crate::server::kit::limits::Limits;

/// Bytes of a form that are not its clip.
const FORM_EXTRA: u64 = 1 << 20;
/// So many clips of the largest size may be on their way at a time.
const TOGETHER: u64 = 4;

/// The limits of an upload: those of any other payload.
pub(super) fn limits(settings: &ServiceSettings) -> Limits {
    let file_bytes = settings.fetch_max_mb << 20;
    Limits {
        file_bytes,
        form_bytes: file_bytes + FORM_EXTRA,
        uploads_bytes: file_bytes * TOGETHER,
        files: 1,
        upload_time: Duration::from_secs(settings.fetch_seconds),
        ..Limits::default()
    }
}

/// The most bytes of such a request's body, what is read on from a refused one among them.
pub(super) fn body_max(settings: &ServiceSettings) -> usize {
    let limits = limits(settings);
    usize::try_from(limits.form_bytes + limits.drain_bytes).unwrap_or(usize::MAX)
}

pub(super) async fn post(
    State(service): State<Arc<VidaioService>>,
    request: Request,
) -> Result<Response<Body>, ApiError> {
    let start = Instant::now();
    let headers = request.headers().clone();
    // A full service takes no upload that it could do nothing with, nor one whose disk is away.
    let refused = service.room().err().map(ApiError::from);
    let folder = match refused {
        Some(_) => None,
        None => {
            let requests = service.requests.clone();
            let unusable = |error| {
                tracing::error!("no upload can be kept: {}", one_line(&error));
                ApiError::from(internal())
            };
            Some(blocking(move || requests.made_home()).await.map_err(unusable)?)
        }
    };
    let place = folder.as_ref().map_or_else(PathBuf::new, |folder| folder.at(""));
    // What is on the disk whole takes no place of those on their way: the form's share of them goes here.
    let UploadForm { files, texts, .. } =
        service.uploads.to_disk(request, "video_file", &place, &service.upload_limits, refused).await?;
    let task = texts.iter().rev().find(|(name, _)| name == "task_type").map(|(_, task)| task.clone());
    let missing = || {
        let (kind, place) = ("missing", ["body", "task_type"]);
        ApiError::fields(&[Problem { kind, place, message: "Field required", input: serde_json::Value::Null }])
    };
    let task = tasks::find(&task.ok_or_else(missing)?);
    let task = task.ok_or_else(|| ApiError::new(StatusCode::BAD_REQUEST, tasks::unknown()))?;
    let Some(file) = files.into_iter().next() else { return Err(internal().into()) };
    let wish = ServiceRequest {
        identity: format!("upload {}", file.hash),
        origin: PayloadOrigin::Upload,
        task: Some(task.name),
        scale: task.scale(),
        max_size_mb: None,
        upload: Some(file.file),
    };
    let record = service.fulfil(wish).await?;
    let link = files::link(&service, &record, &headers);
    let Some(finished) = record.finished.clone() else { return Err(internal().into()) };
    if finished.url.is_none() {
        let path = axum::extract::Path((record.secret, String::new()));
        let mut response = files::get(State(service), path, HeaderMap::new()).await?;
        for (name, value) in [
            ("x-task-type", task.name.to_owned()),
            ("x-scale-factor", task.scale().to_string()),
            ("x-processed-frames", finished.frames.to_string()),
            ("x-video-url", link),
        ] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        return Ok(response);
    }
    Ok(Json(json!({
        "uploaded_video_url": link,
        "task_type": task.name,
        "scale_factor": task.scale(),
        "processed_frames": finished.frames,
        "processing_time": start.elapsed().as_secs_f64(),
        "file_size_mb": finished.bytes as f64 / f64::from(1 << 20),
    }))
    .into_response())
}
