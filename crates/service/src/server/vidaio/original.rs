//! `POST /upscale-video`: one clip by its URL and the task's name.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use upscaled_jobs::state::requests::PayloadOrigin;

use super::body::JsonBody;
use super::service::{ServiceRequest, VidaioService};
use super::{files, tasks};
use crate::server::kit::error::ApiError;

/// MiB of a result where the client names no limit.
pub(super) const SIZE_DEFAULT: i64 = 100;

pub(super) async fn post(
    State(service): State<Arc<VidaioService>>,
    headers: HeaderMap,
    body: Result<Json<Value>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let start = Instant::now();
    let mut body = JsonBody::of(body)?;
    let url = body.text("payload_url", None);
    let task = body.text("task_type", None);
    let most = body.whole("maximum_optimized_size_mb", Some(SIZE_DEFAULT));
    if most < 1 {
        body.complain("maximum_optimized_size_mb", "greater_than_equal", "Input should be greater than or equal to 1");
    }
    body.end()?;
    let task = tasks::find(&task).ok_or_else(|| ApiError::new(StatusCode::BAD_REQUEST, tasks::unknown()))?;
    service.check_url(&url)?;
    let wish = ServiceRequest {
        identity: format!("url {url}"),
        origin: PayloadOrigin::Url(url),
        task: Some(task.name),
        scale: task.scale(),
        max_size_mb: u64::try_from(most).ok(),
        upload: None,
    };
    let record = service.fulfil(wish).await?;
    let link = files::link(&service, &record, &headers);
    let bytes = record.finished.as_ref().map_or(0, |finished| finished.bytes);
    Ok(Json(json!({
        "uploaded_video_url": link,
        "optimized_video_url": link,
        "processing_time": start.elapsed().as_secs_f64(),
        "task_type": task.name,
        "file_size_mb": bytes as f64 / f64::from(1 << 20),
    })))
}
