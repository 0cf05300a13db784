//! What stands still is killed and taken up again; what is only slow is left alone.

use std::time::{Duration, Instant};

use crate::common::ready;
use crate::faults::stage::{self, Ended, JOBS, Stage, side_by_side};

/// A supervisor with little patience, and frames of several calls of the network.
const IMPATIENT: &str = "stall_timeout = 2\ntile = \"32x48\"\n";
/// Longer than any test waits.
const FOR_EVER: &str = "delay(600000)";

#[test]
fn what_hangs_is_killed_and_taken_up_again() {
    if !ready("what_hangs_is_killed_and_taken_up_again") {
        return;
    }
    let reference = stage::reference(IMPATIENT);
    // In the middle of the work, and where encoders are tried: what else comes before has limits of its own.
    let points = ["encoder.choose", "decode", "infer", "encode", "frame_store.write", "seal.copy"];
    let wrong: Vec<String> = side_by_side(&points, |point| {
        let stage = Stage::new(IMPATIENT);
        JOBS.iter().for_each(|job| stage.put(job));
        let nth = if ["encoder.choose", "seal.copy"].contains(point) { 1 } else { 8 };
        stage.plan(&format!("job/{point}={FOR_EVER}@{nth}:1"));
        let begun = Instant::now();
        stage.drain()?;
        let took = begun.elapsed();
        if stage.failures().values().sum::<u64>() != 1 {
            return Err(format!("hung {:?} times", stage.failures()));
        }
        let endings = stage.judge(&JOBS, &reference)?;
        let told = stage.root.console().lines().any(|line| line.contains("nothing moved for"));
        match () {
            () if endings != [Ended::Done, Ended::Done] => Err(format!("{endings:?}")),
            () if !told => Err(format!("no word of it: {}", stage.last_words())),
            () if took > Duration::from_secs(60) => Err(format!("took {took:?}")),
            () => Ok(()),
        }
    })
    .into_iter()
    .zip(points)
    .filter_map(|(result, point)| result.err().map(|why| format!("{point}: {why}")))
    .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_slow_is_no_stall() {
    if !ready("what_is_slow_is_no_stall") {
        return;
    }
    let settings = IMPATIENT.replace("32x48", "16x16").replace("= 2", "= 1");
    let reference = stage::reference(&settings);
    let stage = Stage::new(&settings);
    stage.put(JOBS[0]);
    // Twelve calls, which take two seconds a frame together.
    stage.plan("job/infer=delay(170)");
    assert_eq!(stage.drain(), Ok(1), "{}", stage.root.console());
    let slow = stage.failures()["infer"];
    assert!(slow > 12 * 12, "{slow} calls");
    assert!(!stage.root.console().contains("nothing moved for"), "{}", stage.root.console());
    assert_eq!(stage.judge(&JOBS[..1], &reference), Ok(vec![Ended::Done]));
}
