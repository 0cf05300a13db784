//! Places of calls, and of pictures at work: both bounded, and told when they are all taken.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::server::kit::error::ApiError;

/// Pictures of one call that are asked for beyond those at work: done before their turn, they
/// wait in memory.
const AHEAD: usize = 2;
/// Weight of the newest picture in the mean time of one.
const NEWEST: f64 = 0.1;
/// Longest time a client is told to wait.
const RETRY_MAX: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// The bounds of one worker.
pub(super) struct CallQueue {
    /// Pictures at work, in the order in which they asked.
    slots: Arc<Semaphore>,
    at_once: usize,
    /// Memory of pictures at work, MiB.
    memory: Arc<Semaphore>,
    memory_mib: u32,
    /// Calls that run or wait.
    calls: Arc<AtomicUsize>,
    calls_max: usize,
    /// Mean seconds of a picture.
    pace: Mutex<f64>,
}

/// A call's place; given back when dropped.
#[derive(Debug)]
pub(super) struct CallSlot(Arc<AtomicUsize>);

impl Drop for CallSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl CallQueue {
    /// `at_once` pictures at work, that many calls and `waiting` more, and `memory` bytes for
    /// the pictures.
    pub(super) fn new(at_once: usize, waiting: usize, memory: u64) -> CallQueue {
        let most = u64::try_from(Semaphore::MAX_PERMITS).unwrap_or(u64::MAX).min(u64::from(u32::MAX));
        let memory_mib = (memory / MIB).clamp(1, most) as u32;
        CallQueue {
            slots: Arc::new(Semaphore::new(at_once)),
            at_once,
            memory: Arc::new(Semaphore::new(memory_mib as usize)),
            memory_mib,
            calls: Arc::default(),
            calls_max: at_once.saturating_add(waiting),
            pace: Mutex::new(0.0),
        }
    }

    /// A place for a call; 429 where all are taken.
    pub(super) fn enter(&self) -> Result<CallSlot, ApiError> {
        let fits = |calls: usize| (calls < self.calls_max).then_some(calls + 1);
        match self.calls.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits) {
            Ok(_) => Ok(CallSlot(self.calls.clone())),
            Err(_) => {
                let words = "The queue is full; try again later";
                Err(ApiError::later(StatusCode::TOO_MANY_REQUESTS, words, self.wait()))
            }
        }
    }

    /// When a place may be free.
    fn wait(&self) -> Duration {
        let seconds = *self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = self.calls_max - self.at_once;
        let rounds = 1.0 + waiting as f64 / self.at_once.max(1) as f64;
        // Half of those that wait now will be done.
        Duration::from_secs_f64((seconds * rounds / 2.0).ceil()).clamp(Duration::from_secs(1), RETRY_MAX)
    }

    /// Waits until a picture may be worked on.
    pub(super) async fn slot(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.slots.clone().acquire_owned().await.map_err(|_| stopping())
    }

    /// Waits until there is memory for a picture.
    ///
    /// # Errors
    /// 413 where there never is as much; `what` tells what for.
    pub(super) async fn memory(&self, bytes: u64, what: &str) -> Result<OwnedSemaphorePermit, ApiError> {
        let mib = bytes.div_ceil(MIB);
        match u32::try_from(mib).ok().filter(|mib| *mib <= self.memory_mib) {
            Some(mib) => self.memory.clone().acquire_many_owned(mib).await.map_err(|_| stopping()),
            None => {
                let words = format!("{what} needs about {mib} MiB of memory, and {} are there", self.memory_mib);
                Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, words))
            }
        }
    }

    /// A picture took so long.
    pub(super) fn took(&self, seconds: f64) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        *pace = if *pace == 0.0 { seconds } else { *pace + NEWEST * (seconds - *pace) };
    }

    /// Pictures of one call that are asked for at a time.
    pub(super) fn asked_at_once(&self) -> usize {
        self.at_once + AHEAD
    }

    /// Pictures at work, calls that run or wait, and most of both.
    pub(super) fn figures(&self) -> (usize, usize, usize, usize) {
        let running = self.at_once - self.slots.available_permits().min(self.at_once);
        (running, self.calls.load(Ordering::SeqCst), self.at_once, self.calls_max)
    }

    /// From now on nobody's turn comes; those at work go on.
    pub(super) fn close(&self) {
        self.slots.close();
        self.memory.close();
    }
}

fn stopping() -> ApiError {
    ApiError::later(StatusCode::SERVICE_UNAVAILABLE, "The worker is stopping", Duration::from_secs(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status<T: std::fmt::Debug>(result: Result<T, ApiError>) -> u16 {
        result.unwrap_err().status().as_u16()
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let queue = CallQueue::new(1, 2, 10 * MIB);
        let places: Vec<CallSlot> = (0..3).map(|_| queue.enter().unwrap()).collect();
        assert_eq!(status(queue.enter()), 429);
        drop(places);
        assert!(queue.enter().is_ok());
        queue.took(10.0);
        queue.took(20.0);
        assert_eq!(queue.wait(), Duration::from_secs(17));
        (0..200).for_each(|_| queue.took(1e6));
        assert_eq!(queue.wait(), RETRY_MAX);
    }

    #[test]
    fn memory_is_waited_for_unless_it_never_comes() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let queue = CallQueue::new(1, 2, 10 * MIB);
            assert_eq!(status(queue.memory(10 * MIB + 1, "a picture").await), 413);
            let held = queue.memory(9 * MIB, "a picture").await.unwrap();
            let soon = Duration::from_millis(20);
            assert!(tokio::time::timeout(soon, queue.memory(2 * MIB, "b")).await.is_err());
            drop(held);
            assert!(queue.memory(2 * MIB, "b").await.is_ok());
            let slot = queue.slot().await.unwrap();
            assert_eq!(queue.figures(), (1, 0, 1, 3));
            assert!(tokio::time::timeout(soon, queue.slot()).await.is_err());
            queue.close();
            assert_eq!(status(queue.slot().await), 503);
            drop(slot);
        });
    }
}
