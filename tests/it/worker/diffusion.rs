//! A diffusion model behind the same port: the shapes that clients of TSD-SR's own worker know.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::common::{finish, ready};
use crate::worker::kit::{Part, Server, png};

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/diffusion/model")
}

/// The link of an entry without its host.
fn path(link: &str) -> &str {
    link.strip_prefix("http://").and_then(|rest| rest.find('/').map(|at| &rest[at..])).expect("a link")
}

#[test]
fn a_diffusion_model_is_served_as_its_clients_know_it() {
    if !ready("a_diffusion_model_is_served_as_its_clients_know_it") {
        return;
    }
    let folder = model();
    let server = Server::start(&["--model", folder.to_str().unwrap(), "--device", "cpu", "--workers", "2"]);
    let health = server.get("/health").json();
    assert_eq!(health["status"], "ok");
    for part in ["transformer", "vae", "timesteps", "prompt_embeds", "pooled_prompt_embeds"] {
        assert_eq!(health["models_loaded"][part], true, "{health}");
    }
    assert_eq!(
        (&health["models_loaded"]["device"], &health["models_loaded"]["dtype"]),
        (&"cpu".into(), &"torch.float32".into())
    );
    assert_eq!(health["parts"].as_array().map(Vec::len), Some(2));
    assert_eq!(health["parts"][0]["vae_decoder"], "in memory");
    let info = server.get("/info").json();
    assert_eq!(
        (&info["cuda_available"], &info["gpu"], &info["runs_on"]),
        (&false.into(), &"N/A".into(), &"cpu/f32".into())
    );
    assert_eq!(server.get("/stats").json()["dtype"], "torch.float32");

    // Nothing but what the original's client sends and reads: a form in, bytes out.
    let source = png(70, 41);
    let answer = server.upscale("?upscale=2&process_size=128", &source);
    assert_eq!((answer.status, answer.header("x-output-size")), (200, Some("140x82")));
    assert_eq!((answer.picture().width(), answer.picture().height()), (140, 82));
    assert!(answer.header("x-model").is_some() && answer.header("x-temp-file").is_none());
    let plain = server.upscale("", &source);
    assert!(plain.body == answer.body, "2 and 128 are what is taken where nothing is said");
    assert!(server.upscale("?process_size=256", &source).body != plain.body, "the process size does nothing");
    assert_eq!(server.upscale("?upscale=4", &source).header("x-output-size"), Some("280x164"));
    let refused = |query: &str, words: &str| assert_eq!(server.upscale(query, &source).refusal(), (400, words.into()));
    refused("?upscale=3", "Upscale factor must be 2 or 4");
    refused("?process_size=32", "Process size must be between 64 and 256");
    assert_eq!(server.upscale("", b"no picture").status, 400);

    // JSON where nothing is said, and the same pictures as one by one, whatever stands beside them.
    let other = png(33, 64);
    let parts = [
        Part::file("files", "a.png", &source),
        Part::file("files", "bad.png", b"no picture"),
        Part::file("files", "b.png", &other),
        Part::file("files", "c.png", &source),
    ];
    let listed = server.post("/upscale_batch?upscale=2&process_size=128", &parts).json();
    assert_eq!((&listed["total"], &listed["successful"]), (&4.into(), &3.into()));
    let entry = |n: usize| &listed["results"][n];
    assert_eq!((&entry(0)["filename"], &entry(0)["output_size"]), (&"a.png".into(), &"140x82".into()));
    assert!(entry(1)["error"].is_string() && entry(0)["file_size_mb"].as_f64() > Some(0.0));
    let linked = |n: usize| server.get(path(entry(n)["temp_path"].as_str().unwrap())).body;
    assert!(linked(0) == plain.body && linked(3) == plain.body && linked(2) == server.upscale("", &other).body);
    let zipped = server.post("/upscale_batch?format=zip", &parts);
    assert_eq!((zipped.header("content-type"), zipped.header("x-successful")), (Some("application/zip"), Some("3")));
}

#[test]
fn a_diffusion_model_by_its_name_makes_what_a_job_makes() {
    if !ready("a_diffusion_model_by_its_name_makes_what_a_job_makes") {
        return;
    }
    let mut server = Server::launch_in(&["--model", "tiny", "--device", "cpu"], |root| {
        let models = root.join("models/tiny");
        std::fs::create_dir_all(&models).unwrap();
        for file in std::fs::read_dir(model()).unwrap().flatten() {
            std::fs::copy(file.path(), models.join(file.file_name())).unwrap();
        }
    });
    server.wait();
    let source = png(50, 37);
    let answer = server.upscale("?upscale=4", &source);
    assert_eq!(answer.header("x-model"), Some("tiny"));
    let (from, to) = (server.root.path().join("a.png"), server.root.path().join("b.png"));
    std::fs::write(&from, &source).unwrap();
    let words = ["--model", "tiny", "--device", "cpu", "--scale", "4", "--set", "process_size=128"].map(OsStr::new);
    let words = [&[OsStr::new("run"), from.as_os_str(), to.as_os_str()][..], &words].concat();
    let mut child = server.root.spawn(&words);
    assert_eq!(finish(&mut child), Some(0), "{}", server.root.console());
    assert_eq!(answer.picture(), image::open(&to).unwrap());
    let listed = server.root.program(&["model", "list"].map(OsStr::new)).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.lines().any(|line| line.starts_with("tiny") && line.contains("diffusion")), "{listed}");
    assert_eq!(server.stop(), Some(0));
}
