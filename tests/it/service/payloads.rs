//! Where payloads come from: servers that break off, lead elsewhere, or must not be asked.

use std::path::Path;

use serde_json::json;

use crate::common::{Root, describe, ready, streams};
use crate::service::kit::{Answer, Service, assert_rules, clip_bytes, made};
use crate::service::origin::Origin;

#[test]
fn downloads_go_on_and_end() {
    if !ready("downloads_go_on_and_end") {
        return;
    }
    let bytes = clip_bytes("64x48", 12);
    let origin = Origin::start(bytes.clone());
    let service = Service::start("fetch_max_mb = 4\nfetch_seconds = 3\n");
    for path in ["/broken", "/shaky", "/redirect"] {
        let answer = service.upscale_video(&origin.url(path), "SD2HD");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    // From where it broke off, twice
    let third = bytes.len() / 3;
    let later = third + (bytes.len() - third) / 3;
    let asked = ["/broken ".to_owned(), format!("/broken bytes={third}-"), format!("/broken bytes={later}-")];
    assert_eq!(origin.asked("/broken"), asked);
    for (path, status, words) in [
        ("/large", 413, "larger than 4 MiB"),
        ("/endless", 413, "larger than 4 MiB"),
        ("/silent", 400, "longer than 3 s"),
        ("/circle", 400, "redirects"),
        ("/to-file", 400, "only http and https"),
    ] {
        let answer = service.upscale_video(&origin.url(path), "SD2HD");
        assert!(
            answer.status == status && answer.detail().contains(words),
            "{path}: {} {}",
            answer.status,
            answer.text()
        );
    }
    assert_eq!(origin.asked("/circle").len(), 6);
}

#[test]
fn private_addresses_are_not_asked() {
    if !ready("private_addresses_are_not_asked") {
        return;
    }
    let origin = Origin::start(clip_bytes("64x48", 12));
    let service = Service::start_with(Root::new("device = \"cpu\"\n"), &[], &[]);
    let port = origin.port;
    for host in [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "10.0.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "0.0.0.0",
    ] {
        let answer = service.upscale_video(&format!("http://{host}:{port}/clip"), "SD2HD");
        assert!(answer.status == 403 && answer.detail().contains("not allowed"), "{host}: {}", answer.text());
    }
    let body = json!({"video_paths": [origin.url("/clip")], "scale": 2});
    let answer = service.upscale(&body);
    assert!(answer.status == 200 && answer.json()["success"] == false, "{}", answer.text());
    assert!(origin.asked("/").is_empty());
}

/// The answer to a payload that is sent.
fn sent(service: &Service, payload: &Path) -> Answer {
    service.process_video(Some("SD2HD"), Some(&std::fs::read(payload).unwrap()))
}

#[test]
fn every_payload_keeps_the_rules() {
    if !ready("every_payload_keeps_the_rules") {
        return;
    }
    let service = Service::start("");
    let noise = "nullsrc=s=80x60:r=25:d=0.6,geq=random(1)*255:128:128";
    let test = "testsrc2=s=82x62:r=30000/1001:d=0.6";
    for (name, picture, options) in [
        ("wide-pixels.mkv", test, "-vf setsar=4/3 -c:v libx264 -pix_fmt yuv420p -colorspace smpte170m"),
        ("full-range.mp4", test, "-c:v libx264 -pix_fmt yuvj420p -color_range pc"),
        ("rgb.mp4", test, "-c:v libx264rgb"),
        ("ten-bits.mkv", test, "-c:v libx265 -pix_fmt yuv444p10le -x265-params log-level=none"),
        ("web.webm", test, "-c:v libvpx-vp9 -pix_fmt yuv420p"),
        ("stream.ts", "testsrc2=s=82x62:r=25:d=0.6", "-c:v mpeg2video"),
        ("gaps.mp4", "testsrc2=s=82x62:r=60:d=0.6", "-vf select='mod(n,3)' -vsync vfr -c:v libx264 -pix_fmt yuv420p"),
        ("odd.mp4", "testsrc2=s=81x61:r=25:d=0.6", "-c:v libx264 -pix_fmt yuv444p"),
        ("odd.webm", "testsrc2=s=83x61:r=25:d=0.6", "-c:v libvpx-vp9 -pix_fmt yuv420p"),
        (
            "tags.mp4",
            test,
            "-c:v libx264 -pix_fmt yuv420p -color_primaries smpte170m -color_trc bt709 -colorspace smpte170m",
        ),
        (
            "hdr.mp4",
            test,
            "-c:v libx265 -pix_fmt yuv420p10le -x265-params log-level=none -color_primaries bt2020 -color_trc smpte2084 \
             -colorspace bt2020nc",
        ),
        ("sound.mp4", "testsrc2=s=82x62:r=25:d=0.6", "-f lavfi -i sine=d=0.6 -c:v libx264 -pix_fmt yuv420p -c:a aac"),
        // Noise at a rate that no encoder reaches at twice the size: encoded again until it fits
        ("noise.mp4", noise, "-c:v libx264 -preset ultrafast -crf 40 -pix_fmt yuv420p"),
    ] {
        let payload = made(&service, name, picture, options);
        let answer = sent(&service, &payload);
        assert_eq!(answer.status, 200, "{name}: {}\n{}", answer.text(), service.root.console());
        assert_rules(&payload, &service.keep("result.mp4", &answer.body), 2);
    }
    // Too few frames, and a picture
    for (name, options) in [("short.mp4", "-frames:v 9 -c:v libx264"), ("picture.png", "-frames:v 1")] {
        let answer = sent(&service, &made(&service, name, test, options));
        assert!(answer.status == 400 && !answer.detail().contains('/'), "{name}: {}", answer.text());
    }
}

#[test]
fn av1_where_it_is_set() {
    if !ready("av1_where_it_is_set") {
        return;
    }
    let service = Service::start("codec = \"av1\"\n");
    let payload = made(&service, "a.mp4", "testsrc2=s=96x80:r=25:d=0.6", "-c:v libx264 -pix_fmt yuv420p");
    let answer = sent(&service, &payload);
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), service.root.console());
    let video = streams(&describe(&service.keep("result.mp4", &answer.body)), "video").remove(0);
    let told = ["codec_name", "profile", "pix_fmt", "width", "r_frame_rate"].map(|name| video[name].clone());
    assert_eq!(told, [json!("av1"), json!("Main"), json!("yuv420p"), json!(192), json!("25/1")]);
}
