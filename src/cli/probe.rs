//! `upscaled probe`: the child that opens a file for the daemon, as JSON on standard output.

use std::path::Path;

use anyhow::Result;

use crate::base::fault::{Fault, one_line};
use crate::base::logging::{self, Console};
use crate::cli::exit::Ended;
use crate::cli::output;
use crate::daemon::child;
use crate::media;

/// Why a file does not open.
#[derive(serde::Serialize)]
struct Refusal {
    fault: Fault,
    reason: String,
}

pub fn run(file: &Path) -> Result<Ended> {
    child::guard()?;
    let _log = logging::init(None, Console::Child)?;
    media::init();
    match media::probe::probe(file) {
        Ok(info) => {
            let text = serde_json::to_string(&info)?;
            output::line(&text)?;
            Ok(Ended::Done)
        }
        Err(error) => {
            let refusal = Refusal { fault: Fault::of(&error), reason: one_line(&error) };
            output::line(&serde_json::to_string(&refusal)?)?;
            Ok(Ended::Told(refusal.fault))
        }
    }
}
