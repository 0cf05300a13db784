//! Rules and what follows from them; only where planned failures are compiled in.

#![allow(clippy::panic, clippy::expect_used, reason = "failing is what it is for; never in a release")]

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::Context;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Errno(i32),
    Panic,
    Abort,
    Kill,
    Delay(u64),
    /// MiB that are taken and kept.
    Memory(u64),
}

#[derive(Clone, Debug, PartialEq)]
struct Rule {
    /// First argument of the processes it is meant for; `None`: all.
    command: Option<String>,
    name: String,
    action: Action,
    /// Hits still to pass before the first failure.
    skip: u64,
    /// Failures left.
    left: u64,
}

#[cfg(any(test, feature = "test-util"))]
type Hook = (&'static str, Box<dyn FnMut()>);

#[cfg(any(test, feature = "test-util"))]
thread_local! {
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

thread_local! {
    static SCOPED: RefCell<Carried> = RefCell::new(Carried::default());
}

/// What is planned for one thread and for those that work for it.
#[derive(Clone, Default)]
pub struct Carried(Arc<Mutex<Local>>);

#[derive(Default)]
struct Local {
    rules: Vec<Rule>,
    #[cfg(any(test, feature = "test-util"))]
    calls: Vec<ScheduledCall>,
}

/// To be done at one hit of a point; hits still to pass before it.
#[cfg(any(test, feature = "test-util"))]
struct ScheduledCall {
    name: &'static str,
    skip: u64,
    act: Option<Box<dyn FnOnce() + Send>>,
}

/// The calling thread's plans, for a thread that works for it.
pub fn carry() -> Carried {
    SCOPED.with_borrow(Carried::clone)
}

impl Carried {
    /// Makes the plans those of the calling thread too.
    pub fn here(&self) {
        SCOPED.set(self.clone());
    }

    fn take(&self, name: &str) -> Option<Action> {
        #[cfg(any(test, feature = "test-util"))]
        if let Some(act) = self.due(name) {
            act();
        }
        take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).rules, name)
    }

    #[cfg(any(test, feature = "test-util"))]
    fn due(&self, name: &str) -> Option<Box<dyn FnOnce() + Send>> {
        let mut local = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = None;
        for call in local.calls.iter_mut().filter(|c| c.name == name) {
            if call.skip == 0 && due.is_none() {
                due = call.act.take();
            }
            call.skip = call.skip.saturating_sub(1);
        }
        due
    }
}

/// Fails as planned for this point, else `Ok(())`. The error is the system's own
/// (`std::io::Error`), so that it is handled as a real one would be.
pub fn hit(name: &'static str) -> anyhow::Result<()> {
    #[cfg(any(test, feature = "test-util"))]
    if let Some((at, mut act)) = HOOK.take() {
        if at == name {
            act();
        }
        HOOK.set(Some((at, act)));
    }
    let planned = of_environment(name);
    let planned = planned.or_else(|| carry().take(name));
    match planned {
        None => Ok(()),
        Some(Action::Errno(code)) => {
            Err(io::Error::from_raw_os_error(code)).with_context(|| format!("planned failure at {name}"))
        }
        Some(Action::Panic) => panic!("planned panic at {name}"),
        Some(Action::Abort) => std::process::abort(),
        Some(Action::Kill) => {
            let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
            loop {
                std::thread::park();
            }
        }
        Some(Action::Memory(mebibytes)) => {
            // Written to, so that it is really had.
            std::mem::forget(std::hint::black_box(vec![1u8; (mebibytes as usize) << 20]));
            Ok(())
        }
        Some(Action::Delay(ms)) => {
            std::thread::sleep(Duration::from_millis(ms));
            Ok(())
        }
    }
}

/// What the environment plans for this hit.
fn of_environment(name: &str) -> Option<Action> {
    static TOLD: OnceLock<String> = OnceLock::new();
    /// The text that the rules were made from, and how they stand.
    static STANDING: Mutex<(String, Vec<Rule>)> = Mutex::new((String::new(), Vec::new()));
    let told = TOLD.get_or_init(|| std::env::var("UPSCALED_FAILPOINTS").unwrap_or_default());
    let folder = told.strip_prefix('@').map(Path::new);
    let text = match folder {
        Some(folder) => std::fs::read_to_string(folder.join("rules")).unwrap_or_default(),
        None => told.clone(),
    };
    let mut standing = STANDING.lock().unwrap_or_else(PoisonError::into_inner);
    if standing.0 != text {
        let rules = parse(&text).unwrap_or_else(|| {
            tracing::error!("the rules of UPSCALED_FAILPOINTS are malformed and ignored: {text:?}");
            Vec::new()
        });
        *standing = (text, rules);
    }
    match folder {
        Some(folder) => {
            due(&mut standing.1, name).filter(|rule| claim(folder, name, rule.left)).map(|rule| rule.action)
        }
        None => take(&mut standing.1, name),
    }
}

/// Whether one of so many failures of a point is still to be had; then it is taken.
fn claim(folder: &Path, name: &str, count: u64) -> bool {
    for n in 1..=count {
        match std::fs::File::create_new(folder.join(format!("{name}.{n}"))) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.is_ok(),
        }
    }
    false
}

fn take(rules: &mut [Rule], name: &str) -> Option<Action> {
    let rule = due(rules, name)?;
    rule.left -= 1;
    Some(rule.action)
}

/// The rule whose turn it is at this hit.
fn due<'a>(rules: &'a mut [Rule], name: &str) -> Option<&'a mut Rule> {
    let rule = rules.iter_mut().find(|r| r.name == name && r.left > 0 && r.is_for_this_process())?;
    if rule.skip > 0 {
        rule.skip -= 1;
        return None;
    }
    Some(rule)
}

impl Rule {
    fn is_for_this_process(&self) -> bool {
        self.command.as_ref().is_none_or(|command| std::env::args_os().nth(1).is_some_and(|first| first == **command))
    }
}

fn parse(text: &str) -> Option<Vec<Rule>> {
    text.split(';').map(str::trim).filter(|r| !r.is_empty()).map(parse_rule).collect()
}

fn parse_rule(text: &str) -> Option<Rule> {
    let (name, rest) = text.split_once('=')?;
    let (command, name) = name.split_once('/').map_or((None, name), |(command, name)| (Some(command), name));
    let (rest, count) = rest.split_once(':').map_or((rest, None), |(a, n)| (a, Some(n)));
    let (action, nth) = rest.split_once('@').map_or((rest, "1"), |(a, n)| (a, n));
    let mut left = match count {
        None => u64::MAX,
        Some("once") => 1,
        Some(n) => n.parse().ok()?,
    };
    let action = match action {
        "once" => {
            left = 1;
            Action::Errno(libc::EIO)
        }
        "eio" => Action::Errno(libc::EIO),
        "enospc" => Action::Errno(libc::ENOSPC),
        "erofs" => Action::Errno(libc::EROFS),
        "eintr" => Action::Errno(libc::EINTR),
        "panic" => Action::Panic,
        "abort" => Action::Abort,
        "kill" => Action::Kill,
        other => {
            let (name, number) = other.strip_suffix(')')?.split_once('(')?;
            let number = number.parse().ok()?;
            match name {
                "delay" => Action::Delay(number),
                "memory" => Action::Memory(number),
                _ => return None,
            }
        }
    };
    let skip = nth.parse::<u64>().ok()?.checked_sub(1)?;
    let command = command.map(|command| command.trim().to_string());
    Some(Rule { command, name: name.trim().to_string(), action, skip, left })
}

/// Rules for the calling thread and those that carry its plans, until the guard is dropped.
#[cfg(any(test, feature = "test-util"))]
pub fn scoped(text: &str) -> FailpointScope {
    let rules = parse(text).expect("a well-formed rule");
    for rule in &rules {
        assert!(super::NAMES.contains(&rule.name.as_str()), "no fault point is named {}", rule.name);
    }
    SCOPED.with_borrow(|local| local.0.lock().unwrap_or_else(PoisonError::into_inner).rules.extend(rules));
    FailpointScope
}

/// Calls `act` at the Nth hit (from 1) of a point by the calling thread or one that carries its plans, until the
/// guard is dropped.
#[cfg(any(test, feature = "test-util"))]
pub fn at(name: &'static str, nth: u64, act: impl FnOnce() + Send + 'static) -> FailpointScope {
    assert!(super::NAMES.contains(&name), "no fault point is named {name}");
    let call = ScheduledCall { name, skip: nth - 1, act: Some(Box::new(act)) };
    SCOPED.with_borrow(|local| local.0.lock().unwrap_or_else(PoisonError::into_inner).calls.push(call));
    FailpointScope
}

/// Runs `work` while every hit of a point by this thread calls `act`: what others do in that moment.
#[cfg(any(test, feature = "test-util"))]
pub fn during<T>(name: &'static str, act: impl FnMut() + 'static, work: impl FnOnce() -> T) -> T {
    HOOK.set(Some((name, Box::new(act))));
    let result = work();
    HOOK.set(None);
    result
}

#[cfg(any(test, feature = "test-util"))]
pub struct FailpointScope;

#[cfg(any(test, feature = "test-util"))]
impl Drop for FailpointScope {
    fn drop(&mut self) {
        SCOPED.set(Carried::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;

    #[test]
    fn rules_are_read() {
        let rules = parse("job/a.b=enospc@3:2; c=delay(20);d=once").unwrap();
        let (command, action) = (Some("job".into()), Action::Errno(libc::ENOSPC));
        assert_eq!(rules[0], Rule { command, name: "a.b".into(), action, skip: 2, left: 2 });
        assert_eq!(rules[1].action, Action::Delay(20));
        assert_eq!(parse("a=memory(7)").unwrap()[0].action, Action::Memory(7));
        assert_eq!((rules[2].left, rules[2].action), (1, Action::Errno(libc::EIO)));
        for bad in ["a", "a=explode", "a=eio@0", "a=eio:x", "a=delay(", "a=delay(-1)"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn failures_are_counted_for_all_processes() {
        let folder = tempfile::tempdir().unwrap();
        let claimed: Vec<bool> = (0..4).map(|_| claim(folder.path(), "a.b", 3)).collect();
        assert_eq!(claimed, [true, true, true, false]);
        assert!(folder.path().join("a.b.3").exists() && claim(folder.path(), "c", 1));
    }

    #[test]
    fn a_rule_may_be_for_one_command_only() {
        let mut rules = parse("no such command/a=eio;a=panic").unwrap();
        assert_eq!(take(&mut rules, "a"), Some(Action::Panic));
    }

    #[test]
    fn counts_hits() {
        let _scope = scoped("atomic_file.write=enospc@2:1");
        assert!(hit("atomic_file.write").is_ok());
        let error = hit("atomic_file.write").unwrap_err();
        assert_eq!(Fault::of(&error), Fault::NoSpace);
        assert!(hit("atomic_file.write").is_ok());
    }
}
