//! Where payloads come from: servers that break off, lead elsewhere, or must not be asked.

use serde_json::json;

use crate::common::{Root, ready};
use crate::kit::{Service, clip_bytes};
use crate::origin::Origin;

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
    let answer = service.post(&format!("{}/upscale", service.current), &body);
    assert!(answer.status == 200 && answer.json()["success"] == false, "{}", answer.text());
    assert!(origin.asked("/").is_empty());
}
