//! Paths of this machine as clients are told them: by their place in the root, or not at all.

use std::path::Path;

use upscaled_core::path_text::escape;
use upscaled_jobs::state::paths::RootLayout;

/// What ends a path within a sentence, with a blank or nothing behind it.
const ENDS: [char; 3] = [':', ';', ','];
/// What does so where it is not of the path itself.
const BRACKETS: [(char, char); 4] = [('(', ')'), ('[', ']'), ('{', '}'), ('<', '>')];
const QUOTES: [char; 3] = ['"', '\'', '`'];

/// The folders of an installation, and what clients call them.
#[derive(Clone, Debug)]
pub struct ClientPaths {
    /// As `core::path_text`, the longest first.
    folders: Vec<(String, &'static str)>,
}

impl ClientPaths {
    pub fn new(layout: &RootLayout) -> ClientPaths {
        let named = [(layout.input(), "input"), (layout.output(), "output"), (layout.root(), "")];
        // Errors of the system may name what links lead to.
        let both = |(folder, name): (&Path, &'static str)| {
            let real = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
            [(escape(folder), name), (escape(&real), name)]
        };
        let mut folders: Vec<_> = named.into_iter().flat_map(both).filter(|(path, _)| path.len() > 1).collect();
        folders.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        folders.dedup();
        ClientPaths { folders }
    }

    /// A sentence with paths as `output/film.mkv`, and without those that lead out of the root.
    pub fn words(&self, words: &str) -> String {
        let inside = self.folders.iter().fold(words.to_owned(), |words, (folder, name)| shorter(&words, folder, name));
        without_paths(&inside)
    }

    /// The path of a file, as `core::path_text`.
    pub fn path(&self, path: &str) -> String {
        let inside = self.folders.iter().find_map(|(folder, name)| {
            let rest = path.strip_prefix(folder.as_str())?.strip_prefix('/')?;
            Some(if name.is_empty() { rest.to_owned() } else { format!("{name}/{rest}") })
        });
        inside.unwrap_or_else(|| if path.starts_with('/') { "..".to_owned() } else { path.to_owned() })
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

/// The words with `..` in the place of every absolute path. Names may hold blanks and what else stands in sentences:
/// where the end of a path is in doubt, words of the sentence go with it.
pub fn without_paths(words: &str) -> String {
    let mut out = String::with_capacity(words.len());
    let mut rest = words;
    while let Some(at) = rest.find('/') {
        let (before, path) = rest.split_at(at);
        let whole = words.len() - path.len();
        out.push_str(before);
        if begins_path(words, whole) {
            out.push_str("..");
            rest = &words[end_of_path(words, whole)..];
        } else {
            out.push('/');
            rest = &path[1..];
        }
    }
    out.push_str(rest);
    out
}

/// Whether the slash at this place is the first of an absolute path.
fn begins_path(words: &str, at: usize) -> bool {
    let (before, path) = words.split_at(at);
    let begins = !before.ends_with(|c: char| c.is_alphanumeric() || "/._-~)]%*?\\".contains(c));
    // What ends at once, or is the first of two, is none.
    let none = |c: char| c.is_whitespace() || "/|>".contains(c) || ENDS.contains(&c) || QUOTES.contains(&c);
    begins && path[1..].chars().next().is_some_and(|c| !none(c) && BRACKETS.iter().all(|(_, close)| c != *close))
}

/// Where the path that begins at this place is certain to have ended.
fn end_of_path(words: &str, begin: usize) -> usize {
    let quote = words[..begin].chars().next_back().filter(|c| QUOTES.contains(c));
    let path = &words[begin..];
    let ends = |(at, c): (usize, char)| {
        let after = &path[at + c.len_utf8()..];
        let open = |open: char, close: char| {
            let count = |wanted: char| path[..at].matches(wanted).count();
            count(open) > count(close)
        };
        let mark = ENDS.contains(&c) && !after.starts_with(|c: char| !c.is_whitespace());
        let quoted = Some(c) == quote;
        let bracket = BRACKETS.iter().any(|(opening, close)| c == *close && !open(*opening, *close));
        let closes = (quoted || bracket) && !after.starts_with(|c: char| c.is_alphanumeric());
        (mark || closes) && !goes_on(words, begin + at + c.len_utf8())
    };
    let end = path.char_indices().find(|place| ends(*place)).map_or(path.len(), |(at, _)| at);
    begin + path[..end].trim_end_matches(['.', '!', '?']).len()
}

/// Whether the words from this place on may be the rest of a path: a slash follows that begins none, or a dot within
/// a word, as in the name of a file.
fn goes_on(words: &str, from: usize) -> bool {
    for (at, c) in words[from..].char_indices() {
        let after = &words[from + at + c.len_utf8()..];
        match c {
            '/' => return !begins_path(words, from + at),
            '.' if after.chars().take_while(|c| c.is_alphanumeric()).any(char::is_alphabetic) => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use upscaled_core::config::settings::Folders;

    #[test]
    fn nothing_tells_where_the_root_is() {
        let at = |path: &str| PathBuf::from(path);
        let folders = Folders {
            root: at("/srv/my films"),
            input: at("/srv/my films/input"),
            output: at("/disk"),
            logs: at("/srv/my films/logs"),
        };
        let shown = ClientPaths::new(&RootLayout::new(&folders));
        for (words, want) in [
            ("cannot read /srv/my films/input/a b.mkv: gone", "cannot read input/a b.mkv: gone"),
            ("there is no file /srv/my films/input/a.mkv", "there is no file input/a.mkv"),
            ("(\"/disk/a_upscaled.mkv\")", "(\"output/a_upscaled.mkv\")"),
            ("/disk is full, /disks/x: is not", "output is full, ..: is not"),
            ("locked: /srv/my films/.upscaled.lock.", "locked: .upscaled.lock."),
            ("/srv/my films is not there", "the root folder is not there"),
            ("no work area: /dev/shm/up: denied; /run/x!", "no work area: ..: denied; ..!"),
            ("3 / 4, 1/2 and/or / model=/m/a.onnx, '/m/b' [/c].", "3 / 4, 1/2 and/or / model=.., '..' [..]."),
            ("see https://a.example/b/c and input/x/y", "see https://a.example/b/c and input/x/y"),
            ("/srv/my films2/input/a b.mkv: gone", "..: gone"),
            ("", ""),
        ] {
            assert_eq!(shown.words(words), want);
        }
        assert_eq!(shown.path("/disk/sub/a /x_upscaled.mkv"), "output/sub/a /x_upscaled.mkv");
        assert_eq!(shown.path("/srv/my films/x.mkv"), "x.mkv");
        assert_eq!(shown.path("/elsewhere/x, y.mkv"), "..");
    }

    #[test]
    fn no_part_of_a_foreign_path_is_told() {
        for (words, want) in [
            ("cannot read /mnt/my films/x.onnx: gone", "cannot read ..: gone"),
            ("cannot read /mnt/my films/x y.onnx", "cannot read .."),
            ("(see /mnt/films (2019)/a (1).onnx) twice", "(see ..) twice"),
            ("/mnt/Star Wars: one/two, three.mkv: gone; 1.5 GiB", "..: gone; 1.5 GiB"),
            ("/mnt/a; b.onnx: no model (os error 2)", "..: no model (os error 2)"),
            ("\"/mnt/it's \"so\" x/y.onnx\" is damaged", "\"..\" is damaged"),
            ("'/mnt/films' best/x' is damaged", "'..' is damaged"),
            ("from /mnt/a b/c to /mnt/d e/f: denied", "from ..: denied"),
            ("/mnt/a b is no model", ".."),
            ("/mnt/a/b.onnx! /mnt/c d.", "..."),
            ("/mnt/[x]/y.onnx]: no", "..]: no"),
        ] {
            assert_eq!(without_paths(words), want, "{words}");
        }
    }
}
