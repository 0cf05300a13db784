//! `/health`, `/info` and `/stats`: whether the worker works, what it is, how it does.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use upscaled_core::sys::processors;
use upscaled_engine::models::registry;

use crate::server::image_api::engines::{self, Engines};
use crate::server::image_api::{ImageWorker, RequestCounts};
use crate::server::kit::gpu::{self, Gpu};

const NAME: &str = "upscaled image worker";
const DESCRIPTION: &str = "Makes pictures larger with a super-resolution network";

pub(super) async fn health(State(worker): State<Arc<ImageWorker>>) -> Response {
    let Some(engines) = worker.engines.get() else {
        let body = json!({
            "status": "loading",
            "model_loaded": false,
            "models_loaded": engines::closed(&worker.model),
        });
        return (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "2")], Json(body)).into_response();
    };
    let mut body = json!({
        "status": "ok",
        "model_loaded": true,
        "models_loaded": engines.state(),
        "processing_status": worker.manifests.word(),
        "workers": engines.count(),
    });
    let lost = engines.lost();
    if let Some(fields) = body.as_object_mut() {
        fields.extend(engines.parts().map(|parts| ("parts".to_owned(), parts)));
        fields.extend((lost > 0).then(|| ("workers_lost".to_owned(), lost.into())));
    }
    Json(body).into_response()
}

pub(super) async fn info(State(worker): State<Arc<ImageWorker>>) -> Json<Value> {
    let engines = worker.engines.get();
    let gpu = of_device(engines).await;
    let is_gpu = engines.is_some_and(|e| e.gpu().is_some());
    Json(json!({
        "name": NAME,
        "version": env!("CARGO_PKG_VERSION"),
        "description": DESCRIPTION,
        "device": engines.map(|e| e.device()),
        "cuda_available": is_gpu,
        "gpu": gpu.as_ref().map_or("N/A", |gpu| gpu.name.as_str()),
        "gpu_memory_gb": gpu.as_ref().map_or(0.0, |gpu| gpu.total),
        "endpoints": {
            "POST /upscale": "Upscale a single image",
            "POST /upscale_batch": "Upscale multiple images",
            "POST /process_manifest": "Upscale the frames that a manifest lists",
            "GET /status": "Progress of the manifest",
            "POST /reset": "Give the manifest up",
            "GET /health": "Health check",
            "GET /info": "Server information",
            "GET /stats": "Device and queue at this moment",
        },
        "model": registry::title(&worker.model),
        "runs_on": engines.map(|e| e.label()),
        "workers": engines.map(|e| e.count()),
        "processors": processors::count(),
        "upscale": worker.defaults.upscale,
        "process_size": worker.defaults.process_size,
    }))
}

pub(super) async fn stats(State(worker): State<Arc<ImageWorker>>) -> Json<Value> {
    let engines = worker.engines.get();
    let (running, calls, at_once, calls_max) = worker.queue.figures();
    let RequestCounts { done, failed, refused } = &worker.counts;
    let mut stats = json!({
        "timestamp": jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S%.6f").to_string(),
        "device": engines.map(|e| e.device()),
        "dtype": engines.map(|e| e.dtype()),
        "uptime_seconds": worker.start.elapsed().as_secs(),
        "pictures": {
            "done": done.load(Ordering::Relaxed),
            "failed": failed.load(Ordering::Relaxed),
            "running": running,
            "running_max": at_once,
        },
        "queue": {"calls": calls, "calls_max": calls_max, "refused": refused.load(Ordering::Relaxed)},
    });
    if let (Some(gpu), Some(fields)) = (of_device(engines).await, stats.as_object_mut()) {
        fields.insert("gpu_name".into(), gpu.name.into());
        fields.insert("gpu_memory_total_gb".into(), gpu.total.into());
        fields.insert("gpu_memory_reserved_gb".into(), gpu.used.into());
        fields.insert("gpu_memory_allocated_gb".into(), gpu.used.into());
        fields.insert("gpu_memory_free_gb".into(), gpu.free.into());
    }
    Json(stats)
}

/// The graphics device that the engines run on, if they do.
async fn of_device(engines: Option<&Arc<Engines>>) -> Option<Gpu> {
    gpu::ask_aside(engines.and_then(|e| e.gpu())?).await
}
