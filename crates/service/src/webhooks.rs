//! Notices of ended jobs to whom it concerns elsewhere: one signed POST each, again and again until it is taken.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::time::sleep;
use url::Url;

use upscaled_core::clock::unix_now;
use upscaled_core::config::settings::ServiceSettings;
use upscaled_core::fault::{Fault, one_line};
use upscaled_core::path_text::escape;
use upscaled_jobs::state::history::{Ending, HistoryEntry};
use upscaled_jobs::state::notices::{Notice, Notices};
use upscaled_jobs::state::paths::RootLayout;

use crate::daemon::Frontend;
use crate::ingest::fetch::{Fetcher, place};
use crate::server::kit::shown::ClientPaths;

/// Between two looks at the history.
const LOOK: Duration = Duration::from_secs(1);
/// The receiver has to answer within so long.
const ANSWER: Duration = Duration::from_secs(20);
/// Seconds after the first failure; they double with each further one, up to the longest.
const PAUSE: u64 = 1;
const PAUSE_MAX: u64 = 600;
/// Seconds after which a notice that is never taken is given up.
const PATIENCE: u64 = 3 * 86_400;

/// Sends notices.
struct Notifier {
    layout: RootLayout,
    shown: ClientPaths,
    fetcher: Fetcher,
    url: Url,
    secret: String,
}

/// What tells of ended jobs for as long as the daemon runs; nothing where nobody is to be told.
///
/// # Errors
/// [`Fault::Config`] for an address that cannot be, or may not be asked for, and without a secret.
pub fn front(layout: RootLayout, settings: &ServiceSettings) -> Result<Option<Frontend>> {
    let Some(url) = &settings.notify_url else { return Ok(None) };
    let secret = settings.notify_secret.as_ref().map(|secret| secret.0.clone());
    let secret =
        secret.ok_or_else(|| Fault::Config.because("notify_url needs a notify_secret, which signs notices"))?;
    let fetcher = Fetcher::new(settings.notify_private)?;
    let url = fetcher.check(url).map_err(|error| {
        Fault::Config.because(format!("notify_url: {error}; notify_private = true allows private addresses"))
    })?;
    let notifier = Arc::new(Notifier { shown: ClientPaths::new(&layout), layout, fetcher, url, secret });
    Ok(Some(Box::new(move |_| Box::pin(async move { notifier.run().await }))))
}

/// `sha256=` and the HMAC-SHA256, in hexadecimal digits, of time, a full stop and body.
fn signature(secret: &str, time: u64, body: &[u8]) -> Result<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).context("signing a notice")?;
    mac.update(format!("{time}.").as_bytes());
    mac.update(body);
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256={hex}"))
}

/// Seconds until the next try.
fn pause(tries: u32) -> u64 {
    PAUSE.saturating_mul(1 << tries.min(20)).min(PAUSE_MAX)
}

impl Notifier {
    async fn run(&self) {
        loop {
            match self.tell_all().await {
                Ok(()) => {}
                Err(error) => tracing::warn!("notices cannot be sent: {}", one_line(&error)),
            }
            sleep(Duration::from_secs(PAUSE_MAX / 10)).await;
        }
    }

    /// Tells of all that ends from now on; comes back only with an error of this machine.
    async fn tell_all(&self) -> Result<()> {
        let layout = self.layout.clone();
        let mut notices = tokio::task::spawn_blocking(move || Notices::open(&layout)).await??;
        loop {
            let found;
            (notices, found) = off_the_loop(notices, Notices::waiting).await?;
            let Some(notice) = found else {
                sleep(LOOK).await;
                continue;
            };
            sleep(Duration::from_secs(notice.next.saturating_sub(unix_now()).min(PAUSE_MAX))).await;
            let sent = self.send(&notice).await;
            let now = unix_now();
            let over = notice.tries > 0 && now.saturating_sub(notice.first) > PATIENCE;
            (notices, ()) = off_the_loop(notices, move |notices| match &sent {
                Ok(()) => notices.done(&notice),
                Err(why) if over => {
                    tracing::error!(
                        "{}: nobody takes the notice of its end, given up: {why}",
                        escape(&notice.entry.job)
                    );
                    notices.done(&notice)
                }
                Err(why) => {
                    let rest = pause(notice.tries);
                    tracing::warn!(
                        "{}: the notice of its end was not taken ({why}); again in {rest} s",
                        escape(&notice.entry.job)
                    );
                    notices.again(&notice, now, now + rest)
                }
            })
            .await?;
        }
    }

    /// One try; why it was none.
    async fn send(&self, notice: &Notice) -> Result<(), String> {
        let body = self.body(notice).to_string().into_bytes();
        let time = unix_now();
        let signature = signature(&self.secret, time, &body).map_err(|error| one_line(&error))?;
        let headers = [
            ("content-type", "application/json".to_owned()),
            ("x-upscaled-id", notice.id.clone()),
            ("x-upscaled-timestamp", time.to_string()),
            ("x-upscaled-signature", signature),
        ];
        match self.fetcher.post(&self.url, &headers, body, ANSWER).await {
            Ok(200..=299) => Ok(()),
            Ok(status) => Err(format!("{} answered {status}", place(&self.url))),
            Err(error) => Err(error.to_string()),
        }
    }

    fn body(&self, notice: &Notice) -> Value {
        let HistoryEntry { job, state, at, fault, reason, outcome, .. } = &notice.entry;
        let mut body = json!({
            "id": notice.id,
            "event": if *state == Ending::Done { "done" } else { "failed" },
            "job": escape(job),
            "at": at,
        });
        if let Some(reason) = reason {
            body["reason"] = self.shown.words(reason).into();
            body["fault"] = json!(fault);
        }
        if let Some(outcome) = outcome {
            body["output"] = self.shown.path(&outcome.output).into();
            body["bytes"] = outcome.output_bytes.into();
            body["frames"] = outcome.frames.into();
            body["seconds"] = outcome.seconds.into();
        }
        body
    }
}

/// Work on the files of the notices, apart from the daemon's loop.
async fn off_the_loop<T: Send + 'static>(
    mut notices: Notices,
    work: impl FnOnce(&mut Notices) -> Result<T> + Send + 'static,
) -> Result<(Notices, T)> {
    let done = tokio::task::spawn_blocking(move || work(&mut notices).map(|done| (notices, done)));
    done.await.context("work on notices was given up")?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::path::Path;
    use std::sync::mpsc;
    use upscaled_core::config::settings::{Folders, Secret};
    use upscaled_jobs::state::history::History;

    #[test]
    fn signatures_are_as_others_make_them() {
        // RFC 4231, test case 2, is of "Jefe" and "what do ya want for nothing?"; ours has the time before the body.
        let mut mac = Hmac::<Sha256>::new_from_slice(b"Jefe").unwrap();
        mac.update(b"what do ya want for nothing?");
        let want: [u8; 4] = [0x5b, 0xdc, 0xc1, 0x46];
        assert_eq!(mac.finalize().into_bytes()[..4], want);
        // printf '7.{}' | openssl dgst -sha256 -hmac key
        let want = "sha256=77bc83bd1f40422311e47918b203449aecf84b02c1568bb1b570ac2a474cc2d8";
        assert_eq!(signature("key", 7, b"{}").unwrap(), want);
        assert_eq!([0, 1, 5, 9, 10, 99].map(pause), [1, 2, 32, 512, 600, 600]);
    }

    /// A receiver that answers with these, one a call, the last for ever; what it was sent.
    fn receiver(answers: &'static [u16]) -> (u16, mpsc::Receiver<(String, String)>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, heard) = mpsc::channel();
        std::thread::spawn(move || {
            for (n, stream) in listener.incoming().flatten().enumerate() {
                let mut reader = BufReader::new(stream);
                let (mut head, mut line, mut length) = (String::new(), String::new(), 0);
                while reader.read_line(&mut line).unwrap() > 2 {
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    head += &std::mem::take(&mut line).to_lowercase();
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let status = answers[n.min(answers.len() - 1)];
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                reader.into_inner().write_all(answer.as_bytes()).unwrap();
                if tell.send((head, String::from_utf8(body).unwrap())).is_err() {
                    return;
                }
            }
        });
        (port, heard)
    }

    fn layout(root: &Path) -> RootLayout {
        let at = |name: &str| root.join(name);
        RootLayout::new(&Folders { root: at(""), input: at("i"), output: at("o"), logs: at("l") })
    }

    fn settings(url: String, private: bool) -> ServiceSettings {
        let (notify_url, notify_secret) = (Some(url), Some(Secret("key".into())));
        ServiceSettings { notify_url, notify_secret, notify_private: private, ..ServiceSettings::default() }
    }

    fn end(layout: &RootLayout, job: &str, state: Ending) {
        let mut entry = HistoryEntry::new(Path::new(job), state, 1, 2);
        entry.reason = (state == Ending::Failed).then(|| format!("{}/i/x is broken", layout.root().display()));
        History::open(&layout.history()).unwrap().append(&entry).unwrap();
    }

    async fn heard(heard: &mpsc::Receiver<(String, String)>) -> (String, String) {
        for _ in 0..200 {
            match heard.try_recv() {
                Ok(got) => return got,
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
        panic!("no notice came");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn every_end_is_told_until_it_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path());
        let (port, calls) = receiver(&[500, 302, 200]);
        let settings = settings(format!("http://127.0.0.1:{port}/hook?x=1"), true);
        let start = || {
            let (asked, _) = tokio::sync::mpsc::channel(1);
            tokio::spawn(front(layout.clone(), &settings).unwrap().unwrap()(asked))
        };
        let first = start();
        sleep(Duration::from_millis(300)).await;
        end(&layout, "a b.mkv", Ending::Done);
        let (head, body) = heard(&calls).await;
        assert!(head.starts_with("post /hook?x=1 "), "{head}");
        let line = |name: &str| head.lines().find_map(|l| Some(l.strip_prefix(name)?.trim().to_owned())).unwrap();
        let time = line("x-upscaled-timestamp:").parse().unwrap();
        assert_eq!(line("x-upscaled-signature:"), signature("key", time, body.as_bytes()).unwrap());
        let told: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&told["event"], &told["job"]), (&json!("done"), &json!("a b.mkv")));
        // Refused: the same again, by the next process too.
        first.abort();
        let _ = first.await;
        end(&layout, "c.mkv", Ending::Failed);
        let second = start();
        for _ in 0..2 {
            assert_eq!(serde_json::from_str::<Value>(&heard(&calls).await.1).unwrap(), told);
        }
        let failed: Value = serde_json::from_str(&heard(&calls).await.1).unwrap();
        assert_eq!((&failed["event"], &failed["reason"]), (&json!("failed"), &json!("i/x is broken")));
        sleep(3 * LOOK / 2).await;
        assert!(calls.try_recv().is_err(), "told once it was taken");
        second.abort();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn private_addresses_are_not_asked() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path());
        let (port, calls) = receiver(&[200]);
        for host in ["127.0.0.1", "[::1]", "169.254.169.254", "10.0.0.1"] {
            let refused = front(layout.clone(), &settings(format!("http://{host}:{port}/"), false)).err().unwrap();
            assert_eq!(Fault::of(&refused), Fault::Config, "{host}");
        }
        let unsigned = ServiceSettings { notify_secret: None, ..settings("http://films.example/".into(), false) };
        assert!(one_line(&front(layout.clone(), &unsigned).err().unwrap()).contains("notify_secret"));
        let (asked, _) = tokio::sync::mpsc::channel(1);
        let named = settings(format!("http://localhost:{port}/"), false);
        let running = tokio::spawn(front(layout.clone(), &named).unwrap().unwrap()(asked));
        sleep(Duration::from_millis(300)).await;
        end(&layout, "a.mkv", Ending::Done);
        sleep(2 * LOOK).await;
        assert!(calls.try_recv().is_err(), "a name that leads here was asked");
        let waits = Notices::open(&layout).unwrap().waiting().unwrap().unwrap();
        assert!(waits.tries > 0);
        running.abort();
    }
}
