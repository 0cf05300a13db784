//! The house's order: which room may use which, the home of each outside package, and the
//! habits of a source file. ARCHITECTURE.md says why.

use std::path::{Path, PathBuf};

/// The rooms, lowest first: each may use only those before it.
const ROOMS: &[&str] = &[
    "base", "model", "config", "media", "pixel", "tile", "network", "engine", "store", "work", "pipeline", "job",
    "judge", "daemon", "http", "cli",
];

/// Outside packages, and the only rooms in which they may be named.
const HOMES: &[(&str, &[&str])] = &[
    ("ffmpeg_next", &["media"]),
    ("image", &["media"]),
    ("tiff", &["media"]),
    ("ort", &["engine"]),
    ("prost", &["network"]),
    // Files of weights are read in one, answers with many pictures written in the other.
    ("zip", &["network", "http"]),
    ("safetensors", &["network"]),
    ("half", &["network"]),
    ("sysinfo", &["work"]),
    ("tokio", &["daemon", "http", "cli"]),
    ("notify", &["daemon"]),
    ("sd_notify", &["daemon"]),
    ("toml", &["config", "network"]),
    ("clap", &["cli"]),
    ("indicatif", &["cli"]),
    ("embedded_graphics", &["judge"]),
    ("axum", &["http"]),
    ("tower_http", &["http"]),
    ("hyper", &["http"]),
    ("hyper_util", &["http"]),
    ("tower_layer", &["http"]),
    ("tower_service", &["http"]),
    ("futures_util", &["http"]),
    ("socket2", &["http"]),
    ("subtle", &["http"]),
    ("hmac", &["http"]),
    ("ureq", &["http"]),
    ("reqwest", &["http"]),
    ("rustls", &["http"]),
    ("object_store", &["http"]),
    ("http_range_header", &["http"]),
    ("url", &["http"]),
    ("percent_encoding", &["http"]),
    ("glob", &["cli", "config"]),
];

/// Lines of a source file, its tests included.
const LINES_MAX: usize = 450;

#[test]
fn rooms_use_only_those_below() {
    let mut wrong = Vec::new();
    for file in sources() {
        let Some(place) = level(&file.room) else {
            if !file.room.is_empty() {
                wrong.push(format!("{}: the room {} is not in ROOMS", file.name, file.room));
            }
            continue;
        };
        for (line, used) in rooms_used(&file.code) {
            match level(&used) {
                Some(other) if other <= place => {}
                Some(_) => wrong.push(format!("{}:{line}: {} must not use {used}", file.name, file.room)),
                None => wrong.push(format!("{}:{line}: crate::{used} is no room", file.name)),
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn outside_packages_stay_at_home() {
    let mut wrong = Vec::new();
    for file in sources() {
        for (package, homes) in HOMES {
            if homes.contains(&file.room.as_str()) {
                continue;
            }
            for (n, line) in file.code.lines().enumerate() {
                if names_package(line, package) {
                    wrong.push(format!("{}:{}: {package} belongs in {}", file.name, n + 1, homes.join(", ")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_in_one_place() {
    let mut wrong = Vec::new();
    for file in sources() {
        if file.name.starts_with("src/media/ffi/") {
            continue;
        }
        for (n, line) in file.code.lines().enumerate() {
            let words = line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
            if words || line.contains("allow(unsafe_code)") {
                wrong.push(format!("{}:{}: unsafe code belongs in src/media/ffi/", file.name, n + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_blocks_say_why() {
    for file in sources().iter().filter(|file| file.name.starts_with("src/media/ffi/")) {
        let lines: Vec<&str> = file.text.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            if line.contains("unsafe {") && !line.trim_start().starts_with("//") {
                let reason = lines[n.saturating_sub(8)..=n].iter().any(|above| above.contains("SAFETY:"));
                assert!(reason, "{}:{}: no SAFETY comment above", file.name, n + 1);
            }
        }
    }
}

#[test]
fn tags_are_read_as_bytes() {
    let mut wrong = Vec::new();
    for file in sources().iter().filter(|file| file.room == "media") {
        for (n, line) in file.code.lines().enumerate() {
            // The bindings take any bytes for UTF-8.
            if line.contains(".metadata()") && !line.contains("fs::") && !line.contains("file.metadata") {
                wrong.push(format!("{}:{}: tags are read by media::ffi::tags", file.name, n + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn tests_that_the_contracts_name_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/contracts.md")).unwrap();
    let mut named = 0;
    for (file, test) in text.split('`').filter_map(|word| word.split_once("::")) {
        let source = std::fs::read_to_string(root.join("tests").join(file)).unwrap_or_default();
        assert!(source.contains(&format!("#[test]\nfn {test}() {{")), "docs/contracts.md names {file}::{test}");
        named += 1;
    }
    assert!(named > 40, "only {named} tests are named in docs/contracts.md");
}

#[test]
fn files_say_what_they_own_and_stay_short() {
    let mut wrong = Vec::new();
    for file in sources() {
        if !file.text.starts_with("//! ") {
            wrong.push(format!("{}: the first line does not say what it owns (//! ..)", file.name));
        }
        let lines = file.text.lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{}: {lines} lines, more than {LINES_MAX}", file.name));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_checks_find_what_they_look_for() {
    let code = "use crate::base::fault;\nuse crate::{media, store::paths as p};\nlet x = crate::cli::main();\n";
    let used: Vec<(usize, String)> =
        [(1, "base"), (2, "media"), (2, "store"), (3, "cli")].map(|(n, room)| (n, room.to_string())).into();
    assert_eq!(rooms_used(code), used);
    let nested = "use crate::{\n    a::{b, c},\n    d,\n};\n";
    assert_eq!(rooms_used(nested).into_iter().map(|(_, room)| room).collect::<Vec<_>>(), ["a", "d"]);
    assert!(names_package("use ort::session::Session;", "ort"));
    assert!(names_package("    let x = ::image::open(p);", "image"));
    assert!(names_package("pub use toml;", "toml"));
    assert!(!names_package("use crate::media::image::Still;", "image"));
    assert!(!names_package("let report = abort::now();", "ort"));
    assert_eq!(code_of("a // unsafe\n//! x\nlet s = \"http://y unsafe\"; b"), "a \n\nlet s = \"\"; b");
    assert_eq!(code_of("let c = '\"'; // d\n/* e\n f */ g"), "let c = ''; \n\n g");
    assert!(sources().len() > 30);
}

struct Source {
    /// Path from the package's root.
    name: String,
    /// First folder (or file) below src/; empty for lib.rs and main.rs.
    room: String,
    text: String,
    /// The text without comments and without what stands in quotes; same lines.
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    collect(&root.join("src"), &mut paths);
    paths.sort();
    let read = |path: &PathBuf| {
        let inside = path.strip_prefix(root).unwrap();
        let room = match inside.components().nth(1).unwrap().as_os_str().to_str().unwrap() {
            "lib.rs" | "main.rs" => "",
            room => room.trim_end_matches(".rs"),
        };
        let text = std::fs::read_to_string(path).unwrap();
        Source { name: inside.display().to_string(), room: room.into(), code: code_of(&text), text }
    };
    paths.iter().map(read).collect()
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

fn level(room: &str) -> Option<usize> {
    ROOMS.iter().position(|known| *known == room)
}

/// Every room named as `crate::room` or within `crate::{..}`, with its line.
fn rooms_used(code: &str) -> Vec<(usize, String)> {
    let mut used = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut begins = true;
            for (i, c) in list.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => begins = true,
                    c if begins && !c.is_whitespace() => {
                        begins = false;
                        used.push((line, word(&list[i..])));
                    }
                    _ => {}
                }
            }
        } else {
            used.push((line, word(rest)));
        }
    }
    // `crate::f` of lib.rs itself would be no room; macros and the like are told from rooms by case.
    used.retain(|(_, room)| !room.is_empty());
    used
}

/// Whether a line names a package by `package::` or `use package`, and not as part of another path.
fn names_package(line: &str, package: &str) -> bool {
    line.match_indices(package).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + package.len()..]);
        let starts = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
            && (!before.ends_with("::") || before.trim_start() == "::" || before.ends_with(" ::"));
        let import = before.trim_end().ends_with("use") && after.starts_with(|c: char| ";: {".contains(c));
        starts && (after.starts_with("::") || import)
    })
}

/// Rust text with comments gone and strings and characters emptied; line breaks stay.
fn code_of(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let bytes: Vec<char> = text.chars().collect();
    let mut i = 0;
    while i < bytes.len() {
        match (bytes[i], bytes.get(i + 1)) {
            ('/', Some('/')) => {
                while i < bytes.len() && bytes[i] != '\n' {
                    i += 1;
                }
            }
            ('/', Some('*')) => {
                i += 2;
                while i < bytes.len() && !(bytes[i] == '*' && bytes.get(i + 1) == Some(&'/')) {
                    if bytes[i] == '\n' {
                        out.push('\n');
                    }
                    i += 1;
                }
                i += 2;
            }
            ('r', Some('"' | '#')) if !out.ends_with(|c: char| c.is_alphanumeric() || c == '_') => {
                let hashes = bytes[i + 1..].iter().take_while(|c| **c == '#').count();
                if bytes.get(i + 1 + hashes) != Some(&'"') {
                    out.push('r');
                    i += 1;
                    continue;
                }
                i += 2 + hashes;
                let end =
                    |i: usize| bytes[i] == '"' && bytes[i + 1..].iter().take_while(|c| **c == '#').count() >= hashes;
                while i < bytes.len() && !end(i) {
                    if bytes[i] == '\n' {
                        out.push('\n');
                    }
                    i += 1;
                }
                i += 1 + hashes;
                out.push_str("\"\"");
            }
            ('"', _) => {
                i += 1;
                while i < bytes.len() && bytes[i] != '"' {
                    if bytes[i] == '\n' {
                        out.push('\n');
                    }
                    // The line break after a backslash counts too.
                    if bytes[i] == '\\' {
                        i += 1;
                        if bytes.get(i) == Some(&'\n') {
                            out.push('\n');
                        }
                    }
                    i += 1;
                }
                i += 1;
                out.push_str("\"\"");
            }
            ('\'', Some('\\')) => {
                i += 3;
                while i < bytes.len() && bytes[i] != '\'' {
                    i += 1;
                }
                i += 1;
                out.push_str("''");
            }
            ('\'', Some(_)) if bytes.get(i + 2) == Some(&'\'') => {
                i += 3;
                out.push_str("''");
            }
            (c, _) => {
                out.push(c);
                i += 1;
            }
        }
    }
    out
}
