//! What the service says of itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use upscaled_core::path_text::unescape;
use upscaled_core::types::status::JobState;
use upscaled_jobs::state::requests::key_of;

use super::places::WAITING_MAX;
use super::service::{VidaioService, blocking};
use super::tasks::{ALL, VidaioTask};
use crate::daemon::control::Request;

fn size((width, height): (u32, u32)) -> String {
    format!("{width}x{height}")
}

fn of_each(value: impl Fn(&VidaioTask) -> Value) -> Value {
    Value::Object(ALL.iter().map(|task| (task.name.to_owned(), value(task))).collect::<Map<_, _>>())
}

fn names() -> Vec<&'static str> {
    ALL.iter().map(|task| task.name).collect()
}

/// What the workers do at this moment.
struct Crew {
    /// Those that would take up a request now: those that have none and are kept for none, and none at all while all
    /// work is paused or waits for its hours.
    ready: u32,
    /// The requests at work.
    keys: Vec<String>,
}

async fn crew(service: &VidaioService) -> Crew {
    let Ok(response) = service.ask(Request::Glance { from: 0, count: 0 }).await else {
        return Crew { ready: 0, keys: Vec::new() };
    };
    let daemon = response.daemon.filter(|daemon| !daemon.paused && daemon.held.is_none());
    let running = response.jobs.iter().filter(|view| view.state == JobState::Running);
    let keys: Vec<String> = running.filter_map(|view| key_of(&unescape(&view.job)?).map(str::to_owned)).collect();
    let idle = |busy: usize| service.settings.vidaio_workers.saturating_sub(u32::try_from(busy).unwrap_or(u32::MAX));
    Crew { ready: daemon.map_or(0, |daemon| idle(keys.len() + daemon.kept)), keys }
}

async fn ready(service: &VidaioService) -> u32 {
    crew(service).await.ready
}

/// The tasks that the requests at work are of; those of the current contract are of none.
async fn tasks_at_work(service: &VidaioService, keys: Vec<String>) -> Vec<String> {
    let requests = service.requests.clone();
    let task = move |key: &String| requests.read(key).ok().flatten()?.task;
    blocking(move || Ok(keys.iter().filter_map(task).collect())).await.unwrap_or_default()
}

pub(super) async fn health(State(service): State<Arc<VidaioService>>) -> Json<Value> {
    Json(json!({
        "status": "healthy",
        "workers_ready": ready(&service).await,
        "max_workers": service.settings.vidaio_workers,
        "supported_tasks": names(),
    }))
}

pub(super) async fn stats(State(service): State<Arc<VidaioService>>) -> Json<Value> {
    let Crew { ready, keys } = crew(&service).await;
    let tasks = tasks_at_work(&service, keys).await;
    // Every worker takes every task: a task has those that are at it, and may have those that do nothing.
    let at_work = |task: &VidaioTask| tasks.iter().filter(|name| *name == task.name).count();
    Json(json!({
        "workers_ready": ready,
        "max_workers": service.settings.vidaio_workers,
        "task_worker_mapping": of_each(|task| (at_work(task) + ready as usize).into()),
        "task_resolution_mapping": of_each(|task| json!([size(task.from), size(task.to), task.scale()])),
        "requests_at_hand": service.at_hand(),
    }))
}

pub(super) async fn task_types() -> Json<Value> {
    let named = |height: u32| match height {
        2160 => "4K".to_owned(),
        4320 => "8K".to_owned(),
        height => format!("{height}p"),
    };
    Json(json!({
        "available_tasks": names(),
        "task_configurations": of_each(|task| json!({
            "input_res": named(task.from.1),
            "output_res": named(task.to.1),
            "scale": task.scale(),
            "input_width": task.from.0,
            "input_height": task.from.1,
            "output_width": task.to.0,
            "output_height": task.to.1,
        })),
    }))
}

pub(super) async fn info(State(service): State<Arc<VidaioService>>) -> Json<Value> {
    Json(json!({
        "name": "upscaled",
        "version": env!("CARGO_PKG_VERSION"),
        "model_name": service.model,
        "max_workers": service.settings.vidaio_workers,
        "store": service.store.is_some(),
        "result_seconds": service.settings.result_seconds,
        "vidaio_tasks": of_each(|task| json!({"scale": task.scale()})),
        "endpoints": ["/upscale-video", "/process_video", "/health", "/stats", "/task_types", "/info"],
    }))
}

pub(super) async fn current_health(State(service): State<Arc<VidaioService>>) -> Json<Value> {
    let mut told = places(&service);
    told.insert("status".into(), "ok".into());
    told.insert("workers_ready".into(), ready(&service).await.into());
    told.insert("storage".into(), json!({"configured": service.store.is_some()}));
    Json(Value::Object(told))
}

pub(super) async fn queue(State(service): State<Arc<VidaioService>>) -> Json<Value> {
    Json(Value::Object(places(&service)))
}

fn places(service: &VidaioService) -> Map<String, Value> {
    let places = &service.places;
    let pending = places.pending();
    let told = json!({
        "max_concurrent": places.most(),
        "max_queue_size": WAITING_MAX,
        "active_tasks": places.active(),
        "queued_tasks": places.waiting(),
        "total_pending": pending,
        "queue_capacity_remaining": (places.most() + WAITING_MAX).saturating_sub(pending),
    });
    if let Value::Object(told) = told { told } else { Map::new() }
}
