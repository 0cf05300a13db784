//! The log: daily files with retention, and standard error for a terminal or the journal.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use jiff::ToSpan;
use jiff::civil::Date;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::{NonBlocking, WorkerGuard};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

use crate::path_text::escape;

/// What is logged unless `UPSCALED_LOG` says otherwise (`debug`, `upscaled::media=debug`, ..).
const DEFAULT_FILTER: &str = "info,ort=warn";
const CHILD_FILTER: &str = "warn";

/// Lines kept in memory while the disk is slow; beyond, lines are dropped rather than work held up.
const BUFFERED_LINES: usize = 16_384;

/// Takes one finished line, without its newline.
pub type LineSink = Arc<dyn Fn(&str) + Send + Sync>;

/// Where lines go besides the file.
pub enum Console {
    /// Standard error: with the time on it, or for the journal with a priority instead.
    Stderr,
    /// Standard error of a child: warnings only, without the time, for the parent to log.
    Child,
    /// Through here, without the time (a progress bar that must be kept whole).
    Through(LineSink),
}

/// Keeps the log going; when dropped, what is still in memory is written.
pub struct LogGuard(Option<WorkerGuard>);

impl LogGuard {
    /// Whether lines go to a file too.
    pub fn has_file(&self) -> bool {
        self.0.is_some()
    }
}

/// The files of a log: `<name>.2026-01-02.log` in a folder, kept for so many days.
pub struct LogFiles<'a> {
    pub folder: &'a Path,
    pub name: &'a str,
    pub days: u32,
}

/// Starts the log of this process, once.
pub fn init(files: Option<LogFiles<'_>>, console: Console) -> Result<LogGuard> {
    let (file, guard) = match files {
        None => (None, None),
        Some(files) => {
            let (writer, guard) = non_blocking(DailyFile::open(&files)?);
            (Some(line_layer(writer, Style::Timed)), Some(guard))
        }
    };
    let style = match &console {
        Console::Stderr if is_journal() => Style::Journal,
        Console::Stderr => Style::Timed,
        Console::Child | Console::Through(_) => Style::Bare,
    };
    let filter = filter(if matches!(console, Console::Child) { CHILD_FILTER } else { DEFAULT_FILTER });
    let console = line_layer(ConsoleWriter(console), style);
    let subscriber = tracing_subscriber::registry().with(filter).with(file).with(console);
    tracing::subscriber::set_global_default(subscriber).context("the log was started twice")?;
    Ok(LogGuard(guard))
}

fn filter(default: &str) -> EnvFilter {
    let wanted = std::env::var("UPSCALED_LOG").ok().filter(|text| !text.is_empty());
    wanted.and_then(|text| EnvFilter::try_new(text).ok()).unwrap_or_else(|| EnvFilter::new(default))
}

fn non_blocking(file: DailyFile) -> (NonBlocking, WorkerGuard) {
    tracing_appender::non_blocking::NonBlockingBuilder::default()
        .buffered_lines_limit(BUFFERED_LINES)
        .lossy(true)
        .thread_name("log")
        .finish(file)
}

fn line_layer<S, W>(writer: W, style: Style) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer().with_ansi(false).event_format(PlainLine(style)).with_writer(writer)
}

/// Whether standard error is the journal's own socket (systemd.exec(5), `$JOURNAL_STREAM`).
fn is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|m| named == format!("{}:{}", m.dev(), m.ino()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// `2026-01-02 03:04:05 INFO  message`
    Timed,
    /// `<6>message`: the journal has the time, and reads the priority off.
    Journal,
    /// `message`, with the level only where it is a warning or an error.
    Bare,
}

struct PlainLine(Style);

impl<S, N> FormatEvent<S, N> for PlainLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = *event.metadata().level();
        match self.0 {
            Style::Timed => {
                let now = jiff::Zoned::now();
                write!(out, "{} {level:<5} ", now.strftime("%Y-%m-%d %H:%M:%S"))?;
            }
            Style::Journal => write!(out, "<{}>", priority(level))?,
            Style::Bare if level <= Level::WARN => write!(out, "{}: ", level.as_str().to_lowercase())?,
            Style::Bare => {}
        }
        let mut words = Words(String::new());
        event.record(&mut words);
        writeln!(out, "{}", one_line(&words.0))
    }
}

/// syslog's number of a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// The text without line breaks and other control characters.
fn one_line(text: &str) -> String {
    text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

struct Words(String);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.0.insert_str(0, &format!("{value:?}")),
            name => self.0.push_str(&format!(" {name}={value:?}")),
        }
    }
}

struct ConsoleWriter(Console);

impl<'a> MakeWriter<'a> for ConsoleWriter {
    type Writer = ConsoleLine<'a>;

    fn make_writer(&'a self) -> ConsoleLine<'a> {
        ConsoleLine(&self.0)
    }
}

struct ConsoleLine<'a>(&'a Console);

impl Write for ConsoleLine<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0 {
            // A closed terminal must not end the work: what cannot be shown is dropped.
            Console::Stderr | Console::Child => drop(io::stderr().lock().write_all(bytes)),
            Console::Through(sink) => sink(String::from_utf8_lossy(bytes).trim_end()),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `<name>.2026-01-02.log` of the local day, a new one each day, old ones removed.
struct DailyFile {
    folder: PathBuf,
    name: String,
    days: u32,
    open: Option<(Date, File)>,
    /// Lines that could not be written, since the last one that could.
    lost: u64,
    /// The last line is not whole.
    torn: bool,
}

impl DailyFile {
    fn open(&LogFiles { folder, name, days }: &LogFiles<'_>) -> Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("the log folder {} cannot be made; choose another with logs", escape(folder)))?;
        let mut log = DailyFile { folder: folder.into(), name: name.into(), days, open: None, lost: 0, torn: false };
        match log.current(today()) {
            // Work does not wait for its log.
            Err(error) if is_full(&error) => log.losing(&error),
            opened => drop(opened.with_context(|| {
                format!("no log can be written in {}; choose another folder with logs", escape(folder))
            })?),
        }
        Ok(log)
    }

    /// The file of that day; opened anew after midnight and when somebody removed it.
    fn current(&mut self, day: Date) -> io::Result<&mut File> {
        let usable = matches!(&self.open, Some((opened, file)) if *opened == day && file.metadata().is_ok_and(|m| m.nlink() > 0));
        if !usable {
            self.open = None;
            let path = self.folder.join(format!("{}.{day}.log", self.name));
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(path)?;
            self.remove_old(day);
            self.open = Some((day, file));
        }
        match &mut self.open {
            Some((_, file)) => Ok(file),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Removes our files of more than `days` days ago. A failure only leaves them.
    fn remove_old(&self, day: Date) {
        let Ok(oldest) = day.checked_sub(i64::from(self.days).days()) else { return };
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            if day_of(&self.name, &entry.file_name().to_string_lossy()).is_some_and(|day| day <= oldest) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl DailyFile {
    /// The whole line or an error; what was lost before it is told first.
    fn line(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (lost, torn) = (self.lost, self.torn);
        let file = self.current(today())?;
        let mut text = if torn { b"\n".to_vec() } else { Vec::new() };
        if lost > 0 {
            text.extend(format!("{lost} lines before this one could not be written\n").bytes());
        }
        text.extend(bytes);
        let before = file.metadata()?.len();
        if let Err(error) = file.write_all(&text) {
            // Half a line is none.
            self.torn = file.set_len(before).is_err() || torn;
            return Err(error);
        }
        (self.lost, self.torn) = (0, false);
        Ok(())
    }

    fn losing(&mut self, error: &io::Error) {
        if self.lost == 0 {
            let folder = escape(&self.folder);
            let _ = writeln!(
                io::stderr().lock(),
                "no log can be written in {folder} ({error}): work goes on without it until that is mended"
            );
        }
        self.lost += 1;
    }
}

impl Write for DailyFile {
    /// Takes whole lines, and always takes them: nobody could do anything about an error.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.line(bytes) {
            self.losing(&error);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.open.as_mut().map_or(Ok(()), |(_, file)| file.flush())
    }
}

fn today() -> Date {
    jiff::Zoned::now().date()
}

fn day_of(name: &str, file: &str) -> Option<Date> {
    file.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(".log")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::small_disk::SmallDisk;
    use std::sync::Mutex;

    #[test]
    fn a_new_file_each_day_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let day = |text: &str| text.parse::<Date>().unwrap();
        for old in ["upscaled.2025-12-18.log", "upscaled.2025-12-19.log", "upscaled.x.log", "other.2020-01-01.log"] {
            std::fs::write(dir.path().join(old), "x").unwrap();
        }
        let mut log = DailyFile {
            folder: dir.path().into(),
            name: "upscaled".into(),
            days: 14,
            open: None,
            lost: 0,
            torn: false,
        };
        log.current(day("2026-01-01")).unwrap().write_all(b"a\n").unwrap();
        log.current(day("2026-01-01")).unwrap().write_all(b"b\n").unwrap();
        log.current(day("2026-01-02")).unwrap().write_all(b"c\n").unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name));
        assert_eq!(read("upscaled.2026-01-01.log").unwrap(), "a\nb\n");
        assert_eq!(read("upscaled.2026-01-02.log").unwrap(), "c\n");
        assert!(read("upscaled.2025-12-18.log").is_err());
        assert!(read("upscaled.2025-12-19.log").is_err());
        assert!(read("upscaled.x.log").is_ok() && read("other.2020-01-01.log").is_ok());
        std::fs::remove_file(dir.path().join("upscaled.2026-01-02.log")).unwrap();
        log.current(day("2026-01-02")).unwrap().write_all(b"d\n").unwrap();
        assert_eq!(read("upscaled.2026-01-02.log").unwrap(), "d\n");
    }

    #[test]
    fn a_full_disk_costs_whole_lines_and_they_are_counted() {
        let Some(disk) = SmallDisk::mount(64 << 10) else { return };
        let folder = disk.path().join("logs");
        let mut log = DailyFile::open(&LogFiles { folder: &folder, name: "upscaled", days: 14 }).unwrap();
        let line = |n: u32| format!("{n} {}\n", "x".repeat(3000));
        log.write_all(line(0).as_bytes()).unwrap();
        disk.fill_but(0);
        (1..4).for_each(|n| log.write_all(line(n).as_bytes()).unwrap());
        std::fs::remove_file(disk.path().join("ballast")).unwrap();
        log.write_all(line(4).as_bytes()).unwrap();
        let text = std::fs::read_to_string(folder.join(format!("upscaled.{}.log", today()))).unwrap();
        let begins: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
        let lost: u32 = begins[begins.len() - 2].parse().unwrap();
        assert!((2..=3).contains(&lost), "{begins:?}");
        assert!(text.contains("lines before this one could not be written\n4 x") && text.starts_with("0 x"));
        assert!(text.lines().all(|line| line.len() == 3002 || line.contains("could not be written")), "a torn line");
    }

    #[test]
    fn lines_are_plain() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink: LineSink = {
            let lines = lines.clone();
            Arc::new(move |line: &str| lines.lock().unwrap().push(line.to_string()))
        };
        for style in [Style::Timed, Style::Journal, Style::Bare] {
            let layer = line_layer(ConsoleWriter(Console::Through(sink.clone())), style);
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
                tracing::warn!(frames = 3, "lost\nsome");
            });
        }
        let lines = lines.lock().unwrap();
        let (time, rest) = lines[0].split_at(19);
        assert!(jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S", time).is_ok(), "{time}");
        assert_eq!(rest, " WARN  lost some frames=3");
        assert_eq!(lines[1..], ["<4>lost some frames=3", "warn: lost some frames=3"]);
    }
}
