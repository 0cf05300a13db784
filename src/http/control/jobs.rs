//! `/api/jobs`: the daemon's jobs, and what can be done to them.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::chosen::Chosen;
use crate::daemon::control::{DaemonView, JobView, PAGE, Request, Response};
use crate::http::control::Control;
use crate::http::error::ApiError;

/// The daemon and its jobs: the running one, a part of the queue in its order, then those that ended, the latest first.
#[derive(Serialize)]
pub struct Jobs {
    pub daemon: DaemonView,
    pub jobs: Vec<JobView>,
}

impl From<Response> for Jobs {
    fn from(response: Response) -> Jobs {
        Jobs { daemon: response.daemon.unwrap_or_default(), jobs: response.jobs }
    }
}

/// What was done, in words.
#[derive(Serialize)]
pub struct Done {
    pub message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Add {
    /// A file's path relative to input/.
    path: String,
    /// Chosen for this job alone.
    settings: Option<Chosen>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The first is 1.
    place: usize,
}

type Told = Result<Json<Done>, ApiError>;

pub async fn health() -> Json<Value> {
    Json(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}))
}

/// Most jobs of the queue that are told at a time.
const PAGE_MAX: usize = 1000;

/// Which part of the queue: `count` jobs behind the first `from`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    from: Option<usize>,
    count: Option<usize>,
}

pub async fn all(
    State(control): State<Control>,
    part: Result<Query<Part>, QueryRejection>,
) -> Result<Json<Jobs>, ApiError> {
    let unreadable = |rejection: QueryRejection| ApiError::new(rejection.status(), rejection.body_text());
    let Query(Part { from, count }) = part.map_err(unreadable)?;
    let request = Request::Glance { from: from.unwrap_or(0), count: count.unwrap_or(PAGE).min(PAGE_MAX) };
    Ok(Json(control.ask(request).await?.into()))
}

pub async fn one(State(control): State<Control>, Path(job): Path<String>) -> Result<Json<JobView>, ApiError> {
    let mut response = control.ask(Request::Status { job }).await?;
    let job = response.jobs.pop();
    job.map(Json).ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "There is no such job"))
}

pub async fn add(State(control): State<Control>, body: Result<Json<Add>, JsonRejection>) -> Told {
    let Json(Add { path, settings }) = body.map_err(unreadable)?;
    done(&control, Request::Add { jobs: vec![path], settings }).await
}

type Telling = BoxFuture<'static, Told>;

/// A word to one job: the handler of what it means.
pub fn steer(means: fn(String) -> Request) -> impl Fn(State<Control>, Path<String>) -> Telling + Clone {
    move |State(control), Path(job)| Box::pin(async move { done(&control, means(job)).await })
}

/// A word to all work.
pub fn steer_all(means: fn() -> Request) -> impl Fn(State<Control>) -> Telling + Clone {
    move |State(control)| Box::pin(async move { done(&control, means()).await })
}

pub async fn reorder(
    State(control): State<Control>,
    Path(job): Path<String>,
    body: Result<Json<Place>, JsonRejection>,
) -> Told {
    let Json(Place { place }) = body.map_err(unreadable)?;
    done(&control, Request::Move { job, place }).await
}

async fn done(control: &Control, request: Request) -> Told {
    Ok(Json(Done { message: control.ask(request).await?.message }))
}

/// A body that is not what was wanted.
pub fn unreadable(rejection: JsonRejection) -> ApiError {
    ApiError::new(rejection.status(), rejection.body_text())
}
