//! What the service says of itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use super::WORKERS;
use super::places::{ACTIVE_MAX, WAITING_MAX};
use super::service::Service;
use super::tasks::{ALL, Task};
use crate::daemon::control::Request;

fn size((width, height): (u32, u32)) -> String {
    format!("{width}x{height}")
}

fn of_each(value: impl Fn(&Task) -> Value) -> Value {
    Value::Object(ALL.iter().map(|task| (task.name.to_owned(), value(task))).collect::<Map<_, _>>())
}

fn names() -> Vec<&'static str> {
    ALL.iter().map(|task| task.name).collect()
}

/// Workers that would take up a request now: none while all work is paused or waits for its hours.
async fn ready(service: &Service) -> usize {
    let daemon = service.ask(Request::Glance { from: 0, count: 0 }).await.ok().and_then(|response| response.daemon);
    if daemon.is_some_and(|daemon| !daemon.paused && daemon.held.is_none()) { WORKERS } else { 0 }
}

pub async fn health(State(service): State<Arc<Service>>) -> Json<Value> {
    Json(json!({
        "status": "healthy",
        "workers_ready": ready(&service).await,
        "max_workers": WORKERS,
        "supported_tasks": names(),
    }))
}

pub async fn stats(State(service): State<Arc<Service>>) -> Json<Value> {
    Json(json!({
        "workers_ready": ready(&service).await,
        "max_workers": WORKERS,
        "task_worker_mapping": of_each(|_| WORKERS.into()),
        "task_resolution_mapping": of_each(|task| json!([size(task.from), size(task.to), task.scale()])),
        "requests_at_hand": service.at_hand(),
    }))
}

pub async fn task_types() -> Json<Value> {
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

pub async fn info(State(service): State<Arc<Service>>) -> Json<Value> {
    Json(json!({
        "name": "upscaled",
        "version": env!("CARGO_PKG_VERSION"),
        "model_name": service.model,
        "max_workers": WORKERS,
        "store": service.store.is_some(),
        "result_seconds": service.settings.result_seconds,
        "vidaio_tasks": of_each(|task| json!({"scale": task.scale()})),
        "endpoints": ["/upscale-video", "/process_video", "/health", "/stats", "/task_types", "/info"],
    }))
}

pub async fn current_health(State(service): State<Arc<Service>>) -> Json<Value> {
    let mut told = places(&service);
    told.insert("status".into(), "ok".into());
    told.insert("workers_ready".into(), ready(&service).await.into());
    told.insert("storage".into(), json!({"configured": service.store.is_some()}));
    Json(Value::Object(told))
}

pub async fn queue(State(service): State<Arc<Service>>) -> Json<Value> {
    Json(Value::Object(places(&service)))
}

fn places(service: &Service) -> Map<String, Value> {
    let places = &service.places;
    let pending = places.pending();
    let told = json!({
        "max_concurrent": ACTIVE_MAX,
        "max_queue_size": WAITING_MAX,
        "active_tasks": places.active(),
        "queued_tasks": places.waiting(),
        "total_pending": pending,
        "queue_capacity_remaining": (ACTIVE_MAX + WAITING_MAX).saturating_sub(pending),
    });
    if let Value::Object(told) = told { told } else { Map::new() }
}
