//! `POST /upscale`: one picture in, one PNG out.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, Response};
use axum::response::IntoResponse;

use upscaled_core::fault::{Fault, one_line};

use crate::server::image_api::request::AdmittedCall;
use crate::server::image_api::{ImageWorker, picture};
use crate::server::kit::error::ApiError;
use crate::server::kit::reply::{self, FileSource};
use crate::server::kit::result_links::Spool;

/// A larger picture waits for its reader on the disk: many slow readers hold no memory.
const MEMORY_MAX: usize = 256 << 10;
const KIND: &str = "image/png";

pub(super) async fn post(State(worker): State<Arc<ImageWorker>>, request: Request) -> Result<Response<Body>, ApiError> {
    let mut call = AdmittedCall::read(&worker, request, "file", false).await?;
    // There is one, or reading would have failed.
    let Some(file) = call.form.files.pop() else { return Err(ApiError::fields(&[])) };
    let made = picture::enlarge(&worker, file, call.wish).await?;
    let (from, to) = (made.from, made.to);
    let mut response = answer(made.png).await;
    let mut tell = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    };
    tell("x-original-size", format!("{}x{}", from.0, from.1));
    tell("x-output-size", format!("{}x{}", to.0, to.1));
    tell("x-upscale-factor", format!("{:.2}x", f64::from(to.0) / f64::from(from.0)));
    tell("x-inference-time", format!("{:.3}s", made.seconds));
    tell("x-model", worker.engines()?.model());
    if !made.losses.is_empty() {
        tell("x-not-kept", made.losses.join("; "));
    }
    Ok(response)
}

/// A PNG as an answer.
async fn answer(png: Vec<u8>) -> Response<Body> {
    let in_memory = |png| ([(CONTENT_TYPE, KIND)], png).into_response();
    if png.len() <= MEMORY_MAX {
        return in_memory(png);
    }
    let spooled = tokio::task::spawn_blocking(move || {
        let kept = Spool::new().and_then(|mut spool| spool.append(&png).map(|_| spool.file().clone()));
        (png, kept)
    });
    match spooled.await {
        Ok((png, Ok(file))) => reply::of(FileSource(file, 0), png.len() as u64, KIND),
        Ok((png, Err(error))) => {
            // Counted among the answers in memory, which are bounded.
            tracing::debug!("an answer stays in memory: {}", one_line(&error));
            in_memory(png)
        }
        Err(_) => ApiError::kept(&Fault::Internal.because("a picture's thread was lost")).into_response(),
    }
}
