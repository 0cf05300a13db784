//! Manifests: frames of a shared folder made larger in batches, without a picture over HTTP.
//!
//! The contract is that of `upscaler_worker_batch.py` of Bittensor-Team/vidaio-win, but for what it does badly: a batch
//! that failed is told, and what is done is not done again.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use serde_json::{Value, json};

use crate::base::fault::{Fault, one_line};
use crate::base::path_text::escape;
use crate::base::{atomic_file, clock};
use crate::http::error::ApiError;
use crate::http::form::File;
use crate::http::images::Worker;
use crate::http::images::picture::{self, off_the_loop};
use crate::http::images::request::Wish;
use crate::http::shared::Shared;
use crate::media::still::Opened;
use crate::store::manifest::{BYTES_MAX, Batch, Manifest};

/// Failed batches that are told with their reasons.
const FAILED_MAX: usize = 1000;

/// What a worker does with manifests.
#[derive(Default)]
pub struct Manifests {
    shared: Shared,
    state: Mutex<Present>,
    /// Counts manifests and resets: work on an older one ends.
    turn: AtomicU64,
    /// One status is written at a time, and each time the newest.
    writing: Mutex<()>,
}

/// The manifest that is worked on, or was.
#[derive(Default)]
struct Present {
    status: Status,
    /// Where it is written, if the manifest lies where the original puts it.
    file: Option<PathBuf>,
}

/// The answer of `/status`, and the file beside the manifests.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    status: Word,
    total_batches: usize,
    completed_batches: usize,
    current_batch: Option<String>,
    progress_percent: f64,
    start_time: Option<String>,
    end_time: Option<String>,
    manifest_path: Option<String>,
    /// Why batches failed, the first of them.
    failed_batches: Vec<Failed>,
    /// Frames that were there already.
    skipped_frames: u64,
}

#[derive(Clone, Debug, Serialize)]
struct Failed {
    batch: String,
    error: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    #[default]
    Idle,
    Processing,
    Completed,
    Error,
}

/// A manifest that is worked on.
struct Run {
    manifest: Manifest,
    turn: u64,
    wish: Wish,
}

impl Manifests {
    pub fn new(shared: Shared) -> Manifests {
        Manifests { shared, ..Manifests::default() }
    }

    pub fn word(&self) -> Word {
        self.status().status
    }

    fn state(&self) -> MutexGuard<'_, Present> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> Status {
        self.state().status.clone()
    }

    /// Changes the status of a run that is still the present one; what it is now.
    fn change(&self, turn: u64, change: impl FnOnce(&mut Status)) -> Option<Status> {
        let mut state = self.state();
        self.is_present(turn).then(|| {
            change(&mut state.status);
            state.status.clone()
        })
    }

    /// Writes the status beside its manifest.
    fn write(&self) -> Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (status, file) = {
            let state = self.state();
            (state.status.clone(), state.file.clone())
        };
        let Some(file) = file else { return Ok(()) };
        let text = serde_json::to_vec_pretty(&status)?;
        atomic_file::write(&file, &text).with_context(|| format!("writing {}", escape(&file)))
    }

    fn is_present(&self, turn: u64) -> bool {
        self.turn.load(Ordering::SeqCst) == turn
    }
}

pub async fn status(State(worker): State<Arc<Worker>>) -> Json<Status> {
    Json(worker.manifests.status())
}

/// Ends what runs at the next frame; what is done stays.
pub async fn reset(State(worker): State<Arc<Worker>>) -> Json<Value> {
    {
        let mut state = worker.manifests.state();
        worker.manifests.turn.fetch_add(1, Ordering::SeqCst);
        state.status = Status::default();
    }
    tell(&worker).await;
    Json(json!({"status": "reset", "message": "Worker reset to idle state"}))
}

pub async fn process(State(worker): State<Arc<Worker>>, body: Bytes) -> Result<Json<Value>, ApiError> {
    let refuse = |words: &str| ApiError::new(StatusCode::BAD_REQUEST, words);
    let body: Value = serde_json::from_slice(&body).map_err(|_| refuse("The body must be JSON"))?;
    let asked = match &body["manifest_path"] {
        Value::String(path) if !path.is_empty() => path.clone(),
        _ => return Err(refuse("manifest_path is required")),
    };
    worker.engines()?;
    let (held, path) = (worker.clone(), asked.clone());
    let (manifest, file) = off_the_loop(move || read(&held.manifests.shared, &path)).await?;
    let run = {
        let manifests = &worker.manifests;
        let mut state = manifests.state();
        if state.status.status == Word::Processing {
            return Ok(Json(json!({"status": "error", "message": "Worker is already processing a manifest"})));
        }
        let status = Status {
            status: Word::Processing,
            total_batches: manifest.batches.len(),
            start_time: Some(clock::now_local()),
            manifest_path: Some(asked.clone()),
            ..Status::default()
        };
        *state = Present { status, file };
        let turn = manifests.turn.fetch_add(1, Ordering::SeqCst) + 1;
        let wish = Wish { scale: manifest.scale, process_size: worker.defaults.process_size };
        Run { manifest, turn, wish }
    };
    tracing::info!("manifest {asked}: {} batches", run.manifest.batches.len());
    tokio::spawn(work(worker, run));
    Ok(Json(json!({
        "status": "started",
        "message": format!("Processing started for manifest: {asked}"),
        "manifest_path": asked,
    })))
}

/// Reads a manifest that lies in a shared folder, and makes its folders sure to do so.
fn read(shared: &Shared, asked: &str) -> Result<(Manifest, Option<PathBuf>), ApiError> {
    let path = shared.file(Path::new(asked), "manifest_path")?;
    let told = |error: anyhow::Error| ApiError::new(StatusCode::BAD_REQUEST, format!("{error:#}"));
    let size = std::fs::metadata(&path).map_or(0, |meta| meta.len());
    if size > BYTES_MAX {
        return Err(told(anyhow::anyhow!("The manifest is larger than {} MiB", BYTES_MAX >> 20)));
    }
    let text = std::fs::read_to_string(&path).map_err(|_| told(anyhow::anyhow!("The manifest is not text")))?;
    let mut manifest = Manifest::parse(&text).map_err(told)?;
    manifest.input = shared.folder(&manifest.input, "Input Dir")?;
    manifest.output = shared.made_folder(&manifest.output, "Output Dir")?;
    Ok((manifest, status_file(shared, &path)))
}

/// `status/worker_N_status.json` of `manifests/worker_N_manifest.txt`.
fn status_file(shared: &Shared, manifest: &Path) -> Option<PathBuf> {
    let name = manifest.file_name()?.to_str()?.strip_suffix("_manifest.txt")?;
    let folder = manifest.parent()?.parent()?.join("status");
    let folder = shared.made_folder(&folder, "status").ok()?;
    Some(folder.join(format!("{name}_status.json")))
}

/// All batches, one after the other, their frames at the same time.
async fn work(worker: Arc<Worker>, run: Run) {
    let manifests = &worker.manifests;
    tell(&worker).await;
    for batch in &run.manifest.batches {
        if manifests.change(run.turn, |status| status.current_batch = Some(batch.id.clone())).is_none() {
            return;
        }
        let failed = batch_done(&worker, &run, batch).await;
        if let Some(error) = &failed {
            tracing::warn!("{}: {error}", batch.id);
        }
        manifests.change(run.turn, |status| {
            match failed {
                None => status.completed_batches += 1,
                Some(error) if status.failed_batches.len() < FAILED_MAX => {
                    status.failed_batches.push(Failed { batch: batch.id.clone(), error });
                }
                Some(_) => {}
            }
            status.progress_percent = status.completed_batches as f64 * 100.0 / status.total_batches as f64;
        });
        tell(&worker).await;
    }
    let now = manifests.change(run.turn, |status| {
        let all = status.completed_batches == status.total_batches;
        status.status = if all { Word::Completed } else { Word::Error };
        status.current_batch = None;
        status.end_time = Some(clock::now_local());
        if all {
            status.progress_percent = 100.0;
        }
    });
    if let Some(now) = &now {
        let (done, all, skipped) = (now.completed_batches, now.total_batches, now.skipped_frames);
        tracing::info!("manifest: {done} of {all} batches done, {skipped} frames were there already");
    }
    tell(&worker).await;
}

/// Writes the status as it is now. A failure is told, and stops nothing.
async fn tell(worker: &Arc<Worker>) {
    let worker = worker.clone();
    match tokio::task::spawn_blocking(move || worker.manifests.write()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("{}", one_line(&error)),
        Err(error) => tracing::warn!("writing a status: {error}"),
    }
}

/// The frames of a batch; why it failed, if it did. A frame that fails does not keep the others
/// from being made.
async fn batch_done(worker: &Arc<Worker>, run: &Run, batch: &Batch) -> Option<String> {
    let frames = stream::iter(batch.frames.clone()).map(|name| async move {
        if !worker.manifests.is_present(run.turn) {
            return Some("stopped by a reset".to_owned());
        }
        let made = frame(worker, run, &name).await;
        made.err().map(|error| format!("{name}: {}", error.reason()))
    });
    let failed: Vec<String> =
        frames.buffered(worker.queue.asked_at_once()).filter_map(std::future::ready).collect().await;
    let more = if failed.len() > 1 { format!(" and {} more", failed.len() - 1) } else { String::new() };
    failed.into_iter().next().map(|first| first + &more)
}

/// One frame, unless it is there already and whole.
async fn frame(worker: &Arc<Worker>, run: &Run, name: &str) -> Result<(), ApiError> {
    let (held, input, target) = (worker.clone(), run.manifest.input.join(name), run.manifest.output.join(name));
    let (into, scale, name) = (target.clone(), run.wish.scale, name.to_owned());
    let source = off_the_loop(move || {
        let file = held.manifests.shared.file(&input, "frame").map_err(|_| missing(&input))?;
        let most = held.limits.file_bytes;
        if std::fs::metadata(&file).is_ok_and(|meta| meta.len() > most) {
            let words = format!("The frame is larger than {} MiB", most >> 20);
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, words));
        }
        let bytes: Bytes = std::fs::read(&file).map_err(|_| missing(&input))?.into();
        let done = is_done(&bytes, &into, scale);
        Ok((!done).then_some(File { name, bytes }))
    })
    .await?;
    let Some(source) = source else {
        worker.manifests.change(run.turn, |status| status.skipped_frames += 1);
        return Ok(());
    };
    let made = picture::enlarge(worker, source, run.wish).await?;
    off_the_loop(move || atomic_file::write(&target, &made.png).map_err(|error| ApiError::kept(&error))).await
}

fn missing(path: &Path) -> ApiError {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    ApiError::told(&Fault::NotFound.because(format!("{name} is not there or cannot be read")))
}

/// Whether a frame's result is there, whole, and has the size that it shall have.
fn is_done(source: &[u8], target: &Path, scale: u32) -> bool {
    if !target.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
        return false;
    }
    let look = || -> Result<bool> {
        let (width, height) = Opened::new(source, "the frame")?.size();
        let bytes = std::fs::read(target)?;
        let made = Opened::new(&bytes, "the result")?;
        let right = made.size() == (width.saturating_mul(scale), height.saturating_mul(scale));
        Ok(right && made.decode().is_ok())
    };
    look().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::still::{Still, StillKind};

    #[test]
    fn results_are_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let picture = |side: u32| {
            let plane = || vec![0.5; (side * side) as usize];
            let (luma, cb, cr, alpha, icc, exif) = (plane(), plane(), plane(), None, None, None);
            let (kind, width, height, depth, gray) = (StillKind::Png, side, side, 8, false);
            Still { kind, width, height, luma, cb, cr, alpha, depth, gray, icc, exif }.encode().unwrap().0
        };
        let (source, target) = (picture(8), folder.path().join("a.png"));
        assert!(!is_done(&source, &target, 2));
        std::fs::write(&target, picture(16)).unwrap();
        assert!(is_done(&source, &target, 2) && !is_done(&source, &target, 4));
        std::fs::write(&target, &picture(16)[..60]).unwrap();
        assert!(!is_done(&source, &target, 2));
        assert!(!is_done(b"no picture", &target, 2));
    }
}
