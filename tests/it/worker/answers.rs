//! What the worker gives: pictures of every kind, batches, links, and words about itself.

use std::ffi::OsStr;
use std::io::{Cursor, Read};

use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageEncoder, ImageFormat, Rgba};

use crate::common::{fields, finish, ready};
use crate::worker::kit::{Part, Server, chunk, crc, form, form_type, packed, picture, png};

#[test]
fn a_picture_comes_back_larger() {
    if !ready("a_picture_comes_back_larger") {
        return;
    }
    let server = Server::start(&[]);
    let source = png(70, 41);
    let answer = server.upscale("", &source);
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("image/png")));
    assert_eq!(answer.header("x-output-size"), Some("140x82"));
    assert_eq!(answer.header("x-original-size"), Some("70x41"));
    assert_eq!(answer.header("x-upscale-factor"), Some("2.00x"));
    assert_eq!(answer.header("x-model"), Some("fast"));
    assert!(answer.header("x-inference-time").is_some_and(|t| t.trim_end_matches('s').parse::<f64>().is_ok()));
    let four = server.upscale("?upscale=4&process_size=64", &source);
    assert_eq!((four.header("x-output-size"), four.header("x-upscale-factor")), (Some("280x164"), Some("4.00x")));
    assert_eq!((four.picture().width(), four.picture().height()), (280, 164));

    // The same pixels as a job makes of the same file.
    let (from, to) = (server.root.path().join("a.png"), server.root.path().join("b.png"));
    std::fs::write(&from, &source).unwrap();
    let mut child = server.root.spawn(&[OsStr::new("run"), from.as_os_str(), to.as_os_str()]);
    assert_eq!(finish(&mut child), Some(0), "{}", server.root.console());
    assert_eq!(answer.picture(), image::open(&to).unwrap());
}

#[test]
fn every_kind_of_picture() {
    if !ready("every_kind_of_picture") {
        return;
    }
    let server = Server::start(&[]);
    let rgb = picture(30, 20);
    for format in
        [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Tiff, ImageFormat::Bmp, ImageFormat::Gif]
    {
        let made = server.upscale("", &packed(&rgb, format)).picture();
        assert_eq!((made.width(), made.height(), made.color()), (60, 40, image::ColorType::Rgb8), "{format:?}");
    }
    // 16 bits and alpha stay; alpha goes beside the network and keeps its plain parts plain.
    let pixel = |x: u32, y: u32| Rgba([x as u16 * 2000, y as u16 * 3000, 30_001, if x < 15 { 0 } else { 65_535 }]);
    let deep: DynamicImage = ImageBuffer::from_fn(30, 20, pixel).into();
    let made = server.upscale("", &packed(&deep, ImageFormat::Png)).picture();
    assert_eq!(made.color(), image::ColorType::Rgba16);
    let made = made.to_rgba16();
    assert_eq!((made.get_pixel(4, 20).0[3], made.get_pixel(55, 20).0[3]), (0, 65_535));
    assert!(made.pixels().any(|p| p.0[2] % 257 != 0), "the picture went through 8 bits");
    let gray = DynamicImage::from(rgb.to_luma8());
    assert_eq!(server.upscale("", &packed(&gray, ImageFormat::Png)).picture().color(), image::ColorType::L8);

    // The orientation is applied, the profile kept.
    let mut profile = vec![7u8; 200];
    profile[16..20].copy_from_slice(b"RGB ");
    let mut jpeg = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut jpeg, 95);
    let mut exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0".to_vec();
    exif.extend([0; 4]);
    encoder.set_exif_metadata(exif).unwrap();
    encoder.set_icc_profile(profile.clone()).unwrap();
    rgb.write_with_encoder(encoder).unwrap();
    let answer = server.upscale("", &jpeg);
    assert_eq!((answer.header("x-original-size"), answer.header("x-output-size")), (Some("20x30"), Some("40x60")));
    let mut decoder = image::codecs::png::PngDecoder::new(Cursor::new(&answer.body)).unwrap();
    assert_eq!(decoder.icc_profile().unwrap(), Some(profile));
    assert_eq!(decoder.orientation().unwrap(), image::metadata::Orientation::NoTransforms);
    let made = answer.picture().to_rgb8();
    // Turned clockwise: red, which grew to the right, grows downwards.
    assert!(made.get_pixel(20, 55).0[0] > made.get_pixel(20, 5).0[0] + 100);

    // A palette becomes colours.
    assert_eq!(server.upscale("", &palette()).picture().color(), image::ColorType::Rgb8);
}

/// A PNG of four colours at two bits a pixel, by hand: no encoder here writes one.
fn palette() -> Vec<u8> {
    let mut bytes = vec![0x89, b'P', b'N', b'G', 13, 10, 26, 10];
    chunk(&mut bytes, b"IHDR", &[0, 0, 0, 4, 0, 0, 0, 2, 2, 3, 0, 0, 0]);
    chunk(&mut bytes, b"PLTE", &[255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9]);
    // Stored, not deflated: two rows of one filter byte and one byte of four pixels.
    chunk(&mut bytes, b"IDAT", &[0x78, 1, 1, 4, 0, 0xfb, 0xff, 0, 0x1b, 0, 0x1b, 0, 0x70, 0, 0x37]);
    chunk(&mut bytes, b"IEND", &[]);
    bytes
}

fn zip_of(body: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut zip = zip::ZipArchive::new(Cursor::new(body)).unwrap();
    let mut files = Vec::new();
    for n in 0..zip.len() {
        let mut file = zip.by_index(n).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        files.push((file.name().unwrap().into_owned(), bytes));
    }
    files
}

#[test]
fn batches_as_zip() {
    if !ready("batches_as_zip") {
        return;
    }
    let server = Server::start(&["--workers", "2"]);
    let (pictures, bomb) = ([png(40, 30), png(333, 150), png(1, 1)], bomb());
    let parts = [
        Part::file("files", "frame_0001.png", &pictures[0]),
        Part::file("files", "frame_0001.png", &pictures[1]),
        Part::file("files", "../../../etc/cron.d/x.png", &pictures[2]),
        Part::file("files", "C:\\a\\photo.jpg", &pictures[0]),
        Part::file("files", "broken.png", b"not a picture"),
        Part::file("files", "bomb.png", &bomb),
    ];
    let answer = server.post("/upscale_batch?upscale=2", &parts);
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/zip")));
    assert_eq!((answer.header("x-total"), answer.header("x-successful")), (Some("6"), Some("4")));
    let files = zip_of(&answer.body);
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["frame_0001.png", "frame_0001_2.png", "x.png", "photo.png", "errors.json"]);
    for (n, source) in [(0, &pictures[0]), (1, &pictures[1]), (2, &pictures[2]), (3, &pictures[0])] {
        let alone = server.upscale("", source);
        assert!(files[n].1 == alone.body, "{} differs from the same picture alone", files[n].0);
    }
    let errors: serde_json::Value = serde_json::from_slice(&files[4].1).unwrap();
    assert_eq!((&errors[0]["filename"], &errors[1]["filename"]), (&"broken.png".into(), &"bomb.png".into()));
    assert!(errors[0]["error"].as_str().unwrap().contains("no PNG"), "{errors}");
    assert!(errors[1]["error"].as_str().unwrap().contains("60000x60000"), "{errors}");
}

/// A PNG that says it is 60000x60000.
pub(crate) fn bomb() -> Vec<u8> {
    let mut bytes = png(2, 2);
    bytes[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let crc = crc(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    bytes
}

#[test]
fn batches_as_json_with_links() {
    if !ready("batches_as_json_with_links") {
        return;
    }
    let mut server = Server::start(&[]);
    let source = png(50, 30);
    let parts = [
        Part::file("files", "a b.png", &source),
        Part::file("files", "bad.png", b"x"),
        Part::file("files", "c.png", &source),
    ];
    let host = format!("http://127.0.0.1:{}", server.port);
    let accept = [("Content-Type", form_type()), ("Accept", "application/json".into())];
    let accept: Vec<(&str, &str)> = accept.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let by_accept = server.ask("POST", "/upscale_batch", &accept, &form(&parts));
    assert_eq!((by_accept.status, by_accept.header("content-type")), (200, Some("application/json")));
    let by_accept = by_accept.json();
    // What the query says goes before what is accepted
    let kind = |query: &str, accept: &str| {
        let headers = [("Content-Type", form_type()), ("Accept", accept.to_owned())];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let answer = server.ask("POST", &format!("/upscale_batch{query}"), &headers, &form(&parts));
        answer.header("content-type").unwrap_or_default().to_owned()
    };
    assert_eq!(kind("", "*/*"), "application/zip");
    assert_eq!(kind("", "text/html, application/json;q=0.9"), "application/json");
    assert_eq!(kind("?format=zip", "application/json"), "application/zip");
    assert_eq!(kind("?format=json", "application/zip"), "application/json");
    let answer = server.post("/upscale_batch?format=json&upscale=4", &parts).json();
    assert_eq!((&answer["total"], &answer["successful"]), (&3.into(), &2.into()));
    assert_eq!(fields(&answer), ["results", "successful", "total"]);
    assert_eq!(fields(&answer["results"][0]), ["file_size_mb", "filename", "output_size", "temp_path"]);
    assert_eq!(fields(&answer["results"][1]), ["error", "filename"]);
    let results = answer["results"].as_array().unwrap();
    assert_eq!((&results[0]["filename"], &results[0]["output_size"]), (&"a b.png".into(), &"200x120".into()));
    let error = results[1]["error"].as_str().unwrap();
    assert!(results[1]["filename"] == "bad.png" && error.contains("no PNG") && results[1].get("temp_path").is_none());
    let link = results[0]["temp_path"].as_str().unwrap();
    assert_ne!(link, by_accept["results"][0]["temp_path"].as_str().unwrap());
    let path = link.strip_prefix(&host).unwrap_or_else(|| panic!("{link}"));
    assert!(path.starts_with("/files/") && path.split('/').nth(2).unwrap().len() == 32, "{path}");
    let file = server.get(path);
    assert_eq!((file.status, file.header("content-type")), (200, Some("image/png")));
    assert!(file.body == server.upscale("?upscale=4", &source).body);
    let megabytes = results[0]["file_size_mb"].as_f64().unwrap();
    assert!((megabytes * 1048576.0 - file.body.len() as f64).abs() < 1.0);
    let head = server.ask("HEAD", path, &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some(file.body.len().to_string().as_str()));
    let guessed = path.replace(path.split('/').nth(2).unwrap(), &"0".repeat(32));
    for wrong in [guessed.as_str(), "/files/", "/files/../../etc/passwd", "/files/%2e%2e/x", "/files/x"] {
        assert_eq!(server.get(wrong).status, 404, "{wrong}");
    }
    assert_eq!(server.post("/files/x/y", &[]).status, 405);
    // However it ends, nothing is left on the disk.
    let temporary = server.root.path().join("tmp");
    let left = |folder: &std::path::Path| std::fs::read_dir(folder).unwrap().count();
    assert_eq!(left(&temporary), 0);
    server.signal("-KILL");
    let _ = server.child.wait();
    assert_eq!(left(&temporary), 0);
}

#[test]
fn words_about_itself() {
    if !ready("words_about_itself") {
        return;
    }
    let server = Server::start(&["--model", "quality", "--workers", "2", "--upscale", "4", "--process-size", "96"]);
    let health = server.get("/health").json();
    assert_eq!((&health["status"], &health["models_loaded"]["quality"]), (&"ok".into(), &true.into()));
    assert_eq!(health["models_loaded"]["device"], "cpu");
    let info = server.get("/info").json();
    for key in ["name", "version", "description", "device", "cuda_available", "gpu", "gpu_memory_gb", "endpoints"] {
        assert!(info.get(key).is_some(), "no {key} in {info}");
    }
    assert_eq!((&info["device"], &info["cuda_available"], &info["gpu"]), (&"cpu".into(), &false.into(), &"N/A".into()));
    assert!(info["endpoints"].get("POST /upscale").is_some());
    let stats = server.get("/stats").json();
    assert!(stats["timestamp"].as_str().unwrap().len() >= 19 && stats["device"] == "cpu", "{stats}");
    assert!(stats["dtype"].as_str().unwrap().starts_with("torch."), "{stats}");
    // The flags are the defaults of requests.
    let answer = server.upscale("", &png(20, 10));
    assert_eq!((answer.header("x-output-size"), answer.header("x-model")), (Some("80x40"), Some("quality")));
    assert_eq!(server.get("/stats").json()["pictures"]["done"], 1);
    let log = std::fs::read_dir(server.root.path().join("logs")).unwrap().flatten().map(|e| e.file_name());
    let named = format!("worker-{}.", server.port);
    assert!(log.into_iter().any(|name| name.to_string_lossy().starts_with(&named)), "no log of its own");
}
