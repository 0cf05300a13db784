//! The stand-in for a job process: this test program itself, told by the source's text how to behave.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use upscaled_core::fault::Fault;
use upscaled_core::path_text::unescape;
use upscaled_core::types::progress::{Event, JobOutcome, Phase, Progress};
use upscaled_jobs::job::order::JobOrder;
use upscaled_jobs::state::job_dir::JobDir;

use crate::daemon::intake::probe::ProbeReply;
use crate::daemon::supervision::child::{self, EventPipe};
use crate::daemon::supervision::spawn::Program;

const ROLE: &str = "UPSCALED_FAKE_ROLE";

/// A program that starts the stand-in. The shell hands over a role that a test program's own
/// arguments cannot carry.
pub(super) fn program(dir: &Path) -> Program {
    let script = dir.join(".fake-job.sh");
    let me = std::env::current_exe().unwrap();
    let text = format!(
        "#!/bin/sh\n{ROLE}=\"$1\" exec '{}' daemon::testing::fake::stand_in --exact --ignored --nocapture\n",
        me.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    Program { arguments: vec![script.into()], ..Program::at("/bin/sh".into()) }
}

pub(super) fn progress(phase: Phase, beat: u64) -> Event {
    Event::Progress(Progress {
        phase,
        batch: 0,
        batches: 2,
        frame: beat,
        frames: 60,
        fps: 10.0,
        elapsed: 1.0,
        eta: Some(5.0),
        encoder: "fake".into(),
        device: "none".into(),
        limit: String::new(),
        stages: vec![],
        tiles: 0,
        tiles_reused: 0,
        preview: None,
        beat,
    })
}

#[test]
#[ignore = "the stand-in for a job process, started by other tests"]
fn stand_in() {
    let Ok(role) = std::env::var(ROLE) else { return };
    child::guard().unwrap();
    match role.as_str() {
        "probe" => probe(),
        _ => job(),
    }
}

fn probe() {
    println!();
    for line in std::io::stdin().lines() {
        let path = unescape(&line.unwrap()).unwrap();
        let text = std::fs::read(&path).unwrap();
        if text.starts_with(b"deadly") {
            std::process::abort();
        }
        let opens = text.starts_with(b"film");
        let reason = (!opens).then(|| "this is no film".to_string());
        let no_picture = text.starts_with(b"sound");
        if no_picture {
            add_one(&path, ".probed-");
        }
        println!("{}", serde_json::to_string(&ProbeReply { opens, reason, no_picture }).unwrap());
    }
    std::process::exit(0);
}

/// How often this job was begun, this time included.
fn count(order: &JobOrder) -> u64 {
    add_one(&order.source, ".count-")
}

/// Makes the hidden file of that name beside the source one byte longer: how often something was done with it.
fn add_one(source: &Path, prefix: &str) -> u64 {
    let mut name = std::ffi::OsString::from(prefix);
    name.push(source.file_name().unwrap());
    let path = source.with_file_name(name);
    let before = std::fs::read(&path).map_or(0, |bytes| bytes.len());
    std::fs::File::options().create(true).append(true).open(&path).unwrap().write_all(b"x").unwrap();
    before as u64 + 1
}

fn job() {
    println!();
    let pipe = EventPipe::new();
    let order: JobOrder = child::read_order().unwrap();
    let text = String::from_utf8(std::fs::read(&order.source).unwrap()).unwrap();
    let times = count(&order);
    let mut folder = JobDir::create(&order.job_dir, &order.relative, &order.key).unwrap();
    folder.lock(Duration::from_secs(10)).unwrap();
    pipe.send(&progress(Phase::Probing, 1));
    for word in text.split_whitespace().skip(1) {
        act(word, times, &order, &pipe);
    }
    done(&order, &pipe);
}

fn act(word: &str, times: u64, order: &JobOrder, pipe: &EventPipe) {
    let fail = |fault: Fault| {
        pipe.send(&Event::Failed { fault, reason: format!("the stand-in says {fault:?}") });
        std::process::exit(1);
    };
    match word {
        "sealed" => pipe.send(&Event::Sealed { batch: 0, frames: 30 }),
        "crash" => std::process::abort(),
        "crash-once" if times == 1 => std::process::abort(),
        "silent" => std::process::exit(7),
        "stall-once" if times > 1 => {}
        "stall" | "stall-once" => loop {
            pipe.send(&progress(Phase::Upscaling, 2));
            std::thread::sleep(Duration::from_millis(50));
        },
        "space" => {
            for _ in 0..40 {
                pipe.send(&progress(Phase::WaitingForSpace, 3));
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        "no-space-once" if times == 1 => fail(Fault::NoSpace),
        "bad" => fail(Fault::BadInput),
        "bad-once" if times == 1 => fail(Fault::BadInput),
        "slow" => {
            for beat in 10.. {
                pipe.send(&progress(Phase::Upscaling, beat));
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        "swap" if times == 1 => {
            std::fs::write(&order.source, "film of another").unwrap();
            fail(Fault::BadInput)
        }
        "slow-once" if times == 1 => act("slow", times, order, pipe),
        "gate" => {
            let gate = order.source.with_file_name(".gate");
            for beat in 10.. {
                if gate.exists() {
                    break;
                }
                pipe.send(&progress(Phase::Upscaling, beat));
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        "stubborn" => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _guard = runtime.enter();
            let _ignored = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
            act("slow", times, order, pipe);
        }
        _ => {}
    }
}

fn done(order: &JobOrder, pipe: &EventPipe) {
    let name = upscaled_jobs::state::paths::output_names(&order.relative, "mkv", order.crowded)
        .find(|name| !order.target_dir.join(name).exists())
        .unwrap();
    let output = order.target_dir.join(name);
    std::fs::create_dir_all(&order.target_dir).unwrap();
    std::fs::write(&output, b"made").unwrap();
    let output = upscaled_core::path_text::escape(&output);
    pipe.send(&Event::Done(JobOutcome { output, frames: 60, ..JobOutcome::default() }));
    std::process::exit(0);
}
