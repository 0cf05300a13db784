//! The engine's threads: each holds its own session and takes the next piece of work.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender, unbounded};

use upscaled_core::counted::Counted;
use upscaled_core::fault::{Fault, caught, one_line};

/// A piece of work for any of the threads, given what the thread owns.
pub type Work<W> = Box<dyn FnOnce(&mut W) + Send>;

/// What a thread does that panicked in a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterPanic {
    /// It ends: the process is about to.
    End,
    /// It opens its own anew, up to so many times in a row without a piece that went well.
    Reopen(u32),
}

/// A thread died with the work that it had; the same work may be given to another.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Died(pub &'static str);

impl Died {
    /// Returns whether this is why something failed.
    pub fn is_cause_of(error: &anyhow::Error) -> bool {
        error.downcast_ref::<Died>().is_some()
    }
}

/// Threads by what they are at.
#[derive(Default)]
struct ThreadCounts {
    /// Those that have not ended, and those of them that can take a piece of work.
    alive: AtomicUsize,
    open: AtomicUsize,
}

/// Threads that each own a `W`.
pub struct Pool<W> {
    queue: Option<Sender<Work<W>>>,
    threads: Vec<JoinHandle<()>>,
    counts: Arc<ThreadCounts>,
}

impl<W: 'static> Pool<W> {
    /// Starts `count` threads; each makes its `W` by `open`, all at the same time.
    pub fn start(
        count: usize,
        after: AfterPanic,
        open: impl Fn() -> Result<W> + Clone + Send + 'static,
    ) -> Result<Pool<W>> {
        let (queue, work) = unbounded::<Work<W>>();
        let (ready, opened) = unbounded::<Result<()>>();
        let mut pool = Pool { queue: Some(queue), threads: Vec::new(), counts: Arc::default() };
        for n in 0..count.max(1) {
            let (work, ready, open): (Receiver<Work<W>>, _, _) = (work.clone(), ready.clone(), open.clone());
            let counts = pool.counts.clone();
            let run = move || {
                let alive = Counted::one(&counts.alive);
                let own = match open() {
                    Ok(own) => own,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                let open_now = Counted::one(&counts.open);
                let sent = ready.send(Ok(()));
                drop(ready);
                if sent.is_err() {
                    return;
                }
                let mut own = serve(own, &work);
                drop(open_now);
                let mut left = match after {
                    AfterPanic::End => 0,
                    AfterPanic::Reopen(most) => most,
                };
                let most = left;
                while let Some(Panicked { after_success }) = own.take() {
                    if after_success {
                        left = most;
                    }
                    let Some(new) = reopened(&open, &mut left) else { break };
                    let _open_now = Counted::one(&counts.open);
                    own = serve(new, &work);
                }
                drop(alive);
            };
            pool.threads.push(std::thread::Builder::new().name(format!("upscale-{n}")).spawn(run)?);
        }
        drop(ready);
        for _ in 0..count.max(1) {
            opened.recv().map_err(|_| Fault::Internal.because("an engine thread died while it opened")).flatten()?;
        }
        Ok(pool)
    }

    /// Hands over a piece of work. Whoever waits for its result sees its channel close if the
    /// thread that took it dies.
    pub fn submit(&self, work: Work<W>) -> Result<()> {
        let queue = self.queue.as_ref().context("the engine is shut down")?;
        queue.send(work).map_err(|_| Died("all engine threads have died").into())
    }

    /// Returns whether there is a thread that takes work, now or when it is open again.
    pub fn is_alive(&self) -> bool {
        self.counts.alive.load(Ordering::SeqCst) > 0
    }

    /// Returns whether there is one that takes work now.
    pub fn is_open(&self) -> bool {
        self.counts.open.load(Ordering::SeqCst) > 0
    }
}

/// A piece of work ended in a panic.
struct Panicked {
    /// Others before it went well.
    after_success: bool,
}

/// Works on pieces until there will be no more, or one panics: whatever state that has left, `own` is gone then.
fn serve<W>(mut own: W, work: &Receiver<Work<W>>) -> Option<Panicked> {
    let mut after_success = false;
    for piece in work {
        if catch_unwind(AssertUnwindSafe(|| piece(&mut own))).is_err() {
            return Some(Panicked { after_success });
        }
        after_success = true;
    }
    None
}

/// Returns what the thread owns, anew; `None` when it has been tried often enough.
fn reopened<W>(open: &impl Fn() -> Result<W>, left: &mut u32) -> Option<W> {
    while *left > 0 {
        *left -= 1;
        match caught("opening an engine again", open) {
            Ok(own) => {
                tracing::warn!("a thread of the engine died in its work, and is open again");
                return Some(own);
            }
            Err(error) => tracing::warn!("a thread of the engine cannot be opened again: {}", one_line(&error)),
        }
    }
    tracing::error!("a thread of the engine has died");
    None
}

impl<W> Drop for Pool<W> {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            // A panic in there has been reported where its result was awaited.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_opens_its_own_and_errors_come_back() {
        let pool = Pool::start(3, AfterPanic::End, || Ok(7)).unwrap();
        let (done, results) = unbounded();
        for n in 0..20 {
            let done = done.clone();
            pool.submit(Box::new(move |own: &mut i32| {
                let _ = done.send(*own * n);
            }))
            .unwrap();
        }
        drop(done);
        assert_eq!(results.iter().sum::<i32>(), 7 * 190);
        let failed = Pool::<()>::start(2, AfterPanic::End, || Err(Fault::Device.because("no device")));
        assert_eq!(Fault::of(&failed.err().unwrap()), Fault::Device);
    }

    #[test]
    fn a_dead_thread_closes_the_channel_of_its_work() {
        let pool = Pool::start(1, AfterPanic::End, || Ok(())).unwrap();
        let (done, results) = unbounded::<()>();
        let held = done.clone();
        pool.submit(Box::new(move |()| {
            let _held = held;
            panic!("planned");
        }))
        .unwrap();
        // Behind the dead thread: either refused, or dropped with the queue.
        let _ = pool.submit(Box::new(move |()| drop(done)));
        assert!(results.recv().is_err());
    }

    #[test]
    fn a_thread_opens_again_up_to_a_limit() {
        let opened = Arc::<AtomicUsize>::default();
        let count = opened.clone();
        let open = move || match count.fetch_add(1, Ordering::SeqCst) {
            // The second time it cannot be opened
            1 => Err(Fault::Device.because("planned")),
            n => Ok(n),
        };
        let pool = Pool::start(1, AfterPanic::Reopen(3), open).unwrap();
        let ask = || {
            let (done, results) = unbounded();
            pool.submit(Box::new(move |own: &mut usize| assert!(done.send(*own).is_ok())))?;
            results.recv().map_err(|_| Died("gone").into())
        };
        let panic = || pool.submit(Box::new(|_| panic!("planned")));
        assert_eq!(ask().unwrap(), 0);
        // What one panic left is never used again
        panic().unwrap();
        assert_eq!(ask().unwrap(), 2);
        // Each piece that goes well makes up for those before it
        for n in 3..9 {
            panic().unwrap();
            assert_eq!(ask().unwrap(), n);
        }
        assert!(pool.is_alive() && pool.is_open());
        (0..4).for_each(|_| drop(panic()));
        while pool.is_alive() {
            std::thread::yield_now();
        }
        assert!(!pool.is_open());
        assert!(Died::is_cause_of(&ask().unwrap_err()));
        assert_eq!(opened.load(Ordering::SeqCst), 12);
    }
}
