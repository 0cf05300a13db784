//! Planned failures: named points at which an environment variable makes this program fail.
//!
//! Compiled to nothing without the feature `failpoints` (and outside unit tests). The
//! variable `UPSCALED_FAILPOINTS` holds rules `[command/]name=action[@N][:count]`, joined by `;`:
//! from the Nth hit on (default 1), for `count` hits (default without end; `once` is 1),
//! the action happens; where a command is named (`job`, `daemon`, ..), only in its processes.
//! Actions: `eio`, `enospc`, `erofs`, `eintr` (the point returns that error), `panic`, `abort`,
//! `kill` (SIGKILL to this process), `delay(ms)`, `memory(MiB)` (taken and kept), `once` (short for `eio:once`).
//! Example: `job/atomic_file.rename=kill@3;seal.copy=enospc:2`.
//!
//! `@folder` in place of rules: they stand in its file `rules`, which is read at each hit and may
//! change meanwhile; each failure leaves an empty file `<name>.<n>` beside it, and `count` holds
//! for all processes together.

/// Every point there is; a test keeps it whole, and `tests/it/faults/` walks it.
pub const NAMES: &[&str] = &[
    "assemble",
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
    "decode",
    "deliver.copy",
    "deliver.name",
    "deliver.named",
    "deliver.taken",
    "encode",
    "encode.hardware",
    "encoder.choose",
    "end.json",
    "history.append",
    "infer",
    "infer.memory",
    "jail.openat2",
    "job_dir.mkdir",
    "job_dir.remove",
    "job_dir.rmdir",
    "job_dir.unlink",
    "plan.json",
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
    "spawn",
    "spill.seal",
    "status.json",
    "frame_store.allocate",
    "frame_store.mark",
    "frame_store.write",
    "verify",
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
#[cfg(any(test, feature = "test-util"))]
pub use planned::{at, during, scoped};

#[cfg(any(test, feature = "failpoints"))]
mod planned;

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
            } else if path.extension().is_some_and(|e| e == "rs")
                && !path.ends_with("src/failpoint.rs")
                && !path.ends_with("failpoint/planned.rs")
            {
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
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        collect(&root.join("crates"), &mut found);
        collect(&root.join("src"), &mut found);
        let listed: BTreeSet<String> = NAMES.iter().map(|n| n.to_string()).collect();
        assert_eq!(found, listed, "points in the sources (left) and in failpoint::NAMES (right)");
    }
}
