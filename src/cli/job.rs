//! `upscaled job` and `upscaled standby`: the child that does one job for the daemon.

use anyhow::Result;

use upscaled_core::fault::{Fault, one_line};
use upscaled_core::logging::{self, Console};
use upscaled_core::types::progress::Event;
use upscaled_jobs::job::order::JobOrder;
use upscaled_jobs::job::runner;
use upscaled_jobs::job::standby::{Ready, get_ready};
use upscaled_service::daemon::supervision::child::{self, EventPipe};

use crate::cli::exit::CommandEnd;
use crate::cli::signals;

/// `standby`: first read settings and get ready for such a job.
pub(super) fn run(standby: bool) -> Result<CommandEnd> {
    child::guard()?;
    let shutdown = signals::shutdown_on_signals()?;
    // Kept to the end: what is still to be logged is written when it goes.
    let _log = logging::init(None, Console::Child)?;
    let ready = if standby { get_ready(&child::read_line()?, &child::order_waits) } else { Ready::default() };
    let order: JobOrder = child::read_order()?;
    child::be_nice(order.run.nice);
    let pipe = EventPipe::new();
    match runner::run(&order, &ready, &|event| pipe.send(&event), &shutdown) {
        Ok(outcome) => {
            pipe.send(&Event::Done(outcome));
            Ok(CommandEnd::Done)
        }
        Err(error) => {
            let fault = Fault::of(&error);
            pipe.send(&Event::Failed { fault, reason: one_line(&error) });
            Ok(CommandEnd::Told(fault))
        }
    }
}
