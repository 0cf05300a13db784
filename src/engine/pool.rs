//! The engine's threads: each holds its own session and takes the next piece of work.

use std::thread::JoinHandle;

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::base::fault::Fault;

/// A piece of work for any of the threads, given what the thread owns.
pub type Work<W> = Box<dyn FnOnce(&mut W) + Send>;

/// Threads that each own a `W`.
pub struct Pool<W> {
    queue: Option<Sender<Work<W>>>,
    threads: Vec<JoinHandle<()>>,
}

impl<W: 'static> Pool<W> {
    /// Starts `count` threads; each makes its `W` by `open`, all at the same time.
    pub fn start(count: usize, open: impl Fn() -> Result<W> + Clone + Send + 'static) -> Result<Pool<W>> {
        let (queue, work) = unbounded::<Work<W>>();
        let (ready, opened) = unbounded::<Result<()>>();
        let mut pool = Pool { queue: Some(queue), threads: Vec::new() };
        for n in 0..count.max(1) {
            let (work, ready, open): (Receiver<Work<W>>, _, _) = (work.clone(), ready.clone(), open.clone());
            let run = move || {
                let mut own = match open() {
                    Ok(own) => own,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                let sent = ready.send(Ok(()));
                drop(ready);
                if sent.is_ok() {
                    work.iter().for_each(|piece| piece(&mut own));
                }
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
        queue.send(work).map_err(|_| Fault::Internal.because("all engine threads have died"))
    }
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
