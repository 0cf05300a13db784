//! Pictures of every kind: their samples, their turning, their profiles, and headers that claim too much.

use std::io::Cursor;

use image::codecs::{gif::GifEncoder, jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ExtendedColorType, Frame, ImageDecoder, ImageEncoder, ImageFormat};
use image::{Rgba, RgbaImage};

use crate::common::{peak, ready};
use crate::worker::answers::bomb;
use crate::worker::kit::{Answer, Part, Server, chunk, packed, picture, png};

/// A profile that nobody looks into.
fn profile() -> Vec<u8> {
    let mut profile = vec![7u8; 300];
    profile[16..20].copy_from_slice(b"RGB ");
    profile
}

fn profile_of(answer: &Answer) -> Option<Vec<u8>> {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let mut decoder = image::codecs::png::PngDecoder::new(Cursor::new(&answer.body)).unwrap();
    assert_eq!(decoder.orientation().unwrap(), Orientation::NoTransforms);
    decoder.icc_profile().unwrap()
}

/// Without colour on its left half and without cover on its right.
fn half(width: u32, height: u32) -> RgbaImage {
    RgbaImage::from_fn(width, height, |x, y| {
        Rgba([(x * 8) as u8, (y * 9) as u8, 77, if 2 * x < width { 255 } else { 0 }])
    })
}

#[test]
fn samples_stay_what_they_were() {
    if !ready("samples_stay_what_they_were") {
        return;
    }
    let server = Server::start(&[]);
    let (rgb, rgba) = (picture(30, 20), DynamicImage::from(half(30, 20)));
    for (source, format, want) in [
        (rgb.clone(), ImageFormat::Png, ColorType::Rgb8),
        (rgb.to_luma8().into(), ImageFormat::Png, ColorType::L8),
        (rgb.to_luma16().into(), ImageFormat::Png, ColorType::L16),
        (rgba.to_luma_alpha8().into(), ImageFormat::Png, ColorType::La8),
        (rgba.to_rgba16().into(), ImageFormat::Png, ColorType::Rgba16),
        (rgb.to_luma8().into(), ImageFormat::Jpeg, ColorType::L8),
        (rgba.clone(), ImageFormat::WebP, ColorType::Rgba8),
        (rgba.clone(), ImageFormat::Tiff, ColorType::Rgba8),
        (rgb.to_rgb16().into(), ImageFormat::Tiff, ColorType::Rgb16),
        (rgb.clone(), ImageFormat::Bmp, ColorType::Rgb8),
        (rgba.clone(), ImageFormat::Bmp, ColorType::Rgba8),
    ] {
        let kind = source.color();
        let answer = server.upscale("?upscale=2", &packed(&source, format));
        assert_eq!(answer.header("x-output-size"), Some("60x40"), "{format:?} {kind:?}");
        let made = answer.picture();
        assert_eq!((made.width(), made.height(), made.color()), (60, 40, want), "{format:?} {kind:?}");
        if want.has_alpha() {
            let alpha = |x| made.to_rgba8().get_pixel(x, 20).0[3];
            assert_eq!((alpha(5), alpha(55)), (255, 0), "{format:?} {kind:?}");
        }
    }
    // A palette with a colour that covers nothing, and one bit a sample
    for (bits, kind, palette, row, want) in [
        (2, 3, &[255, 0, 0, 0, 255, 0, 0, 0, 255][..], 0b0001_1000, ColorType::Rgba8),
        (1, 0, &[][..], 0b1010_0000, ColorType::L8),
    ] {
        let mut bytes = vec![0x89, b'P', b'N', b'G', 13, 10, 26, 10];
        chunk(&mut bytes, b"IHDR", &[0, 0, 0, 4, 0, 0, 0, 1, bits, kind, 0, 0, 0]);
        if !palette.is_empty() {
            chunk(&mut bytes, b"PLTE", palette);
            chunk(&mut bytes, b"tRNS", &[255, 255, 0]);
        }
        // Stored, not deflated: one row of a filter byte and a byte of pixels, and the sum of both.
        let sum = [0, row + 2, 0, row + 1];
        chunk(&mut bytes, b"IDAT", &[&[0x78, 1, 1, 2, 0, 0xfd, 0xff, 0, row][..], &sum].concat());
        chunk(&mut bytes, b"IEND", &[]);
        let made = server.upscale("", &bytes).picture();
        assert_eq!((made.width(), made.height(), made.color()), (8, 2, want));
    }
    // Of a GIF the first picture
    let mut gif = Vec::new();
    let mut encoder = GifEncoder::new(&mut gif);
    for colour in [[250, 0, 0, 255], [0, 0, 250, 255]] {
        encoder.encode_frame(Frame::new(RgbaImage::from_pixel(20, 10, Rgba(colour)))).unwrap();
    }
    drop(encoder);
    let made = server.upscale("", &gif).picture();
    assert_eq!((made.color(), made.width()), (ColorType::Rgb8, 40));
    let middle = made.to_rgb8().get_pixel(20, 10).0;
    assert!(middle[0] > 230 && middle[2] < 20, "{middle:?}");
}

#[test]
fn pictures_are_turned_upright() {
    if !ready("pictures_are_turned_upright") {
        return;
    }
    let server = Server::start(&[]);
    for number in 1..=8u8 {
        let mut exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        exif.extend([number, 0, 0, 0, 0, 0, 0]);
        let mut jpeg = Vec::new();
        let mut encoder = JpegEncoder::new_with_quality(&mut jpeg, 90);
        encoder.set_exif_metadata(exif).unwrap();
        encoder.set_icc_profile(profile()).unwrap();
        picture(30, 20).write_with_encoder(encoder).unwrap();
        let answer = server.upscale("", &jpeg);
        // The same pixels as of a PNG that stands upright
        let mut upright = image::load_from_memory_with_format(&jpeg, ImageFormat::Jpeg).unwrap();
        upright.apply_orientation(Orientation::from_exif(number).unwrap());
        let size = if number < 5 { "60x40" } else { "40x60" };
        assert_eq!(answer.header("x-output-size"), Some(size), "orientation {number}");
        let same = server.upscale("", &packed(&upright, ImageFormat::Png)).picture();
        assert_eq!(answer.picture(), same, "orientation {number}");
        assert_eq!(profile_of(&answer), Some(profile()));
    }
}

#[test]
fn profiles_stay() {
    if !ready("profiles_stay") {
        return;
    }
    let server = Server::start(&[]);
    let pixels = picture(10, 10).to_rgb8();
    let mut files = [Vec::new(), Vec::new()];
    let [png, webp] = &mut files;
    let mut encoder = PngEncoder::new(png);
    encoder.set_icc_profile(profile()).unwrap();
    encoder.write_image(&pixels, 10, 10, ExtendedColorType::Rgb8).unwrap();
    let mut encoder = WebPEncoder::new_lossless(webp);
    encoder.set_icc_profile(profile()).unwrap();
    encoder.write_image(&pixels, 10, 10, ExtendedColorType::Rgb8).unwrap();
    for file in &files {
        assert_eq!(profile_of(&server.upscale("", file)), Some(profile()));
    }
}

#[test]
fn headers_that_claim_too_much() {
    if !ready("headers_that_claim_too_much") {
        return;
    }
    let server = Server::start(&[]);
    assert_eq!(server.upscale("", &png(64, 64)).status, 200);
    let before = peak(server.child.id());
    let rgb = picture(16, 16);
    // 60000x60000, or the most that a kind can say, written over the header of a good one.
    let mut bmp = packed(&rgb, ImageFormat::Bmp);
    bmp[18..26].copy_from_slice(&[0x60, 0xea, 0, 0, 0x60, 0xea, 0, 0]);
    let mut gif = packed(&rgb, ImageFormat::Gif);
    gif[6..10].copy_from_slice(&[0x60, 0xea, 0x60, 0xea]);
    let mut jpeg = packed(&rgb, ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|two| two == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xea, 0x60, 0xea, 0x60]);
    let mut webp = packed(&rgb, ImageFormat::WebP);
    let start = webp.windows(4).position(|four| four == *b"VP8L").unwrap() + 9;
    webp[start..start + 4].copy_from_slice(&(15_999u32 | 15_999 << 14).to_le_bytes());
    let mut tiff = packed(&rgb, ImageFormat::Tiff);
    let tags = u32::from_le_bytes(tiff[4..8].try_into().unwrap()) as usize + 2;
    for entry in tiff[tags..].chunks_exact_mut(12).take(2) {
        assert!(matches!(entry[..2], [0, 1] | [1, 1]), "width and height are the first tags");
        entry[8..10].copy_from_slice(&[0x60, 0xea]);
    }
    for (name, bytes, want, words) in [
        ("png", bomb(), 413, "60000x60000"),
        ("bmp", bmp, 413, "60000x60000"),
        ("gif", gif, 413, "60000x60000"),
        ("jpeg", jpeg, 413, "60000x60000"),
        ("webp", webp, 413, "16000x16000"),
        // Its strips do not go with such a size
        ("tiff", tiff, 400, "cannot be read as tiff"),
    ] {
        let (status, detail) = server.upscale("", &bytes).refusal();
        assert!(status == want && detail.contains(words), "{name}: {status} {detail}");
    }
    // A small file with a large profile, of zeros: 200 MB that became some 200 KB
    let mut packed = Vec::new();
    let mut encoder = PngEncoder::new(&mut packed);
    encoder.set_icc_profile(vec![0; 200_000_000]).unwrap();
    rgb.write_with_encoder(encoder).unwrap();
    assert!(packed.len() < 2_000_000, "{} bytes", packed.len());
    let answer = server.upscale("", &packed);
    assert!(matches!(answer.status, 200 | 400), "{}", answer.status);
    let grown = peak(server.child.id()) - before;
    assert!(grown < 128 << 20, "{} MiB more", grown >> 20);
    assert_eq!(server.upscale("", &png(64, 64)).status, 200);
}

#[test]
fn damaged_pictures_do_no_harm() {
    if !ready("damaged_pictures_do_no_harm") {
        return;
    }
    let mut server = Server::start(&[]);
    let rgb = picture(24, 18);
    let formats =
        [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Tiff, ImageFormat::Bmp, ImageFormat::Gif];
    let files: Vec<Vec<u8>> = formats.iter().map(|format| packed(&rgb, *format)).collect();
    // Of no size
    let mut gif = files[5].clone();
    gif[6..8].copy_from_slice(&[0, 0]);
    let (status, detail) = server.upscale("", &gif).refusal();
    assert!(status == 400 && detail.contains("no pixels"), "{status} {detail}");
    // The same bytes change each time: a generator with a fixed beginning
    let mut state = 7u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut seen = std::collections::BTreeMap::new();
    for round in 0..600 {
        let mut bytes = files[round % files.len()].clone();
        for _ in 0..1 + next(4) {
            let end = bytes.len().min(if next(2) == 0 { 64 } else { 100_000 });
            let at = next(end);
            match next(4) {
                0 => bytes.truncate(at.max(16)),
                1 => bytes[at] = [0, 1, 127, 128, 255][next(5)],
                2 => bytes[at] = next(256) as u8,
                _ => bytes.insert(at, next(256) as u8),
            }
        }
        let answer = server.upscale("", &bytes);
        assert!(matches!(answer.status, 200 | 400 | 413), "round {round}: {}", answer.status);
        *seen.entry(answer.status).or_insert(0) += 1;
    }
    assert!(seen[&200] > 20 && seen[&400] > 100, "{seen:?}");
    assert_eq!(server.upscale("", &files[0]).status, 200);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn what_is_not_in_the_answer_is_told() {
    if !ready("what_is_not_in_the_answer_is_told") {
        return;
    }
    let server = Server::start(&[]);
    let plain = packed(&picture(20, 10), ImageFormat::Jpeg);
    let moving = [&plain[..], b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"].concat();
    let mut gif = Vec::new();
    let mut encoder = GifEncoder::new(&mut gif);
    for colour in [[250, 0, 0, 255], [0, 0, 250, 255]] {
        encoder.encode_frame(Frame::new(RgbaImage::from_pixel(20, 10, Rgba(colour)))).unwrap();
    }
    drop(encoder);
    // A second page: the first one's directory once more
    let mut tiff = packed(&picture(20, 10).to_rgb8().into(), ImageFormat::Tiff);
    let first = u32::from_le_bytes(tiff[4..8].try_into().unwrap()) as usize;
    let length = 2 + 12 * usize::from(u16::from_le_bytes(tiff[first..first + 2].try_into().unwrap()));
    let (directory, second) = (tiff[first..first + length].to_vec(), tiff.len() as u32);
    tiff[first + length..first + length + 4].copy_from_slice(&second.to_le_bytes());
    tiff.extend([&directory[..], &[0; 4]].concat());
    for (bytes, words) in [
        (&plain, None),
        (&moving, Some("the video of a motion photo")),
        (&gif, Some("the pictures after the first")),
        (&tiff, Some("page 2")),
    ] {
        let answer = server.upscale("", bytes);
        assert_eq!((answer.status, answer.header("x-not-kept")), (200, words));
    }
    let parts = [Part::file("files", "a.jpg", &moving), Part::file("files", "b.jpg", &plain)];
    let answer = server.post("/upscale_batch?format=json", &parts).json();
    let told = |n: usize| &answer["results"][n]["not_kept"];
    assert_eq!((told(0), told(1)), (&serde_json::json!(["the video of a motion photo"]), &serde_json::Value::Null));
    let zip = server.post("/upscale_batch", &parts);
    assert_eq!(zip.header("x-successful"), Some("2"));
    assert!(zip.body.windows(13).any(|name| name == b"not_kept.json"));
    // The client says it too.
    let root = &server.root;
    std::fs::write(root.path().join("a.jpg"), &moving).unwrap();
    let words = ["image", "upscale", "-i", "a.jpg", "--port", &server.port.to_string()].map(std::ffi::OsString::from);
    let words: Vec<_> = words.iter().map(|word| word.as_os_str()).collect();
    let out = root.program(&words).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("not kept: the video of a motion photo"), "{said}");
}
