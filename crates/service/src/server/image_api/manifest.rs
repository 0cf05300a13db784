//! Manifests: frames of a shared folder made larger in batches, without a picture over HTTP.
//!
//! The contract is that of `upscaler_worker_batch.py` of Bittensor-Team/vidaio-win, but for what it does badly: a batch
//! that failed is told, and what is done is not done again.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use serde_json::{Value, json};

use upscaled_core::clock;
use upscaled_core::fault::{Fault, one_line};
use upscaled_core::jail::{Denied, JailFolder};
use upscaled_jobs::state::manifest::{BYTES_MAX, Batch, Manifest, picture_bytes_max};
use upscaled_media::image::still::Opened;

use crate::server::image_api::ImageWorker;
use crate::server::image_api::picture::{self, off_the_loop};
use crate::server::image_api::request::UpscaleParams;
use crate::server::kit::error::ApiError;
use crate::server::kit::form::File;
use crate::server::kit::shared_folders::Shared;

/// FailedFrame batches that are told with their reasons.
const FAILED_MAX: usize = 1000;

/// What a worker does with manifests.
#[derive(Default)]
pub(super) struct Manifests {
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
    status: ManifestStatus,
    /// Where it is written, if the manifest lies where the original puts it.
    file: Option<StatusFile>,
}

/// The answer of `/status`, and the file beside the manifests.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct ManifestStatus {
    status: Word,
    total_batches: usize,
    completed_batches: usize,
    current_batch: Option<String>,
    progress_percent: f64,
    start_time: Option<String>,
    end_time: Option<String>,
    manifest_path: Option<String>,
    /// Why batches failed, the first of them.
    failed_batches: Vec<FailedFrame>,
    /// Frames that were there already.
    skipped_frames: u64,
}

#[derive(Clone, Debug, Serialize)]
struct FailedFrame {
    batch: String,
    error: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Word {
    #[default]
    Idle,
    Processing,
    Completed,
    Error,
}

/// A file by its folder and its name.
type StatusFile = (JailFolder, OsString);

/// A manifest with its folders, which stay the same ones whatever becomes of their names.
struct Order {
    manifest: Manifest,
    input: JailFolder,
    output: JailFolder,
}

/// An order that is worked on.
struct Run {
    order: Order,
    turn: u64,
    wish: UpscaleParams,
}

impl Manifests {
    pub(super) fn new(shared: Shared) -> Manifests {
        Manifests { shared, ..Manifests::default() }
    }

    pub(super) fn word(&self) -> Word {
        self.status().status
    }

    fn state(&self) -> MutexGuard<'_, Present> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> ManifestStatus {
        self.state().status.clone()
    }

    /// Changes the status of a run that is still the present one; what it is now.
    fn change(&self, turn: u64, change: impl FnOnce(&mut ManifestStatus)) -> Option<ManifestStatus> {
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
        let Some((folder, name)) = file else { return Ok(()) };
        folder.write(&name, &serde_json::to_vec_pretty(&status)?)
    }

    fn is_present(&self, turn: u64) -> bool {
        self.turn.load(Ordering::SeqCst) == turn
    }
}

pub(super) async fn status(State(worker): State<Arc<ImageWorker>>) -> Json<ManifestStatus> {
    Json(worker.manifests.status())
}

/// Ends what runs at the next frame; what is done stays.
pub(super) async fn reset(State(worker): State<Arc<ImageWorker>>) -> Json<Value> {
    {
        let mut state = worker.manifests.state();
        worker.manifests.turn.fetch_add(1, Ordering::SeqCst);
        state.status = ManifestStatus::default();
    }
    tell(&worker).await;
    Json(json!({"status": "reset", "message": "Worker reset to idle state"}))
}

pub(super) async fn process(State(worker): State<Arc<ImageWorker>>, body: Bytes) -> Result<Json<Value>, ApiError> {
    let refuse = |words: &str| ApiError::new(StatusCode::BAD_REQUEST, words);
    let body: Value = serde_json::from_slice(&body).map_err(|_| refuse("The body must be JSON"))?;
    let asked = match &body["manifest_path"] {
        Value::String(path) if !path.is_empty() => path.clone(),
        _ => return Err(refuse("manifest_path is required")),
    };
    worker.engines()?;
    let (held, path) = (worker.clone(), asked.clone());
    let (order, file) = off_the_loop(move || read(&held.manifests.shared, &path)).await?;
    let run = {
        let manifests = &worker.manifests;
        let mut state = manifests.state();
        if state.status.status == Word::Processing {
            return Ok(Json(json!({"status": "error", "message": "Worker is already processing a manifest"})));
        }
        let status = ManifestStatus {
            status: Word::Processing,
            total_batches: order.manifest.batches.len(),
            start_time: Some(clock::now_local()),
            manifest_path: Some(asked.clone()),
            ..ManifestStatus::default()
        };
        *state = Present { status, file };
        let turn = manifests.turn.fetch_add(1, Ordering::SeqCst) + 1;
        let wish = UpscaleParams { scale: order.manifest.scale, process_size: worker.defaults.process_size };
        Run { order, turn, wish }
    };
    tracing::info!("manifest {asked}: {} batches", run.order.manifest.batches.len());
    tokio::spawn(work(worker, run));
    Ok(Json(json!({
        "status": "started",
        "message": format!("Processing started for manifest: {asked}"),
        "manifest_path": asked,
    })))
}

/// Reads a manifest that lies in a shared folder, and opens its folders, which have to do so too.
fn read(shared: &Shared, asked: &str) -> Result<(Order, Option<StatusFile>), ApiError> {
    let found = shared.file(Path::new(asked), "manifest_path")?;
    let told = |error: anyhow::Error| ApiError::new(StatusCode::BAD_REQUEST, format!("{error:#}"));
    let mut bytes = Vec::new();
    let read = found.file.take(BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|_| told(anyhow::anyhow!("The manifest cannot be read")))?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(told(anyhow::anyhow!("The manifest is larger than {} MiB", BYTES_MAX >> 20)));
    }
    let text = String::from_utf8(bytes).map_err(|_| told(anyhow::anyhow!("The manifest is not text")))?;
    let manifest = Manifest::parse(&text).map_err(told)?;
    let input = shared.folder(&manifest.input, "Input Dir")?;
    let output = shared.made_folder(&manifest.output, "Output Dir")?;
    // A frame and its result have one name.
    if input.id().ok() == output.id().ok() {
        return Err(told(anyhow::anyhow!("Input Dir and Output Dir are one folder")));
    }
    Ok((Order { manifest, input, output }, status_file(shared, &found.path)))
}

/// `status/worker_N_status.json` of `manifests/worker_N_manifest.txt`.
fn status_file(shared: &Shared, manifest: &Path) -> Option<StatusFile> {
    let name = manifest.file_name()?.to_str()?.strip_suffix("_manifest.txt")?;
    let folder = manifest.parent()?.parent()?.join("status");
    let folder = shared.made_folder(&folder, "status").ok()?;
    Some((folder, format!("{name}_status.json").into()))
}

/// All batches, one after the other, their frames at the same time.
async fn work(worker: Arc<ImageWorker>, run: Run) {
    let manifests = &worker.manifests;
    tell(&worker).await;
    for batch in &run.order.manifest.batches {
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
                    status.failed_batches.push(FailedFrame { batch: batch.id.clone(), error });
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
async fn tell(worker: &Arc<ImageWorker>) {
    let worker = worker.clone();
    match tokio::task::spawn_blocking(move || worker.manifests.write()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("{}", one_line(&error)),
        Err(error) => tracing::warn!("writing a status: {error}"),
    }
}

/// The frames of a batch; why it failed, if it did. A frame that fails does not keep the others
/// from being made.
async fn batch_done(worker: &Arc<ImageWorker>, run: &Run, batch: &Batch) -> Option<String> {
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
async fn frame(worker: &Arc<ImageWorker>, run: &Run, name: &str) -> Result<(), ApiError> {
    let (held, input, output) = (worker.clone(), run.order.input.clone(), run.order.output.clone());
    let (scale, wanted) = (run.wish.scale, name.to_owned());
    let source = off_the_loop(move || {
        let bytes: Bytes = source(&held, &input, &wanted)?.into();
        let done = is_done(&bytes, &output, &wanted, scale);
        Ok((!done).then_some(File { name: wanted, bytes }))
    })
    .await?;
    let Some(source) = source else {
        worker.manifests.change(run.turn, |status| status.skipped_frames += 1);
        return Ok(());
    };
    let made = picture::enlarge(worker, source, run.wish).await?;
    let (output, name) = (run.order.output.clone(), name.to_owned());
    off_the_loop(move || output.write(OsStr::new(&name), &made.png).map_err(|error| ApiError::kept(&error))).await
}

/// The bytes of a frame. A link in its place has to lead to a file of the shared folders.
fn source(worker: &ImageWorker, input: &JailFolder, name: &str) -> Result<Vec<u8>, ApiError> {
    let missing = || ApiError::told(&Fault::NotFound.because(format!("{name} is not there or cannot be read")));
    let file = match input.file(OsStr::new(name)) {
        Err(Denied::Outside) => worker.manifests.shared.file(&input.path().join(name), "frame").map(|found| found.file),
        file => file.map_err(|_| missing()),
    };
    let most = worker.limits.file_bytes;
    let mut bytes = Vec::new();
    file.and_then(|file| file.take(most + 1).read_to_end(&mut bytes).map_err(|_| missing())).map_err(|_| missing())?;
    if bytes.len() as u64 > most {
        let words = format!("The frame is larger than {} MiB", most >> 20);
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, words));
    }
    Ok(bytes)
}

/// Whether a frame's result is there, whole, and has the size that it shall have.
fn is_done(source: &[u8], output: &JailFolder, name: &str, scale: u32) -> bool {
    let look = || -> Result<bool> {
        let file = output.file(OsStr::new(name)).map_err(|denied| denied.told(name))?;
        let (width, height) = Opened::new(source, "the frame")?.size();
        let wanted = (width.saturating_mul(scale), height.saturating_mul(scale));
        let most = picture_bytes_max(wanted.0, wanted.1);
        let mut bytes = Vec::new();
        if file.metadata()?.len() > most || file.take(most).read_to_end(&mut bytes).is_err() {
            return Ok(false);
        }
        let made = Opened::new(&bytes, "the result")?;
        Ok(made.size() == wanted && made.decode().is_ok())
    };
    look().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use upscaled_media::image::still::{Still, StillKind};

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
        let output = upscaled_core::jail::Jail::open(folder.path()).unwrap().root().clone();
        let is_done = |source: &[u8], scale| is_done(source, &output, "a.png", scale);
        assert!(!is_done(&source, 2));
        std::fs::write(&target, picture(16)).unwrap();
        assert!(is_done(&source, 2) && !is_done(&source, 4));
        std::fs::write(&target, &picture(16)[..60]).unwrap();
        assert!(!is_done(&source, 2));
        assert!(!is_done(b"no picture", 2));
        // Neither a link, whatever it leads to, nor what is larger than such a picture can be
        std::fs::write(folder.path().join("b.png"), picture(16)).unwrap();
        std::fs::remove_file(&target).unwrap();
        std::os::unix::fs::symlink("b.png", &target).unwrap();
        assert!(!is_done(&source, 2));
        std::fs::remove_file(&target).unwrap();
        std::fs::write(&target, [picture(16), vec![0; 17 << 20]].concat()).unwrap();
        assert!(!is_done(&source, 2));
    }
}
