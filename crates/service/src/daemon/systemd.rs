//! What systemd is told: ready, what is being done, still alive. Silent where there is no systemd.

use std::time::Duration;

use sd_notify::NotifyState;

/// Speaks to the service manager, and only when something is new.
#[derive(Debug, Default)]
pub struct Systemd {
    status: String,
    watchdog: Option<Duration>,
}

impl Systemd {
    /// Takes up the watchdog where the service has one.
    pub fn new() -> Systemd {
        Systemd { status: String::new(), watchdog: sd_notify::watchdog_enabled() }
    }

    /// The service is up. Said before recovery, which may take long.
    pub fn ready(&self) {
        tell(NotifyState::Ready);
    }

    pub fn stopping(&self) {
        tell(NotifyState::Stopping);
    }

    /// One line about the current job.
    pub fn status(&mut self, line: &str) {
        if self.status != line {
            self.status = line.to_string();
            tell(NotifyState::Status(line));
        }
    }

    /// How often [`Systemd::alive`] is to be called; `None` without a watchdog.
    pub fn interval(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 3)
    }

    pub fn alive(&self) {
        if self.watchdog.is_some() {
            tell(NotifyState::Watchdog);
        }
    }
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!("cannot notify systemd: {error}");
    }
}
