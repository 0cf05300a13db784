//! Engines that die under their pictures.

use crate::common::{finish, ready, within};
use crate::worker::kit::{Server, png};

#[test]
fn dead_engines_take_no_pictures() {
    if !ready("dead_engines_take_no_pictures") {
        return;
    }
    let plans = tempfile::tempdir().unwrap();
    let plan = |rules: &str| std::fs::write(plans.path().join("rules"), rules).unwrap();
    plan("");
    let variable = format!("@{}", plans.path().display());
    let flags = ["--workers", "2", "--set", "threads=2"];
    let mut server = Server::launch_with(&flags, &[("UPSCALED_FAILPOINTS", &variable)], |_| {});
    server.wait();
    let picture = png(40, 30);
    let good = server.upscale("", &picture).picture();
    let workers = |server: &Server| server.get("/health").json()["workers"].clone();
    // One engine dies: the other one makes the picture
    plan("worker/infer.memory=panic:1");
    assert!(server.upscale("", &picture).picture() == good);
    assert!(plans.path().join("infer.memory.1").exists(), "nothing has died");
    assert!(within(30, || server.root.console().contains("is open again")), "{}", server.root.console());
    // A picture that kills whatever takes it is given to two, and not to all
    plan("worker/infer.memory=panic:3");
    assert_eq!(server.upscale("", &picture).refusal(), (500, "The server failed; its log says why".into()));
    assert!((0..4).all(|_| server.upscale("", &picture).picture() == good));
    assert_eq!(workers(&server), 2);
    // Nothing goes well any more: they are opened again for a while, and then the worker ends, for whoever starts it again
    plan("worker/infer.memory=panic");
    let over = within(120, || {
        let ended = server.child.try_wait().unwrap().is_some();
        ended || {
            let _ = server.try_upscale(&picture);
            false
        }
    });
    assert!(over, "{}", server.root.console());
    assert_eq!(finish(&mut server.child), Some(1), "{}", server.root.console());
    assert!(server.root.console().contains("all engines of the model fast have died"), "{}", server.root.console());
}
