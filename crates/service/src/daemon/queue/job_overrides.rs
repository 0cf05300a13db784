//! Settings chosen for one job: given with its place in the queue, kept until they are chosen anew.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use upscaled_core::config::chosen::{Chosen, words};
use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_jobs::state::chosen::of_job;
use upscaled_jobs::state::job_dir::JobDir;

use crate::daemon::state_store::Books;

/// That a job of the queue has other settings than those wanted.
pub(crate) fn taken(job: &Path, has: &Chosen) -> anyhow::Error {
    let (job, has) = (escape(job), words(has));
    Fault::Conflict.because(format!(
        "{job} is in the queue already, with other settings ({has}): cancel it first, then add it with these"
    ))
}

impl Books {
    /// The settings chosen for this job alone.
    pub fn chosen(&self, job: &Path) -> Result<Chosen> {
        of_job(self.layout(), job)
    }

    /// Damaged ones are as good as none: others are on their way to their place.
    fn chosen_before(&self, job: &Path) -> Result<Chosen> {
        match self.chosen(job) {
            Err(error) if Fault::of(&error) == Fault::DamagedState => Ok(Chosen::new()),
            chosen => chosen,
        }
    }

    /// Whether a job can be given these settings, or has them.
    ///
    /// # Errors
    /// [`Fault::Conflict`] where it has others and they count: it is `queued`, and somebody chose them or it has begun.
    pub fn may_choose(&self, job: &Path, chosen: &Chosen, queued: bool) -> Result<()> {
        let before = self.chosen_before(job)?;
        if before == *chosen || !queued {
            return Ok(());
        }
        // A folder with a damaged marker is the job's all the same.
        let begun = match self.folder(job) {
            Ok(folder) => folder.is_some_and(|folder| !matches!(folder.read_plan(), Ok(None))),
            Err(_) => true,
        };
        if before.is_empty() && !begun {
            return Ok(());
        }
        Err(taken(job, &before))
    }

    /// Gives a job its settings, durably; what a job that is not queued made with others is thrown away.
    pub fn choose(&self, job: &Path, chosen: &Chosen) -> Result<()> {
        if self.chosen_before(job)? == *chosen {
            return Ok(());
        }
        self.must_be_there()?;
        let mut folder = JobDir::create(&self.layout().job_dir(job)?, job, &self.layout().job_key(job))?;
        // The daemon's loop waits for nobody.
        if let Err(error) = folder.lock(Duration::ZERO) {
            let busy = || format!("an attempt at {} is still at work; ask again in a moment", escape(job));
            return Err(if Fault::of(&error) == Fault::Busy { Fault::Busy.because(busy()) } else { error });
        }
        let begun = !matches!(folder.read_plan(), Ok(None));
        if begun { folder.choose_anew(chosen) } else { folder.write_chosen(chosen) }
    }

    /// Gives a job that has ended the settings again that it ended with, where its folder has gone since.
    pub fn choose_again(&self, job: &Path) -> Result<()> {
        let last = self.last_of(job).map(|entry| entry.settings).unwrap_or_default();
        if last.is_empty() || !matches!(self.folder(job), Ok(None)) {
            return Ok(());
        }
        self.choose(job, &last)
    }
}
