//! The text of queue.txt: which lines are jobs, and changing the jobs without touching the rest.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use upscaled_core::path_text::{escape, unescape};

use crate::state::line_merge::{merge, unmoved};
use crate::state::paths::clean_relative;

/// Longest path that is taken for a job, in bytes (Linux's `PATH_MAX`).
const MAX_PATH: usize = 4096;
const BOM: &[u8] = b"\xef\xbb\xbf";

/// How lines become jobs: knows where input/ is.
#[derive(Clone, Debug)]
pub struct LineResolver {
    input: PathBuf,
    /// `input` with symbolic links resolved.
    real_input: PathBuf,
    /// What a person standing in the root would write in front: `input`.
    prefix: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum LineKind {
    /// Comment, blank, or not understood: kept as it is.
    Other,
    Job(PathBuf),
    /// A later line of the same job: goes when the job goes.
    Duplicate(PathBuf),
}

#[derive(Clone, Debug)]
struct QueueLine {
    /// Without line end.
    text: Vec<u8>,
    kind: LineKind,
}

/// queue.txt, read.
#[derive(Clone, Debug)]
pub struct QueueLines {
    bom: bool,
    lines: Vec<QueueLine>,
    ends_open: bool,
    line_end: &'static [u8],
    /// Lines that were not understood, in words, for the log.
    pub remarks: Vec<String>,
}

impl LineResolver {
    pub fn new(root: &Path, input: &Path) -> LineResolver {
        let prefix = input.strip_prefix(root).ok().and_then(clean_relative);
        let real_input = fs::canonicalize(input).unwrap_or_else(|_| input.to_path_buf());
        LineResolver { input: input.to_path_buf(), real_input, prefix }
    }

    fn exists(&self, relative: &Path) -> bool {
        fs::symlink_metadata(self.input.join(relative)).is_ok()
    }

    /// The job a line names, `None` when it names nothing inside input/.
    fn job(&self, text: &[u8]) -> Option<PathBuf> {
        let literal = Path::new(OsStr::from_bytes(text));
        let written = std::str::from_utf8(text).ok().and_then(unescape);
        let job = match written {
            Some(path) if path != literal => {
                // A person may have pasted a name with a backslash in it.
                let job = self.relative(&path, text);
                let plain = self.relative(literal, text);
                if job.as_ref().is_none_or(|j| !self.exists(j)) && plain.as_ref().is_some_and(|p| self.exists(p)) {
                    plain
                } else {
                    job
                }
            }
            _ => self.relative(literal, text),
        };
        job.filter(|j| j.as_os_str().len() <= MAX_PATH)
    }

    fn relative(&self, path: &Path, text: &[u8]) -> Option<PathBuf> {
        if path.is_absolute() {
            let inside = path.strip_prefix(&self.input).or_else(|_| path.strip_prefix(&self.real_input)).ok()?;
            return clean_relative(inside);
        }
        let plain = clean_relative(path)?;
        let Some(prefix) = &self.prefix else { return Some(plain) };
        // Only as typed: our own lines escape the first letter of such a name.
        let typed = clean_relative(Path::new(OsStr::from_bytes(text)));
        let stripped = plain.strip_prefix(prefix).ok().and_then(clean_relative);
        match stripped {
            Some(inside) if typed.is_some_and(|t| t.starts_with(prefix)) && !self.exists(&plain) => Some(inside),
            _ => Some(plain),
        }
    }

    /// The line of a job.
    fn line(&self, job: &Path) -> Vec<u8> {
        let text = escape(job);
        match (&self.prefix, text.as_bytes().first()) {
            (Some(prefix), Some(first)) if job.starts_with(prefix) && text.is_char_boundary(1) => {
                format!("\\x{first:02x}{}", &text[1..]).into_bytes()
            }
            _ => text.into_bytes(),
        }
    }
}

impl QueueLines {
    /// Reads the file; `Err` says why it is damaged (NUL bytes, or bytes that are neither UTF-8 nor a
    /// file's name).
    pub fn parse(bytes: &[u8], resolver: &LineResolver) -> Result<QueueLines, String> {
        let (bom, body) = bytes.strip_prefix(BOM).map_or((false, bytes), |rest| (true, rest));
        if body.contains(&0) {
            return Err("it holds NUL bytes".into());
        }
        let ends_open = !body.is_empty() && body.last() != Some(&b'\n');
        let mut parsed = QueueLines { bom, lines: Vec::new(), ends_open, line_end: b"\n", remarks: Vec::new() };
        let mut seen = HashSet::new();
        let mut dos = 0;
        let mut pieces: Vec<&[u8]> = body.split(|b| *b == b'\n').collect();
        if !ends_open {
            pieces.pop();
        }
        for (number, piece) in pieces.iter().enumerate() {
            dos += usize::from(piece.last() == Some(&b'\r'));
            let text = piece.trim_ascii();
            let is_text = std::str::from_utf8(text).is_ok();
            let kind = if text.is_empty() || (text[0] == b'#' && is_text) {
                LineKind::Other
            } else {
                match resolver.job(text) {
                    Some(job) if !is_text && !resolver.exists(&job) => {
                        return Err(format!("line {} is not valid UTF-8 and names no file", number + 1));
                    }
                    None if !is_text => return Err(format!("line {} is not valid UTF-8", number + 1)),
                    Some(job) if seen.contains(&job) => LineKind::Duplicate(job),
                    Some(job) => {
                        seen.insert(job.clone());
                        LineKind::Job(job)
                    }
                    None => {
                        let shown = String::from_utf8_lossy(&text[..text.len().min(200)]);
                        // Without its number, which changes: each such line is told once.
                        parsed.remarks.push(format!("a line names no file in input/: {shown}"));
                        LineKind::Other
                    }
                }
            };
            parsed.lines.push(QueueLine { text: piece.to_vec(), kind });
        }
        if dos * 2 > parsed.lines.len() {
            parsed.line_end = b"\r\n";
        }
        Ok(parsed)
    }

    /// The jobs in order, each once.
    pub fn jobs(&self) -> Vec<PathBuf> {
        self.lines
            .iter()
            .filter_map(|l| if let LineKind::Job(job) = &l.kind { Some(job.clone()) } else { None })
            .collect()
    }

    /// The file's text with `wanted` (each once) as its jobs: lines of jobs that are gone are taken
    /// out with their duplicates (as those of jobs that move), new ones put behind the line before them (at the end: behind
    /// everything), as few as possible moved. All other lines stay as they are.
    pub fn rearranged(&self, wanted: &[PathBuf], resolver: &LineResolver) -> Vec<u8> {
        let present = self.jobs();
        let stay: HashSet<&Path> = unmoved(&present, wanted).into_iter().map(|i| present[i].as_path()).collect();
        let texts: HashMap<&Path, &[u8]> = self
            .lines
            .iter()
            .filter_map(
                |l| if let LineKind::Job(job) = &l.kind { Some((job.as_path(), l.text.as_slice())) } else { None },
            )
            .collect();
        let mut out: Vec<Vec<u8>> = Vec::new();
        let mut next = wanted.iter().map(PathBuf::as_path).peekable();
        let emit = |job: &Path, out: &mut Vec<Vec<u8>>| {
            out.push(texts.get(job).map_or_else(|| with_end(resolver.line(job), self.line_end), |t| t.to_vec()));
        };
        let mut left = stay.len();
        for line in &self.lines {
            match &line.kind {
                LineKind::Other => out.push(line.text.clone()),
                LineKind::Duplicate(job) if stay.contains(job.as_path()) => out.push(line.text.clone()),
                LineKind::Job(job) if stay.contains(job.as_path()) => {
                    while let Some(before) = next.next_if(|n| !stay.contains(n)) {
                        emit(before, &mut out);
                    }
                    next.next();
                    out.push(line.text.clone());
                    left -= 1;
                    while let Some(after) = next.next_if(|n| left > 0 && !stay.contains(n)) {
                        emit(after, &mut out);
                    }
                }
                LineKind::Duplicate(_) | LineKind::Job(_) => {}
            }
        }
        next.for_each(|job| emit(job, &mut out));
        self.joined(out)
    }

    /// The text of these lines in the way of this file: its byte order mark, its open end if its last line is still
    /// the last one.
    fn joined(&self, lines: Vec<Vec<u8>>) -> Vec<u8> {
        let mut bytes = if self.bom { BOM.to_vec() } else { Vec::new() };
        let open = self.ends_open && self.lines.last().map(|l| &l.text) == lines.last();
        for text in lines {
            bytes.extend_from_slice(&text);
            bytes.push(b'\n');
        }
        if open {
            bytes.pop();
        }
        bytes
    }

    /// What a line is, apart from how it is written; equal lines that are no jobs are told apart by
    /// their count.
    fn keys(&self) -> Vec<(LineKind, Vec<u8>, usize)> {
        let mut counts: HashMap<(LineKind, Vec<u8>), usize> = HashMap::new();
        let key = |line: &QueueLine| match &line.kind {
            LineKind::Job(_) => (line.kind.clone(), Vec::new()),
            LineKind::Other | LineKind::Duplicate(_) => (line.kind.clone(), line.text.trim_ascii_end().to_vec()),
        };
        let number = |(kind, text): (LineKind, Vec<u8>)| {
            let count = counts.entry((kind.clone(), text.clone())).or_default();
            *count += 1;
            (kind, text, *count)
        };
        self.lines.iter().map(key).map(number).collect()
    }

    /// The text that holds both `ours` and `theirs`, two edits of `base`, comments too.
    pub fn merged(base: &QueueLines, ours: &QueueLines, theirs: &QueueLines) -> Vec<u8> {
        let (ours_keys, theirs_keys) = (ours.keys(), theirs.keys());
        let mut texts: HashMap<_, &Vec<u8>> = HashMap::new();
        for (keys, lines) in [(&ours_keys, ours), (&theirs_keys, theirs)] {
            texts.extend(keys.iter().zip(lines.lines.iter().map(|l| &l.text)));
        }
        let merged = merge(&base.keys(), &ours_keys, &theirs_keys);
        theirs.joined(merged.iter().filter_map(|k| texts.get(k).map(|t| t.to_vec())).collect())
    }
}

/// A line's text as it stands before its `\n`.
fn with_end(mut text: Vec<u8>, line_end: &[u8]) -> Vec<u8> {
    text.extend_from_slice(&line_end[..line_end.len() - 1]);
    text
}

#[cfg(test)]
mod tests;
