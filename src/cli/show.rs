//! What `upscaled run` shows while it works: a bar on a terminal, else plain lines, or JSON.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use upscaled_core::logging::LineSink;
use upscaled_core::types::progress::{Event, Phase, Progress};
use upscaled_service::daemon::progress_log::{self, ProgressLog};

use crate::cli::output;

const BAR: &str = "{prefix}  {wide_bar} {percent:>3} %\n{msg}";
const NO_LENGTH: &str = "{prefix}  {spinner}\n{msg}";

/// One foreground job's display.
pub(super) struct Show {
    name: String,
    way: ShownAs,
}

enum ShownAs {
    Bar(ProgressBar),
    Lines { log: Mutex<ProgressLog>, start: Instant },
    Json,
}

impl Show {
    /// `json`: events on standard output, one a line. Else a bar where standard error is a terminal.
    pub(super) fn new(name: &str, json: bool) -> Self {
        let way = if json {
            ShownAs::Json
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style(NO_LENGTH));
            bar.set_prefix(name.to_string());
            ShownAs::Bar(bar)
        } else {
            ShownAs::Lines { log: Mutex::default(), start: Instant::now() }
        };
        Show { name: name.into(), way }
    }

    /// Where log lines go, so that they do not tear the bar.
    pub(super) fn sink(&self) -> LineSink {
        match &self.way {
            ShownAs::Bar(bar) => {
                let bar = bar.clone();
                Arc::new(move |line: &str| bar.suspend(|| output::complain(line)))
            }
            ShownAs::Lines { .. } | ShownAs::Json => Arc::new(output::complain),
        }
    }

    pub(super) fn event(&self, event: &Event) {
        if let ShownAs::Json = self.way {
            // The last event is written by the command itself, after the job folder is gone.
            if let (false, Ok(text)) = (matches!(event, Event::Done(_)), serde_json::to_string(event)) {
                // A reader that has gone away does not end the work.
                let _ = output::line(&text);
            }
            return;
        }
        match event {
            Event::Progress(progress) => self.progress(progress),
            Event::Log { level, message } if level == "info" => (self.sink())(message),
            Event::Log { level, message } if level != "debug" => (self.sink())(&format!("{level}: {message}")),
            Event::Log { .. } | Event::Sealed { .. } | Event::Done(_) | Event::Failed { .. } => {}
        }
    }

    fn progress(&self, progress: &Progress) {
        match &self.way {
            ShownAs::Bar(bar) => {
                if progress.frames > 0 {
                    if bar.length() != Some(progress.frames) {
                        bar.set_style(style(BAR));
                        bar.set_length(progress.frames);
                    }
                    bar.set_position(progress.frame);
                }
                bar.set_message(match progress.phase {
                    Phase::Upscaling => progress_log::figures(progress),
                    phase => phase.words().to_string(),
                });
            }
            ShownAs::Lines { log, start } => {
                let line =
                    log.lock().unwrap_or_else(PoisonError::into_inner).line(&self.name, progress, start.elapsed());
                if let Some(line) = line {
                    output::complain(&line);
                }
            }
            ShownAs::Json => {}
        }
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        if let ShownAs::Bar(bar) = &self.way {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_well_formed() {
        for template in [BAR, NO_LENGTH] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
