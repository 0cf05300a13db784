//! `upscaled job`: the child that does one job for the daemon.

use anyhow::Result;

use crate::base::fault::{Fault, one_line};
use crate::base::logging::{self, Console};
use crate::cli::exit::Ended;
use crate::cli::signals;
use crate::daemon::child::{self, EventPipe};
use crate::job::order::JobOrder;
use crate::job::runner;
use crate::model::progress::Event;

pub fn run() -> Result<Ended> {
    child::guard()?;
    let shutdown = signals::shutdown_on_signals()?;
    // Kept to the end: what is still to be logged is written when it goes.
    let _log = logging::init(None, Console::Child)?;
    let order: JobOrder = child::read_order()?;
    child::be_nice(order.run.nice);
    let pipe = EventPipe::new();
    match runner::run(&order, &|event| pipe.send(&event), &shutdown) {
        Ok(outcome) => {
            pipe.send(&Event::Done(outcome));
            Ok(Ended::Done)
        }
        Err(error) => {
            let fault = Fault::of(&error);
            pipe.send(&Event::Failed { fault, reason: one_line(&error) });
            Ok(Ended::Told(fault))
        }
    }
}
