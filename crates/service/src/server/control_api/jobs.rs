//! `/api/jobs`: the daemon's jobs, and what can be done to them.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use upscaled_core::config::chosen::{self, Chosen};

use crate::daemon::control::{self, DaemonView, JobView, PAGE, Request};
use crate::server::control_api::ControlApi;
use crate::server::control_api::downloads::{self, DownloadRequest, DownloadView};
use crate::server::kit::error::ApiError;

/// The daemon and its jobs: the running one, a part of the queue in its order, then those that ended, the latest first.
#[derive(Serialize)]
pub(super) struct Jobs {
    pub daemon: DaemonView,
    pub jobs: Vec<JobView>,
    /// What is on its way into input/, and what failed on it.
    pub downloads: Vec<DownloadView>,
}

impl Jobs {
    /// The daemon's answer, with what is on its way to it.
    pub(super) fn new(control: &ControlApi, response: control::Response) -> Jobs {
        let downloads = control.downloads.no_jobs();
        // Those that are jobs are told of as jobs.
        Jobs { daemon: response.daemon.unwrap_or_default(), jobs: response.jobs, downloads }
    }
}

/// What was done, in words.
#[derive(Serialize)]
pub(super) struct ActionSummary {
    pub message: String,
}

/// A file of input/, or a URL.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Add {
    /// A file's path relative to input/.
    #[serde(default, deserialize_with = "given")]
    path: Option<String>,
    #[serde(default, deserialize_with = "given")]
    url: Option<String>,
    /// What the file at that URL is to be called.
    #[serde(default, deserialize_with = "given")]
    name: Option<String>,
    /// Chosen for this job alone.
    #[serde(default, deserialize_with = "given")]
    settings: Option<Chosen>,
}

/// What is left out is none; null is something of the wrong type.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QueuePosition {
    /// The first is 1.
    place: usize,
}

type Told = Result<Json<ActionSummary>, ApiError>;

pub(super) async fn health() -> Json<Value> {
    Json(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}))
}

/// Most jobs of the queue that are told at a time.
const PAGE_MAX: usize = 1000;
/// The largest number that every program reads as it was written in JSON.
const NUMBER_MAX: usize = 1 << 53;

/// Which part of the queue: `count` jobs behind the first `from`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QueuePage {
    from: Option<usize>,
    count: Option<usize>,
}

pub(super) async fn all(
    State(control): State<ControlApi>,
    part: Result<Query<QueuePage>, QueryRejection>,
) -> Result<Json<Jobs>, ApiError> {
    let unreadable = |rejection: QueryRejection| ApiError::new(rejection.status(), rejection.body_text());
    let Query(QueuePage { from, count }) = part.map_err(unreadable)?;
    if [from, count].iter().flatten().any(|number| *number > NUMBER_MAX) {
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "from and count are at most 9007199254740992"));
    }
    let request = Request::Glance { from: from.unwrap_or(0), count: count.unwrap_or(PAGE).min(PAGE_MAX) };
    let response = control.ask(request).await?;
    Ok(Json(Jobs::new(&control, response)))
}

pub(super) async fn one(State(control): State<ControlApi>, Path(job): Path<String>) -> Result<Json<JobView>, ApiError> {
    let mut response = control.ask(Request::Status { job }).await?;
    let job = response.jobs.pop();
    job.map(Json).ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "There is no such job"))
}

pub(super) async fn add(
    State(control): State<ControlApi>,
    body: Result<Json<Add>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(Add { path, url, name, settings }) = body.map_err(unreadable)?;
    match (path, url) {
        (Some(path), None) if name.is_none() => {
            control.must_be_there()?;
            let request = Request::Add { jobs: vec![path], settings };
            Ok(done(&control, request).await.into_response())
        }
        (None, Some(url)) => {
            let settings = chosen::canonical(&settings.unwrap_or_default());
            let wish = DownloadRequest { url, name, settings: settings.map_err(|error| control.refusal(&error))? };
            Ok(downloads::fetch(&control, wish).await.into_response())
        }
        _ => {
            let words = "Give either the path of a file in input/, or a url, which may have a name";
            Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, words))
        }
    }
}

type Telling = BoxFuture<'static, Told>;

/// A word to one job: the handler of what it means.
pub(super) fn steer(means: fn(String) -> Request) -> impl Fn(State<ControlApi>, Path<String>) -> Telling + Clone {
    move |State(control), Path(job)| Box::pin(async move { done(&control, means(job)).await })
}

/// A word to all work.
pub(super) fn steer_all(means: fn() -> Request) -> impl Fn(State<ControlApi>) -> Telling + Clone {
    move |State(control)| Box::pin(async move { done(&control, means()).await })
}

pub(super) async fn reorder(
    State(control): State<ControlApi>,
    Path(job): Path<String>,
    body: Result<Json<QueuePosition>, JsonRejection>,
) -> Told {
    let Json(QueuePosition { place }) = body.map_err(unreadable)?;
    done(&control, Request::Move { job, place }).await
}

async fn done(control: &ControlApi, request: Request) -> Told {
    if matches!(request, Request::Retry { .. }) {
        control.must_be_there()?;
    }
    Ok(Json(ActionSummary { message: control.ask(request).await?.message }))
}

/// A body that is not what was wanted.
pub(super) fn unreadable(rejection: JsonRejection) -> ApiError {
    ApiError::new(rejection.status(), rejection.body_text())
}
