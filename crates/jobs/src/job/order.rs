//! The order: what a supervisor tells a job process on its standard input.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use upscaled_core::config::settings::{JobSettings, RunSettings};
use upscaled_core::path_text;
use upscaled_core::types::engine::ResourceShare;

/// One job, with every path absolute and every setting resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobOrder {
    #[serde(with = "path_text")]
    pub source: PathBuf,
    /// The job's name for people: the source's path relative to input/.
    #[serde(with = "path_text")]
    pub relative: PathBuf,
    /// Where plan, clips and status live.
    #[serde(with = "path_text")]
    pub job_dir: PathBuf,
    /// Folder of the finished file. Its name comes from `relative`; one that is taken gets a number.
    #[serde(with = "path_text")]
    pub target_dir: PathBuf,
    /// Another source would be published under the same stem: the source's extension stays in the name.
    pub crowded: bool,
    /// Exactly this file instead (`upscaled run IN OUT`); its extension decides the container.
    #[serde(with = "path_text")]
    pub target_file: PathBuf,
    /// Names the job's folder in the work area.
    pub key: String,
    /// How often the job was tried before without a new sealed clip, for status.json.
    pub attempt: u32,
    /// How often the kernel killed it for lack of memory: it takes less in so many steps. No bit depends on it.
    #[serde(default)]
    pub lean: u32,
    /// Jobs that run at the same time as this one, itself included: it takes its part of processors and memory. No bit
    /// depends on it.
    #[serde(default = "alone")]
    pub together: u32,
    /// A frame of every batch is kept as pictures before and after, for the daemon's page.
    #[serde(default)]
    pub previews: bool,
    pub settings: JobSettings,
    pub run: RunSettings,
}

fn alone() -> u32 {
    1
}

impl JobOrder {
    /// What this job may take of the machine.
    pub fn share(&self) -> ResourceShare {
        ResourceShare { together: self.together, lean: self.lean }
    }

    /// The one file asked for, where one was.
    pub fn exact_target(&self) -> Option<&std::path::Path> {
        (!self.target_file.as_os_str().is_empty()).then_some(self.target_file.as_path())
    }

    /// The job that the folder's marker names: the source, or for `upscaled run` the file asked for.
    pub fn marker(&self) -> PathBuf {
        self.exact_target().and_then(|t| t.file_name()).map_or_else(|| self.relative.clone(), PathBuf::from)
    }

    /// The name in logs.
    pub fn name(&self) -> String {
        path_text::escape(&self.relative)
    }
}
