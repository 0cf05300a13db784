//! Too little room: on the RAM disk, on disks, and in `max_size_mb`.

use std::time::Instant;

use upscaled_core::failpoint;
use upscaled_core::test_util::small_disk::SmallDisk;
use upscaled_core::types::progress::Phase;

use super::*;

/// Noise: it does not compress.
const NOISE: &str = "-f lavfi -i nullsrc=size=96x64:rate=25,geq=lum='random(1)*255':cb=128:cr=128 -t 2 -c:v libx264 -qp 20 \
                     -pix_fmt yuv420p -threads 1";

#[test]
fn a_size_limit_holds() {
    let Some(mut bench) =
        ready("a_size_limit_holds").then(|| Bench::new("noise.mkv", &NOISE.replace("-t 2", "-t 4"))).flatten()
    else {
        return;
    };
    bench.order.settings.crf = Some(4);
    let free = bench.again();
    let whole = free.done().output_bytes;
    assert!(whole > 2 << 20, "{whole} bytes are no test of a limit of 1 MiB");
    bench.order.settings.max_size_mb = Some(1);
    bench.order.run.keep_job_folder = true;
    let reference = bench.reference();
    let shutdown = Shutdown::new();
    let word = shutdown.clone();
    let _stop = failpoint::at("frame_store.write", 30, move || word.stop());
    bench.stopped(&shutdown);
    // A sealed batch whose frames are gone is made again: they may be needed.
    flip(&bench.files("spill")[0]);
    let outcome = bench.done();
    assert!(outcome.output_bytes <= 1 << 20, "{}", outcome.output_bytes);
    assert_eq!(framemd5(&bench.output()).len(), 100);
    bench.same_as(&reference);
}

#[test]
fn an_impossible_size_has_words() {
    let sound = "-f lavfi -i testsrc2=size=64x48:rate=25 -f lavfi -i anoisesrc -t 12 -c:v libx264 -c:a pcm_s16le -ac 2";
    let test = "an_impossible_size_has_words";
    let Some(mut bench) = ready(test).then(|| Bench::new("loud.mkv", sound)).flatten() else { return };
    bench.order.settings.max_size_mb = Some(1);
    let (fault, words) = bench.refused();
    assert_eq!(fault, Fault::Unsupported, "{words}");
    assert!(words.contains("max_size_mb"), "{words}");
}

#[test]
fn a_ram_disk_that_is_too_small() {
    let film = FILM.replace("64x48", "320x240");
    let test = "a_ram_disk_that_is_too_small";
    let Some(mut bench) = ready(test).then(|| Bench::new("film.mkv", &film)).flatten() else { return };
    let reference = bench.reference();
    // A batch of 15 frames of 640x480 takes 6.6 MiB.
    bench.order.run.ramdisk_limit_mb = 2;
    bench.order.run.checkpoint_seconds = 1;
    let shutdown = Shutdown::new();
    let word = shutdown.clone();
    {
        let _slow = failpoint::scoped("encode=delay(150)");
        let _stop = failpoint::at("encode", 3 + 36, move || word.stop());
        bench.stopped(&shutdown);
    }
    assert!(!bench.files("spill").is_empty(), "{}", bench.log());
    bench.forget_events();
    let outcome = bench.done();
    let made = outcome.upscaled();
    let sealed = bench.status().resumed_from.map_or(0, |b| 8 + (b - 1) * 15);
    assert!(made < 50 - sealed, "{made} frames were upscaled again, {sealed} are sealed");
    bench.same_as(&reference);
    assert!(bench.files("spill").is_empty());

    // And with no trouble on the way, on a real small disk as well.
    let Some(disk) = SmallDisk::mount(1 << 20) else { return };
    let mut bench = bench.again();
    bench.order.run.work_area = Some(disk.path().to_owned());
    bench.order.run.ramdisk_limit_mb = 1;
    bench.done();
    bench.same_as(&reference);
}

/// A job whose files are all on a disk of 8 MiB that is full but for `room` bytes; room comes after two seconds.
fn on_a_full_disk(test: &str, purpose: &str, room: u64, point: (&'static str, u64), limit: Option<u64>) {
    let Some(mut bench) = ready(test).then(|| Bench::new("noise.mkv", NOISE)).flatten() else { return };
    bench.order.settings.max_size_mb = limit;
    let reference = bench.reference();
    let Some(disk) = SmallDisk::mount(8 << 20) else { return };
    let disk = Arc::new(disk);
    bench.order.job_dir = disk.path().join("film.job");
    bench.order.target_dir = disk.path().to_owned();
    let fill = {
        let disk = disk.clone();
        move || disk.fill_but(room)
    };
    let guard = failpoint::at(point.0, point.1, fill);
    let events = bench.events.clone();
    let ballast = disk.path().join("ballast");
    let start = Instant::now();
    let relief = std::thread::spawn(move || {
        let waits = |e: &Event| matches!(e, Event::Progress(p) if p.phase == Phase::WaitingForSpace);
        while !events.lock().unwrap().iter().any(waits) {
            assert!(start.elapsed() < Duration::from_secs(60), "it does not wait");
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(Duration::from_secs(2));
        std::fs::remove_file(ballast).unwrap();
    });
    bench.done();
    drop(guard);
    relief.join().unwrap();
    bench.same_as(&reference);
    let log = bench.log();
    let waits = log.lines().filter(|l| l.contains("waiting for space")).count();
    assert!((1..=3).contains(&waits), "{waits} messages\n{log}");
    assert!(log.contains(purpose), "{log}");
    assert!(log.contains("room again"), "{log}");
    let last = bench.progress().last().unwrap().phase;
    assert_ne!(last, Phase::WaitingForSpace);
}

#[test]
fn a_full_disk_at_sealing() {
    on_a_full_disk("a_full_disk_at_sealing", "the clip of batch 0", 20 << 10, ("seal.copy", 1), None);
}

#[test]
fn a_full_disk_at_assembly() {
    // Two hits a batch: the last is that of the last clip, already copied.
    on_a_full_disk("a_full_disk_at_assembly", "the output file", 100 << 10, ("seal.check", 8), None);
}

#[test]
fn a_full_disk_while_frames_are_kept() {
    let purpose = "no room for frames and clips";
    on_a_full_disk("a_full_disk_while_frames_are_kept", purpose, 20 << 10, ("seal.check", 3), Some(100));
}

#[test]
fn a_ram_disk_that_fills_up_under_a_clip() {
    let test = "a_ram_disk_that_fills_up_under_a_clip";
    let Some(mut bench) = ready(test).then(|| Bench::new("noise.mkv", NOISE)).flatten() else { return };
    let reference = bench.reference();
    let Some(disk) = SmallDisk::mount(100 << 20) else { return };
    let disk = Arc::new(disk);
    // The area's own mount would be another disk: this one is what fills up.
    bench.order.run.work_area = Some(disk.path().to_owned());
    bench.order.run.ramdisk_limit_mb = 90;
    let area = disk.path().join(&bench.order.key);
    let _fill = failpoint::at("encode", 3 + 12, move || {
        let mut ballast = std::fs::File::create(area.join("ballast")).unwrap();
        std::io::copy(&mut std::io::repeat(1), &mut ballast).unwrap_err();
    });
    bench.done();
    bench.same_as(&reference);
}

#[test]
fn enough_room_is_not_waited_for() {
    let test = "enough_room_is_not_waited_for";
    let Some(mut bench) = ready(test).then(|| Bench::new("noise.mkv", NOISE)).flatten() else { return };
    let free = bench.again();
    let bytes = free.done().output_bytes;
    let Some(disk) = SmallDisk::mount(2 * bytes + (1 << 20)) else { return };
    bench.order.job_dir = disk.path().join("film.job");
    bench.order.target_dir = disk.path().to_owned();
    bench.done();
    bench.same_as(&free.bytes());
    assert!(!bench.log().contains("waiting"), "{}", bench.log());
}
