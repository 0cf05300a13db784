//! Several workers as one: each picture to the one with least to do, the dead left out.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use upscaled_core::shutdown::Shutdown;

use crate::client::{PictureRequest, ReceivedPicture, Reply, WorkerClient};

/// A worker that did not answer is left out for so long.
const DEAD: Duration = Duration::from_secs(15);
/// Waiting for full workers without a picture coming back from any.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Most attempts at one picture that end with a worker gone or failed.
const ATTEMPTS_MAX: u32 = 4;
/// How often those who wait look for the word to stop.
const LOOK: Duration = Duration::from_millis(200);

/// What became of a picture.
#[derive(Debug)]
pub enum PictureOutcome {
    Done(ReceivedPicture),
    Failed(String),
    /// The word to stop came first.
    Stopped,
}

/// How a worker does.
#[derive(Debug, Default)]
struct WorkerState {
    asked: usize,
    /// Not to be asked before: full, or dead.
    rest: Option<Instant>,
    dead: Option<String>,
}

/// Workers that share pictures.
pub struct WorkerPool {
    workers: Vec<WorkerClient>,
    /// Pictures that each is asked for at a time.
    each: usize,
    states: Mutex<Vec<WorkerState>>,
    changed: Condvar,
    /// When the last picture came back.
    last: Mutex<Instant>,
    shutdown: Shutdown,
}

/// Whose turn it is.
enum Turn {
    Worker(usize),
    /// Not before; or until somebody is done.
    Wait(Duration),
    /// None is left.
    None(String),
}

impl WorkerPool {
    pub fn new(workers: Vec<WorkerClient>, each: usize, shutdown: Shutdown) -> WorkerPool {
        let states = workers.iter().map(|_| WorkerState::default()).collect();
        let last = Mutex::new(Instant::now());
        WorkerPool { workers, each: each.max(1), states: Mutex::new(states), changed: Condvar::new(), last, shutdown }
    }

    /// Most pictures that are asked for at a time.
    pub fn at_once(&self) -> usize {
        self.workers.len() * self.each
    }

    /// Asks each worker whether it is there, all at the same time. Those that are not are left
    /// out, and told with the reason.
    pub fn muster(&self) -> Vec<String> {
        let asked: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = self.workers.iter().map(|w| scope.spawn(|| w.ask("/health"))).collect();
            threads.into_iter().map(|thread| thread.join().ok()).collect()
        });
        let mut states = self.states();
        let mut missing = Vec::new();
        for (state, asked) in states.iter_mut().zip(asked) {
            if let Some(Err(error)) = asked {
                missing.push(format!("{error:#}"));
                state.dead = missing.last().cloned();
                state.rest = Some(Instant::now() + DEAD);
            }
        }
        missing
    }

    /// Has a picture enlarged, by another worker where the first is gone. Full workers are
    /// waited for as they ask.
    pub fn upscale(&self, picture: &[u8], name: &str, wish: PictureRequest) -> PictureOutcome {
        let mut attempts = 0;
        loop {
            let n = match self.take() {
                Ok(n) => n,
                Err(outcome) => return outcome,
            };
            let reply = self.workers[n].upscale(picture, name, wish);
            let mut state = self.states();
            let one = &mut state[n];
            one.asked -= 1;
            match &reply {
                Reply::Later(after, _) => one.rest = Some(Instant::now() + *after),
                Reply::Gone(words) => {
                    one.rest = Some(Instant::now() + DEAD);
                    if one.dead.replace(words.clone()).is_none() {
                        tracing::warn!("{words}; left out");
                    }
                }
                Reply::Done(_) | Reply::Refused(_) | Reply::Failed(_) => {
                    one.dead = None;
                    *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                }
            }
            drop(state);
            self.changed.notify_all();
            match reply {
                Reply::Done(picture) => return PictureOutcome::Done(picture),
                Reply::Refused(words) => return PictureOutcome::Failed(words),
                Reply::Later(_, words) => {
                    let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
                    if last.elapsed() > PATIENCE {
                        return PictureOutcome::Failed(format!(
                            "{words}; no worker got on for {} s",
                            PATIENCE.as_secs()
                        ));
                    }
                }
                Reply::Gone(words) | Reply::Failed(words) => {
                    attempts += 1;
                    if attempts >= ATTEMPTS_MAX {
                        return PictureOutcome::Failed(format!("{words}; given up after {attempts} attempts"));
                    }
                }
            }
        }
    }

    /// A worker's turn, as soon as there is one.
    fn take(&self) -> Result<usize, PictureOutcome> {
        let mut states = self.states();
        loop {
            if self.shutdown.is_set() {
                return Err(PictureOutcome::Stopped);
            }
            match turn(&states, self.each, Instant::now()) {
                Turn::Worker(n) => {
                    states[n].asked += 1;
                    states[n].rest = None;
                    return Ok(n);
                }
                Turn::None(words) => return Err(PictureOutcome::Failed(words)),
                Turn::Wait(time) => {
                    let waited = self.changed.wait_timeout(states, time.min(LOOK));
                    states = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    fn states(&self) -> MutexGuard<'_, Vec<WorkerState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The living worker with least to do; a dead one again when its time is over, for one picture.
fn turn(states: &[WorkerState], each: usize, now: Instant) -> Turn {
    let rested = |state: &WorkerState| state.rest.is_none_or(|until| until <= now);
    let free = |state: &WorkerState| state.asked < if state.dead.is_some() { 1 } else { each };
    let ready = states.iter().enumerate().filter(|(_, state)| rested(state) && free(state));
    if let Some((n, _)) = ready.min_by_key(|(_, state)| (state.dead.is_some(), state.asked)) {
        return Turn::Worker(n);
    }
    let dead = |state: &WorkerState| state.dead.is_some() && state.asked == 0;
    if states.iter().all(dead) {
        let words = states.iter().find_map(|state| state.dead.clone()).unwrap_or_default();
        return Turn::None(format!("no worker is left: {words}"));
    }
    let next = states.iter().filter_map(|state| state.rest).filter(|until| *until > now).min();
    Turn::Wait(next.map_or(LOOK, |until| until - now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(asked: usize, rest: i64, dead: bool, now: Instant) -> WorkerState {
        let rest = match rest {
            0 => None,
            ms if ms > 0 => Some(now + Duration::from_millis(ms as u64)),
            ms => now.checked_sub(Duration::from_millis(ms.unsigned_abs())),
        };
        WorkerState { asked, rest, dead: dead.then(|| "gone".into()) }
    }

    #[test]
    fn turns_go_round_and_the_dead_are_left_out() {
        let now = Instant::now();
        let turn = |states: &[(usize, i64, bool)]| {
            let states: Vec<WorkerState> =
                states.iter().map(|&(asked, rest, dead)| state(asked, rest, dead, now)).collect();
            match turn(&states, 2, now) {
                Turn::Worker(n) => format!("{n}"),
                Turn::Wait(time) => format!("wait {}", time.as_millis()),
                Turn::None(words) => words,
            }
        };
        assert_eq!(turn(&[(1, 0, false), (0, 0, false)]), "1");
        assert_eq!(turn(&[(2, 0, false), (1, 5000, false)]), "wait 5000");
        assert_eq!(turn(&[(2, 0, false), (0, 5000, true)]), "wait 5000");
        // A dead one whose time is over comes last, and gets one picture.
        assert_eq!(turn(&[(0, -1, true), (1, 0, false)]), "1");
        assert_eq!(turn(&[(0, -1, true), (2, 0, false)]), "0");
        assert_eq!(turn(&[(1, -1, true), (2, 0, false)]), "wait 200");
        assert_eq!(turn(&[(0, 5000, true), (0, 5000, true)]), "no worker is left: gone");
        assert_eq!(turn(&[(0, 5000, true), (1, 0, true)]), "wait 5000");
    }
}
