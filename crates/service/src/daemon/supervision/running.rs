//! A job that runs: its order, its attempt, and what is to happen when that has ended.

use std::ffi::OsString;
use std::path::PathBuf;
use std::task::Poll;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::{mpsc, watch};

use upscaled_core::fault::panicked;
use upscaled_core::path_text::escape;
use upscaled_core::types::progress::{Event, JobOutcome, Phase, Progress};
use upscaled_jobs::job::order::JobOrder;
use upscaled_jobs::scratch::oom::Explained;
use upscaled_jobs::state::requests::key_of;

use super::spawn::Spawner;
use crate::daemon::Message;
use crate::daemon::intake::stability::FileStamp;
use crate::daemon::progress_log::{self, ProgressLog};
use crate::daemon::supervision::{self, Attempt};

/// Events of the child not yet taken up by the loop.
const EVENTS_MAX: usize = 256;

/// Why a running job was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The daemon ends.
    Shutdown,
    /// A command needs it stopped; the command is done afterwards.
    Command,
    /// The hours of work are over, or pause marks were set on the files.
    Held,
    /// A request of the video service goes first.
    Overtaken,
    /// A person took its line out of queue.txt.
    Removed,
}

/// Jobs of the video service may run several at a time, a film of input/ alone.
pub(crate) struct Running {
    pub job: PathBuf,
    pub order: JobOrder,
    /// The source when the attempt began.
    pub stamp: FileStamp,
    pub progress: Option<Progress>,
    pub why: Option<Why>,
    /// The child has ended with this; history, queue and folder are being brought up to date.
    pub outcome: Option<JobOutcome>,
    stop: watch::Sender<bool>,
    events: mpsc::Receiver<Event>,
    log: ProgressLog,
}

impl Running {
    /// Starts an attempt; its end comes as a [`Message::Ended`].
    pub(crate) fn start(
        order: JobOrder,
        stamp: FileStamp,
        stall: Duration,
        spawner: &Spawner,
        explained: &Explained,
        messages: &mpsc::Sender<Message>,
    ) -> Result<Running> {
        let (stop, stopped) = watch::channel(false);
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let attempt = Attempt {
            arguments: vec![OsString::from("job")],
            order: serde_json::to_vec(&order)?,
            stall,
            stop: stopped,
            events: sender,
            explained: explained.clone(),
        };
        let (spawner, messages, job) = (spawner.clone(), messages.clone(), order.relative.clone());
        tokio::spawn(async move {
            // A task of its own: whatever happens in it, the loop hears of its end.
            let report = tokio::spawn(async move { supervision::attempt(&spawner, attempt).await }).await;
            let report = report.unwrap_or_else(|_| Err(panicked("the supervision of a job process")));
            // The receiver is gone only when the daemon ends.
            let _ = messages.send(Message::Ended(job, report)).await;
        });
        Ok(Running {
            job: order.relative.clone(),
            order,
            stamp,
            progress: None,
            why: None,
            outcome: None,
            stop,
            events,
            log: ProgressLog::default(),
        })
    }

    /// Asks the child to stop. The first reason stands, but an end of the daemon goes before all.
    pub(crate) fn stop(&mut self, why: Why) {
        if self.why.is_none() || why == Why::Shutdown {
            self.why = Some(why);
        }
        self.stop.send_replace(true);
    }

    /// Whether it is one of the video service's.
    pub(crate) fn is_request(&self) -> bool {
        key_of(&self.job).is_some()
    }

    /// Whether it is at work, and nobody has asked it to stop.
    pub(crate) fn goes_on(&self) -> bool {
        self.why.is_none() && !self.is_finishing()
    }

    /// Whether its output is published, and only the books are left to do.
    pub(crate) fn is_finishing(&self) -> bool {
        self.outcome.is_some()
    }

    /// Puts an event into the log. `now` is any clock that never goes back.
    pub(crate) fn heard(&mut self, event: Event, now: Duration) {
        let name = escape(&self.job);
        match event {
            Event::Progress(progress) => {
                if let Some(line) = self.log.line(&name, &progress, now) {
                    tracing::info!("{line}");
                }
                self.progress = Some(progress);
            }
            Event::Log { level, message } => match level.as_str() {
                "error" => tracing::error!("{name}: {message}"),
                "warn" => tracing::warn!("{name}: {message}"),
                "info" => tracing::info!("{name}: {message}"),
                _ => tracing::debug!("{name}: {message}"),
            },
            Event::Sealed { batch, frames } => tracing::debug!("{name}: batch {batch} sealed, {frames} frames"),
            // The end is judged when the child is gone.
            Event::Done(_) | Event::Failed { .. } => {}
        }
    }

    /// What it does, in words.
    pub(crate) fn activity(&self) -> String {
        match &self.progress {
            _ if self.is_finishing() => "finishing".into(),
            Some(_) if self.why.is_some() => "stopping".into(),
            Some(progress) if progress.phase == Phase::Upscaling => progress_log::figures(progress),
            Some(progress) => progress.phase.words().into(),
            None => "starting".into(),
        }
    }
}

/// The next event of any of these, with the place of its job; never ready while there is none. Safe to drop while it
/// waits.
pub(crate) async fn next_event(running: &mut [Running]) -> (usize, Event) {
    std::future::poll_fn(|context| {
        for (place, running) in running.iter_mut().enumerate() {
            // A child that is gone tells nothing more; its end comes as a message.
            if let Poll::Ready(Some(event)) = running.events.poll_recv(context) {
                return Poll::Ready((place, event));
            }
        }
        Poll::Pending
    })
    .await
}
