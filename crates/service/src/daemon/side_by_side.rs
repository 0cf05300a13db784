//! Jobs done at the same time without a daemon's queue, each in a process of its own, as the daemon would: to be
//! measured.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use upscaled_core::config::settings::DaemonSettings;
use upscaled_core::fault::{Fault, panicked};
use upscaled_core::shutdown::Shutdown;
use upscaled_core::types::progress::JobOutcome;
use upscaled_jobs::job::order::JobOrder;
use upscaled_jobs::scratch::oom::Explained;

use crate::daemon::supervision::spawn::{Program, Spawner};
use crate::daemon::supervision::{self, Attempt, AttemptEnd, Report};

/// Between two looks at the word to stop.
const LOOK: Duration = Duration::from_millis(100);
/// Events of a child that are not yet heard.
const EVENTS_MAX: usize = 16;

/// Does these jobs, all at once; what they came to, in the order given.
///
/// # Errors
/// That of the first job that was not done. The others are done, or were stopped by `shutdown`.
pub fn run(program: Program, orders: &[JobOrder], shutdown: &Shutdown) -> Result<Vec<JobOutcome>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a loop")?;
    runtime.block_on(async {
        let spawner = Spawner::start(program, None)?;
        let (stop, stopped) = watch::channel(false);
        let explained = Explained::default();
        let begun: Vec<JoinHandle<Result<Report>>> = orders
            .iter()
            .map(|order| begin(&spawner, order, &stopped, &explained))
            .collect::<Result<_>>()
            .context("writing the orders")?;
        let watched = async {
            while !shutdown.is_set() {
                sleep(LOOK).await;
            }
            stop.send_replace(true);
            std::future::pending::<()>().await;
        };
        let ended = async {
            let mut reports = Vec::new();
            for job in begun {
                reports.push(job.await.unwrap_or_else(|_| Err(panicked("the supervision of a job process"))));
            }
            reports
        };
        let reports = tokio::select! {
            reports = ended => reports,
            () = watched => Vec::new(),
        };
        shutdown.check()?;
        reports.into_iter().map(|report| outcome(report?)).collect()
    })
}

fn begin(
    spawner: &Spawner,
    order: &JobOrder,
    stop: &watch::Receiver<bool>,
    explained: &Explained,
) -> Result<JoinHandle<Result<Report>>> {
    let (sender, mut events) = mpsc::channel(EVENTS_MAX);
    let attempt = Attempt {
        arguments: vec![OsString::from("job")],
        order: serde_json::to_vec(order)?,
        stall: Duration::from_secs(DaemonSettings::default().stall_timeout),
        stop: stop.clone(),
        events: sender,
        explained: explained.clone(),
    };
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let spawner = spawner.clone();
    Ok(tokio::spawn(async move { supervision::attempt(&spawner, attempt).await }))
}

fn outcome(report: Report) -> Result<JobOutcome> {
    match report.end {
        AttemptEnd::Done(outcome) => Ok(outcome),
        AttemptEnd::Failed { fault, reason } => Err(fault.because(reason)),
        AttemptEnd::Stopped => Err(Fault::Stopped.because("stopped")),
        AttemptEnd::Died(death) => Err(death.fault().because(death.words)),
        AttemptEnd::Stalled(time) => Err(Fault::Device.because(format!("nothing moved for {} s", time.as_secs()))),
    }
}
