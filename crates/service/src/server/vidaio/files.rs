//! `/files/`: results of the service that no store keeps, for whoever has the link.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, HOST};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};

use upscaled_jobs::state::requests::RequestRecord;

use super::service::VidaioService;
use crate::server::kit::error::ApiError;
use crate::server::kit::reply::{self, FileSource};

/// What every result is called.
const NAME: &str = "upscaled.mp4";

/// Where a client finds a result.
pub(super) fn link(service: &VidaioService, record: &RequestRecord, headers: &HeaderMap) -> String {
    if let Some(url) = record.finished.as_ref().and_then(|finished| finished.url.clone()) {
        return url;
    }
    let host = || headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let base = service.settings.public_url.clone().unwrap_or_else(|| format!("http://{}", host()));
    format!("{}/files/{}/{NAME}", base.trim_end_matches('/'), record.secret)
}

/// `GET /files/{secret}/{name}`; HEAD and ranges too.
pub(super) async fn get(
    State(service): State<Arc<VidaioService>>,
    Path((secret, _)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let none = || ApiError::new(StatusCode::NOT_FOUND, "There is no such file, or its time is over");
    let record = service.behind(&secret).await.ok_or_else(none)?;
    let file = match service.result(&record).await {
        Some(file) => file,
        None => {
            service.must_be_there()?;
            return Err(none());
        }
    };
    let length = file.metadata().map_err(|_| none())?.len();
    // The bytes under a secret never change.
    let tag = format!("\"{secret}\"");
    let source = FileSource(Arc::new(file), 0);
    let mut response = reply::ranged(&headers, source, length, "video/mp4", &tag);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private, max-age=3600"));
    Ok(response)
}
