//! `upscaled daemon`: settings, log, then the supervisor.

use anyhow::Result;

use crate::base::logging::{self, Console};
use crate::cli::args::{DaemonArguments, Place};
use crate::cli::exit::Ended;
use crate::config::layers::Layer;
use crate::{config, daemon};

pub fn run(place: &Place, arguments: &DaemonArguments) -> Result<Ended> {
    let mut flags = Layer::new("flags");
    arguments.set.apply(&mut flags)?;
    let sources = place.sources(flags)?;
    let settings = config::resolve(&sources)?;
    // Kept to the end: what is still to be logged is written when it goes.
    let _log = logging::init(Some((&settings.folders.logs, settings.daemon.log_days)), Console::Stderr)?;
    let failed = daemon::run(settings, sources, arguments.once)?;
    Ok(if failed > 0 { Ended::SomeFailed } else { Ended::Done })
}
