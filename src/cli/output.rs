//! What commands print: whole lines, and no panic when nobody reads them any more.

use std::fmt;
use std::io::{self, Write};

use anyhow::{Context, Result};

/// Standard output was closed by its reader. A command ends on it, quietly.
#[derive(Debug)]
pub(super) struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed")
    }
}

impl std::error::Error for ReaderGone {}

/// Writes one line to standard output.
pub(super) fn line(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        result => result.context("writing to standard output"),
    }
}

/// Writes a value to standard output as indented JSON.
pub(super) fn json(value: &impl serde::Serialize) -> Result<()> {
    line(&serde_json::to_string_pretty(value).context("writing JSON")?)
}

/// Writes one line to standard error, if that still can be done.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Rows in columns as wide as their longest cell; the last column is left as it is.
pub(super) fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let pad = |(column, cell): (usize, &String)| {
        let last = column + 1 == columns;
        let blanks = if last { 0 } else { widths[column] - cell.chars().count() };
        format!("{cell}{}", " ".repeat(blanks))
    };
    rows.iter()
        .map(|row| row.iter().enumerate().map(pad).collect::<Vec<_>>().join("  ").trim_end().to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".into(), "bb".into(), "c".into()], vec!["äöü".into(), String::new(), "d e".into()]];
        assert_eq!(table(&rows), ["a    bb  c", "äöü      d e"]);
        assert!(table(&[]).is_empty());
    }
}
