//! `upscaled probe`: what a file holds, as JSON on standard output; without a file the child that opens one file
//! after the other for the daemon.

use std::io::BufRead;
use std::path::Path;

use anyhow::Result;

use upscaled_core::fault::{Fault, one_line};
use upscaled_core::logging::{self, Console};
use upscaled_core::path_text;
use upscaled_service::daemon::intake::probe::ProbeReply;
use upscaled_service::daemon::supervision::child;

use crate::cli::exit::CommandEnd;
use crate::cli::output;

/// Why a file does not open.
#[derive(serde::Serialize)]
struct Refusal {
    fault: Fault,
    reason: String,
}

pub(super) fn run(file: &Path) -> Result<CommandEnd> {
    child::guard()?;
    let _log = logging::init(None, Console::Child)?;
    upscaled_media::init();
    match upscaled_media::probe::probe(file) {
        Ok(info) => {
            let text = serde_json::to_string(&info)?;
            output::line(&text)?;
            Ok(CommandEnd::Done)
        }
        Err(error) => {
            let refusal = Refusal { fault: Fault::of(&error), reason: one_line(&error) };
            output::line(&serde_json::to_string(&refusal)?)?;
            Ok(CommandEnd::Told(refusal.fault))
        }
    }
}

fn look(path: &Path) -> ProbeReply {
    let Err(error) = upscaled_media::probe::probe(path) else {
        return ProbeReply { opens: true, reason: None, no_picture: false };
    };
    let no_picture = Fault::of(&error) == Fault::BadInput && upscaled_media::probe::has_no_picture(path);
    ProbeReply { opens: false, reason: Some(one_line(&error)), no_picture }
}

/// Reads a path a line, escaped as in queue.txt, and answers each with one line, until standard input ends.
pub(super) fn serve() -> Result<CommandEnd> {
    child::guard()?;
    let _log = logging::init(None, Console::Child)?;
    upscaled_media::init();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let answer = match path_text::unescape(&line) {
            Some(path) => look(&path),
            None => ProbeReply { opens: false, reason: Some("its name could not be read".into()), no_picture: false },
        };
        output::line(&serde_json::to_string(&answer)?)?;
    }
    Ok(CommandEnd::Done)
}
