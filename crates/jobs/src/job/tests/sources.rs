//! Sources of every shape, the whole way, stopped once on it.

use upscaled_core::failpoint;

use super::*;

fn whole_way(name: &str, arguments: &str, frames: u64) {
    let Some(mut bench) = ready(name).then(|| Bench::new(name, arguments)).flatten() else { return };
    bench.order.settings.verify = upscaled_core::config::settings::VerifyMode::Full;
    let reference = bench.reference();
    if frames > 10 {
        let shutdown = Shutdown::new();
        let word = shutdown.clone();
        let _stop = failpoint::at("frame_store.write", 10, move || word.stop());
        bench.stopped(&shutdown);
    }
    let outcome = bench.done();
    assert_eq!(outcome.frames, frames, "{}", bench.log());
    assert_eq!(framemd5(&bench.output()).len() as u64, frames);
    bench.same_as(&reference);
}

const PICTURE: &str = "-f lavfi -i testsrc2=size=64x48:rate=25";

#[test]
fn variable_frame_rate() {
    let args = format!(
        "{PICTURE} -frames:v 50 -vf settb=1/1000,setpts=N*25+N*N -vsync passthrough -c:v libx264 -bf 3 -threads 1"
    );
    whole_way("vfr.mkv", &args, 50);
}

#[test]
fn b_frames_in_mp4() {
    whole_way("b.mp4", &format!("{PICTURE} -t 1.4 -c:v libx264 -bf 4 -g 9 -pix_fmt yuv420p -threads 1"), 35);
}

#[test]
fn ten_bits() {
    whole_way("ten.mkv", &format!("{PICTURE} -t 0.8 -c:v ffv1 -pix_fmt yuv420p10le"), 20);
}

#[test]
fn interlaced() {
    let args =
        format!("{PICTURE} -t 1 -vf tinterlace=interleave_top,setfield=tff -c:v mpeg2video -flags +ilme+ildct -q:v 3");
    whole_way("fields.mkv", &args, 12);
}

#[test]
fn one_frame() {
    whole_way("one.mkv", &format!("{PICTURE} -frames:v 1 -c:v libx264 -pix_fmt yuv420p"), 1);
}

#[test]
fn odd_size() {
    let args = "-f lavfi -i testsrc2=size=61x47:rate=25 -t 0.6 -c:v ffv1 -pix_fmt yuv420p";
    whole_way("odd.mkv", args, 15);
}

#[test]
fn rgb() {
    whole_way("rgb.mkv", &format!("{PICTURE} -t 0.6 -c:v ffv1 -pix_fmt gbrp"), 15);
}
