//! Why the process of a job or a probe is gone that said nothing: by its own fault, for lack of memory, or by somebody's hand.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::sys::signal::Signal;

use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_jobs::scratch::oom::OomKill;

/// Whose doing a death was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The process itself: a crash, an abort, an end without a word.
    Crash,
    /// The kernel, for lack of memory.
    Memory,
    /// A person or a program that sent a signal: no fault of the job.
    Outside,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    pub cause: Cause,
    pub words: String,
}

impl Death {
    /// `oom`: what the kernel's counts say; `last_word`: the process's last line on standard error.
    pub fn of(status: ExitStatus, oom: Option<OomKill>, last_word: Option<&str>) -> Death {
        let signal = status.signal().map(|number| (Signal::try_from(number).ok(), number));
        let (cause, mut words) = match signal {
            Some((Some(Signal::SIGKILL), _)) if oom.is_some() => (Cause::Memory, memory(oom)),
            Some((signal, number)) => {
                let name = signal.map_or_else(|| number.to_string(), |signal| signal.as_str().to_string());
                match signal.is_some_and(is_own) {
                    true => (Cause::Crash, format!("its process was killed by {name}")),
                    false => (Cause::Outside, format!("its process was killed from outside, by {name}")),
                }
            }
            None => {
                let code = status.code().unwrap_or(-1);
                (Cause::Crash, format!("its process ended with status {code} and without a word"))
            }
        };
        if let Some(word) = last_word {
            words += &format!("; its last line: {word}");
        }
        Death { cause, words }
    }

    pub fn fault(&self) -> Fault {
        match self.cause {
            Cause::Crash => Fault::Internal,
            Cause::Memory => Fault::Memory,
            Cause::Outside => Fault::Stopped,
        }
    }
}

/// Signals that a process's own code brings upon it.
fn is_own(signal: Signal) -> bool {
    use Signal::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};
    matches!(signal, SIGABRT | SIGBUS | SIGFPE | SIGILL | SIGSEGV | SIGSYS | SIGTRAP)
}

fn memory(oom: Option<OomKill>) -> String {
    let how = match oom {
        Some(OomKill::Group(file, limit)) => {
            let limit = limit.map_or_else(String::new, |bytes| format!(", the limit is {} MiB", bytes >> 20));
            format!("for lack of memory (oom_kill in {} rose{limit})", escape(&file))
        }
        Some(OomKill::Machine) => "probably for lack of memory (oom_kill in /proc/vmstat rose)".into(),
        Some(OomKill::Unknown) | None => "perhaps for lack of memory (no counts of that can be read)".into(),
    };
    format!("its process was killed by the kernel, {how}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_doing_it_was() {
        let killed = |signal: i32, oom: Option<OomKill>| Death::of(ExitStatus::from_raw(signal), oom, None);
        let group = OomKill::Group("/sys/fs/cgroup/x/memory.events".into(), Some(100 << 20));
        let death = killed(9, Some(group.clone()));
        assert_eq!((death.cause, death.fault()), (Cause::Memory, Fault::Memory));
        for word in ["killed by the kernel", "x/memory.events", "100 MiB"] {
            assert!(death.words.contains(word), "{}", death.words);
        }
        assert!(killed(9, Some(OomKill::Machine)).words.contains("probably"));
        assert!(killed(9, Some(OomKill::Unknown)).words.contains("perhaps"));
        for outside in [9, 15, 1, 10, 24, 40] {
            assert_eq!(killed(outside, None).cause, Cause::Outside, "signal {outside}");
        }
        for own in [4, 5, 6, 7, 8, 11, 31] {
            assert_eq!(killed(own, Some(group.clone())).cause, Cause::Crash, "signal {own}");
        }
        let silent = Death::of(ExitStatus::from_raw(7 << 8), None, Some("oh"));
        assert_eq!(silent.cause, Cause::Crash);
        assert!(silent.words.contains("status 7") && silent.words.ends_with("its last line: oh"), "{}", silent.words);
    }
}
