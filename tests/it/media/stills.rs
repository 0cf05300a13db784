//! Pictures with several pages or frames: every page of a TIFF is kept, animations become videos, and what else a file
//! holds is told or refused.

use std::path::Path;

use image::{DynamicImage, ImageFormat, Luma, Rgb};

use crate::common::{Root, ready};
use crate::media::kit::{Run, at, ffmpeg, output_of, run};

/// A TIFF of gray pages: each one's side, its kind (`NewSubfileType`) and its code value. `big`: BigTIFF.
fn tiff(pages: &[(u32, u32, u8)], big: bool) -> Vec<u8> {
    let number = |value: u64| if big { value.to_le_bytes().to_vec() } else { (value as u32).to_le_bytes().to_vec() };
    let mut made = if big { b"II\x2b\0\x08\0\0\0".to_vec() } else { b"II*\0".to_vec() };
    let mut link = made.len();
    made.extend(number(0));
    for &(side, kind, value) in pages {
        let at = made.len() as u64;
        // A ramp, so that turned and mixed pages would show
        made.extend((0..side * side).map(|i| value.wrapping_add((i % side) as u8)));
        let directory = made.len();
        made[link..link + number(0).len()].copy_from_slice(&number(directory as u64));
        let bytes = u64::from(side * side);
        let entries = [(254, u64::from(kind)), (256, u64::from(side)), (257, u64::from(side)), (258, 8), (259, 1)];
        let more = [(262, 1), (273, at), (277, 1), (278, u64::from(side)), (279, bytes)];
        let entries: Vec<(u16, u64)> = entries.into_iter().chain(more).collect();
        if big {
            made.extend((entries.len() as u64).to_le_bytes())
        } else {
            made.extend((entries.len() as u16).to_le_bytes())
        }
        for (tag, value) in entries {
            made.extend(tag.to_le_bytes());
            made.extend(if big { 16u16 } else { 4 }.to_le_bytes());
            made.extend(number(1));
            made.extend(number(value));
        }
        link = made.len();
        made.extend(number(0));
    }
    made
}

/// Sizes of all pages, and the gray of each one's first pixel, as FFmpeg has them: each page is made the first one.
fn pages(root: &Root, file: &Path) -> Vec<(usize, u8)> {
    let bytes = std::fs::read(file).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(bytes[..4], *b"II*\0");
    let mut next = word(4);
    let mut found = Vec::new();
    while next != 0 {
        let mut one = bytes.clone();
        one[4..8].copy_from_slice(&next.to_le_bytes());
        std::fs::write(root.path().join("one.tiff"), one).unwrap();
        let raw = output_of(root, "ffmpeg", &["-i", "one.tiff", "-f", "rawvideo", "-pix_fmt", "gray", "-"]);
        found.push(((raw.len() as f64).sqrt() as usize, raw[0]));
        let count = u16::from_le_bytes(bytes[next as usize..next as usize + 2].try_into().unwrap());
        next = word(next as usize + 2 + 12 * usize::from(count));
    }
    found
}

fn refused(run: Run, words: &str) {
    assert_ne!(run.code, 0, "{}", run.log);
    assert!(run.log.contains(words), "{}", run.log);
}

/// Nothing was told to be lost.
fn whole(log: &str) {
    assert!(!log.contains("lost:"), "{log}");
}

#[test]
fn every_page_of_a_tiff_is_made_larger() {
    if !ready("every_page_of_a_tiff_is_made_larger") {
        return;
    }
    let root = Root::new("");
    let (source, target) = (at(&root, "in.tiff"), at(&root, "out.tiff"));
    for big in [false, true] {
        // A smaller copy and pages of other sizes among them
        let list = [(16, 0, 10), (8, 1, 99), (16, 2, 70), (24, 2, 130), (16, 2, 190)];
        std::fs::write(&source, tiff(&list, big)).unwrap();
        let log = run(&root, &source, &target, &[]).done();
        whole(&log);
        let found = pages(&root, &target);
        let sides: Vec<usize> = found.iter().map(|(side, _)| *side).collect();
        assert_eq!(sides, [32, 32, 48, 32], "big: {big}");
        for ((_, gray), want) in found.iter().zip([10u8, 70, 130, 190]) {
            assert!(gray.abs_diff(want) < 6, "{found:?}");
        }
        std::fs::remove_file(&target).unwrap();
    }
    // In input/ the same, by the daemon
    std::fs::write(root.input("scan.tif"), tiff(&[(16, 2, 10), (16, 2, 200)], false)).unwrap();
    assert_eq!(root.drain(), 0, "{}", root.console());
    assert_eq!(pages(&root, &root.output("scan_upscaled.tif")).len(), 2);
    // A page that is damaged fails the job: half of a file is not made.
    let mut broken = tiff(&[(16, 2, 10), (16, 2, 200)], false);
    let directory = u32::from_le_bytes(broken[4..8].try_into().unwrap()) as usize;
    let second = u32::from_le_bytes(broken[directory + 122..directory + 126].try_into().unwrap()) as usize;
    broken[second + 2 + 12 + 8..second + 2 + 12 + 12].copy_from_slice(&[0; 4]);
    std::fs::write(&source, broken).unwrap();
    refused(run(&root, &source, &target, &[]), "page 2 of");
    assert!(!target.exists() && root.leftovers().is_empty(), "{:?}", root.leftovers());
}

#[test]
fn further_pictures_of_a_jpeg_are_told() {
    if !ready("further_pictures_of_a_jpeg_are_told") {
        return;
    }
    let root = Root::new("");
    let mut jpeg = std::io::Cursor::new(Vec::new());
    let picture =
        DynamicImage::from(image::ImageBuffer::from_fn(24, 16, |x, y| Rgb([(x * 9) as u8, (y * 9) as u8, 80])));
    picture.write_to(&mut jpeg, ImageFormat::Jpeg).unwrap();
    let jpeg = jpeg.into_inner();
    // The index of a stereo pair, or of a picture with a smaller copy, behind the first marker
    let with_index = |kind: [u8; 4]| {
        let mut index = b"MPF\0MM\0*\0\0\0\x08\0\x01\xb0\x02\0\x07\0\0\0\x20\0\0\0\x1a\0\0\0\0\0\x03\0\0".to_vec();
        index.extend([0; 12]);
        index.extend(kind);
        index.extend([0; 12]);
        let head = [&[0xff, 0xd8, 0xff, 0xe2][..], &(index.len() as u16 + 2).to_be_bytes(), &index].concat();
        [&head[..], &jpeg[2..], &jpeg].concat()
    };
    let motion = [&jpeg[..], b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", &[0; 64]].concat();
    for (name, bytes, words) in [
        ("stereo", with_index([0, 2, 0, 2]), Some("1 further picture of the file (stereo")),
        ("motion", motion, Some("the video of a motion photo")),
        ("two", [&jpeg[..], &jpeg].concat(), Some("what follows the first picture")),
        ("preview", with_index([0, 1, 0, 1]), None),
        ("plain", jpeg.clone(), None),
    ] {
        let (source, target) = (at(&root, &format!("{name}.jpg")), at(&root, &format!("{name}2.jpg")));
        std::fs::write(&source, bytes).unwrap();
        let log = run(&root, &source, &target, &[]).done();
        assert_eq!(image::image_dimensions(&target).unwrap(), (48, 32));
        match words {
            None => whole(&log),
            Some(words) => {
                assert!(log.contains(&format!("lost: {words}")), "{name}: {log}");
            }
        }
    }
}

#[test]
fn animations_become_videos() {
    if !ready("animations_become_videos") {
        return;
    }
    let root = Root::new("");
    let clip = ["-f", "lavfi", "-i", "testsrc2=s=48x32:r=10:d=0.7"];
    for (name, more) in [("a.png", &["-f", "apng", "-plays", "0"][..]), ("a.gif", &[])] {
        ffmpeg(&root, &[&clip[..], more, &[name]].concat());
        let target = at(&root, &format!("{name}.mkv"));
        let log = run(&root, &at(&root, name), &target, &[]).done();
        assert!(log.contains("the repeating of the animation"), "{log}");
        let probed = ["-count_frames", "-show_entries", "stream=width,nb_read_frames", "-of", "csv=p=0"];
        let found = output_of(&root, "ffprobe", &[&probed[..], &[target.to_str().unwrap()]].concat());
        assert_eq!(String::from_utf8_lossy(&found).trim(), "96,7", "{log}");
    }
    // An animation of one frame is a picture and stays one.
    ffmpeg(&root, &["-f", "lavfi", "-i", "testsrc2=s=48x32:r=10:d=0.1", "-f", "apng", "one.png"]);
    run(&root, &at(&root, "one.png"), &at(&root, "one2.png"), &[]).done();
    assert_eq!(image::image_dimensions(at(&root, "one2.png")).unwrap(), (96, 64));
}

#[test]
fn what_cannot_be_kept_whole_is_refused_with_words() {
    if !ready("what_cannot_be_kept_whole_is_refused_with_words") {
        return;
    }
    let root = Root::new("");
    let mut png = std::io::Cursor::new(Vec::new());
    DynamicImage::from(image::ImageBuffer::from_pixel(16, 16, Luma([90u8])))
        .to_rgba8()
        .write_to(&mut png, ImageFormat::Png)
        .unwrap();
    let png = png.into_inner();
    // Two sizes of an icon, both of them PNG
    let mut icon = b"\0\0\x01\0\x02\0".to_vec();
    for at in [38, 38 + png.len() as u32] {
        icon.extend([16, 16, 0, 0, 1, 0, 32, 0]);
        icon.extend((png.len() as u32).to_le_bytes());
        icon.extend(at.to_le_bytes());
    }
    icon.extend([&png[..], &png].concat());
    let webp = b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\x01\0\0\x01\0\0".to_vec();
    // What a camera writes: a preview as the page, the raw data inside it
    let mut raw = tiff(&[(16, 1, 10), (16, 0, 20)], false);
    let first = u32::from_le_bytes(raw[4..8].try_into().unwrap()) as usize;
    let second = raw[first + 122..first + 126].to_vec();
    raw[first + 122..first + 126].fill(0);
    let last = first + 2 + 9 * 12;
    // The bytes of its one strip stand in the file's length too: that entry becomes the link.
    raw[last..last + 2].copy_from_slice(&330u16.to_le_bytes());
    raw[last + 8..last + 12].copy_from_slice(&second);
    for (name, bytes, words) in [
        ("icon.ico", icon, "is an icon that holds 2 pictures"),
        ("moving.webp", webp, "is an animated WebP"),
        ("photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".to_vec(), "HEIF or AVIF picture"),
        ("photo.avif", b"\0\0\0\x18ftypavif\0\0\0\0mif1avif".to_vec(), "HEIF or AVIF picture"),
        ("raw.tif", raw, "is the raw file of a camera"),
    ] {
        let source = root.input(name);
        std::fs::write(&source, bytes).unwrap();
        let kind = if name == "raw.tif" { "out.tif" } else { "out.mkv" };
        refused(run(&root, &source, &at(&root, kind), &[]), words);
    }
    assert_ne!(root.drain(), 0);
    for name in ["icon.ico", "moving.webp", "photo.heic", "raw.tif"] {
        let status = root.console();
        assert!(status.contains(name), "{status}");
    }
    let made = std::fs::read_dir(root.path().join("output")).unwrap().flatten();
    let made: Vec<_> = made.map(|e| e.file_name()).filter(|n| n.to_string_lossy().contains("_upscaled")).collect();
    assert!(made.is_empty(), "{made:?}");
}
