//! A hardware encoder that dies in mid job: its stand-in fails as planned, libx264 goes on.

use upscaled_core::failpoint;

use super::*;

/// Frames of the encoder's trial, before the first of the job.
const TRIAL: u64 = 3;

fn bench(test: &str) -> Option<Bench> {
    let mut bench = ready(test).then(|| Bench::new("film.mp4", FILM)).flatten()?;
    bench.order.settings.encoder = Some("standin_nvenc".into());
    bench.order.settings.verify = upscaled_core::config::settings::VerifyMode::Full;
    bench.order.run.keep_job_folder = true;
    Some(bench)
}

#[test]
fn death_at_the_first_a_middle_and_the_last_frame() {
    let test = "death_at_the_first_a_middle_and_the_last_frame";
    let Some(bench) = bench(test) else { return };
    for frame in [0, 8, 15, 22, 49] {
        let bench = bench.again_with_run();
        let _plan = failpoint::scoped(&format!("encode.hardware=eio@{}", TRIAL + 1 + frame));
        let outcome = bench.done();
        assert_eq!((outcome.frames, outcome.encoder.as_str()), (50, "libx264"), "{frame}");
        assert_eq!(outcome.upscaled(), 50, "frames were upscaled again");
        assert_eq!(framemd5(&bench.output()).len(), 50, "{frame}");
        let status = bench.status();
        assert!(status.remarks.iter().any(|r| r.contains("hardware encoder failed")), "{:?}", status.remarks);
        assert_eq!(status.encoder, "libx264");
    }
}

#[test]
fn one_failure_is_only_tried_again() {
    let Some(bench) = bench("one_failure_is_only_tried_again") else { return };
    let reference = bench.again_with_run();
    reference.done();
    let _plan = failpoint::scoped(&format!("encode.hardware=eio@{}:1", TRIAL + 20));
    assert_eq!(bench.done().encoder, "standin_nvenc");
    bench.same_as(&reference.bytes());
}

#[test]
fn a_fallback_survives_a_stop() {
    let Some(bench) = bench("a_fallback_survives_a_stop") else { return };
    let shutdown = Shutdown::new();
    let word = shutdown.clone();
    {
        let _plan = failpoint::scoped(&format!("encode.hardware=eio@{}", TRIAL + 10));
        let _stop = failpoint::at("frame_store.write", 30, move || word.stop());
        bench.stopped(&shutdown);
    }
    let outcome = bench.done();
    assert_eq!((outcome.frames, outcome.encoder.as_str()), (50, "libx264"));
    assert_eq!(framemd5(&bench.output()).len(), 50);
    assert!(bench.status().remarks.iter().any(|r| r.contains("hardware encoder failed")), "{:?}", bench.status());
}

impl Bench {
    fn again_with_run(&self) -> Bench {
        let mut bench = self.again();
        bench.order.run.keep_job_folder = self.order.run.keep_job_folder;
        bench
    }
}
