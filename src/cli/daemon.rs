//! `upscaled daemon`: settings, log, then the supervisor.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use crate::base::fault::Fault;
use crate::base::logging::{self, Console, LogFiles};
use crate::cli::args::{DaemonArguments, Place};
use crate::cli::exit::Ended;
use crate::config;
use crate::config::layers::Layer;
use crate::daemon::{self, Front, Options, Program};
use crate::http::control;
use crate::http::guard::Guard;
use crate::http::server::Listener;
use crate::network::library;
use crate::store::paths::Layout;

pub fn run(place: &Place, arguments: &DaemonArguments) -> Result<Ended> {
    let mut flags = Layer::new("flags");
    arguments.set.apply(&mut flags)?;
    let sources = place.sources(flags)?;
    let settings = config::resolve(&sources)?;
    // Kept to the end: what is still to be logged is written when it goes.
    let files = LogFiles { folder: &settings.folders.logs, name: "upscaled", days: settings.daemon.log_days };
    let _log = logging::init(Some(files), Console::Stderr)?;
    let folders = settings.folders.clone();
    let layout = Layout::new(&folders);
    let front = arguments.listen.as_deref().map(|listen| front(listen, arguments, layout)).transpose()?;
    let summary = daemon::run(Options {
        folders: settings.folders,
        settings: settings.daemon,
        once: arguments.once,
        settings_for: Arc::new(move |job: &Path| {
            let (mut job, run) = config::resolve_job(&sources, &folders, job)?;
            // Children know no root: they get a path. What is not found is their complaint.
            job.model = library::resolve_or_keep(&job.model, Some(&sources.root));
            Ok((job, run))
        }),
        previews: front.is_some(),
        front,
        program: Program::this()?,
    })?;
    Ok(match summary.exit_code(arguments.once) {
        0 => Ended::Done,
        3 => Ended::SomeFailed,
        _ => Ended::Told(Fault::Stopped),
    })
}

/// The listener of `--listen`, bound already, so that a wrong address ends the program at once.
fn front(listen: &str, arguments: &DaemonArguments, layout: Layout) -> Result<Front> {
    let parts = listen.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let Some((host, port)) = parts.filter(|(host, _)| !host.is_empty()) else {
        return Err(Fault::Config.because(format!("--listen {listen}: write HOST:PORT, such as 127.0.0.1:8088")));
    };
    let listener = Listener::bind(host, port, "--listen")?;
    let access = &arguments.access;
    let guard = Guard::new(listener.address, access.token.read()?.as_deref(), access.insecure)?;
    Ok(control::front(listener, guard, layout))
}
