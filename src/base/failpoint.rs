//! Planned failures: named points at which an environment variable makes this program fail.
//!
//! Compiled to nothing without the feature `failpoints` (and outside unit tests). The
//! variable `UPSCALED_FAILPOINTS` holds rules `name=action[@N][:count]`, joined by `;`:
//! from the Nth hit on (default 1), for `count` hits (default without end; `once` is 1),
//! the action happens. Actions: `eio`, `enospc`, `erofs` (the point returns that error),
//! `panic`, `abort`, `kill` (SIGKILL to this process), `delay(ms)`, `once` (short for
//! `eio:once`). Example: `atomic_file.rename=kill@3;seal.copy=enospc:2`.

/// Every point there is, in the order of the source tree; a test keeps it whole.
pub const NAMES: &[&str] = &[
    "atomic_file.append",
    "atomic_file.append_fsync",
    "atomic_file.create",
    "atomic_file.fsync",
    "atomic_file.link",
    "atomic_file.mkdir",
    "atomic_file.rename",
    "atomic_file.sync_dir",
    "atomic_file.unlink",
    "atomic_file.write",
    "encode",
    "encode.hardware",
    "history.append",
    "infer",
    "infer.memory",
    "job_dir.mkdir",
    "job_dir.remove",
    "job_dir.rmdir",
    "job_dir.unlink",
    "publish.json",
    "publish.rename",
    "queue.rebuild",
    "queue.swap",
    "queue.swapped",
    "seal.check",
    "seal.copy",
    "seal.fsync",
    "seal.rename",
    "seal.table",
    "spill.seal",
    "frame_store.allocate",
    "frame_store.mark",
    "frame_store.write",
    "work.mkdir",
    "work.mount",
    "work.remove",
    "work.unmount",
];

#[cfg(not(any(test, feature = "failpoints")))]
#[inline(always)]
pub fn hit(_name: &'static str) -> anyhow::Result<()> {
    Ok(())
}

/// Nothing to carry where nothing fails on purpose.
#[cfg(not(any(test, feature = "failpoints")))]
#[derive(Clone, Copy)]
pub struct Carried;

#[cfg(not(any(test, feature = "failpoints")))]
impl Carried {
    #[inline(always)]
    pub fn here(&self) {}
}

#[cfg(not(any(test, feature = "failpoints")))]
#[inline(always)]
pub fn carry() -> Carried {
    Carried
}

#[cfg(any(test, feature = "failpoints"))]
pub use planned::{Carried, carry, hit};
#[cfg(test)]
pub use planned::{at, during, scoped};

#[cfg(any(test, feature = "failpoints"))]
mod planned {
    use std::cell::RefCell;
    use std::io;
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
    }

    #[derive(Clone, Debug, PartialEq)]
    struct Rule {
        name: String,
        action: Action,
        /// Hits still to pass before the first failure.
        skip: u64,
        /// Failures left.
        left: u64,
    }

    #[cfg(test)]
    type Hook = (&'static str, Box<dyn FnMut()>);

    #[cfg(test)]
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
        #[cfg(test)]
        calls: Vec<Call>,
    }

    /// To be done at one hit of a point; hits still to pass before it.
    #[cfg(test)]
    struct Call {
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
            #[cfg(test)]
            if let Some(act) = self.due(name) {
                act();
            }
            take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).rules, name)
        }

        #[cfg(test)]
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
        #[cfg(test)]
        if let Some((at, mut act)) = HOOK.take() {
            if at == name {
                act();
            }
            HOOK.set(Some((at, act)));
        }
        static RULES: OnceLock<Mutex<Vec<Rule>>> = OnceLock::new();
        let rules = RULES.get_or_init(|| {
            let text = std::env::var("UPSCALED_FAILPOINTS").unwrap_or_default();
            let rules = parse(&text).unwrap_or_else(|| {
                tracing::error!("UPSCALED_FAILPOINTS is malformed and ignored: {text:?}");
                Vec::new()
            });
            Mutex::new(rules)
        });
        let planned = take(&mut rules.lock().unwrap_or_else(PoisonError::into_inner), name);
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
            Some(Action::Delay(ms)) => {
                std::thread::sleep(Duration::from_millis(ms));
                Ok(())
            }
        }
    }

    fn take(rules: &mut [Rule], name: &str) -> Option<Action> {
        let rule = rules.iter_mut().find(|r| r.name == name && r.left > 0)?;
        if rule.skip > 0 {
            rule.skip -= 1;
            return None;
        }
        rule.left -= 1;
        Some(rule.action)
    }

    fn parse(text: &str) -> Option<Vec<Rule>> {
        text.split(';').map(str::trim).filter(|r| !r.is_empty()).map(parse_rule).collect()
    }

    fn parse_rule(text: &str) -> Option<Rule> {
        let (name, rest) = text.split_once('=')?;
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
            "panic" => Action::Panic,
            "abort" => Action::Abort,
            "kill" => Action::Kill,
            other => Action::Delay(other.strip_prefix("delay(")?.strip_suffix(')')?.parse().ok()?),
        };
        let skip = nth.parse::<u64>().ok()?.checked_sub(1)?;
        Some(Rule { name: name.trim().to_string(), action, skip, left })
    }

    /// Rules for the calling thread and those that carry its plans, until the guard is dropped.
    #[cfg(test)]
    pub fn scoped(text: &str) -> Scope {
        let rules = parse(text).expect("a well-formed rule");
        for rule in &rules {
            assert!(super::NAMES.contains(&rule.name.as_str()), "no fault point is named {}", rule.name);
        }
        SCOPED.with_borrow(|local| local.0.lock().unwrap_or_else(PoisonError::into_inner).rules.extend(rules));
        Scope
    }

    /// Calls `act` at the Nth hit (from 1) of a point by the calling thread or one that carries its plans, until the
    /// guard is dropped.
    #[cfg(test)]
    pub fn at(name: &'static str, nth: u64, act: impl FnOnce() + Send + 'static) -> Scope {
        assert!(super::NAMES.contains(&name), "no fault point is named {name}");
        let call = Call { name, skip: nth - 1, act: Some(Box::new(act)) };
        SCOPED.with_borrow(|local| local.0.lock().unwrap_or_else(PoisonError::into_inner).calls.push(call));
        Scope
    }

    /// Runs `work` while every hit of a point by this thread calls `act`: what others do in that moment.
    #[cfg(test)]
    pub fn during<T>(name: &'static str, act: impl FnMut() + 'static, work: impl FnOnce() -> T) -> T {
        HOOK.set(Some((name, Box::new(act))));
        let result = work();
        HOOK.set(None);
        result
    }

    #[cfg(test)]
    pub struct Scope;

    #[cfg(test)]
    impl Drop for Scope {
        fn drop(&mut self) {
            SCOPED.set(Carried::default());
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::base::fault::Fault;

        #[test]
        fn rules_are_read() {
            let rules = parse("a.b=enospc@3:2; c=delay(20);d=once").unwrap();
            assert_eq!(rules[0], Rule { name: "a.b".into(), action: Action::Errno(libc::ENOSPC), skip: 2, left: 2 });
            assert_eq!(rules[1].action, Action::Delay(20));
            assert_eq!((rules[2].left, rules[2].action), (1, Action::Errno(libc::EIO)));
            for bad in ["a", "a=explode", "a=eio@0", "a=eio:x", "a=delay(", "a=delay(-1)"] {
                assert_eq!(parse(bad), None, "{bad}");
            }
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
}

#[cfg(test)]
mod tests {
    use super::NAMES;
    use std::collections::BTreeSet;
    use std::path::Path;

    fn collect(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("base/failpoint.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for part in text.split("failpoint::hit(\"").skip(1) {
                    found.insert(part.split('"').next().unwrap_or_default().to_string());
                }
            }
        }
    }

    #[test]
    fn the_list_names_every_point() {
        let mut found = BTreeSet::new();
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        let listed: BTreeSet<String> = NAMES.iter().map(|n| n.to_string()).collect();
        assert_eq!(found, listed, "points in the sources (left) and in failpoint::NAMES (right)");
    }
}
