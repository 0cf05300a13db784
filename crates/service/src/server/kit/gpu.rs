//! A graphics device's name and memory, as its driver's own tool tells them.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::daemon::supervision::environment;

/// The tool may take so long.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);
/// Bytes of a MiB over those of a GB.
const GB: f64 = 1_048_576.0 / 1e9;

/// Memory in GB (10^9 bytes).
#[derive(Clone, Debug, PartialEq)]
pub struct Gpu {
    pub name: String,
    pub total: f64,
    pub used: f64,
    pub free: f64,
}

/// What `nvidia-smi` says of a device; `None` where there is none, or it says nothing in time.
pub fn ask(device: u32) -> Option<Gpu> {
    let mut child = Command::new("nvidia-smi")
        .args(["--query-gpu=name,memory.total,memory.used,memory.free", "--format=csv,noheader,nounits", "-i"])
        .arg(device.to_string())
        .env_clear()
        .envs(environment::of_child(std::env::vars_os()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let end = Instant::now() + PATIENCE;
    loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < end => std::thread::sleep(LOOK),
            Ok(Some(status)) if status.success() => break,
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
    parsed(&std::io::read_to_string(child.stdout.take()?).ok()?)
}

/// The same beside a loop that must not wait.
pub async fn ask_aside(device: u32) -> Option<Gpu> {
    tokio::task::spawn_blocking(move || ask(device)).await.ok().flatten()
}

fn parsed(line: &str) -> Option<Gpu> {
    let mut fields = line.lines().next()?.rsplitn(4, ',').map(str::trim);
    let mut number = || fields.next()?.parse::<f64>().ok().map(|mib| mib * GB);
    let (free, used, total) = (number()?, number()?, number()?);
    Some(Gpu { name: fields.next()?.to_owned(), total, used, free })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_tool() {
        let gpu = parsed("NVIDIA X, 80 GB, 1000, 400, 600\n").unwrap();
        assert_eq!((gpu.name.as_str(), (gpu.used * 1000.0).round()), ("NVIDIA X, 80 GB", 419.0));
        assert_eq!(parsed("NVIDIA X, [N/A], 1, 2"), None);
        assert_eq!(parsed(""), None);
    }
}
