//! Paths of this machine as clients are told them: by their place in the root, or not at all.

use std::path::Path;

use crate::base::path_text::escape;
use crate::store::paths::Layout;

/// What ends a path within a sentence.
const ENDS: [char; 11] = ['"', '\'', ',', ';', ')', ']', '}', '>', '<', '|', '`'];

/// The folders of an installation, and what clients call them.
#[derive(Clone, Debug)]
pub struct Shown {
    /// As `base::path_text`, the longest first.
    folders: Vec<(String, &'static str)>,
}

impl Shown {
    pub fn new(layout: &Layout) -> Shown {
        let named = [(layout.input(), "input"), (layout.output(), "output"), (layout.root(), "")];
        // Errors of the system may name what links lead to.
        let both = |(folder, name): (&Path, &'static str)| {
            let real = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
            [(escape(folder), name), (escape(&real), name)]
        };
        let mut folders: Vec<_> = named.into_iter().flat_map(both).filter(|(path, _)| path.len() > 1).collect();
        folders.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        folders.dedup();
        Shown { folders }
    }

    /// A sentence with paths as `output/film.mkv`, and without those that lead out of the root.
    pub fn words(&self, words: &str) -> String {
        let inside = self.folders.iter().fold(words.to_owned(), |words, (folder, name)| shorter(&words, folder, name));
        without_paths(&inside)
    }

    /// The path of a file, as `base::path_text`.
    pub fn path(&self, path: &str) -> String {
        let inside = self.folders.iter().find_map(|(folder, name)| {
            let rest = path.strip_prefix(folder.as_str())?.strip_prefix('/')?;
            Some(if name.is_empty() { rest.to_owned() } else { format!("{name}/{rest}") })
        });
        inside.unwrap_or_else(|| self.words(path))
    }
}

/// The words with `name` in the place of a folder's path, where it begins one.
fn shorter(words: &str, folder: &str, name: &str) -> String {
    let mut out = String::with_capacity(words.len());
    let mut rest = words;
    while let Some(at) = rest.find(folder) {
        let (before, after) = (&rest[..at], &rest[at + folder.len()..]);
        let begins = !before.ends_with(|c: char| c.is_alphanumeric() || "/._-~".contains(c));
        let ends = !after.starts_with(|c: char| c.is_alphanumeric() || "._-~".contains(c))
            // The full stop of a sentence.
            || after.strip_prefix('.').is_some_and(|more| more.is_empty() || more.starts_with(' '));
        out.push_str(before);
        match (begins && ends, name) {
            (false, _) => out.push_str(folder),
            (true, "") if after.starts_with('/') => {}
            (true, "") => out.push_str("the root folder"),
            (true, name) => out.push_str(name),
        }
        rest = match begins && ends && name.is_empty() {
            true => after.strip_prefix('/').unwrap_or(after),
            false => after,
        };
    }
    out.push_str(rest);
    out
}

/// The words with `..` in the place of every absolute path.
pub fn without_paths(words: &str) -> String {
    let mut out = String::with_capacity(words.len());
    let mut rest = words;
    while let Some(at) = rest.find('/') {
        let (before, path) = rest.split_at(at);
        let begins = !before.ends_with(|c: char| c.is_alphanumeric() || "/._-~)]%*?\\".contains(c));
        // What ends at once, or is the second of two, is none.
        let names = path[1..].chars().next().is_some_and(|c| !c.is_whitespace() && c != '/' && !ENDS.contains(&c));
        let inner = out.is_empty() || !before.is_empty() || !out.ends_with('/');
        out.push_str(before);
        if begins && names && inner {
            let end = path.find(|c: char| c.is_whitespace() || ENDS.contains(&c)).unwrap_or(path.len());
            let end = path[..end].trim_end_matches([':', '.', '!', '?']).len();
            out.push_str("..");
            rest = &path[end..];
        } else {
            out.push('/');
            rest = &path[1..];
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Folders;
    use std::path::PathBuf;

    #[test]
    fn nothing_tells_where_the_root_is() {
        let at = |path: &str| PathBuf::from(path);
        let folders = Folders {
            root: at("/srv/my films"),
            input: at("/srv/my films/input"),
            output: at("/disk"),
            logs: at("/srv/my films/logs"),
        };
        let shown = Shown::new(&Layout::new(&folders));
        for (words, want) in [
            ("cannot read /srv/my films/input/a b.mkv: gone", "cannot read input/a b.mkv: gone"),
            ("there is no file /srv/my films/input/a.mkv", "there is no file input/a.mkv"),
            ("(\"/disk/a_upscaled.mkv\")", "(\"output/a_upscaled.mkv\")"),
            ("/disk is full, /disks/x is not", "output is full, .. is not"),
            ("locked: /srv/my films/.upscaled.lock.", "locked: .upscaled.lock."),
            ("/srv/my films is not there", "the root folder is not there"),
            ("no work area: /dev/shm/up: denied; /run/x!", "no work area: ..: denied; ..!"),
            ("model=/m/a.onnx, '/m/b' [/c] 3 / 4, 1/2 and/or /", "model=.., '..' [..] 3 / 4, 1/2 and/or /"),
            ("see https://a.example/b/c and input/x/y", "see https://a.example/b/c and input/x/y"),
            ("", ""),
        ] {
            assert_eq!(shown.words(words), want);
        }
        assert_eq!(shown.path("/disk/sub/a /x_upscaled.mkv"), "output/sub/a /x_upscaled.mkv");
        assert_eq!(shown.path("/srv/my films/x.mkv"), "x.mkv");
        assert_eq!(shown.path("/elsewhere/x.mkv"), "..");
    }
}
