//! `POST /process_video`: a clip that comes with the request, as a form.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use serde_json::json;

use super::service::{Service, Wish, blocking};
use super::{files, tasks};
use crate::base::atomic_file;
use crate::http::error::{ApiError, Problem};
use crate::store::requests::Origin;

pub async fn post(State(service): State<Arc<Service>>, request: Request) -> Result<Response<Body>, ApiError> {
    let start = Instant::now();
    let headers = request.headers().clone();
    let form = service.uploads.read(request, "video_file", false, &service.limits).await?;
    let task = form.texts.iter().rev().find(|(name, _)| name == "task_type").map(|(_, task)| task.clone());
    let missing = || {
        let (kind, place) = ("missing", ["body", "task_type"]);
        ApiError::fields(&[Problem { kind, place, message: "Field required", input: serde_json::Value::Null }])
    };
    let task = tasks::find(&task.ok_or_else(missing)?);
    let task = task.ok_or_else(|| ApiError::new(StatusCode::BAD_REQUEST, tasks::unknown()))?;
    let Some(file) = form.files.first().cloned() else { return Err(missing()) };
    let wish = Wish {
        identity: format!("upload {}", blake3::hash(&file.bytes)),
        origin: Origin::Upload,
        task: Some(task.name),
        scale: task.scale(),
        max_size_mb: None,
    };
    let payload = service.requests.payload(&wish.key());
    let keep = move || {
        if payload.is_file() {
            return Ok(());
        }
        atomic_file::create_dirs(atomic_file::parent(&payload), 0o700)?;
        atomic_file::write(&payload, &file.bytes)
    };
    blocking(keep).await.map_err(|error| ApiError::kept(&error))?;
    // What is on the disk needs no memory.
    drop(form);
    let record = service.fulfil(wish).await?;
    let link = files::link(&service, &record, &headers);
    let Some(finished) = record.finished.clone() else { return Err(missing()) };
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
