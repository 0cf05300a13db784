//! A packet that is really lost stays a failure, whatever containers may do with packets.

use std::path::Path;
use std::process::Command;

use upscaled_core::fault::Fault;

use super::*;
use crate::mux::container;
use crate::mux::verify::{VerifyRequest, verify};

fn ffmpeg(args: &[&str], target: &Path) -> bool {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-y"]).args(args).arg(target);
    command.status().is_ok_and(|status| status.success())
}

#[test]
fn a_lost_packet_fails() {
    let work = tempfile::tempdir().unwrap();
    let source = work.path().join("source.mkv");
    let picture = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=1", "-f", "lavfi", "-i", "sine=440:r=48000:d=1"];
    for codec in ["aac", "pcm_s16le"] {
        if !ffmpeg(&[&picture[..], &["-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", codec]].concat(), &source) {
            return eprintln!("skipped: no ffmpeg tool here");
        }
        for muxer in ["matroska", "mov"] {
            let target = work.path().join("out.part");
            let info = info(&source).unwrap();
            let specs = vec![encoders(&info, &settings()).unwrap().swap_remove(0)];
            assert!(container::choose(&source, &info, &specs[0], None).unwrap().losses.is_empty());
            let made = encode(&source, work.path(), info, specs, 100).unwrap();
            let report = join(&source, &made, &target, muxer).unwrap();
            // The same file without its last packets of sound.
            let cut = work.path().join("cut");
            let whole = target.to_string_lossy().into_owned();
            let packets = report.streams[1].written.as_ref().unwrap().packets - 2;
            let fewer = packets.to_string();
            let args = ["-copyts", "-i", &whole, "-map", "0", "-c", "copy", "-frames:a", &fewer, "-f", muxer];
            assert!(ffmpeg(&args, &cut));
            let request = VerifyRequest {
                output: &cut,
                source: &source,
                info: &made.info,
                stamps: &made.stamps,
                report: &report,
                spec: &made.specs[0],
                full: false,
                samples: false,
            };
            let error = verify(&request, &|| Ok(())).unwrap_err();
            assert_eq!(Fault::of(&error), Fault::Mismatch, "{error:#}");
            let words = format!("{error:#}");
            assert!(words.contains("output stream 1") && words.contains("in place of"), "{codec} in {muxer}: {words}");
            assert!(!words.contains(".part") && !words.contains("Some("), "{words}");
        }
    }
}
