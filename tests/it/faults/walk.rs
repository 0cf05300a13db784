//! Every fault point fails, in every way, in the process that comes by it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use upscaled_core::failpoint;

use crate::common::ready;
use crate::faults::everything;
use crate::faults::stage::{self, Ended, JOBS, Stage, side_by_side};

const ACTIONS: [&str; 7] = ["eio", "enospc", "erofs", "eintr", "panic", "abort", "delay(300)"];
/// The processes that points are in.
const COMMANDS: [&str; 2] = ["daemon", "job"];
/// With a size limit every frame is kept on disk too.
const KEEPS_FRAMES: &str = "max_size_mb = 50\n";
/// A failure that lasts ends this long after its first time, unless the job has failed before.
const LASTS: Duration = Duration::from_secs(5);

/// How long a planned failure lasts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Span {
    /// The nth hit of each process, once.
    Once(u64),
    /// Until the job has failed, or for some seconds.
    Lasting,
}

#[derive(Clone, Debug)]
struct Case {
    command: &'static str,
    point: &'static str,
    action: &'static str,
    span: Span,
}

struct Outcome {
    hits: u64,
    /// `=` done at once, `+` done after a restart of the daemon, `F` failed with words and done when retried.
    mark: char,
    wrong: Option<String>,
    seconds: f64,
}

/// Points that cannot be come by here, and why.
fn out_of_reach(point: &str) -> Option<&'static str> {
    match point {
        "encode.hardware" => Some("needs a hardware encoder"),
        "atomic_file.link" => Some("only on file systems without a rename that never replaces"),
        "jail.openat2" | "deliver.copy" | "deliver.name" | "deliver.named" | "deliver.taken" => {
            Some("only where clients name files by path: base::jail, tests/it/service/delivery.rs")
        }
        "work.mount" | "work.unmount" if !stage::may_mount() => Some("this process may not mount"),
        _ => None,
    }
}

fn settings(point: &str) -> &'static str {
    if point == "spill.seal" { KEEPS_FRAMES } else { "" }
}

/// How often each process comes by each point when nothing fails.
fn hits() -> BTreeMap<(&'static str, &'static str), u64> {
    let mut found = BTreeMap::new();
    for more in ["", KEEPS_FRAMES] {
        for command in COMMANDS {
            let stage = Stage::new(more);
            JOBS.iter().for_each(|job| stage.put(job));
            let rules: Vec<String> = failpoint::NAMES.iter().map(|name| format!("{command}/{name}=delay(0)")).collect();
            stage.plan(&rules.join(";"));
            assert_eq!(stage.drain(), Ok(1), "{}", stage.root.console());
            let counts = stage.failures();
            for point in failpoint::NAMES.iter().filter(|point| settings(point) == more) {
                if let Some(count) = counts.get(*point) {
                    found.insert((command, *point), *count);
                }
            }
        }
    }
    found
}

fn run(case: &Case) -> Outcome {
    let begun = Instant::now();
    let more = settings(case.point);
    let stage = Stage::new(more);
    let reference = stage::reference(more);
    let ended = match case.span {
        Span::Once(nth) => {
            JOBS.iter().for_each(|job| stage.put(job));
            stage.plan(&format!("{}/{}={}@{nth}:1", case.command, case.point, case.action));
            stage.drain()
        }
        Span::Lasting => lasting(&stage, case),
    };
    let judged = ended.and_then(|starts| Ok((starts, stage.judge(&JOBS, &reference)?)));
    let hits = stage.failures().values().sum();
    let (mark, wrong) = match judged {
        Err(wrong) => ('!', Some(wrong)),
        // One failure that is over is no reason to give up a job.
        Ok((_, endings)) if case.span != Span::Lasting && endings.iter().any(|e| *e != Ended::Done) => {
            ('F', Some(format!("given up after one failure: {endings:?}")))
        }
        Ok((_, endings)) if endings.iter().any(|e| *e != Ended::Done) => ('F', None),
        Ok((1, _)) => ('=', None),
        Ok(_) => ('+', None),
    };
    Outcome { hits, mark, wrong, seconds: begun.elapsed().as_secs_f64() }
}

/// The failure is there while the first job is worked on, and gone when the second comes.
fn lasting(stage: &Stage, case: &Case) -> Result<u32, String> {
    stage.put(JOBS[0]);
    stage.plan(&format!("{}/{}={}", case.command, case.point, case.action));
    let mut since = None;
    let starts = stage.serve_until(Duration::from_secs(60), || {
        if since.is_none() && !stage.failures().is_empty() {
            since = Some(Instant::now());
        }
        stage.ending(JOBS[0]).is_some() || since.is_some_and(|since| since.elapsed() > LASTS)
    })?;
    stage.plan("");
    stage.put(JOBS[1]);
    let over = || JOBS.iter().all(|job| stage.ending(job).is_some());
    let more = stage.serve_until(Duration::from_secs(100), over)?;
    stage.drain()?;
    Ok(starts + more - 1)
}

/// The chosen part: each point once in each process that comes by it, the actions in turn.
fn chosen(hits: &BTreeMap<(&'static str, &'static str), u64>) -> Vec<Case> {
    let turn = |n: usize| ACTIONS[n % ACTIONS.len()];
    let mut cases: Vec<Case> = hits
        .iter()
        .enumerate()
        .map(|(n, ((command, point), count))| {
            let nth = if n % 2 == 0 { 1 } else { middle(*count) };
            Case { command, point, action: turn(n), span: Span::Once(nth) }
        })
        .collect();
    let lasting = [("job", "seal.rename", "eio"), ("daemon", "history.append", "erofs"), ("job", "decode", "abort")];
    cases.extend(lasting.map(|(command, point, action)| Case { command, point, action, span: Span::Lasting }));
    cases
}

fn all(hits: &BTreeMap<(&'static str, &'static str), u64>) -> Vec<Case> {
    let mut cases = Vec::new();
    for ((command, point), count) in hits {
        for action in ACTIONS {
            let mut spans = vec![Span::Once(1), Span::Once(middle(*count)), Span::Lasting];
            spans.dedup();
            cases.extend(spans.into_iter().map(|span| Case { command, point, action, span }));
        }
    }
    cases
}

/// About the last hit for the first job.
fn middle(count: u64) -> u64 {
    (count / 2).max(1)
}

#[test]
fn every_point_fails_in_every_way() {
    if !ready("every_point_fails_in_every_way") {
        return;
    }
    let begun = Instant::now();
    let hits = hits();
    let mut never: Vec<&str> = failpoint::NAMES.to_vec();
    never.retain(|point| !hits.keys().any(|(_, known)| known == point));
    never.retain(|point| match out_of_reach(point) {
        Some(why) => {
            println!("{point}: left out: {why}");
            false
        }
        None => true,
    });
    assert!(never.is_empty(), "nothing comes by these points, so that nothing tests them: {never:?}");

    let mut cases = if everything() { all(&hits) } else { chosen(&hits) };
    if let Ok(only) = std::env::var("UPSCALED_FAULTS_ONLY") {
        cases.retain(|case| format!("{case:?}").contains(&only));
    }
    // Those that wait for space take longest.
    cases.sort_by_key(|case| !matches!(case.action, "enospc" | "erofs"));
    let outcomes = side_by_side(&cases, run);

    let mut table: BTreeMap<(&str, &str), BTreeMap<&str, String>> = BTreeMap::new();
    let mut wrong = String::new();
    for (case, outcome) in cases.iter().zip(&outcomes) {
        let cell = table.entry((case.command, case.point)).or_default().entry(case.action).or_default();
        cell.push(outcome.mark);
        if let Some(what) = &outcome.wrong {
            let _ = writeln!(wrong, "{case:?} ({} hits, {:.1} s): {what}", outcome.hits, outcome.seconds);
        } else if outcome.hits == 0 {
            let _ = writeln!(wrong, "{case:?}: the point was not come by");
        }
    }
    println!("{:32}{}", "", ACTIONS.map(|action| format!("{action:>11}")).join(""));
    for ((command, point), row) in &table {
        let cells = ACTIONS.map(|action| format!("{:>11}", row.get(action).map_or("", String::as_str)));
        println!("{:32}{}", format!("{command}/{point}"), cells.join(""));
    }
    let failures: u64 = outcomes.iter().map(|outcome| outcome.hits).sum();
    let slowest = outcomes.iter().map(|outcome| outcome.seconds).fold(0.0, f64::max);
    println!(
        "{} cases, {failures} failures, {} points in {} places; {:.0} s, the slowest case {slowest:.0} s",
        cases.len(),
        failpoint::NAMES.len(),
        hits.len(),
        begun.elapsed().as_secs_f64()
    );
    assert!(wrong.is_empty(), "\n{wrong}");
}
