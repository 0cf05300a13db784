//! Jobs that fail again and again at places chosen by chance (the same ones each time), and end right.

use upscaled_core::failpoint;

use super::*;

/// More of them with the variable `JOB_TEST_ROUNDS`.
const ROUNDS: u64 = 6;
const ATTEMPTS: u64 = 6;
const POINTS: [&str; 21] = [
    "atomic_file.create",
    "atomic_file.fsync",
    "atomic_file.mkdir",
    "atomic_file.rename",
    "atomic_file.sync_dir",
    "atomic_file.unlink",
    "atomic_file.write",
    "encode",
    "frame_store.allocate",
    "frame_store.mark",
    "frame_store.write",
    "job_dir.unlink",
    "publish.json",
    "publish.rename",
    "seal.check",
    "seal.copy",
    "seal.fsync",
    "seal.rename",
    "seal.table",
    "spill.seal",
    "work.remove",
];

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn whatever_fails_the_output_is_the_same() {
    let test = "whatever_fails_the_output_is_the_same";
    let Some(bench) = ready(test).then(|| Bench::new("film.mkv", FILM)).flatten() else { return };
    let rounds = std::env::var("JOB_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(ROUNDS);
    for round in 0..rounds {
        let mut chance = Chance(round * 7919 + 1);
        let mut bench = bench.again();
        bench.order.settings.max_size_mb = (round % 3 == 2).then_some(50);
        bench.order.run.ramdisk_limit_mb = if round % 4 == 3 { 1 } else { 0 };
        let reference = bench.reference();
        let mut story = String::new();
        for _ in 0..ATTEMPTS {
            let point = POINTS[chance.below(POINTS.len() as u64) as usize];
            let action = ["eio", "panic"][chance.below(2) as usize];
            // Many hits a job, or few.
            let span = if point.starts_with("frame_store") || point == "encode" { 53 } else { 12 };
            // The encoder's trial of three frames must not choose another one.
            let first = if point == "encode" { 4 } else { 1 };
            let plan = format!("{point}={action}@{}:1", first + chance.below(span));
            let outcome = {
                let _plan = failpoint::scoped(&plan);
                bench.run()
            };
            story += &format!("{plan}: {}\n", outcome.as_ref().map_or_else(|e| format!("{e:#}"), |_| "done".into()));
            if outcome.is_ok() {
                bench.same_as(&reference);
                std::fs::remove_file(bench.output()).unwrap();
            }
            if chance.below(4) == 0 && bench.folder.path().join("ram").exists() {
                story += "power cut\n";
                bench.cut_power();
            }
            let clips = bench.files("clips");
            if chance.below(3) == 0 && !clips.is_empty() {
                let victim = &clips[chance.below(clips.len() as u64) as usize];
                story += &format!("flipped {}\n", victim.display());
                if std::fs::metadata(victim).unwrap().len() > 0 {
                    flip(victim);
                }
            }
        }
        let outcome = bench.run().unwrap_or_else(|e| panic!("round {round}\n{story}{e:#}\n{}", bench.log()));
        assert!(bench.bytes() == reference, "round {round}\n{story}{}", bench.log());
        assert_eq!(outcome.frames, 50, "round {round}\n{story}");
        let temps = bench.files("..").into_iter().filter(|p| p.extension().is_some_and(|e| e == "part")).count();
        assert_eq!(temps, 0, "round {round}\n{story}");
    }
}
