//! The order: what a supervisor tells a job process on its standard input.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::path_text;
use crate::config::settings::{JobSettings, RunSettings};

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
    /// Folder of the finished file and its name without extension. A name that is taken gets a number.
    #[serde(with = "path_text")]
    pub target_dir: PathBuf,
    #[serde(with = "path_text")]
    pub target_stem: PathBuf,
    /// Exactly this file instead (`upscaled run IN OUT`); its extension decides the container.
    #[serde(with = "path_text")]
    pub target_file: PathBuf,
    /// Names the job's folder in the work area.
    pub key: String,
    /// How often the job was tried before without a new sealed clip, for status.json.
    pub attempt: u32,
    pub settings: JobSettings,
    pub run: RunSettings,
}

impl JobOrder {
    /// The one file asked for, where one was.
    pub fn exact_target(&self) -> Option<&std::path::Path> {
        (!self.target_file.as_os_str().is_empty()).then_some(self.target_file.as_path())
    }

    /// The name in logs.
    pub fn name(&self) -> String {
        path_text::escape(&self.relative)
    }
}
