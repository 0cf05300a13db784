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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_opens_its_own_and_errors_come_back() {
        let pool = Pool::start(3, || Ok(7)).unwrap();
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
        let failed = Pool::<()>::start(2, || Err(Fault::Device.because("no device")));
        assert_eq!(Fault::of(&failed.err().unwrap()), Fault::Device);
    }

    #[test]
    fn a_dead_thread_closes_the_channel_of_its_work() {
        let pool = Pool::start(1, || Ok(())).unwrap();
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
}
