//! Memory of a job is flat in the size of its file: nothing keeps what passes through.

use std::time::Duration;

use crate::common::{Root, describe, job_process, ready, streams};
use crate::media::kit::{at, ffmpeg};

/// Bytes that the output has at least, and of anonymous memory that a job may have.
const OUTPUT_MIN: u64 = 300_000_000;
const MEMORY_MAX: u64 = 150 << 20;

/// Anonymous memory of a process in bytes, 0 once it has ended.
fn anonymous(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) << 10
}

#[test]
fn a_large_file_takes_no_more_memory() {
    if !ready("a_large_file_takes_no_more_memory") {
        return;
    }
    let root = Root::new("");
    // 51 s of eight channels are 314 MB, which cost nothing to make.
    let video =
        ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=1:d=51", "-f", "lavfi", "-i", "anullsrc=r=192000:cl=7.1:d=51"];
    let codecs = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "pcm_s32le", "in.mkv"];
    ffmpeg(&root, &[&video[..], &codecs[..]].concat());
    let (source, target) = (at(&root, "in.mkv"), at(&root, "out.mkv"));
    let mut child = root.spawn(&["run".as_ref(), source.as_os_str(), target.as_os_str()]);
    let (mut most, mut looks) = (0, 0);
    let status = loop {
        let job = job_process(child.id()).map_or(0, anonymous);
        most = most.max(anonymous(child.id())).max(job);
        looks += 1;
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{}", root.console());
    let bytes = std::fs::metadata(&target).expect("an output").len();
    assert!(bytes >= OUTPUT_MIN, "an output of {bytes} bytes only");
    assert_eq!(streams(&describe(&target), "audio")[0]["codec_name"], "pcm_s32le");
    assert!(looks > 20 && most > 1 << 20, "only {looks} looks, {most} bytes seen");
    assert!(most <= MEMORY_MAX, "{} MiB of anonymous memory for an output of {} MiB", most >> 20, bytes >> 20);
}
