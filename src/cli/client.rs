//! One request to the running daemon, or done on the files where none runs.

use std::path::Path;

use anyhow::Result;

use upscaled_core::config;
use upscaled_core::config::layers::Layer;
use upscaled_jobs::state::paths::RootLayout;
use upscaled_service::daemon::commands;
use upscaled_service::daemon::control::{Client, Request, Response};
use upscaled_service::daemon::state_store::Books;

use crate::cli::args::DaemonLocation;
use crate::cli::output;

/// The daemon of one root folder, or its files.
pub(super) struct DaemonClient {
    books: Books,
}

impl DaemonClient {
    /// The one that `--root` and `--config` mean.
    pub(super) fn of(place: &DaemonLocation) -> Result<DaemonClient> {
        let settings = config::resolve(&place.sources(Layer::default())?)?;
        Ok(DaemonClient { books: Books::open(RootLayout::new(&settings.folders))? })
    }

    /// A job's name from what a person wrote.
    pub(super) fn job(&self, given: &Path) -> Result<String> {
        commands::name_of(&self.books, given)
    }

    /// As [`DaemonClient::job`], where a job need not be named.
    pub(super) fn maybe_job(&self, given: Option<&Path>) -> Result<Option<String>> {
        given.map(|given| self.job(given)).transpose()
    }

    /// Asks. What is refused is an error with its fault.
    pub(super) fn ask(&self, request: &Request) -> Result<Response> {
        match Client::connect(&self.books.layout().socket())? {
            Some(mut client) => client.ask(request),
            None => commands::apply(&self.books, request)?.into_result(),
        }
    }

    /// Asks and prints what was done.
    pub(super) fn tell(&self, request: &Request, json: bool) -> Result<()> {
        let response = self.ask(request)?;
        if json { output::json(&response) } else { output::line(&response.message) }
    }
}
