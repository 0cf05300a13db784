//! `upscaled daemon`: settings, log, then the supervisor.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use upscaled_core::config::layers::Layer;
use upscaled_core::config::settings::{JobSettings, VIDAIO};
use upscaled_core::config::{self, chosen};
use upscaled_core::fault::Fault;
use upscaled_core::logging::{self, Console, LogFiles};
use upscaled_engine::models::registry;
use upscaled_jobs::job::standby::Standby;
use upscaled_jobs::state::chosen::of_job;
use upscaled_jobs::state::downloads::DownloadStore;
use upscaled_jobs::state::paths::RootLayout;
use upscaled_jobs::state::requests::{self, Requests};
use upscaled_jobs::state::state_folder::StateFolder;
use upscaled_service::daemon::{self, DaemonOptions, Program};
use upscaled_service::server::kit::auth::Guard;
use upscaled_service::server::kit::listener::Listener;
use upscaled_service::server::{control_api, vidaio};
use upscaled_service::webhooks;

use crate::cli::args::{DaemonArguments, DaemonLocation};
use crate::cli::exit::CommandEnd;

pub(super) fn run(place: &DaemonLocation, arguments: &DaemonArguments) -> Result<CommandEnd> {
    let mut flags = Layer::new("flags");
    arguments.set.apply(&mut flags)?;
    let sources = place.sources(flags)?;
    let settings = config::resolve(&sources)?;
    // Kept to the end: what is still to be logged is written when it goes.
    let files = LogFiles { folder: &settings.folders.logs, name: "upscaled", days: settings.daemon.log_days };
    let _log = logging::init(Some(files), Console::Stderr)?;
    let folders = settings.folders.clone();
    let layout = RootLayout::new(&folders);
    let state = StateFolder::open(&layout)?;
    let requests = Requests::new(layout.clone(), &state)?;
    let mut fronts = Vec::new();
    if let Some((listener, guard)) = bound(arguments.listen.as_deref(), "--listen", arguments)? {
        let downloads = DownloadStore::new(layout.clone(), &state)?;
        let options =
            control_api::ControlApiOptions { layout: layout.clone(), downloads, settings: settings.service.clone() };
        fronts.push(control_api::front(listener, guard, options));
    }
    let notice = webhooks::front(layout.clone(), &settings.service)?;
    let original = bound(arguments.vidaio.as_deref(), "--vidaio", arguments)?;
    let current = bound(arguments.vidaio_current.as_deref(), "--vidaio-current", arguments)?;
    let serves = original.is_some() || current.is_some();
    let workers = settings.service.vidaio_workers;
    let model = registry::resolve_or_keep(&settings.job.model, Some(&sources.root));
    let standby = serves.then(|| Standby {
        settings: JobSettings { profile: Some(VIDAIO.into()), model, ..settings.job.clone() },
        run: settings.run.clone(),
        together: workers,
    });
    if serves {
        fronts.push(vidaio::front(vidaio::VidaioOptions {
            layout: layout.clone(),
            requests: requests.clone(),
            settings: settings.service,
            variables: vidaio::StoreVariables::of_environment(),
            model: settings.job.model,
            original,
            current,
        })?);
    }
    if let Some(front) = notice {
        fronts.push(front);
    }
    let summary = daemon::run(DaemonOptions {
        folders: settings.folders,
        state,
        settings: settings.daemon,
        once: arguments.once,
        settings_for: Arc::new(move |job: &Path| {
            let asked = requests::key_of(job).map(|key| requests.read(key)).transpose()?.flatten();
            let own = chosen::layer(&of_job(&layout, job)?)?;
            let (mut job, mut run) = config::resolve_chosen(&sources, &folders, job, &own)?;
            if let Some(record) = asked {
                record.apply(&mut job, &mut run);
            }
            // Children know no root: they get a path. What is not found is their complaint.
            job.model = registry::resolve_or_keep(&job.model, Some(&sources.root));
            Ok((job, run))
        }),
        fronts,
        previews: arguments.listen.is_some(),
        workers,
        standby,
        program: Program::this()?,
    })?;
    Ok(match summary.exit_code(arguments.once) {
        0 => CommandEnd::Done,
        3 => CommandEnd::SomeFailed,
        _ => CommandEnd::Told(Fault::Stopped),
    })
}

/// A listener where one is wanted, bound already, so that a wrong address ends the program at once.
fn bound(wanted: Option<&str>, flag: &str, arguments: &DaemonArguments) -> Result<Option<(Listener, Guard)>> {
    let Some(wanted) = wanted else { return Ok(None) };
    let parts = wanted.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let Some((host, port)) = parts.filter(|(host, _)| !host.is_empty()) else {
        return Err(Fault::Config.because(format!("{flag} {wanted}: write HOST:PORT, such as 127.0.0.1:8088")));
    };
    let listener = Listener::bind(host, port, flag)?;
    let access = &arguments.access;
    let guard = Guard::new(listener.address, access.token.read()?.as_deref(), access.insecure)?;
    Ok(Some((listener, guard)))
}
