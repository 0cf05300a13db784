//! input/ or output/ is a disk that is not there: no request is taken up, and those on their way wait for it.

use std::time::Duration;

use crate::common::disk::{Disk, all_in, with_own_mounts};
use crate::common::{Root, ready, within};
use crate::service::kit::{SETTINGS, Service, clip_bytes};
use crate::service::origin::Origin;

#[test]
fn no_request_is_taken_up_while_a_disk_is_away() {
    let name = "no_request_is_taken_up_while_a_disk_is_away";
    if ready(name) {
        with_own_mounts(name, || ["input", "output"].into_iter().for_each(refused_while_away));
    }
}

fn refused_while_away(folder: &str) {
    let root = Root::new(SETTINGS);
    let place = root.path().join(folder);
    let disk = Disk::at(&place, &root.path().join("disk"));
    let service = Service::start_with(root, &[], &[]);
    let (clip, origin) = (clip_bytes("64x48", 12), Origin::start(clip_bytes("64x48", 13)));
    disk.unmount();
    for answer in
        [service.upscale_video(&origin.url("/clip"), "SD2HD"), service.process_video(Some("SD2HD"), Some(&clip))]
    {
        assert_eq!(answer.status, 503, "{folder}: {}", answer.text());
        assert!(!answer.header("retry-after").is_empty() && !answer.text().contains('/'), "{}", answer.text());
    }
    let current = service.upscale(&serde_json::json!({"video_paths": [origin.url("/clip")], "scale": 2}));
    assert!(current.status == 200 && current.json()["success"] == false, "{}", current.text());
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(all_in(&place), Vec::<std::path::PathBuf>::new(), "in the folder under {folder}/");
    assert!(origin.asked("/").is_empty());
    disk.mount();
    assert_eq!(service.upscale_video(&origin.url("/clip"), "SD2HD").status, 200, "{}", service.root.console());
    let done = service.process_video(Some("SD2HD"), Some(&clip));
    assert_eq!(done.status, 200, "{}", done.text());
    // What has been made is not forgotten while it cannot be seen.
    let link = done.header("x-video-url").to_owned();
    let ended = service.endings("done");
    disk.unmount();
    if folder == "output" {
        assert_eq!(service.get(&link).status, 503);
    }
    disk.mount();
    assert_eq!(service.get(&link).body, done.body);
    assert_eq!(service.process_video(Some("SD2HD"), Some(&clip)).body, done.body);
    assert_eq!(service.endings("done"), ended);
    // One on its way goes on when the disk is back.
    let slow = std::thread::scope(|scope| {
        let asked = scope.spawn(|| service.upscale_video(&origin.url("/slow"), "SD2HD"));
        assert!(within(10, || origin.asked("/slow").len() == 1));
        std::thread::sleep(Duration::from_millis(300));
        disk.unmount();
        let answer = asked.join().expect("an answer");
        assert_eq!(all_in(&place), Vec::<std::path::PathBuf>::new());
        disk.mount();
        answer
    });
    assert_eq!(slow.status, 503, "{}", slow.text());
    assert_eq!(service.upscale_video(&origin.url("/slow"), "SD2HD").status, 200, "{}", service.root.console());
    assert!(origin.asked("/slow").last().expect("a request").contains("bytes="), "{:?}", origin.asked("/slow"));
}
