//! The client of image workers: one worker's resources, and several workers together.

mod coordinator;
mod fleet;
mod places;

pub use coordinator::{Coordinator, Film};
pub use fleet::{PictureOutcome, WorkerPool};
pub use places::{place, places};

use std::time::Duration;

use serde_json::Value;
use ureq::unversioned::multipart::{Form, Part};
use ureq::{Agent, Body, http};

use upscaled_core::fault::Fault;

/// A worker has to take a connection within so long, and to say whether it is well.
const CONNECT: Duration = Duration::from_secs(5);
const LITTLE: Duration = Duration::from_secs(10);
/// A picture may take so long, its wait in the worker's queue included.
const PICTURE: Duration = Duration::from_secs(600);
/// For the bytes of a picture there or back.
const TRANSFER: Duration = Duration::from_secs(300);
/// Most bytes of an answer.
const ANSWER_MAX: u64 = 4 << 30;
const LITTLE_MAX: u64 = 1 << 20;
/// Idle connections are used again for less than a worker keeps them.
const IDLE: Duration = Duration::from_secs(10);
/// Rest where a worker names none.
const REST: Duration = Duration::from_secs(2);
const REST_MAX: Duration = Duration::from_secs(120);

/// What is asked of a picture.
#[derive(Clone, Copy, Debug)]
pub struct PictureRequest {
    pub upscale: u32,
    pub process_size: u32,
}

/// A picture that came back.
#[derive(Debug)]
pub struct ReceivedPicture {
    pub bytes: Vec<u8>,
    /// `1280x960`, where the worker said so.
    pub size: Option<String>,
    /// What of the picture that was sent is not in it, where the worker said so.
    pub not_kept: Option<String>,
}

/// What became of one request.
#[derive(Debug)]
pub enum Reply {
    Done(ReceivedPicture),
    /// Full, or not ready: ask again after so long.
    Later(Duration, String),
    /// Nobody answers there, or the answer was cut short.
    Gone(String),
    /// The worker will not do it; another would say the same.
    Refused(String),
    /// The worker failed at it; another may not.
    Failed(String),
}

/// One worker.
#[derive(Clone, Debug)]
pub struct WorkerClient {
    /// `127.0.0.1:8090`.
    pub place: String,
    token: Option<String>,
    agent: Agent,
}

impl WorkerClient {
    pub fn new(place: &str, token: Option<String>) -> WorkerClient {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_send_body(Some(TRANSFER))
            .timeout_recv_body(Some(TRANSFER))
            .max_idle_age(IDLE)
            .max_redirects(0)
            // Workers are near; a proxy is for what is far.
            .proxy(None)
            .build();
        WorkerClient { place: place.into(), token, agent: config.new_agent() }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.place)
    }

    /// The JSON of `/health`, `/info`, `/stats` or `/status`, and whether its status is 200.
    ///
    /// # Errors
    /// [`Fault::NotFound`] where nobody answers, [`Fault::Unsupported`] where what answers is no worker.
    pub fn ask(&self, path: &str) -> anyhow::Result<(bool, Value)> {
        let request = self.agent.get(self.url(path)).config().timeout_global(Some(LITTLE)).build();
        self.answer(self.signed(request).call())
    }

    /// The same of a POST with a JSON body.
    ///
    /// # Errors
    /// As [`WorkerClient::ask`].
    pub fn tell(&self, path: &str, body: &Value) -> anyhow::Result<(bool, Value)> {
        let request = self.agent.post(self.url(path)).config().timeout_global(Some(LITTLE)).build();
        let request = self.signed(request).header("Content-Type", "application/json");
        self.answer(request.send(body.to_string()))
    }

    fn answer(&self, answer: Result<http::Response<Body>, ureq::Error>) -> anyhow::Result<(bool, Value)> {
        let mut response = answer.map_err(|error| self.gone(&error))?;
        let good = response.status().is_success();
        let body = response.body_mut().with_config().limit(LITTLE_MAX).read_to_vec().map_err(|e| self.gone(&e))?;
        match serde_json::from_slice(&body) {
            Ok(value) => Ok((good, value)),
            Err(_) => {
                let (place, status) = (&self.place, response.status().as_u16());
                Err(Fault::Unsupported.because(format!("what answers at {place} is no worker (status {status})")))
            }
        }
    }

    fn gone(&self, error: &ureq::Error) -> anyhow::Error {
        Fault::NotFound.because(format!("no worker answers at {} ({error})", self.place))
    }

    fn signed<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// Sends a picture and waits for the larger one.
    pub fn upscale(&self, picture: &[u8], name: &str, wish: PictureRequest) -> Reply {
        // Quotes and controls would end the field's header.
        let plain: String = name.chars().map(|c| if c.is_control() || "\"\\".contains(c) { '_' } else { c }).collect();
        let form = Form::new().part("file", Part::bytes(picture).file_name(&plain));
        let request = self
            .agent
            .post(self.url("/upscale"))
            .query("upscale", wish.upscale.to_string())
            .query("process_size", wish.process_size.to_string())
            .config()
            .timeout_recv_response(Some(PICTURE))
            .build();
        match self.signed(request).send(form) {
            Ok(response) => self.reply(response),
            Err(error) => Reply::Gone(format!("{}: {error}", self.place)),
        }
    }

    fn reply(&self, mut response: http::Response<Body>) -> Reply {
        let status = response.status();
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (size, not_kept) = (header("x-output-size"), header("x-not-kept"));
        let after = header("retry-after").and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let after = after.unwrap_or(REST).min(REST_MAX);
        let limit = if status == 200 { ANSWER_MAX } else { LITTLE_MAX };
        let bytes = match response.body_mut().with_config().limit(limit).read_to_vec() {
            Ok(bytes) => bytes,
            Err(error) => return Reply::Gone(format!("{}: {error}", self.place)),
        };
        if status == 200 {
            return Reply::Done(ReceivedPicture { bytes, size, not_kept });
        }
        let words = format!("{}: {} {}", self.place, status.as_u16(), detail(&bytes));
        match status.as_u16() {
            429 | 503 => Reply::Later(after, words),
            408 => Reply::Failed(words),
            400..500 => Reply::Refused(words),
            _ => Reply::Failed(words),
        }
    }
}

/// The reason in an answer's JSON.
fn reason(value: &Value) -> String {
    value["detail"].as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The reason in an answer's JSON, else the beginning of its text.
fn detail(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    match &value["detail"] {
        Value::String(words) => words.clone(),
        Value::Null => String::from_utf8_lossy(body).chars().take(200).filter(|c| !c.is_control()).collect(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_found() {
        assert_eq!(detail(br#"{"detail":"too large"}"#), "too large");
        assert_eq!(detail(br#"{"detail":[{"msg":"x"}]}"#), r#"[{"msg":"x"}]"#);
        assert_eq!(detail(b"<html>\nno"), "<html>no");
    }
}
