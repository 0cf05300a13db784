//! `upscaled doctor`: what works on this machine, what does not, and what to do about it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use upscaled_core::config::layers::Layer;
use upscaled_core::config::{self, Settings};
use upscaled_core::fault::one_line;
use upscaled_core::logging::{self, Console};
use upscaled_engine::models::registry;
use upscaled_service::daemon::Program;

use crate::cli::args::{DaemonLocation, DoctorArguments};
use crate::cli::exit::CommandEnd;
use crate::cli::{doctor_engine, doctor_folders, doctor_machine, doctor_media, output};

/// What is tried in a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum DoctorProbe {
    Media,
    Engine,
}

impl DoctorProbe {
    fn subject(self) -> &'static str {
        match self {
            DoctorProbe::Media => "ffmpeg",
            DoctorProbe::Engine => "engine",
        }
    }
}

/// One thing that was tried.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Finding {
    /// What it is about: `ffmpeg`, `encoder`, `engine`, `gpu`, `folder`, ..
    pub subject: String,
    pub works: bool,
    /// Without it no job can be done. What is not needed has something that stands in for it.
    pub needed: bool,
    /// What was found, in words.
    pub found: String,
    /// What to do where it does not work, or to be better.
    pub advice: Option<String>,
}

impl Finding {
    /// It works.
    pub(super) fn works(subject: &str, found: impl Into<String>) -> Finding {
        Finding { subject: subject.into(), works: true, needed: false, found: found.into(), advice: None }
    }

    /// It does not work, and something else stands in for it.
    pub(super) fn missing(subject: &str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding {
            subject: subject.into(),
            works: false,
            needed: false,
            found: found.into(),
            advice: Some(advice.into()),
        }
    }

    /// It does not work, and nothing goes without it.
    pub(super) fn broken(subject: &str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { needed: true, ..Finding::missing(subject, found, advice) }
    }

    /// It works, and could work better.
    pub(super) fn but(mut self, advice: impl Into<String>) -> Finding {
        self.advice = Some(advice.into());
        self
    }
}

pub(super) fn run(place: &DaemonLocation, arguments: &DoctorArguments) -> Result<CommandEnd> {
    let _log = logging::init(None, Console::Child)?;
    let mut findings = Vec::new();
    let settings = settings(place, &mut findings);
    if let Some(part) = arguments.part {
        let root = settings.as_ref().map(|settings| settings.folders.root.clone());
        let mut job = settings.map(|settings| settings.job).unwrap_or_default();
        job.model = registry::resolve_or_keep(&job.model, root.as_deref());
        output::json(&match part {
            DoctorProbe::Media => doctor_media::check(&job),
            DoctorProbe::Engine => doctor_engine::check(&job),
        })?;
        return Ok(CommandEnd::Done);
    }
    if let Some(settings) = &settings {
        findings.extend(presets(place, settings));
        findings.extend(doctor_folders::check(settings));
    }
    findings.extend(doctor_machine::check());
    for part in [DoctorProbe::Media, DoctorProbe::Engine] {
        findings.extend(in_child(place, part));
    }
    let well = findings.iter().all(|finding| finding.works || !finding.needed);
    if arguments.json {
        output::json(&findings)?;
    } else {
        for line in lines(&findings) {
            output::line(&line)?;
        }
        output::line(if well {
            "upscaled can work here"
        } else {
            "upscaled cannot work here yet: see the lines with !!"
        })?;
    }
    Ok(if well { CommandEnd::Done } else { CommandEnd::Wanting })
}

/// Tries one part in a process of its own: a driver may crash, and some libraries write to the
/// terminal as they like.
fn in_child(place: &DaemonLocation, part: DoctorProbe) -> Vec<Finding> {
    let name = part.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default();
    let told = || -> Result<Vec<Finding>> {
        let mut child = Command::new(Program::this()?.path);
        child.args(["doctor", "--part", &name]).stdin(Stdio::null()).stderr(Stdio::null());
        for (flag, path) in [("--root", &place.root), ("--config", &place.config)] {
            if let Some(path) = path {
                child.arg(flag).arg(path);
            }
        }
        let out = child.output()?;
        serde_json::from_slice(&out.stdout)
            .map_err(|_| anyhow::anyhow!("the process that tried it ended: {}", out.status))
    };
    told().unwrap_or_else(|error| {
        let advice = format!("see what it says: upscaled doctor --part {name}");
        vec![Finding::broken(part.subject(), one_line(&error), advice)]
    })
}

fn settings(place: &DaemonLocation, findings: &mut Vec<Finding>) -> Option<Settings> {
    match place.sources(Layer::default()).and_then(|sources| config::resolve(&sources)) {
        Ok(settings) => {
            findings.push(Finding::works("settings", "every setting is understood"));
            Some(settings)
        }
        Err(error) => {
            findings.push(Finding::broken("settings", one_line(&error), "correct it; docs/settings.md lists all"));
            None
        }
    }
}

/// The presets in input/ that cannot be: the jobs of their folders would fail.
fn presets(place: &DaemonLocation, settings: &Settings) -> Vec<Finding> {
    let Ok(sources) = place.sources(Layer::default()) else { return Vec::new() };
    let input = &settings.folders.input;
    let with_preset = |folder: &PathBuf| folder.join("upscaled.toml").exists();
    let folders = doctor_folders::folders_in(input).into_iter().filter(with_preset);
    let mut told: Vec<Finding> = Vec::new();
    for folder in folders {
        let Ok(relative) = folder.strip_prefix(input) else { continue };
        if let Err(error) = config::resolve_job(&sources, &settings.folders, &relative.join("any")) {
            let found = one_line(&error);
            // A folder below a broken preset says the same again.
            if told.iter().all(|before| before.found != found) {
                told.push(Finding::missing("preset", found, "correct it; then `upscaled retry` what has failed"));
            }
        }
    }
    told
}

fn lines(findings: &[Finding]) -> Vec<String> {
    let mut lines = Vec::new();
    for finding in findings {
        let mark = match (finding.works, finding.needed) {
            (true, _) => "works   ",
            (false, false) => "does not",
            (false, true) => "does not !!",
        };
        lines.push(format!("{mark:<11}  {:<9}  {}", finding.subject, finding.found));
        if let Some(advice) = &finding.advice {
            lines.push(format!("{:<11}  {:<9}  -> {advice}", "", ""));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_says_what_to_do() {
        let findings = [
            Finding::works("ffmpeg", "libavcodec 59"),
            Finding::missing("gpu", "none", "the processor does the work"),
            Finding::broken("engine", "no library", "run: make setup"),
        ];
        let text = lines(&findings);
        assert_eq!(text[0], "works        ffmpeg     libavcodec 59");
        assert_eq!(text[1], "does not     gpu        none");
        assert!(text[2].ends_with("-> the processor does the work"));
        assert_eq!(text[3], "does not !!  engine     no library");
    }
}
