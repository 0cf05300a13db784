//! `upscaled doctor`: what works on this machine, what does not, and what to do about it.

use anyhow::Result;
use serde::Serialize;

use crate::base::fault::one_line;
use crate::base::logging::{self, Console};
use crate::cli::args::{DoctorArguments, Place};
use crate::cli::exit::Ended;
use crate::cli::{doctor_engine, doctor_folders, doctor_machine, doctor_media, output};
use crate::config::layers::Layer;
use crate::config::{self, Settings};

/// One thing that was tried.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// What it is about: `ffmpeg`, `encoder`, `engine`, `gpu`, `folder`, ..
    pub subject: &'static str,
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
    pub fn works(subject: &'static str, found: impl Into<String>) -> Finding {
        Finding { subject, works: true, needed: false, found: found.into(), advice: None }
    }

    /// It does not work, and something else stands in for it.
    pub fn missing(subject: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { subject, works: false, needed: false, found: found.into(), advice: Some(advice.into()) }
    }

    /// It does not work, and nothing goes without it.
    pub fn broken(subject: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { needed: true, ..Finding::missing(subject, found, advice) }
    }

    /// It works, and could work better.
    pub fn but(mut self, advice: impl Into<String>) -> Finding {
        self.advice = Some(advice.into());
        self
    }
}

pub fn run(place: &Place, arguments: &DoctorArguments) -> Result<Ended> {
    let _log = logging::init(None, Console::Child)?;
    let mut findings = Vec::new();
    let settings = settings(place, &mut findings);
    if let Some(settings) = &settings {
        findings.extend(doctor_folders::check(settings));
    }
    let job = settings.map(|settings| settings.job).unwrap_or_default();
    findings.extend(doctor_machine::check());
    findings.extend(doctor_media::check(&job));
    findings.extend(doctor_engine::check(&job));
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
    Ok(if well { Ended::Done } else { Ended::Wanting })
}

fn settings(place: &Place, findings: &mut Vec<Finding>) -> Option<Settings> {
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
