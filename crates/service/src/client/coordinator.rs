//! The frames of a film shared out to batch workers by manifests, until all are there.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use upscaled_core::fault::{Fault, one_line};
use upscaled_core::jail::Jail;
use upscaled_core::shutdown::Shutdown;
use upscaled_jobs::state::manifest::{Batch, Manifest};

use crate::client::{WorkerClient, reason};

/// How often workers are asked how far they are.
const LOOK: Duration = Duration::from_millis(500);
/// A worker that answers to nothing for so long is dead: its batches go to others.
const SILENCE: Duration = Duration::from_secs(15);
/// One that answers, and finishes no batch for so long, is too.
const STANDSTILL: Duration = Duration::from_secs(600);
/// A worker that is dead, busy or refuses is asked again after so long.
const REST: Duration = Duration::from_secs(10);
/// No worker has taken or done anything for so long: the film is given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often a batch is tried.
const ATTEMPTS_MAX: u32 = 3;
/// Most batches in a manifest, so that what is left can go to who is free.
const BATCHES_MAX: usize = 16;

/// The folders of a film: `input_frames`, `output_frames`, `manifests`, `status`.
#[derive(Clone, Debug)]
pub struct Film {
    pub base: PathBuf,
    pub scale: u32,
    pub batch_size: u32,
    pub frames: u64,
}

impl Film {
    pub fn input(&self) -> PathBuf {
        self.base.join("input_frames")
    }

    pub fn output(&self) -> PathBuf {
        self.base.join("output_frames")
    }

    pub fn manifest(&self, worker: usize) -> PathBuf {
        self.base.join(format!("manifests/worker_{worker}_manifest.txt"))
    }

    /// What a worker tells of its manifest.
    pub fn status(&self, worker: usize) -> PathBuf {
        self.base.join(format!("status/worker_{worker}_status.json"))
    }

    /// The manifest of a worker for some batches.
    pub fn for_worker(&self, batches: Vec<Batch>) -> Manifest {
        Manifest {
            input: self.input(),
            output: self.output(),
            scale: self.scale,
            batch_size: self.batch_size,
            patch_size: 256,
            total_frames: self.frames,
            batches,
        }
    }
}

/// A worker and what it has been given.
struct Hand {
    worker: WorkerClient,
    batches: Vec<Batch>,
    /// When it last answered, and when it last had something new to tell.
    heard: Instant,
    moved: Instant,
    done: u64,
    /// Not to be asked before.
    rest: Option<Instant>,
    /// Why not, told once.
    words: String,
}

impl Hand {
    fn rests(&mut self, words: String) {
        if words != self.words {
            tracing::warn!("{words}");
            self.words = words;
        }
        self.rest = Some(Instant::now() + REST);
    }
}

/// Shares batches out, and takes over those of workers that die.
pub struct Coordinator {
    film: Film,
    /// The film's folder: workers may write there too, and no link of theirs leads out.
    jail: Jail,
    hands: Vec<Hand>,
    left: VecDeque<Batch>,
    attempts: HashMap<String, u32>,
    shutdown: Shutdown,
    /// When a worker last took or did something.
    last: Instant,
}

impl Coordinator {
    pub fn new(
        film: Film,
        jail: Jail,
        workers: Vec<WorkerClient>,
        batches: Vec<Batch>,
        shutdown: Shutdown,
    ) -> Coordinator {
        let now = Instant::now();
        let hand = |worker| Hand {
            worker,
            batches: Vec::new(),
            heard: now,
            moved: now,
            done: 0,
            rest: None,
            words: String::new(),
        };
        let hands = workers.into_iter().map(hand).collect();
        let (left, attempts) = (batches.into(), HashMap::new());
        Coordinator { film, jail, hands, left, attempts, shutdown, last: now }
    }

    /// Works until every frame is there; `progress` is told how many batches are still open.
    ///
    /// # Errors
    /// [`Fault::Stopped`]; [`Fault::NotFound`] when no worker is left; [`Fault::BadInput`] with a worker's reason for a
    /// batch that failed each time.
    pub fn run(&mut self, progress: &mut dyn FnMut(usize)) -> Result<()> {
        loop {
            if self.shutdown.is_set() {
                self.hands.iter().filter(|hand| !hand.batches.is_empty()).for_each(|hand| {
                    let _ = hand.worker.tell("/reset", &Value::Null);
                });
                return self.shutdown.check();
            }
            for n in 0..self.hands.len() {
                if self.hands[n].batches.is_empty() { self.hand_out(n)? } else { self.look(n)? }
            }
            let open = self.left.len() + self.hands.iter().map(|hand| hand.batches.len()).sum::<usize>();
            progress(open);
            if open == 0 {
                return Ok(());
            }
            if self.last.elapsed() > PATIENCE && self.hands.iter().all(|hand| hand.batches.is_empty()) {
                let words: Vec<&str> = self.hands.iter().map(|hand| hand.words.as_str()).collect();
                let words = format!("no worker takes any frames: {}; the same command goes on", words.join("; "));
                return Err(Fault::NotFound.because(words));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Gives a free worker some of the batches that are left.
    fn hand_out(&mut self, n: usize) -> Result<()> {
        let count = self.left.len().div_ceil(2 * self.hands.len()).min(BATCHES_MAX);
        let hand = &mut self.hands[n];
        if count == 0 || hand.rest.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        let batches: Vec<Batch> = self.left.drain(..count).collect();
        let path = self.film.manifest(n);
        let text = self.film.for_worker(batches.clone()).text(n)?;
        self.jail.write(&path, text.as_bytes())?;
        let words = match hand.worker.tell("/process_manifest", &json!({"manifest_path": path})) {
            Ok((true, answer)) if answer["status"] == "started" => {
                let now = Instant::now();
                (hand.batches, hand.done, hand.rest) = (batches, 0, None);
                (hand.heard, hand.moved, self.last) = (now, now, now);
                return Ok(());
            }
            Ok((true, answer)) => format!("{}: {}", hand.worker.place, answer["message"].as_str().unwrap_or("busy")),
            Ok((false, answer)) => format!("{}: {}", hand.worker.place, reason(&answer)),
            Err(error) => one_line(&error),
        };
        batches.into_iter().rev().for_each(|batch| self.left.push_front(batch));
        hand.rests(words);
        Ok(())
    }

    /// Asks a worker how far it is.
    fn look(&mut self, n: usize) -> Result<()> {
        let path = self.film.manifest(n);
        let hand = &mut self.hands[n];
        let status = match hand.worker.ask("/status") {
            Ok((true, status)) => status,
            Ok((false, answer)) => return self.silent(n, &reason(&answer)),
            Err(error) => return self.silent(n, &one_line(&error)),
        };
        hand.heard = Instant::now();
        let done = status["completed_batches"].as_u64().unwrap_or(0);
        if done != hand.done {
            (hand.done, hand.moved, self.last) = (done, hand.heard, hand.heard);
        }
        let own = status["manifest_path"].as_str().is_some_and(|at| path.as_os_str() == at);
        match status["status"].as_str() {
            Some("processing") if own && hand.moved.elapsed() < STANDSTILL => Ok(()),
            Some("completed" | "error") if own => self.taken_back(n, Some(&status)),
            Some("processing") if own => {
                let _ = hand.worker.tell("/reset", &Value::Null);
                let words = format!("{}: no batch was finished for {} s", hand.worker.place, STANDSTILL.as_secs());
                hand.rests(words);
                self.taken_back(n, None)
            }
            // It was started anew, reset, or given something else by somebody else.
            _ => {
                let words = format!("{}: it has forgotten its frames; others do them", hand.worker.place);
                tracing::warn!("{words}");
                self.taken_back(n, None)
            }
        }
    }

    fn silent(&mut self, n: usize, words: &str) -> Result<()> {
        let hand = &mut self.hands[n];
        if hand.heard.elapsed() < SILENCE {
            return Ok(());
        }
        hand.rests(format!("{words}; others do its frames"));
        self.taken_back(n, None)
    }

    /// What a worker had that is not done goes to others; what it has failed at counts as tried.
    fn taken_back(&mut self, n: usize, ended: Option<&Value>) -> Result<()> {
        let output = self.jail.folder(&self.film.output()).ok();
        let plain = |name: &String| output.as_ref()?.entry(name.as_ref()).ok()?.filter(|entry| entry.plain);
        let whole = |batch: &Batch| batch.frames.iter().all(|frame| plain(frame).is_some());
        for batch in std::mem::take(&mut self.hands[n].batches) {
            if whole(&batch) {
                continue;
            }
            if let Some(status) = ended {
                let attempts = self.attempts.entry(batch.id.clone()).or_default();
                *attempts += 1;
                if *attempts >= ATTEMPTS_MAX {
                    let why = why(status, &batch.id);
                    let place = &self.hands[n].worker.place;
                    let words = format!("{} failed {ATTEMPTS_MAX} times, at last at {place}: {why}", batch.id);
                    return Err(Fault::BadInput.because(words));
                }
            }
            self.left.push_back(batch);
        }
        Ok(())
    }
}

/// Why a batch failed, by a worker's status.
fn why<'a>(status: &'a Value, id: &str) -> &'a str {
    let failed = status["failed_batches"].as_array().map_or(&[][..], Vec::as_slice);
    let entry = failed.iter().find(|entry| entry["batch"] == id);
    entry.and_then(|entry| entry["error"].as_str()).unwrap_or("the worker does not say why")
}
