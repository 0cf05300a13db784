//! A daemon with a listener, and the client that asks it.

use std::ffi::OsStr;
use std::process::Child;
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;

use crate::common::{Root, within};

pub(crate) const TOKEN: &str = "a-token-of-25-characters-";

/// A daemon with a listener; killed with the test.
pub(crate) struct Daemon {
    pub root: Root,
    pub child: Child,
    pub at: String,
    pub agent: Agent,
    /// What it is started with, again too.
    words: Vec<String>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What is mounted for a job outlives its daemon, so that the next one finds it.
        for area in std::fs::read_dir(self.root.path().join("ram")).into_iter().flatten().flatten() {
            let mut command = std::process::Command::new("umount");
            let _ = command.arg("--lazy").arg(area.path()).stderr(std::process::Stdio::null()).status();
        }
    }
}

pub(crate) struct Answer {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Daemon {
    pub(crate) fn start(host: &str, more: &[&str]) -> Daemon {
        Daemon::of(Root::new("device = \"cpu\"\nrescan_seconds = 1\n"), host, more)
    }

    pub(crate) fn of(root: Root, host: &str, more: &[&str]) -> Daemon {
        // In the root, so that nothing of a killed daemon stays anywhere else.
        let area = format!("work_area={}", root.path().join("ram").display());
        let words = ["daemon", "--listen", &format!("{host}:0"), "--set", &area].map(str::to_owned);
        let words: Vec<String> = words.into_iter().chain(more.iter().map(|word| word.to_string())).collect();
        let (child, at) = launch(&root, &words);
        let agent = Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(30)));
        Daemon { at, root, child, agent: agent.build().into(), words }
    }

    /// Killed as by a power cut, and started again.
    pub(crate) fn again(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        (self.child, self.at) = launch(&self.root, &self.words);
    }

    /// The command line, beside it.
    pub(crate) fn command(&self, words: &[&str]) -> std::process::Output {
        let words = words.iter().copied().chain(["--root"]).map(OsStr::new);
        let words: Vec<_> = words.chain([self.root.path().as_os_str()]).collect();
        self.root.program(&words).output().expect("the program starts")
    }

    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.at));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map(|body| body.to_string());
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(body.unwrap_or_default()).unwrap();
        let mut answer = self.agent.run(request).unwrap();
        let body = answer.body_mut().read_to_string().unwrap();
        Answer { status: answer.status().as_u16(), headers: answer.headers().clone(), body }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], None)
    }

    pub(crate) fn post(&self, path: &str, body: Option<Value>) -> Answer {
        self.ask("POST", path, &[], body)
    }

    /// A job as `/api/jobs/JOB` tells of it.
    pub(crate) fn job_itself(&self, name: &str) -> Value {
        self.get(&format!("/api/jobs/{}", name.replace(' ', "%20"))).json()
    }

    /// A job of `/api/jobs`, null where there is none.
    pub(crate) fn job(&self, name: &str) -> Value {
        let jobs = self.get("/api/jobs").json()["jobs"].as_array().unwrap().clone();
        jobs.into_iter().find(|job| job["job"] == name).unwrap_or_default()
    }
}

fn launch(root: &Root, words: &[String]) -> (Child, String) {
    let before = root.console().len();
    let all = words.iter().map(OsStr::new).chain([OsStr::new("--root"), root.path().as_os_str()]);
    let child = root.spawn(&all.collect::<Vec<_>>());
    let told = || root.console()[before..].lines().find_map(|line| Some(line.split_once("http://")?.1.to_owned()));
    assert!(within(30, || told().is_some()), "{}", root.console());
    let told = told().expect("its address");
    let port = told.trim_end_matches('/').rsplit_once(':').expect("a port").1.to_owned();
    (child, format!("http://127.0.0.1:{port}"))
}
