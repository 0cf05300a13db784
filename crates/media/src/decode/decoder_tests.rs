//! Tests of decoding: against ffprobe on a folder of awkward films, and on films made here.

use std::path::PathBuf;
use std::process::Command;

use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::decode::seek;
use crate::probe::probe;

const ONE_THREAD: DecodeOptions = DecodeOptions { threads: 1, deinterlace: false };

/// Films beside the repository, sorted; empty, with the reason told, when there are none.
fn films() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/videos");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        eprintln!("skipped: no films in {}", folder.display());
        return Vec::new();
    };
    if !have("ffprobe") {
        return Vec::new();
    }
    let mut films: Vec<_> = entries.flatten().map(|e| e.path()).filter(|p| p.is_file()).collect();
    films.sort();
    films
}

fn have(program: &str) -> bool {
    let found = Command::new(program).arg("-version").output().is_ok();
    if !found {
        eprintln!("skipped: no {program} here");
    }
    found
}

/// Every frame's best effort timestamp, as ffprobe prints it (`None` for N/A).
fn ffprobe_times(film: &Path, stream: usize) -> Vec<Option<i64>> {
    let mut url = std::ffi::OsString::from("file:");
    url.push(film);
    let output = Command::new("ffprobe")
        .args(["-v", "quiet", "-show_entries", "frame=best_effort_timestamp", "-of", "csv=p=0", "-select_streams"])
        .arg(stream.to_string())
        .arg(url)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().map(|l| l.trim_end_matches(',')).filter(|l| !l.is_empty());
    lines.map(|line| line.parse().ok()).collect()
}

fn stamps(film: &Path, info: &SourceInfo, options: DecodeOptions) -> (Vec<Stamp>, DecodeDamage) {
    let mut decoder = Decoder::open(film, info, options).unwrap();
    let mut stamps = Vec::new();
    while let Some((index, stamp)) = decoder.skip().unwrap() {
        assert_eq!(index, stamps.len() as u64);
        stamps.push(stamp);
    }
    (stamps, decoder.damage())
}

#[test]
fn a_decoder_moves_between_threads() {
    fn moves<T: Send>() {}
    moves::<Decoder>();
}

#[test]
fn every_film_gives_the_frames_and_times_of_ffprobe() {
    crate::init();
    let mut wrong = Vec::new();
    for film in films() {
        let name = film.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let info = match probe(&film) {
            Ok(info) => info,
            Err(error) => {
                eprintln!("{name}: {:?}: {error:#}", Fault::of(&error));
                let frames = ffprobe_times(&film, 0).len();
                let may_fail = name.starts_with("bad-") || name.starts_with("audio-only") || name.starts_with("vvc");
                if !may_fail || (frames > 0 && !name.starts_with("audio-only")) {
                    wrong.push(format!("{name}: refused, ffprobe counts {frames} frames: {error:#}"));
                }
                continue;
            }
        };
        let (stamps, damage) = stamps(&film, &info, ONE_THREAD);
        let theirs = ffprobe_times(&film, info.video.stream);
        eprintln!("{name}: {} frames, {damage:?}", stamps.len());
        if stamps.len() != theirs.len() {
            wrong.push(format!("{name}: {} frames, ffprobe counts {}", stamps.len(), theirs.len()));
        }
        for (i, (ours, theirs)) in stamps.iter().zip(&theirs).enumerate() {
            if Some(ours.pts) != *theirs && !ours.mended {
                wrong.push(format!("{name}: frame {i} at {}, ffprobe says {theirs:?}", ours.pts));
                break;
            }
        }
        let mended = stamps.iter().filter(|s| s.mended).count() as u64;
        if mended != damage.mended || (mended > 0 && theirs.windows(2).all(|w| w[0].is_some() && w[0] < w[1])) {
            wrong.push(format!("{name}: {mended} times mended, {} counted", damage.mended));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn skipping_and_reading_agree_and_every_frame_has_its_size() {
    crate::init();
    for film in films() {
        // The largest and longest ones add nothing here but time.
        if std::fs::metadata(&film).unwrap().len() > 1_000_000 {
            continue;
        }
        let Ok(info) = probe(&film) else { continue };
        for deinterlace in [false, true] {
            let options = DecodeOptions { threads: 2, deinterlace };
            let (stamps, _) = stamps(&film, &info, options);
            let mut mixed = Decoder::open(&film, &info, options).unwrap();
            for (i, stamp) in stamps.iter().enumerate().take(40) {
                if i % 7 < 4 {
                    let frame = mixed.next().unwrap().unwrap();
                    assert_eq!((frame.index, frame.stamp), (i as u64, *stamp), "{}", film.display());
                    let video = &info.video;
                    assert_eq!((frame.frame.width, frame.frame.height), (video.width, video.height));
                    assert_eq!(frame.frame.data.len(), video.format.frame_bytes(video.width, video.height));
                } else {
                    assert_eq!(mixed.skip().unwrap(), Some((i as u64, *stamp)), "{}", film.display());
                }
            }
        }
    }
}

/// Hashes and stamps of all frames.
fn decoded(film: &Path, info: &SourceInfo, options: DecodeOptions) -> Vec<(Stamp, u64)> {
    let mut decoder = Decoder::open(film, info, options).unwrap();
    std::iter::from_fn(|| decoder.next().unwrap()).map(|f| (f.stamp, xxh3_64(&f.frame.data))).collect()
}

/// Resumes at several frames; how often a seek was proved.
fn resumes(film: &Path, info: &SourceInfo, options: DecodeOptions) -> usize {
    let all = decoded(film, info, options);
    let mut proved = 0;
    for frame in [1, all.len() / 3, all.len() / 2, all.len() * 9 / 10, all.len().saturating_sub(1)] {
        let frame = frame.min(all.len());
        let tail = all[frame.saturating_sub(8)..frame].iter().map(|(s, h)| (s.pts, *h)).collect();
        let resume = SeekPoint { frame: frame as u64, tail };
        if let Some(mut decoder) = Decoder::open_at(film, info, options, &resume).unwrap() {
            proved += 1;
            for (i, expected) in all.iter().enumerate().skip(frame) {
                let next = decoder.next().unwrap();
                let next = next.unwrap_or_else(|| panic!("{}: frame {i} missing after {frame}", film.display()));
                assert_eq!(next.index, i as u64);
                assert_eq!((next.stamp, xxh3_64(&next.frame.data)), *expected, "{}: frame {i}", film.display());
            }
            assert!(decoder.next().unwrap().is_none(), "{}: more frames than before", film.display());
        }
        // The same place with other pixels is never taken for it.
        let mut forged = resume.clone();
        if let Some(last) = forged.tail.last_mut() {
            last.1 ^= 1;
            assert!(Decoder::open_at(film, info, options, &forged).unwrap().is_none());
        }
    }
    proved
}

#[test]
fn a_proved_seek_gives_the_same_rest() {
    if !seek::demuxers_repeat() {
        eprintln!("skipped: this FFmpeg is too old to seek");
        return;
    }
    crate::init();
    let (mut proved, mut tried) = (0, 0);
    for film in films() {
        let Ok(info) = probe(&film) else { continue };
        let large = u64::from(info.video.width * info.video.height) * info.video.estimated_frames.unwrap_or(100);
        if !info.video.safe_seek || large > 40_000_000 {
            continue;
        }
        tried += 1;
        let count = resumes(&film, &info, DecodeOptions { threads: 1, deinterlace: false });
        eprintln!("{}: {count} of 5 seeks proved", film.display());
        proved += usize::from(count > 0);
    }
    assert!(tried == 0 || proved * 2 > tried, "{proved} of {tried} films can be resumed by seeking");
}

/// A film made by the ffmpeg tool; `None`, with the reason told, where it is missing or cannot.
fn made(folder: &tempfile::TempDir, name: &str, arguments: &str) -> Option<PathBuf> {
    if !have("ffmpeg") {
        return None;
    }
    let path = folder.path().join(name);
    let output = Command::new("ffmpeg")
        .args(["-hide_banner", "-v", "error", "-y"])
        .args(arguments.split_whitespace())
        .arg(&path)
        .output()
        .unwrap();
    if !output.status.success() {
        eprintln!("skipped {name}: {}", String::from_utf8_lossy(&output.stderr).trim());
        return None;
    }
    Some(path)
}

#[test]
fn open_gops_and_interlaced_films_resume_exactly() {
    if !seek::demuxers_repeat() {
        eprintln!("skipped: this FFmpeg is too old to seek");
        return;
    }
    crate::init();
    let folder = tempfile::tempdir().unwrap();
    for (name, arguments, deinterlace) in [
        ("a.mp4", "-f lavfi -i testsrc2=s=96x64:r=25:d=5 -c:v libx264 -g 20 -bf 3", false),
        ("b.mkv", "-f lavfi -i testsrc2=s=96x64:r=25:d=5 -c:v libx264 -g 20 -bf 3 -x264-params open-gop=1", false),
        ("c.mkv", "-f lavfi -i testsrc2=s=96x64:r=25:d=5 -c:v libx265 -g 20 -x265-params log-level=error", false),
        (
            "d.mkv",
            "-f lavfi -i testsrc2=s=96x64:r=50:d=5 -vf tinterlace=interleave_top,setfield=tff -c:v libx264 -g 20 \
             -flags +ildct+ilme",
            true,
        ),
        ("e.mkv", "-f lavfi -i testsrc2=s=96x64:r=25:d=5 -c:v libvpx-vp9 -g 20 -cpu-used 8", false),
    ] {
        let Some(film) = made(&folder, name, arguments) else { continue };
        let info = probe(&film).unwrap();
        assert_eq!(info.video.interlaced, deinterlace, "{name}");
        let proved = resumes(&film, &info, DecodeOptions { threads: 1, deinterlace });
        assert!(proved >= 3, "{name}: {proved} of 5 seeks proved");
    }
}

#[test]
fn deinterlacing_does_something_and_keeps_every_frame() {
    crate::init();
    let folder = tempfile::tempdir().unwrap();
    let interlaced = "-f lavfi -i testsrc2=s=96x64:r=50:d=1 -vf tinterlace=interleave_top,setfield=tff -c:v mpeg2video \
                      -flags +ildct+ilme";
    let Some(film) = made(&folder, "i.mpg", interlaced) else { return };
    let info = probe(&film).unwrap();
    let woven = decoded(&film, &info, ONE_THREAD);
    let clean = decoded(&film, &info, DecodeOptions { threads: 1, deinterlace: true });
    assert_eq!(woven.iter().map(|f| f.0).collect::<Vec<_>>(), clean.iter().map(|f| f.0).collect::<Vec<_>>());
    assert!(woven.iter().zip(&clean).all(|(a, b)| a.1 != b.1));
    // A frame is the same whether those before it were read or skipped.
    for (frame, expected) in clean.iter().enumerate() {
        let mut decoder = Decoder::open(&film, &info, DecodeOptions { threads: 1, deinterlace: true }).unwrap();
        for _ in 0..frame {
            decoder.skip().unwrap();
        }
        let next = decoder.next().unwrap().unwrap();
        assert_eq!((next.stamp, xxh3_64(&next.frame.data)), *expected, "frame {frame}");
    }
}

#[test]
fn joined_streams_go_on_from_clock_to_clock() {
    crate::init();
    let folder = tempfile::tempdir().unwrap();
    let Some(one) = made(&folder, "one.ts", "-f lavfi -i testsrc2=s=96x64:r=25:d=3 -c:v mpeg2video") else { return };
    let bytes = std::fs::read(&one).unwrap();
    let joined = folder.path().join("joined.ts");
    std::fs::write(&joined, [bytes.clone(), bytes].concat()).unwrap();
    let info = probe(&joined).unwrap();
    let (stamps, damage) = stamps(&joined, &info, ONE_THREAD);
    assert_eq!((stamps.len(), damage.jumps, damage.mended), (150, 1, 0));
    for pair in stamps.windows(2) {
        let step = pair[1].pts - pair[0].pts;
        assert!((3600..=3 * 3600).contains(&step), "a step of {step} ticks");
    }
}

#[test]
fn a_change_of_pixel_format_or_size_is_brought_to_the_first() {
    crate::init();
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = Vec::new();
    for (i, (size, format)) in
        [("96x64", "yuv420p"), ("96x64", "yuv444p"), ("96x64", "yuv422p10le"), ("50x38", "yuvj420p")].iter().enumerate()
    {
        let source = format!("-f lavfi -i color=0x808080:s={size}:r=25:d=1 -c:v libx264 -bf 0 -pix_fmt {format}");
        let Some(part) = made(&folder, &format!("{i}.ts"), &source) else { return };
        bytes.extend(std::fs::read(part).unwrap());
    }
    let film = folder.path().join("changing.ts");
    std::fs::write(&film, bytes).unwrap();
    let info = probe(&film).unwrap();
    assert_eq!((info.video.width, info.video.format.ffmpeg_name()), (96, "yuv420p"));
    let mut decoder = Decoder::open(&film, &info, ONE_THREAD).unwrap();
    let mut count = 0;
    while let Some(next) = decoder.next().unwrap() {
        // The same gray all along, whatever its depth, subsampling, size or range was.
        let centre = next.frame.plane(0)[96 * 32 + 48];
        assert!(centre.abs_diff(126) <= 2 && next.frame.plane(1)[0].abs_diff(128) <= 1, "frame {count}: {centre}");
        count += 1;
    }
    assert_eq!((count, decoder.damage().resized), (100, 25), "{:?}", decoder.damage());
}

#[test]
fn encrypted_films_are_refused() {
    crate::init();
    let folder = tempfile::tempdir().unwrap();
    let key = "00112233445566778899aabbccddeeff";
    let arguments = format!(
        "-f lavfi -i testsrc2=s=96x64:r=25:d=1 -c:v libx264 -encryption_scheme cenc-aes-ctr -encryption_key {key} \
         -encryption_kid {key}"
    );
    let Some(film) = made(&folder, "drm.mp4", &arguments) else { return };
    let error = probe(&film).unwrap_err();
    assert_eq!(Fault::of(&error), Fault::Unsupported, "{error:#}");
    assert!(error.to_string().contains("encrypted"), "{error:#}");
}

#[test]
fn awkward_formats_come_out_right() {
    crate::init();
    let folder = tempfile::tempdir().unwrap();
    for (name, arguments, format, range, alpha) in [
        ("gray.mkv", "-c:v ffv1 -pix_fmt gray", "yuv420p", 2, false),
        ("gray10.mkv", "-c:v ffv1 -pix_fmt gray10le", "yuv420p10le", 2, false),
        ("twelve.mkv", "-c:v ffv1 -pix_fmt yuv422p12le", "yuv422p10le", 1, false),
        ("alpha.mov", "-c:v qtrle -pix_fmt argb", "yuv444p", 1, true),
        ("alpha.mkv", "-c:v ffv1 -pix_fmt yuva420p", "yuv420p", 1, true),
        ("uyvy.avi", "-c:v rawvideo -pix_fmt uyvy422", "yuv422p", 1, false),
        ("flip.avi", "-c:v rawvideo -pix_fmt bgr24", "yuv444p", 1, false),
        ("full.mkv", "-c:v mjpeg -pix_fmt yuvj444p", "yuv444p", 2, false),
        ("palette.gif", "", "yuv444p", 1, true),
        ("moving.apng", "-f apng", "yuv444p", 1, false),
    ] {
        let Some(film) = made(&folder, name, &format!("-f lavfi -i testsrc2=s=34x18:r=5:d=1 {arguments}")) else {
            continue;
        };
        let info = probe(&film).unwrap_or_else(|e| panic!("{name}: {e:#}"));
        assert_eq!(info.video.format.ffmpeg_name(), format, "{name}");
        // 0 and 1 both mean limited range.
        assert_eq!(info.video.colour.range.max(1), range, "{name}");
        assert_eq!((info.video.alpha, !info.losses.is_empty()), (alpha, alpha), "{name}: {:?}", info.losses);
        assert_eq!(decoded(&film, &info, ONE_THREAD).len(), 5, "{name}");
    }
}

#[test]
fn a_film_without_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let Some(film) = made(&folder, "a.mkv", "-f lavfi -i testsrc2=s=64x48:r=25:d=0.2 -c:v ffv1") else { return };
    let info = probe(&film).unwrap();
    let mut decoder = Decoder::open(&film, &info, ONE_THREAD).unwrap();
    decoder.index = FRAMES_MAX - 1;
    assert_eq!(decoder.next().unwrap().unwrap().index, FRAMES_MAX - 1);
    let error = decoder.next().map(|_| ()).unwrap_err();
    assert!(Fault::of(&error) == Fault::Unsupported && error.to_string().contains("100000000 frames"), "{error}");
    assert!(decoder.skip().is_err());
}
