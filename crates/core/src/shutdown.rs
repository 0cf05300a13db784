//! The word to stop, shared by every thread of a job.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::fault::Fault;

const RUNNING: u8 = 0;
const STOP: u8 = 1;
const CANCEL: u8 = 2;

/// A cheap, cloneable flag: set once by a signal or a command, asked by every loop.
#[derive(Clone, Default)]
pub struct Shutdown(Arc<AtomicU8>);

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    /// Stop soon; state stays for the next start. Never takes back a cancel.
    pub fn stop(&self) {
        let _ = self.0.compare_exchange(RUNNING, STOP, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Stop soon, for good.
    pub fn cancel(&self) {
        self.0.store(CANCEL, Ordering::SeqCst);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst) != RUNNING
    }

    /// `Err` with [`Fault::Stopped`] or [`Fault::Cancelled`] once the word was given.
    pub fn check(&self) -> anyhow::Result<()> {
        match self.0.load(Ordering::SeqCst) {
            RUNNING => Ok(()),
            CANCEL => Err(Fault::Cancelled.because("cancelled")),
            _ => Err(Fault::Stopped.because("stopped; goes on at the next start")),
        }
    }
}
