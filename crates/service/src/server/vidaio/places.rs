//! The places of the current contract: so many requests at work, so many that wait, no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::server::kit::error::ApiError;

/// Requests at work, as the service that this contract comes from has it; as many as there are workers, where those are
/// more.
const ACTIVE: usize = 2;
pub(super) const WAITING_MAX: usize = 5;
/// A client that found no place may come back after this.
const FULL_RETRY: Duration = Duration::from_secs(10);

/// All places.
pub(super) struct RequestSlots {
    most: usize,
    active: Arc<Semaphore>,
    pending: Arc<AtomicUsize>,
}

/// A request that was let in; it leaves when dropped.
pub(super) struct RequestSlot(Arc<AtomicUsize>);

impl Drop for RequestSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl RequestSlots {
    pub(super) fn new(workers: u32) -> RequestSlots {
        let most = ACTIVE.max(workers as usize);
        RequestSlots { most, active: Arc::new(Semaphore::new(most)), pending: Arc::default() }
    }

    /// Requests that may be at work.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// A place, at work or waiting.
    ///
    /// # Errors
    /// 429 when all are taken.
    pub(super) fn enter(&self) -> Result<RequestSlot, ApiError> {
        let fits = |pending: usize| (pending < self.most + WAITING_MAX).then_some(pending + 1);
        match self.pending.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits) {
            Ok(_) => Ok(RequestSlot(self.pending.clone())),
            Err(_) => {
                let words = format!(
                    "Upscaling queue full: {}/{WAITING_MAX} queued, {}/{} active",
                    self.waiting(),
                    self.active(),
                    self.most
                );
                Err(ApiError::later(StatusCode::TOO_MANY_REQUESTS, words, FULL_RETRY))
            }
        }
    }

    /// Waits for the turn of a request that was let in.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.active.clone().acquire_owned().await.ok()
    }

    /// Requests at work.
    pub(super) fn active(&self) -> usize {
        self.most - self.active.available_permits()
    }

    /// Requests that were let in.
    pub(super) fn pending(&self) -> usize {
        self.pending.load(Ordering::SeqCst)
    }

    pub(super) fn waiting(&self) -> usize {
        self.pending().saturating_sub(self.active())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn seven_and_no_more() {
        let places = RequestSlots::new(1);
        let mut inside: Vec<RequestSlot> = (0..7).map(|_| places.enter().unwrap()).collect();
        let turn = places.turn().await;
        assert_eq!((places.active(), places.waiting(), places.pending()), (1, 6, 7));
        let full = places.enter().err().unwrap();
        assert_eq!(full.status().as_u16(), 429);
        assert!(full.reason().contains("queue full"));
        inside.pop();
        drop(turn);
        assert!(places.enter().is_ok());
        assert_eq!((places.active(), places.pending()), (0, 6));
        assert_eq!((places.most(), RequestSlots::new(4).most()), (2, 4));
    }
}
