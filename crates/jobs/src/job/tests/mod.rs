//! Whole jobs in this process: the same output whatever happens on the way.

mod chance;
mod damage;
mod diffusion;
mod encoder;
mod limits;
mod memory;
mod sizes;
mod sources;
mod stops;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use anyhow::Result;

use upscaled_core::config::settings::{JobSettings, RunSettings};
use upscaled_core::fault::Fault;
use upscaled_core::shutdown::Shutdown;
use upscaled_core::types::progress::{Event, JobOutcome, Progress};
use upscaled_core::types::status::JobStatus;
use upscaled_engine::models::testing::TestModel;

use crate::job::order::JobOrder;
use crate::job::runner;
use crate::job::standby::Ready;
use crate::pipeline::decode::Haste;

/// A job of a test is over by now, or it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

thread_local! {
    static HASTE: Cell<Haste> = const { Cell::new(Haste { cheap: Duration::from_secs(60), sample: Duration::from_secs(3) }) };
}

/// How eagerly this thread's jobs seek on resume.
pub(super) fn haste() -> Haste {
    HASTE.get()
}

/// Whether jobs can run here; says why not.
fn ready(test: &str) -> bool {
    if !upscaled_engine::test_util::runtime_is_here() {
        eprintln!("{test}: skipped");
        return false;
    }
    let found = ["ffmpeg", "ffprobe"].iter().all(|tool| Command::new(tool).arg("-version").output().is_ok());
    if !found {
        eprintln!("{test}: skipped: ffmpeg and ffprobe are not installed");
    }
    found
}

/// Makes a file with the ffmpeg tool. `false`, with its words, where that cannot.
fn ffmpeg(arguments: &str, target: &Path) -> bool {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-y"]).args(arguments.split(' ').filter(|a| !a.is_empty()));
    let made = command.arg(target).output().unwrap();
    if !made.status.success() {
        eprintln!("skipped: ffmpeg {arguments}: {}", String::from_utf8_lossy(&made.stderr));
    }
    made.status.success()
}

/// Moving pictures that are quick to upscale, with B-frames and sound.
const FILM: &str = "-f lavfi -i testsrc2=size=64x48:rate=25 -f lavfi -i sine=frequency=300 -t 2 -c:v libx264 -bf 2 -g 12 \
                    -pix_fmt yuv420p -c:a aac -shortest -threads 1";

/// One job in a folder of its own.
struct Bench {
    folder: tempfile::TempDir,
    order: JobOrder,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Bench {
    /// A job over a source that ffmpeg makes from `arguments`; `None` where it cannot.
    fn new(name: &str, arguments: &str) -> Option<Bench> {
        let folder = tempfile::Builder::new().prefix("upscaled-job-").tempdir().unwrap();
        let source = folder.path().join("input").join(name);
        std::fs::create_dir(folder.path().join("input")).unwrap();
        ffmpeg(arguments, &source).then(|| Bench::over(folder, source))
    }

    fn over(folder: tempfile::TempDir, source: PathBuf) -> Bench {
        let model = folder.path().join("model.onnx");
        std::fs::write(&model, TestModel::default().bytes()).unwrap();
        let at = |name: &str| folder.path().join(name);
        let order = JobOrder {
            relative: source.file_name().unwrap().into(),
            source,
            job_dir: at("output/film.job"),
            target_dir: at("output"),
            crowded: false,
            target_file: PathBuf::new(),
            key: "0badcafe-0123456789abcdef".into(),
            attempt: 0,
            lean: 0,
            together: 1,
            previews: false,
            settings: JobSettings {
                model: model.to_str().unwrap().into(),
                device: "cpu".into(),
                eta_frames: 8,
                batch_frames: 15,
                threads: 1,
                autotune: false,
                preset: Some("veryfast".into()),
                ..JobSettings::default()
            },
            run: RunSettings { work_area: Some(at("ram")), min_free_mb: 0, ..RunSettings::default() },
        };
        Bench { folder, order, events: Arc::default() }
    }

    /// The same source and settings, nothing done yet.
    fn again(&self) -> Bench {
        let folder = tempfile::Builder::new().prefix("upscaled-job-").tempdir().unwrap();
        let source = folder.path().join(&self.order.relative);
        std::fs::copy(&self.order.source, &source).unwrap();
        let mut bench = Bench::over(folder, source);
        let model = |bench: &Bench| bench.folder.path().join("model.onnx");
        std::fs::copy(model(self), model(&bench)).unwrap();
        let model = match self.order.settings.model == model(self).to_str().unwrap_or_default() {
            true => bench.order.settings.model.clone(),
            false => self.order.settings.model.clone(),
        };
        bench.order.settings = JobSettings { model, ..self.order.settings.clone() };
        bench
    }

    fn run(&self) -> Result<JobOutcome> {
        self.run_until(&Shutdown::new())
    }

    /// Runs the job in this thread, so that its plans of failures count, under a watchdog.
    fn run_until(&self, shutdown: &Shutdown) -> Result<JobOutcome> {
        let (ended, watch) = mpsc::channel::<()>();
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let dog = std::thread::spawn(move || {
            if watch.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{name}: the job hangs");
                std::process::abort();
            }
        });
        let events = self.events.clone();
        let result =
            runner::run(&self.order, &Ready::default(), &move |event| events.lock().unwrap().push(event), shutdown);
        drop(ended);
        dog.join().unwrap();
        result
    }

    fn done(&self) -> JobOutcome {
        self.run().map_err(|e| format!("{e:#}\n{}", self.log())).unwrap()
    }

    fn stopped(&self, shutdown: &Shutdown) {
        let error = self.run_until(shutdown).expect_err("it should have been stopped");
        assert_eq!(Fault::of(&error), Fault::Stopped, "{error:#}\n{}", self.log());
    }

    fn refused(&self) -> (Fault, String) {
        let error = self.run().expect_err("it should have failed");
        (Fault::of(&error), format!("{error:#}"))
    }

    /// The published file.
    fn output(&self) -> PathBuf {
        let name = format!("{}_upscaled", self.order.relative.file_stem().unwrap().to_str().unwrap());
        let mut found = std::fs::read_dir(&self.order.target_dir).unwrap().map(|e| e.unwrap().path());
        found.find(|p| p.file_stem().is_some_and(|s| s == name.as_str())).expect("an output")
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.output()).unwrap()
    }

    /// Output of an undisturbed run of the same job.
    fn reference(&self) -> Vec<u8> {
        let other = self.again();
        other.done();
        other.bytes()
    }

    fn same_as(&self, reference: &[u8]) {
        assert!(self.bytes() == reference, "another output than that of an undisturbed run\n{}", self.log());
    }

    fn log(&self) -> String {
        let events = self.events.lock().unwrap();
        let words = |e: &Event| match e {
            Event::Log { level, message } => Some(format!("{level}: {message}\n")),
            Event::Sealed { batch, frames } => Some(format!("sealed {batch}: {frames}\n")),
            _ => None,
        };
        events.iter().filter_map(words).collect()
    }

    fn sealed(&self) -> Vec<u64> {
        let events = self.events.lock().unwrap();
        events.iter().filter_map(|e| if let Event::Sealed { batch, .. } = e { Some(*batch) } else { None }).collect()
    }

    fn forget_events(&self) {
        self.events.lock().unwrap().clear();
    }

    fn progress(&self) -> Vec<Progress> {
        let events = self.events.lock().unwrap();
        events.iter().filter_map(|e| if let Event::Progress(p) = e { Some(p.clone()) } else { None }).collect()
    }

    fn status(&self) -> JobStatus {
        serde_json::from_slice(&std::fs::read(self.order.job_dir.join("status.json")).unwrap()).unwrap()
    }

    /// Files of a folder of the job, sorted.
    fn files(&self, sub: &str) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.order.job_dir.join(sub)) else { return Vec::new() };
        let mut files: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
        files.sort();
        files
    }

    fn clip(&self, index: u64) -> PathBuf {
        let prefix = format!("{index:06}-");
        let named = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().starts_with(&prefix);
        self.files("clips").into_iter().find(named).expect("a clip")
    }

    /// As after a power cut: nothing of the RAM disk is left.
    fn cut_power(&self) {
        let area = self.folder.path().join("ram").join(&self.order.key);
        let _ = nix::mount::umount2(&area, nix::mount::MntFlags::MNT_DETACH);
        std::fs::remove_dir_all(self.folder.path().join("ram")).unwrap();
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let area = self.folder.path().join("ram").join(&self.order.key);
        let _ = nix::mount::umount2(&area, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Frames that the last attempt itself upscaled.
trait Upscaled {
    fn upscaled(&self) -> u64;
}

impl Upscaled for JobOutcome {
    fn upscaled(&self) -> u64 {
        (self.fps * self.seconds).round() as u64
    }
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x11;
    std::fs::write(path, bytes).unwrap();
}

/// Frames of the first video stream, decoded through by the ffmpeg tool; its complaints must be none.
fn framemd5(path: &Path) -> Vec<String> {
    let made = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-xerror", "-i"])
        .arg(path)
        .args(["-map", "0:v:0", "-f", "framemd5", "-"])
        .output()
        .unwrap();
    assert!(made.status.success() && made.stderr.is_empty(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = String::from_utf8(made.stdout).unwrap();
    text.lines().filter(|l| !l.starts_with('#')).map(|l| l.rsplit(',').next().unwrap().trim().to_owned()).collect()
}
