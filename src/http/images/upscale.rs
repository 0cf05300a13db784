//! `POST /upscale`: one picture in, one PNG out.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Response};

use crate::http::error::ApiError;
use crate::http::images::request::Call;
use crate::http::images::{Worker, picture};
use crate::http::reply::{self, Source};

pub async fn post(State(worker): State<Arc<Worker>>, request: Request) -> Result<Response<Body>, ApiError> {
    let mut call = Call::read(&worker, request, "file", false).await?;
    // There is one, or reading would have failed.
    let Some(file) = call.form.files.pop() else { return Err(ApiError::fields(&[])) };
    let made = picture::enlarge(&worker, file, call.wish).await?;
    let (from, to) = (made.from, made.to);
    let length = made.png.len() as u64;
    let mut response = reply::of(Source::Memory(made.png.into()), length, "image/png", &worker.limits);
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
