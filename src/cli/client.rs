//! One request to the running daemon, or done on the files where none runs.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cli::args::Place;
use crate::cli::job_name;
use crate::cli::output;
use crate::config::layers::Layer;
use crate::config::{self, Settings};
use crate::daemon::control::{Client, Request, Response};
use crate::daemon::ops;
use crate::store::paths::Layout;

/// The daemon of one root folder.
pub struct Daemon {
    settings: Settings,
    here: PathBuf,
}

impl Daemon {
    /// The one that `--root` and `--config` mean.
    pub fn of(place: &Place) -> Result<Daemon> {
        let settings = config::resolve(&place.sources(Layer::default())?)?;
        let here = std::env::current_dir().context("the current folder cannot be found")?;
        Ok(Daemon { settings, here })
    }

    /// A job's name from what a person wrote.
    pub fn job(&self, given: &std::path::Path) -> Result<String> {
        job_name::resolve(&self.settings.folders.input, &self.here, given)
    }

    /// As [`Daemon::job`], where a job need not be named.
    pub fn maybe_job(&self, given: Option<&std::path::Path>) -> Result<Option<String>> {
        given.map(|given| self.job(given)).transpose()
    }

    /// Asks. What is refused is an error with its fault.
    pub fn ask(&self, request: &Request) -> Result<Response> {
        let layout = Layout::new(&self.settings.folders);
        match Client::connect(&layout.socket())? {
            Some(mut client) => client.ask(request),
            None => ops::without_daemon(&layout, request),
        }
    }

    /// Asks and prints what was done.
    pub fn tell(&self, request: &Request, json: bool) -> Result<()> {
        let response = self.ask(request)?;
        if json { output::json(&response) } else { output::line(&response.message) }
    }
}
