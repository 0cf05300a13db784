//! What went wrong, as clients are told it: a status and `{"detail": ..}`.

use std::time::Duration;

use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use upscaled_core::fault::{Fault, one_line};

/// Seconds that a client is asked to wait where nothing better is known.
const RETRY_SECONDS: u64 = 2;

/// An answer that is no success.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    detail: Value,
    retry_after: Option<Duration>,
}

/// A field that is missing or of the wrong type.
#[derive(Debug)]
pub struct Problem {
    pub kind: &'static str,
    /// Where: `["query", "upscale"]`.
    pub place: [&'static str; 2],
    pub message: &'static str,
    /// What came.
    pub input: Value,
}

impl ApiError {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> ApiError {
        ApiError { status, detail: Value::String(detail.into()), retry_after: None }
    }

    /// 429 or 503, with the time after which another attempt makes sense.
    pub fn later(status: StatusCode, detail: impl Into<String>, after: Duration) -> ApiError {
        ApiError { retry_after: Some(after), ..ApiError::new(status, detail) }
    }

    /// 422 with what is wrong, field by field.
    pub fn fields(problems: &[Problem]) -> ApiError {
        let one = |p: &Problem| json!({"type": p.kind, "loc": p.place, "msg": p.message, "input": p.input});
        let detail = Value::Array(problems.iter().map(one).collect());
        ApiError { status: StatusCode::UNPROCESSABLE_ENTITY, detail, retry_after: None }
    }

    /// An error about what the client sent: it is told in the error's own words.
    pub fn told(error: &anyhow::Error) -> ApiError {
        ApiError::new(answer(Fault::of(error)).0, one_line(error))
    }

    /// An error of this program or machine: its words, which may name paths, go to the log alone.
    pub fn kept(error: &anyhow::Error) -> ApiError {
        let (status, words) = answer(Fault::of(error));
        tracing::warn!("answered with {}: {}", status.as_u16(), one_line(error));
        let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(Duration::from_secs(RETRY_SECONDS));
        ApiError { retry_after, ..ApiError::new(status, words) }
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The reason in a sentence, for the entry of one picture among many.
    pub fn reason(&self) -> String {
        self.detail.as_str().map_or_else(|| self.detail.to_string(), str::to_owned)
    }
}

/// The status of a fault, and words for it without particulars.
fn answer(fault: Fault) -> (StatusCode, &'static str) {
    match fault {
        Fault::BadInput | Fault::Unsupported | Fault::Config | Fault::SourceChanged => {
            (StatusCode::BAD_REQUEST, "This cannot be done with this input")
        }
        Fault::Conflict => (StatusCode::CONFLICT, "This contradicts what is there already"),
        Fault::NotFound => (StatusCode::NOT_FOUND, "Not Found"),
        Fault::Busy => (StatusCode::TOO_MANY_REQUESTS, "Busy; try again later"),
        Fault::NoSpace | Fault::ReadOnly | Fault::NoRamDisk | Fault::DeviceMemory | Fault::Memory => {
            (StatusCode::SERVICE_UNAVAILABLE, "Out of memory or space at the moment; try again later")
        }
        Fault::Stopped | Fault::Cancelled => (StatusCode::SERVICE_UNAVAILABLE, "Stopping"),
        Fault::ModelChanged
        | Fault::NewerState
        | Fault::DamagedState
        | Fault::Device
        | Fault::Encoder
        | Fault::Mismatch
        | Fault::Io
        | Fault::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "The server failed; its log says why"),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({"detail": self.detail}))).into_response();
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_here() {
        let error = Fault::Device.because("model /srv/secret/x.onnx failed").context("enlarging");
        let kept = ApiError::kept(&error);
        assert_eq!((kept.status(), kept.reason().contains('/')), (StatusCode::INTERNAL_SERVER_ERROR, false));
        let told = ApiError::told(&Fault::BadInput.because("a.png is no picture"));
        assert_eq!((told.status(), told.reason().as_str()), (StatusCode::BAD_REQUEST, "a.png is no picture"));
        let busy = ApiError::later(StatusCode::TOO_MANY_REQUESTS, "full", Duration::from_millis(10)).into_response();
        assert_eq!(busy.headers()[RETRY_AFTER], "1");
        assert_eq!(ApiError::kept(&Fault::DeviceMemory.because("x")).into_response().headers()[RETRY_AFTER], "2");
    }
}
