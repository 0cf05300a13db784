//! State in folders that other people can write: a member of the service's group plants records, folders, lines and settings.
//! None of it gives away a file of the service, or writes one. Members are other users: needs root, and `setpriv`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde_json::{Value, json};
use tempfile::TempDir;
use ureq::Agent;

use crate::common::{ready, within};
use crate::service::kit::{Answer, Service, clip, clip_bytes};

const SERVICE: u32 = 61_001;
const MEMBER: u32 = 61_002;
const GROUP: u32 = 61_000;
const SECRET: &str = "the service's secret: token 0123456789";
const KEYS: &str = "the service's own configuration";

/// A command of another user, in the service's group.
fn of(uid: u32, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={uid}")).arg(format!("--regid={GROUP}")).args(["--clear-groups", "--"]).arg(program);
    command
}

/// An installation as the README's, but that its group may write in the root too, as earlier versions installed it.
struct House {
    dir: TempDir,
    program: PathBuf,
    daemon: Option<Child>,
    agent: Agent,
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop();
    }
}

impl House {
    /// `None`, and why, where users cannot be changed.
    fn new(name: &str, settings: &str) -> Option<House> {
        let dir = tempfile::Builder::new().prefix("upscaled-test-").tempdir().expect("a folder");
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
        let program = dir.path().join("upscaled");
        // Another build with the same features, where one is named
        let built = std::env::var_os("UPSCALED_TEST_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_upscaled").into());
        fs::copy(built, &program).expect("a copy of the program");
        let is_reached = of(SERVICE, &program).arg("--version").output().is_ok_and(|out| out.status.success());
        if !nix::unistd::geteuid().is_root() || !is_reached {
            eprintln!("{name}: skipped: it needs root, setpriv, and a temporary folder that other users can enter");
            return None;
        }
        let agent = Agent::config_builder().http_status_as_error(false).build().new_agent();
        let house = House { dir, program, daemon: None, agent };
        for folder in ["root", "root/input", "root/output", "root/logs", "home"] {
            let path = house.at(folder);
            fs::create_dir(&path).expect("a folder");
            chown(&path, Some(SERVICE), Some(GROUP)).expect("an owner");
            let mode = if folder == "home" { 0o700 } else { 0o2775 };
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("a mode");
        }
        for (file, text) in [("home/secret", SECRET), ("home/authorized_keys", KEYS)] {
            fs::write(house.at(file), text).expect("a file");
            chown(house.at(file), Some(SERVICE), Some(GROUP)).expect("an owner");
            fs::set_permissions(house.at(file), PermissionsExt::from_mode(0o600)).expect("a mode");
        }
        let settings = format!("settle_ms = 200\nrescan_seconds = 1\nautotune = false\n{settings}");
        fs::write(house.at("root/upscaled.toml"), settings).expect("settings");
        Some(house)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn console(&self) -> String {
        fs::read_to_string(self.at("console")).unwrap_or_default()
    }

    /// Starts the daemon; where its listener is, or nothing where it ended.
    fn start(&mut self) -> Option<String> {
        self.stop();
        let before = self.console().len();
        let console = fs::OpenOptions::new().append(true).create(true).open(self.at("console")).expect("a file");
        let mut command = of(SERVICE, Path::new("sh"));
        command.args(["-c", "umask 002; exec \"$0\" \"$@\""]).arg(&self.program);
        command.args(["daemon", "--vidaio-current", "127.0.0.1:0", "--root"]).arg(self.at("root"));
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("UPSCALED_")) {
            command.env_remove(key);
        }
        command.env("HOME", self.at("home")).env("XDG_CACHE_HOME", self.at("home/.cache")).current_dir(self.at("root"));
        let mut child =
            command.stdout(console.try_clone().expect("a handle")).stderr(console).spawn().expect("a daemon");
        let told = || {
            let console = self.console();
            console[before..]
                .lines()
                .find_map(|line| Some(line.split_once("(upscale) is at ")?.1.trim_end_matches('/').to_owned()))
        };
        let mut ended = false;
        assert!(
            within(60, || {
                ended = child.try_wait().is_ok_and(|status| status.is_some());
                ended || told().is_some()
            }),
            "{}",
            self.console()
        );
        let told = told();
        self.daemon = Some(child);
        told.filter(|_| !ended)
    }

    fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// What a member of the group does, in the root.
    fn member(&self, script: &str) {
        let mut command = of(MEMBER, Path::new("sh"));
        command.args(["-ec", &format!("umask 002; {script}")]).current_dir(self.at("root"));
        let out = command.output().expect("a shell");
        assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// Returns what the member asks of the service: the answer's text, and the texts of what it links to.
    fn asked(&self, at: &str, url: &str) -> String {
        let body = json!({"video_paths": [url], "scale": 2}).to_string();
        let sent = self.agent.post(format!("{at}/upscale")).header("content-type", "application/json").send(body);
        let mut text = sent.expect("an answer").body_mut().read_to_string().expect("a text");
        for secret in ["aaaa", "bbbb"] {
            let got = self.agent.get(format!("{at}/files/{secret}/x")).call();
            text += &got.expect("an answer").body_mut().read_to_string().unwrap_or_default();
        }
        text
    }

    fn assert_safe(&self, told: &str) {
        assert!(!told.contains("0123456789"), "a file of the service was given away: {told}");
        assert!(!told.contains("/files/"), "it has a result: {told}");
        let keys = fs::read_to_string(self.at("home/authorized_keys")).expect("its file");
        assert_eq!(keys, KEYS, "a file of the service was written\n{}", self.console());
    }
}

fn key_of(url: &str) -> String {
    blake3::hash(format!("url {url}\n\n2\nNone").as_bytes()).to_hex()[..32].to_owned()
}

/// A record of a request that has ended well with this result.
fn record(house: &House, url: &str, secret: &str, output: &Path) -> Value {
    let origin = match url.ends_with("read") {
        true => json!({"url": url}),
        false => json!({"shared": {"source": "/x", "target": house.at("home/authorized_keys")}}),
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs();
    let bytes = fs::metadata(output).map_or(1, |meta| meta.len());
    let finished =
        json!({"output": output, "bytes": bytes, "frames": 1, "seconds": 1.0, "at": now, "object": null, "url": null});
    json!({"version": 1, "key": key_of(url), "secret": secret, "origin": origin, "task": null, "scale": 2,
           "max_size_mb": null, "asked": now, "finished": finished})
}

#[test]
fn records_of_strangers_are_not_believed() {
    let name = "records_of_strangers_are_not_believed";
    if !ready(name) {
        return;
    }
    let Some(mut house) = House::new(name, "") else { return };
    let (read, write) = ("http://8.8.8.8/read", "http://8.8.8.8/write");
    let records = [(read, "aaaa", house.at("home/secret")), (write, "bbbb", house.at("root/input/.evil"))];
    let at = house.start().expect("a daemon");
    house.member("echo ssh-ed25519 AAAA.. member > input/.evil");
    // In every place that a record was or is kept in, while the daemon runs; its own are moved aside
    house.member(
        "for home in input/.requests output/.requests .upscaled; do mv $home $home-old || true; done 2> /dev/null",
    );
    for (url, secret, output) in &records {
        let (key, text) = (key_of(url), record(&house, url, secret, output));
        house.member(&format!("mkdir -p input/.requests/{key} output/.requests/{key} .upscaled/requests"));
        for place in [format!("input/.requests/{key}/request.json"), format!(".upscaled/requests/{key}.json")] {
            house.member(&format!("cat > {place} <<'END'\n{text}\nEND"));
        }
        let output = output.display();
        house.member(&format!("ln -s {output} input/.requests/{key}/payload; ln -s {output} output/.requests/{key}/x"));
    }
    // A line of the history that names a file of the service as the request's result
    let job = format!(".requests/{}/payload", key_of(read));
    let line = json!({"version": 1, "job": job, "state": "done", "size": 1, "mtime_ns": 1, "at": "2026-01-01T00:00:00Z",
                      "outcome": {"output": house.at("home/secret"), "frames": 1, "seconds": 1.0, "fps": 1.0, "speed": 1.0,
                                  "source_bytes": 1, "output_bytes": 1, "width": 2, "height": 2, "encoder": "", "device": "",
                                  "tiles": 0, "tiles_reused": 0, "stages": [], "damaged": 0, "losses": [], "verified": ""}});
    house.member(&format!("cat >> output/history.jsonl <<'END'\n{line}\nEND"));
    for url in [read, write] {
        house.assert_safe(&house.asked(&at, url));
    }
    // At the next start the member's folder stands where the records belong: the daemon says so, and does not start.
    assert_eq!(house.start(), None);
    let console = house.console();
    assert!(console.contains("/root/.upscaled is not believed: it belongs to user 61002"), "{console}");
    // Given its own again, it leaves the member's in input/ as they are, and tells of them.
    house.member("rm -r .upscaled; mv .upscaled-old .upscaled");
    let at = house.start().expect("a daemon");
    assert!(house.console().contains("/root/input/.requests is not believed"), "{}", house.console());
    for url in [read, write] {
        house.assert_safe(&house.asked(&at, url));
        assert!(house.at(&format!("root/input/.requests/{}/request.json", key_of(url))).exists());
    }
}

#[test]
fn job_folders_and_settings_of_strangers_are_not_believed() {
    let name = "job_folders_and_settings_of_strangers_are_not_believed";
    if !ready(name) {
        return;
    }
    let Some(mut house) = House::new(name, "on_success = \"delete\"\n") else { return };
    house.start().expect("a daemon");
    house.stop();
    // A job that is published already, says its folder: what is left is to delete its source.
    let mine = house.at("root/output/mine");
    fs::write(&mine, "mine").expect("a file");
    let marker = json!({"version": 1, "job": "../../home/authorized_keys", "key": "0-1"});
    let hash = blake3::hash(b"mine").to_hex().to_string();
    let publish = checked(json!({"version": 1, "name": "../root/output/mine", "size": 4, "hash": hash}), "0-1");
    house.member(&format!(
        "mkdir output/film.mkv.job; cd output/film.mkv.job; echo '{marker}' > .upscaled-job; echo '{publish}' > publish.json"
    ));
    // Settings for a folder of input/ that lead elsewhere
    house.member("mkdir input/mine; echo 'move_to = \"/tmp\"' > input/mine/upscaled.toml; echo 'scale = 3' > input/upscaled.toml");
    let film = house.at("film.mp4");
    clip(&film, "64x48", 12);
    fs::set_permissions(&film, PermissionsExt::from_mode(0o644)).expect("a mode");
    house.member("cp ../film.mp4 input/mine/film.mp4");
    house.start().expect("a daemon");
    house.assert_safe("");
    // The daemon listens before it has looked through output/.
    let told =
        |console: &str| console.contains("film.mkv.job belongs to user 61002") && console.contains("it is not used");
    assert!(within(20, || told(&house.console())), "{}", house.console());
    let failed = || fs::read_to_string(house.at("root/output/history.jsonl")).unwrap_or_default();
    assert!(
        within(60, || failed().contains("move_to names a path, and the file belongs to user 61002")),
        "{}",
        house.console()
    );
    assert!(house.at("root/input/mine/film.mp4").exists() && house.at("root/output/film.mkv.job").exists());
    // Settings of the whole service
    house.member("mv upscaled.toml was.toml; echo 'fetch_private = true' > upscaled.toml");
    assert_eq!(house.start(), None);
    assert!(
        house.console().contains("upscaled.toml: belongs to user 61002, and so says nothing here"),
        "{}",
        house.console()
    );
}

/// As the program writes its own: with the check sum that anybody can reckon.
fn checked(mut value: Value, key: &str) -> Value {
    let mut fields: Vec<(String, Value)> = value.as_object().expect("an object").clone().into_iter().collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    let text: String = fields.iter().map(|(name, field)| format!("{}:{field},", Value::from(name.as_str()))).collect();
    let key = blake3::derive_key("upscaled state file check v1", key.as_bytes());
    let sum = blake3::keyed_hash(&key, format!("{{{text}}}").as_bytes());
    value["check"] = sum.to_hex()[..32].into();
    value
}

/// Has a clip upscaled; the answer, and the path of its link.
fn made(service: &Service, bytes: &[u8]) -> (Answer, String) {
    let answer = service.process_video(Some("SD2HD"), Some(bytes));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let link = answer.header("x-video-url");
    let path = link[link.find("/files/").expect("a link")..].to_owned();
    (answer, path)
}

#[test]
fn a_result_that_is_not_what_was_made_is_not_served() {
    if !ready("a_result_that_is_not_what_was_made_is_not_served") {
        return;
    }
    let mut service = Service::start("");
    let bytes = clip_bytes("64x48", 12);
    let (first, path) = made(&service, &bytes);
    let linked = |service: &Service| service.get(&format!("{}{path}", service.original));
    assert_eq!(linked(&service).body, first.body);
    let mut outputs = crate::common::disk::all_in(&service.root.output(".requests"));
    outputs.retain(|path| path.extension().is_some_and(|e| e == "mp4"));
    let [output] = &outputs[..] else { panic!("{outputs:?}") };
    for folder in [output.parent().expect("a folder"), &service.root.output(".requests")] {
        assert_eq!(fs::metadata(folder).expect("a folder").permissions().mode() & 0o777, 0o700);
    }
    // Other bytes of the same length, a link to them, nothing
    let secret = service.keep("secret", &first.body);
    for planted in 0..3 {
        if planted > 0 {
            fs::remove_file(output).expect("the result");
        }
        match planted {
            0 => fs::write(output, vec![0; first.body.len()]).expect("a file"),
            1 => symlink(&secret, output).expect("a link"),
            _ => {}
        }
        assert_eq!(linked(&service).status, 404, "{planted}");
        if planted == 0 {
            // By what is on the disk, not by what this process remembers.
            service.kill_and_restart();
            assert_eq!(linked(&service).status, 404);
        }
        if planted == 1 {
            fs::remove_file(output).expect("the link");
        }
        // Asked for again, it is made anew.
        let again = service.process_video(Some("SD2HD"), Some(&bytes));
        assert_eq!((again.status, again.body == first.body), (200, true), "{planted}: {}", service.root.console());
        assert_eq!(linked(&service).body, first.body);
    }
    assert_eq!(service.endings("done"), 4);
}

#[test]
fn records_of_an_earlier_version_go_on() {
    if !ready("records_of_an_earlier_version_go_on") {
        return;
    }
    let mut service = Service::start("");
    let bytes = clip_bytes("64x48", 12);
    let (first, path) = made(&service, &bytes);
    let _ = service.child.kill();
    let _ = service.child.wait();
    // As they were kept, and with the modes of a usual umask
    let records = service.root.path().join(".upscaled/requests");
    let record = fs::read_dir(&records).expect("records").flatten().next().expect("a record").path();
    let mut old: Value = serde_json::from_slice(&fs::read(&record).expect("a record")).expect("JSON");
    let key = old["key"].as_str().expect("a key").to_owned();
    assert_eq!(record.file_name().and_then(|name| name.to_str()), Some(format!("{key}.json").as_str()));
    let result = service.root.output(".requests").join(&key);
    let finished = old["finished"].as_object_mut().expect("an end");
    let name = finished["output"].as_str().expect("a name").to_owned();
    assert!(!name.contains('/') && finished["hash"].as_str().is_some_and(|hash| hash.len() == 64), "{finished:?}");
    finished.remove("hash");
    finished["output"] = result.join(&name).display().to_string().into();
    let place = service.root.input(".requests").join(&key);
    fs::write(place.join("request.json"), old.to_string()).expect("a record");
    fs::set_permissions(place.join("request.json"), PermissionsExt::from_mode(0o600)).expect("a mode");
    for folder in [service.root.output(".requests"), result] {
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o775)).expect("a mode");
    }
    fs::remove_dir_all(service.root.path().join(".upscaled")).expect("a folder");
    service.kill_and_restart();
    assert!(record.exists() && !place.join("request.json").exists(), "{}", service.root.console());
    assert_eq!(service.get(&format!("{}{path}", service.original)).body, first.body, "{}", service.root.console());
    assert_eq!(service.process_video(Some("SD2HD"), Some(&bytes)).body, first.body);
    assert_eq!(service.endings("done"), 1);
}
