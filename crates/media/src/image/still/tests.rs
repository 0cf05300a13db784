//! Tests of still pictures: every kind there and back, depth, alpha, orientation, limits.

use std::io::{Cursor, Write};

use image::ImageEncoder;
use image::codecs::jpeg::JpegEncoder;

use super::*;
use image::{ImageBuffer, ImageFormat, ImageReader, Luma, Rgb, Rgba};
use std::fs::File;

fn noise(count: usize, seed: u64) -> Vec<u64> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            state >> 33
        })
        .collect()
}

fn write_with(encoder: impl ImageEncoder, picture: &DynamicImage) {
    picture.write_with_encoder(encoder).unwrap();
}

fn file(name: &str, fill: impl FnOnce(&mut File)) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fill(&mut File::create(&path).unwrap());
    (folder, path)
}

fn rgb8(width: u32, height: u32) -> DynamicImage {
    let bytes = noise((width * height * 3) as usize, 1).iter().map(|v| *v as u8).collect();
    ImageBuffer::<Rgb<u8>, _>::from_raw(width, height, bytes).unwrap().into()
}

fn rgba16(width: u32, height: u32) -> DynamicImage {
    let samples = noise((width * height * 4) as usize, 2).iter().map(|v| *v as u16).collect();
    ImageBuffer::<Rgba<u16>, _>::from_raw(width, height, samples).unwrap().into()
}

#[test]
fn there_and_back_is_exact() {
    let gray: DynamicImage = ImageBuffer::<Luma<u8>, _>::from_fn(5, 4, |x, y| Luma([(x * 50 + y) as u8])).into();
    for (name, picture, depth) in [
        ("a.png", rgb8(7, 5), 8),
        ("b.png", rgba16(9, 3), 16),
        ("c.png", gray.clone(), 8),
        ("d.tiff", rgb8(7, 5), 8),
        ("e.tiff", rgba16(9, 3), 16),
        ("f.webp", rgb8(1, 1), 8),
        ("g.webp", DynamicImage::from(rgba16(8, 8).to_rgba8()), 8),
    ] {
        let (folder, path) = file(name, |_| ());
        picture.save(&path).unwrap();
        let still = read(&path).unwrap();
        assert_eq!((still.width, still.height, still.depth), (picture.width(), picture.height(), depth), "{name}");
        assert_eq!(still.alpha.is_some(), picture.color().has_alpha(), "{name}");
        assert_eq!(still.gray, name == "c.png");
        let again = folder.path().join("again");
        assert_eq!(still.write(&again).unwrap(), Vec::<String>::new(), "{name}");
        let back = ImageReader::open(&again).unwrap().with_guessed_format().unwrap();
        let format = back.format().map(|f| f.extensions_str()[0].replace("jpg", "jpeg"));
        assert_eq!(format.as_deref(), Some(still.kind.name()));
        assert_eq!(back.decode().unwrap(), picture, "{name}");
        let info = crate::probe::probe(&path).unwrap();
        assert!(info.still && (info.video.width, info.video.height) == (picture.width(), picture.height()));
    }
}

/// Photos beside the repository; skipped, with the reason told, without them.
#[test]
fn photos_come_back_exactly() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/images/eval/set14");
    let Ok(photos) = std::fs::read_dir(&folder) else {
        eprintln!("skipped: no photos in {}", folder.display());
        return;
    };
    for photo in photos.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "png")) {
        let (bytes, losses) = read(&photo).unwrap().encode().unwrap();
        assert!(losses.is_empty(), "{losses:?}");
        assert_eq!(image::load_from_memory(&bytes).unwrap(), image::open(&photo).unwrap(), "{}", photo.display());
    }
}

#[test]
fn every_colour_survives_the_planes() {
    for deep in [false, true] {
        let max = if deep { 65535.0 } else { 255.0 };
        for chunk in noise(300_000, 3).chunks_exact(3) {
            let rgb = [0, 1, 2].map(|i| (chunk[i] % (max as u64 + 1)) as f32);
            let back = to_rgb(to_ycc(rgb.map(|s| s / max))).map(|s| (s * max).round());
            assert_eq!(back, rgb);
        }
    }
}

#[test]
fn palettes_are_colours() {
    let (_folder, path) = file("p.png", |out| {
        let mut encoder = png_bytes(4, 1, 3, &[0, 0, 1, 2, 1]);
        out.write_all(&std::mem::take(&mut encoder)).unwrap();
    });
    let still = read(&path).unwrap();
    assert_eq!((still.width, still.depth, still.gray), (4, 8, false));
    let rgb: Vec<_> =
        (0..4).map(|i| to_rgb([still.luma[i], still.cb[i], still.cr[i]]).map(|s| (s * 255.0).round() as u8)).collect();
    assert_eq!(rgb, [[255, 0, 0], [0, 255, 0], [1, 2, 3], [0, 255, 0]]);
}

/// A palette PNG made by hand: signature, header, palette, stored (uncompressed) data.
fn png_bytes(width: u32, height: u32, colour_type: u8, rows: &[u8]) -> Vec<u8> {
    let mut out = vec![0x89, b'P', b'N', b'G', 13, 10, 26, 10];
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    header.extend([8, colour_type, 0, 0, 0]);
    chunk(&mut out, b"IHDR", &header);
    chunk(&mut out, b"PLTE", &[255, 0, 0, 0, 255, 0, 1, 2, 3]);
    let (mut a, mut b) = (1u32, 0u32);
    for byte in rows {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    let length = rows.len() as u16;
    let mut data = vec![0x78, 1, 1];
    data.extend(length.to_le_bytes());
    data.extend((!length).to_le_bytes());
    data.extend(rows);
    data.extend((b << 16 | a).to_be_bytes());
    chunk(&mut out, b"IDAT", &data);
    chunk(&mut out, b"IEND", &[]);
    out
}

fn chunk(out: &mut Vec<u8>, name: &[u8; 4], data: &[u8]) {
    out.extend((data.len() as u32).to_be_bytes());
    let start = out.len();
    out.extend(name);
    out.extend(data);
    let mut crc = !0u32;
    for byte in &out[start..] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    out.extend((!crc).to_be_bytes());
}

/// TIFF-structured EXIF with the orientation alone.
fn exif(orientation: u8) -> Vec<u8> {
    let mut out = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    out.extend([orientation, 0, 0, 0, 0, 0, 0]);
    out
}

#[test]
fn orientation_is_applied_once() {
    let picture: DynamicImage =
        ImageBuffer::<Rgb<u8>, _>::from_fn(16, 8, |x, _| Rgb(if x < 8 { [250, 10, 10] } else { [10, 10, 250] })).into();
    let (folder, path) = file("o.jpg", |out| {
        let mut encoder = JpegEncoder::new_with_quality(out, 95);
        encoder.set_exif_metadata(exif(6)).unwrap();
        encoder.set_icc_profile(b"a colour profile".to_vec()).unwrap();
        write_with(encoder, &picture);
    });
    let info = crate::probe::probe(&path).unwrap();
    assert_eq!((info.video.width, info.video.height), (8, 16));
    let still = read(&path).unwrap();
    // Turned clockwise, the red left half is on top.
    assert_eq!((still.width, still.height), (8, 16));
    assert!(still.cr[0] > 0.8 && still.cb[8 * 15] > 0.8);
    assert_eq!(still.icc.as_deref(), Some(&b"a colour profile"[..]));
    let again = folder.path().join("again.jpg");
    still.write(&again).unwrap();
    let second = read(&again).unwrap();
    assert_eq!((second.width, second.height), (8, 16));
    assert!(second.exif.is_some() && second.icc == still.icc);
    assert!(second.luma.iter().zip(&still.luma).all(|(a, b)| (a - b).abs() < 0.05));
}

#[test]
fn broken_large_and_moving_pictures_are_refused() {
    let fault = |path: &Path| Fault::of(&read(path).map(|_| ()).unwrap_err());
    let (_a, cut) = file("cut.png", |out| out.write_all(&png_bytes(4, 1, 3, &[0, 0, 1, 2, 1])[..60]).unwrap());
    assert_eq!(fault(&cut), Fault::BadInput);
    let (_b, large) = file("large.png", |out| out.write_all(&png_bytes(16000, 16000, 2, &[0])).unwrap());
    assert_eq!(fault(&large), Fault::Unsupported);
    let (_c, wide) = file("wide.png", |out| out.write_all(&png_bytes(70000, 1, 2, &[0])).unwrap());
    assert_eq!(fault(&wide), Fault::Unsupported);
    let (_d, moving) =
        file("m.webp", |out| out.write_all(b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\x01\0\0\x01\0\0").unwrap());
    assert_eq!(Fault::of(&kind_of(&moving).unwrap_err()), Fault::Unsupported);
    let (_e, text) = file("t.png", |out| out.write_all(b"no picture").unwrap());
    assert_eq!(kind_of(&text).unwrap(), None);
    let mut animated = png_bytes(4, 1, 3, &[0, 0, 1, 2, 1]);
    let mut control = Vec::new();
    chunk(&mut control, b"acTL", &[0, 0, 0, 2, 0, 0, 0, 0]);
    animated.splice(33..33, control);
    let (_f, apng) = file("a.png", |out| out.write_all(&animated).unwrap());
    assert_eq!(kind_of(&apng).unwrap(), None);
}

#[test]
fn what_a_kind_cannot_hold_is_named() {
    let mut still = split(rgba16(4, 4), StillKind::Jpeg);
    assert_eq!(still.encode().unwrap().1.len(), 2);
    still.kind = StillKind::Png;
    assert_eq!(still.encode().unwrap().1, Vec::<String>::new());
    still.luma.pop();
    assert!(still.encode().is_err());
}

#[test]
fn pictures_in_memory_are_of_more_kinds() {
    let pack = |picture: &DynamicImage, format: ImageFormat| {
        let mut out = Cursor::new(Vec::new());
        picture.write_to(&mut out, format).unwrap();
        out.into_inner()
    };
    let picture = rgb8(7, 5);
    for format in [ImageFormat::Bmp, ImageFormat::Png, ImageFormat::Tiff, ImageFormat::WebP] {
        let bytes = pack(&picture, format);
        let opened = Opened::new(&bytes, "p").unwrap();
        assert_eq!((opened.size(), opened.depth(), opened.fits()), ((7, 5), 8, true));
        let still = opened.decode().unwrap();
        let (png, losses) = Still { kind: StillKind::Png, ..still }.encode().unwrap();
        assert!(losses.is_empty());
        assert_eq!(image::load_from_memory(&png).unwrap(), picture, "{format:?}");
    }
    // A GIF without transparency is written without alpha; one with it keeps it.
    let plain = ImageBuffer::<Rgba<u8>, _>::from_pixel(4, 4, Rgba([200, 10, 10, 255]));
    let mut holed = plain.clone();
    holed.put_pixel(1, 1, Rgba([0, 0, 0, 0]));
    for (picture, alpha) in [(plain, false), (holed, true)] {
        let bytes = pack(&picture.into(), ImageFormat::Gif);
        let still = Opened::new(&bytes, "g").unwrap().decode().unwrap();
        assert_eq!((still.kind, still.alpha.is_some()), (StillKind::Png, alpha));
    }
    let error = Opened::new(b"GIF88a no picture", "g").map(|_| ()).unwrap_err();
    assert_eq!((Fault::of(&error), error.to_string().starts_with("g is no PNG")), (Fault::BadInput, true));
}

#[test]
fn a_bomb_is_known_by_its_header() {
    let bytes = png_bytes(60_000, 60_000, 2, &[0]);
    let opened = Opened::new(&bytes, "bomb").unwrap();
    assert_eq!((opened.size(), opened.fits()), ((60_000, 60_000), false));
    let error = opened.decode().unwrap_err();
    assert_eq!(Fault::of(&error), Fault::Unsupported);
    assert!(error.to_string().contains("bomb is 60000x60000"), "{error}");
}

#[test]
fn a_profile_of_inks_is_no_profile_of_colours() {
    let picture = rgb8(8, 8);
    for (space, kept) in [(b"CMYK", false), (b"RGB ", true)] {
        let mut profile = vec![0u8; 128];
        profile[16..20].copy_from_slice(space);
        let (_folder, path) = file("i.jpg", |out| {
            let mut encoder = JpegEncoder::new_with_quality(out, 95);
            encoder.set_icc_profile(profile.clone()).unwrap();
            write_with(encoder, &picture);
        });
        assert_eq!(read(&path).unwrap().icc.is_some(), kept);
    }
}
