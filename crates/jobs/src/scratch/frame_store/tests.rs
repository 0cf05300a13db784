//! Frames across crashes, damage and full RAM disks.

use std::process::Command;

use upscaled_core::test_util::small_disk::SmallDisk;

use super::*;

fn spec(chroma: Chroma, depth: u8) -> StoreSpec {
    StoreSpec {
        batch: 12,
        start: 30,
        length: 4,
        format: PixelFormat { chroma, depth },
        width: 35,
        height: 17,
        rate: Rational::new(24000, 1001),
        chroma_location: 1,
        key: "plan".into(),
    }
}

fn frame(spec: &StoreSpec, n: usize) -> Frame {
    let mut frame = Frame::new(spec.format, spec.width, spec.height);
    let step = spec.format.sample_bytes();
    for (i, sample) in frame.data.chunks_mut(step).enumerate() {
        sample[0] = (i * 7 + n * 31) as u8;
        if let Some(high) = sample.get_mut(1) {
            *high = (i % 4) as u8;
        }
    }
    frame
}

const ALL: [(Chroma, u8); 6] = [
    (Chroma::C420, 8),
    (Chroma::C422, 8),
    (Chroma::C444, 8),
    (Chroma::C420, 10),
    (Chroma::C422, 10),
    (Chroma::C444, 10),
];

#[test]
fn frames_come_back_also_after_a_crash() {
    for (chroma, depth) in ALL {
        let dir = tempfile::tempdir().unwrap();
        let spec = spec(chroma, depth);
        let store = FrameStore::open_in(dir.path(), &spec).unwrap();
        assert_eq!((store.have(), store.get(0).unwrap()), (vec![false; 4], None));
        for n in [2, 0] {
            store.put(n, &frame(&spec, n)).unwrap();
        }
        assert_eq!(store.get(2).unwrap().unwrap(), frame(&spec, 2));
        drop(store);
        let store = FrameStore::open_in(dir.path(), &spec).unwrap();
        assert_eq!(store.have(), [true, false, true, false]);
        assert_eq!(store.get(0).unwrap().unwrap(), frame(&spec, 0));
        assert_eq!((store.get(1).unwrap(), store.get(4).unwrap(), store.get(99).unwrap()), (None, None, None));
        assert!(store.put(4, &frame(&spec, 4)).is_err());
        store.remove().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn the_whole_file_is_a_y4m() {
    let has = |tool: &str| Command::new(tool).arg("-version").output().is_ok();
    if !has("ffprobe") || !has("ffmpeg") {
        eprintln!("skipped: ffprobe and ffmpeg are not installed");
        return;
    }
    for (chroma, depth) in ALL {
        for location in [0, 1, 2, 3] {
            let dir = tempfile::tempdir().unwrap();
            let spec = StoreSpec { chroma_location: location, ..spec(chroma, depth) };
            let mut store = FrameStore::open_in(dir.path(), &spec).unwrap();
            let frames = 3;
            (0..frames).for_each(|n| store.put(n, &frame(&spec, n)).unwrap());
            store.cut(frames).unwrap();
            let path = store.path().to_str().unwrap();
            let entries = "stream=width,height,pix_fmt,r_frame_rate,nb_read_frames,chroma_location";
            let args = ["-v", "error", "-count_frames", "-show_entries", entries, "-of", "csv=p=0", path];
            let out = Command::new("ffprobe").args(args).output().unwrap();
            let line = String::from_utf8_lossy(&out.stdout).trim().to_string();
            let expected = format!("35,17,{}", spec.format.ffmpeg_name());
            assert!(line.starts_with(&expected) && line.ends_with(",24000/1001,3"), "{line} {expected}");
            assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
            let args = ["-v", "error", "-i", path, "-f", "rawvideo", "-"];
            let raw = Command::new("ffmpeg").args(args).output().unwrap().stdout;
            let expected: Vec<u8> = (0..frames).flat_map(|n| frame(&spec, n).data).collect();
            assert!(raw == expected, "{line}: other pixels");
        }
    }
}

#[test]
fn headers_keep_to_the_limits() {
    let spec = StoreSpec {
        batch: u64::MAX,
        width: 65535,
        height: 65535,
        rate: Rational::new(i32::MAX, i32::MAX),
        ..spec(Chroma::C420, 8)
    };
    assert!(spec.header().len() < 128, "{}", spec.header());
    assert_eq!(mark_text(u64::MAX).len(), MARK);
    let unknown = StoreSpec { rate: Rational::new(0, 0), ..spec.clone() };
    assert!(unknown.header().contains(" F25:1 "));
}

#[test]
fn frames_of_another_plan_are_never_used() {
    let base = spec(Chroma::C420, 8);
    for other in [
        StoreSpec { key: "other".into(), ..base.clone() },
        StoreSpec { start: 31, ..base.clone() },
        StoreSpec { length: 5, ..base.clone() },
        StoreSpec { width: 36, ..base.clone() },
        StoreSpec { format: PixelFormat { chroma: Chroma::C420, depth: 10 }, ..base.clone() },
    ] {
        let dir = tempfile::tempdir().unwrap();
        let store = FrameStore::open_in(dir.path(), &base).unwrap();
        (0..4).for_each(|n| store.put(n, &frame(&base, n)).unwrap());
        drop(store);
        let store = FrameStore::open_in(dir.path(), &other).unwrap();
        assert!(!store.have().contains(&true), "{other:?}");
        store.put(0, &frame(&other, 0)).unwrap();
        assert!(store.put(0, &Frame::new(base.format, 1, 1)).is_err());
    }
}

#[test]
fn damage_costs_its_frame() {
    type Damage = fn(&mut Vec<u8>, usize, usize);
    let cases: [(&str, Damage, [bool; 4]); 9] = [
        ("pixel flipped", |b, h, s| b[h + s + 100] ^= 1, [true, false, true, true]),
        ("mark flipped", |b, h, s| b[h + s + 8] ^= 1, [true, false, true, true]),
        ("mark in capitals", |b, h, s| b[h + s + 7..h + s + 23].make_ascii_uppercase(), [true, false, true, true]),
        ("mark zeroed", |b, h, s| b[h + s..h + s + MARK].fill(0), [true, false, true, true]),
        ("last slot cut off", |b, h, s| b.truncate(h + 3 * s), [true, true, true, false]),
        ("cut in a slot", |b, h, s| b.truncate(h + 3 * s + 5), [false; 4]),
        ("too long", |b, _, s| b.extend(vec![0; s]), [false; 4]),
        ("empty", |b, _, _| b.clear(), [false; 4]),
        ("header flipped", |b, _, _| b[11] ^= 1, [false; 4]),
    ];
    for (name, damage, left) in cases {
        let dir = tempfile::tempdir().unwrap();
        // Hashes with letters in them, so that capitals differ.
        let spec = spec(Chroma::C444, 8);
        let store = FrameStore::open_in(dir.path(), &spec).unwrap();
        (0..4).for_each(|n| store.put(n, &frame(&spec, n)).unwrap());
        let (header, slot, path) = (store.header as usize, store.slot() as usize, store.path().to_path_buf());
        drop(store);
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes, header, slot);
        std::fs::write(&path, bytes).unwrap();
        let store = FrameStore::open_in(dir.path(), &spec).unwrap();
        assert_eq!(store.have(), left, "{name}");
        for (n, is_left) in left.into_iter().enumerate() {
            assert_eq!(store.get(n).unwrap().is_some(), is_left, "{name} {n}");
            store.put(n, &frame(&spec, n)).unwrap();
        }
        assert_eq!(store.have(), [true; 4]);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), store.bytes(), "{name}");
    }
}

#[test]
fn damage_while_open_is_seen_when_read() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(Chroma::C420, 8);
    let store = FrameStore::open_in(dir.path(), &spec).unwrap();
    (0..2).for_each(|n| store.put(n, &frame(&spec, n)).unwrap());
    let file = File::options().write(true).open(store.path()).unwrap();
    file.write_all_at(b"x", store.offset(1) + 200).unwrap();
    assert!(store.get(0).unwrap().is_some() && store.get(1).unwrap().is_none());
    assert_eq!(store.have(), [true, false, false, false]);
    file.set_len(10).unwrap();
    assert!(store.get(0).unwrap().is_none());
    store.forget(0).unwrap();
}

#[test]
fn strangers_under_the_name_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(Chroma::C420, 8);
    let path = dir.path().join("batch-000012.y4m");
    let outside = dir.path().join("outside");
    std::fs::write(&outside, b"precious").unwrap();
    std::os::unix::fs::symlink(&outside, &path).unwrap();
    drop(FrameStore::open_in(dir.path(), &spec).unwrap());
    assert_eq!(std::fs::read(&outside).unwrap(), b"precious");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir_all(path.join("x")).unwrap();
    drop(FrameStore::open_in(dir.path(), &spec).unwrap());
    assert!(path.is_file());
}

#[test]
fn a_crash_between_pixels_and_mark_leaves_the_frame_undone() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(Chroma::C420, 8);
    let store = FrameStore::open_in(dir.path(), &spec).unwrap();
    let scope = failpoint::scoped("frame_store.mark=eio:once");
    assert!(store.put(1, &frame(&spec, 1)).is_err());
    drop(scope);
    assert!(!store.have()[1]);
    drop(store);
    assert!(!FrameStore::open_in(dir.path(), &spec).unwrap().have()[1]);
}

#[test]
fn a_full_ram_disk_is_told_at_once_and_takes_nothing() {
    let Some(disk) = SmallDisk::mount(1 << 20) else { return };
    let spec = StoreSpec { width: 640, height: 480, length: 4, ..spec(Chroma::C420, 8) };
    let error = FrameStore::open_in(disk.path(), &spec).unwrap_err();
    assert_eq!(Fault::of(&error), Fault::NoRamDisk);
    assert_eq!(std::fs::read_dir(disk.path()).unwrap().count(), 0);
    let small = StoreSpec { length: 2, ..spec.clone() };
    let store = FrameStore::open_in(disk.path(), &small).unwrap();
    disk.fill_but(0);
    // Room was taken beforehand: a full disk cannot hurt any more.
    (0..2).for_each(|n| store.put(n, &frame(&small, n)).unwrap());
    assert_eq!(store.get(1).unwrap().unwrap(), frame(&small, 1));
}

#[test]
fn threads_store_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let spec = StoreSpec { length: 32, ..spec(Chroma::C420, 8) };
    let store = FrameStore::open_in(dir.path(), &spec).unwrap();
    std::thread::scope(|scope| {
        for t in 0..4 {
            let (store, spec) = (&store, &spec);
            scope.spawn(move || (t..32).step_by(4).for_each(|n| store.put(n, &frame(spec, n)).unwrap()));
        }
    });
    assert!((0..32).all(|n| store.get(n).unwrap().unwrap() == frame(&spec, n)));
}

#[test]
fn nonsense_sizes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let base = spec(Chroma::C444, 10);
    for bad in [
        StoreSpec { width: 0, ..base.clone() },
        StoreSpec { length: 0, ..base.clone() },
        StoreSpec { length: u64::MAX, ..base.clone() },
        StoreSpec { width: u32::MAX, height: u32::MAX / 8, ..base.clone() },
    ] {
        assert!(FrameStore::open_in(dir.path(), &bad).is_err());
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
