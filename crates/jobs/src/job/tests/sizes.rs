//! Targets that are no scale of the model, and RGB networks, the whole way; stills too.

use upscaled_core::failpoint;

use super::*;

const PICTURE: &str = "-f lavfi -i testsrc2=size=64x48:rate=25 -frames:v 20 -c:v libx264 -pix_fmt yuv420p -threads 1";

/// Width and height of the first video stream.
fn size(path: &Path) -> (u32, u32) {
    let made = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v:0", "-show_entries", "stream=width,height", "-of", "csv=p=0"])
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8(made.stdout).unwrap();
    let (width, height) = text.trim().trim_end_matches(',').split_once(',').unwrap();
    (width.parse().unwrap(), height.parse().unwrap())
}

/// Stopped on its way and resumed, the output has this size and the bits of an undisturbed run.
fn becomes(bench: &Bench, want: (u32, u32)) {
    let reference = bench.reference();
    let shutdown = Shutdown::new();
    let word = shutdown.clone();
    let stop = failpoint::at("frame_store.write", 10, move || word.stop());
    bench.stopped(&shutdown);
    drop(stop);
    let outcome = bench.done();
    assert_eq!((outcome.width, outcome.height), want);
    assert_eq!(size(&bench.output()), want);
    bench.same_as(&reference);
}

fn rgb_model(bench: &Bench) {
    let model = TestModel { channels: 3, gain: 0.0, ..Default::default() };
    std::fs::write(bench.folder.path().join("model.onnx"), model.bytes()).unwrap();
}

#[test]
fn heights_sizes_and_tasks() {
    let test = "heights_sizes_and_tasks";
    let Some(mut bench) = ready(test).then(|| Bench::new("film.mkv", PICTURE)).flatten() else { return };
    bench.order.settings.height = Some(100);
    becomes(&bench, (134, 100));
    let mut bench = bench.again();
    (bench.order.settings.height, bench.order.settings.size) = (None, Some((500, 200)));
    assert_eq!(bench.done().width, 266);
    let mut bench = bench.again();
    (bench.order.settings.size, bench.order.settings.task) = (None, Some("SD24K".into()));
    assert_eq!(bench.done().height, 192);
    let mut bench = bench.again();
    (bench.order.settings.task, bench.order.settings.scale) = (None, 3);
    assert_eq!(bench.done().width, 192);
}

#[test]
fn a_target_that_is_not_larger_is_refused() {
    let test = "a_target_that_is_not_larger_is_refused";
    let Some(mut bench) = ready(test).then(|| Bench::new("film.mkv", PICTURE)).flatten() else { return };
    bench.order.settings.size = Some((64, 48));
    let (fault, words) = bench.refused();
    assert_eq!(fault, Fault::Unsupported);
    assert!(words.contains("64x48") && words.contains("scale = 2"), "{words}");
}

#[test]
fn a_rotated_source_is_judged_as_displayed() {
    let test = "a_rotated_source_is_judged_as_displayed";
    let Some(plain) = ready(test).then(|| Bench::new("film.mp4", PICTURE)).flatten() else { return };
    let turned = plain.folder.path().join("turned.mp4");
    let source = plain.order.source.to_str().unwrap().to_owned();
    if !ffmpeg(&format!("-i {source} -c copy -metadata:s:v rotate=90"), &turned) {
        return;
    }
    let folder = tempfile::Builder::new().prefix("upscaled-job-").tempdir().unwrap();
    let mut bench = Bench::over(folder, turned);
    if upscaled_media::probe::probe(&bench.order.source).unwrap().video.rotation.rem_euclid(180) != 90 {
        eprintln!("{test}: skipped: this ffmpeg writes no rotation so");
        return;
    }
    // Displayed 48x64: 128 high is 96x128, coded 128x96.
    bench.order.settings.height = Some(128);
    let outcome = bench.done();
    assert_eq!((outcome.width, outcome.height), (128, 96));
}

#[test]
fn rgb_networks_go_the_whole_way() {
    let test = "rgb_networks_go_the_whole_way";
    let Some(bench) = ready(test).then(|| Bench::new("film.mkv", PICTURE)).flatten() else { return };
    rgb_model(&bench);
    becomes(&bench, (128, 96));
    let mut bench = bench.again();
    bench.order.settings.height = Some(100);
    assert_eq!(bench.done().width, 134);
}

#[test]
fn stills_of_every_kind_get_the_size() {
    let test = "stills_of_every_kind_get_the_size";
    if !ready(test) {
        return;
    }
    for (format, is_rgb) in [("rgb24", true), ("rgba", true), ("gray", true), ("rgb48be", true), ("rgb48be", false)] {
        let args = format!("-f lavfi -i testsrc2=size=40x30 -frames:v 1 -pix_fmt {format}");
        let Some(mut bench) = Bench::new("picture.png", &args) else { return };
        if is_rgb {
            rgb_model(&bench);
        }
        for (height, want) in [(None, (80, 60)), (Some(50), (67, 50))] {
            bench = bench.again();
            bench.order.settings.height = height;
            let outcome = bench.done();
            assert_eq!((outcome.width, outcome.height), want, "{format}");
            let (from, to) =
                [&bench.order.source, &bench.output()].map(|p| upscaled_media::image::still::read(p).unwrap()).into();
            assert_eq!((to.width, to.height, to.depth, to.gray), (want.0, want.1, from.depth, from.gray), "{format}");
            assert_eq!(to.alpha.is_some(), from.alpha.is_some());
            if height.is_none() && is_rgb {
                // The network repeats each pixel: the same codes four times.
                for (i, &v) in to.luma.iter().enumerate() {
                    let want = from.luma[i / 80 / 2 * 40 + i % 80 / 2];
                    assert!(
                        (v - want).abs() < if from.depth == 16 { 4e-5 } else { 1e-3 },
                        "{format} {i}: {v} for {want}"
                    );
                }
            }
        }
    }
}
