//! One picture's way: header, memory, decoding, engine, PNG; all of it off the loop.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Instant;

use anyhow::Result;
use axum::http::StatusCode;

use upscaled_core::fault::{Fault, one_line};
use upscaled_media::image::still::{Opened, Still, StillKind};

use crate::server::image_api::ImageWorker;
use crate::server::image_api::engines::{self, Engines, ExecutionPlan};
use crate::server::image_api::request::UpscaleParams;
use crate::server::kit::error::ApiError;
use crate::server::kit::form::File;

/// A picture is given to so many engines while they die with it.
const TRIES: u32 = 2;

/// A picture enlarged.
pub(super) struct UpscaledPicture {
    pub png: Vec<u8>,
    pub from: (u32, u32),
    pub to: (u32, u32),
    /// Seconds in the engine.
    pub seconds: f64,
    /// What of the uploaded file is not in the PNG, in words.
    pub losses: Vec<String>,
}

/// Enlarges an uploaded picture. It waits for its turn, and counts as done or failed.
pub(super) async fn enlarge(
    worker: &Arc<ImageWorker>,
    file: File,
    wish: UpscaleParams,
) -> Result<UpscaledPicture, ApiError> {
    let made = work(worker, file, wish).await;
    match &made {
        Ok(_) => worker.counts.done.fetch_add(1, Ordering::Relaxed),
        Err(_) => worker.counts.failed.fetch_add(1, Ordering::Relaxed),
    };
    made
}

async fn work(worker: &Arc<ImageWorker>, file: File, wish: UpscaleParams) -> Result<UpscaledPicture, ApiError> {
    let engines = worker.engines()?.clone();
    let slot = worker.queue.slot().await?;
    let start = Instant::now();
    let (about, held) = (file.clone(), engines.clone());
    let (slot, (size, way)) = off_the_loop(move || Ok((slot, plan(&held, &about, wish)?))).await?;
    let what = format!("a picture of {}x{} made {} times as large", size.0, size.1, wish.scale);
    let memory = worker.queue.memory(Engines::need(&way, size, wish.scale), &what).await?;
    // Gone with this call, which is dropped when the client hangs up.
    let waiting = Arc::new(());
    let asker = Arc::downgrade(&waiting);
    let enlarged = off_the_loop(move || {
        let enlarged = make(&engines, &file, &way, &asker);
        // Whoever asked may be gone: turn and memory are held as long as the work lasts.
        drop((memory, slot));
        enlarged
    })
    .await?;
    drop(waiting);
    worker.queue.took(start.elapsed().as_secs_f64());
    Ok(enlarged)
}

/// Runs work on a thread of its own; a panic in it is this picture's alone.
pub(super) async fn off_the_loop<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let lost = |error| ApiError::kept(&Fault::Internal.because(format!("a picture's thread was lost: {error}")));
    tokio::task::spawn_blocking(work).await.map_err(lost)?
}

/// The picture's size and its way through the engine, by its header alone.
fn plan(engines: &Engines, file: &File, wish: UpscaleParams) -> Result<((u32, u32), ExecutionPlan), ApiError> {
    let opened = Opened::new(&file.bytes, "The picture").map_err(|error| ApiError::told(&error))?;
    let too_large = |error: anyhow::Error| ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string());
    opened.check_size().map_err(too_large)?;
    let (size, depth) = (opened.size(), opened.depth());
    let way = engines.way(size, depth, wish).map_err(|error| match engines::is_too_large(&error) {
        true => {
            let (width, height) = size;
            tracing::debug!("refused: {error:#}");
            too_large(anyhow::anyhow!(
                "A picture of {width}x{height} cannot be made {} times as large here",
                wish.scale
            ))
        }
        false => ApiError::kept(&error),
    })?;
    Ok((size, way))
}

fn make(engines: &Engines, file: &File, way: &ExecutionPlan, asker: &Weak<()>) -> Result<UpscaledPicture, ApiError> {
    let mut tried = 0;
    let (mut losses, from, start, made) = loop {
        let opened = Opened::new(&file.bytes, "The picture").map_err(|error| ApiError::told(&error))?;
        let losses = opened.losses();
        let source = opened.decode().map_err(|error| ApiError::told(&error))?;
        let from = (source.width, source.height);
        let start = Instant::now();
        let made = engines.enlarge(way, Still { kind: StillKind::Png, ..source }, asker);
        tried += 1;
        match made {
            // Whatever killed one thread may kill another, but not all.
            Err(error) if engines::is_death(&error) && tried < TRIES => {
                tracing::warn!("a picture is tried again: {}", one_line(&error));
            }
            made => break (losses, from, start, made.map_err(|error| ApiError::kept(&error))?),
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    let to = (made.about().width, made.about().height);
    let (png, lost) = made.encode().map_err(|error| ApiError::kept(&error))?;
    losses.extend(lost);
    Ok(UpscaledPicture { png, from, to, seconds, losses })
}
