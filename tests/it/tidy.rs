//! The order within the packages: which room may use which, the home of each outside package, and the habits of a
//! source file. Between packages Cargo holds the order. ARCHITECTURE.md says why.

use std::path::{Path, PathBuf};

/// The rooms of each package, lowest first: each may use only those before it. A package that is not here is one room;
/// so are the files of a package that are in no list, which are the lowest.
const ROOMS: &[(&str, &[&str])] = &[
    ("core", &["types", "config"]),
    ("media", &["ffi", "demux", "image", "decode", "probe", "encode", "segment", "mux"]),
    ("engine", &["pixels", "models", "runtime", "planning", "diffusion"]),
    ("jobs", &["state", "scratch", "pipeline", "job"]),
    ("service", &["daemon", "ingest", "server", "webhooks", "client"]),
];

/// Outside packages, and the only rooms of their package in which they may be named.
const HOMES: &[(&str, &str, &[&str])] = &[
    ("core", "toml", &["config"]),
    ("core", "glob", &["config"]),
    ("media", "image", &["image"]),
    ("media", "tiff", &["image"]),
    ("engine", "ort", &["runtime", "planning", "diffusion"]),
    ("engine", "prost", &["models"]),
    ("engine", "zip", &["models"]),
    ("engine", "safetensors", &["models"]),
    ("engine", "half", &["models"]),
    ("engine", "toml", &["models"]),
    ("jobs", "sysinfo", &["scratch"]),
    ("service", "notify", &["daemon"]),
    ("service", "sd_notify", &["daemon"]),
    ("service", "axum", &["ingest", "server"]),
    ("service", "hyper", &["server"]),
    ("service", "object_store", &["server"]),
    ("service", "reqwest", &["ingest"]),
    ("service", "ureq", &["client"]),
];

/// Lines of a source file, its tests included.
const LINES_MAX: usize = 450;

#[test]
fn rooms_use_only_those_below() {
    let mut wrong = Vec::new();
    for file in sources().iter().filter(|file| !file.is_test()) {
        let place = level(&file.package, &file.room);
        for (line, used) in rooms_used(without_tests(&file.code)) {
            if used != file.room && level(&file.package, &used) > place {
                wrong.push(format!("{}:{line}: {} must not use {used}", file.name, file.room));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn outside_packages_stay_at_home() {
    let mut wrong = Vec::new();
    for file in sources() {
        for (_, package, homes) in HOMES.iter().filter(|(of, ..)| *of == file.package) {
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
fn rooms_that_are_named_are_there() {
    let known: Vec<(String, String)> = sources().into_iter().map(|file| (file.package, file.room)).collect();
    let named = ROOMS.iter().flat_map(|(package, rooms)| rooms.iter().map(move |room| (*package, *room)));
    let homes = HOMES.iter().flat_map(|(package, _, rooms)| rooms.iter().map(move |room| (*package, *room)));
    for (package, room) in named.chain(homes) {
        assert!(known.iter().any(|(p, r)| p == package && r == room), "crates/{package}/src has no room {room}");
    }
}

#[test]
fn unsafe_code_is_in_one_place() {
    let mut wrong = Vec::new();
    for file in sources() {
        if file.name.starts_with("crates/media/src/ffi/") {
            continue;
        }
        for (n, line) in file.code.lines().enumerate() {
            let words = line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
            if words || line.contains("allow(unsafe_code)") {
                wrong.push(format!("{}:{}: unsafe code belongs in crates/media/src/ffi/", file.name, n + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_blocks_say_why() {
    for file in sources().iter().filter(|file| file.name.starts_with("crates/media/src/ffi/")) {
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
    for file in sources().iter().filter(|file| file.package == "media") {
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
        let source = std::fs::read_to_string(root.join("tests/it").join(file)).unwrap_or_default();
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
    /// Path from the root of the repository.
    name: String,
    /// Folder below crates/; empty for the program's own package.
    package: String,
    /// First folder or file below src/.
    room: String,
    text: String,
    /// The text without comments and without what stands in quotes; same lines.
    code: String,
}

impl Source {
    fn is_test(&self) -> bool {
        let tests = |part: &str| part.ends_with("tests") || part.starts_with("test_util") || part == "testing";
        self.name.split('/').any(|part| tests(part.trim_end_matches(".rs")))
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    collect(&root.join("src"), &mut paths);
    collect(&root.join("crates"), &mut paths);
    paths.retain(|path| path.components().any(|part| part.as_os_str() == "src"));
    paths.sort();
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let (before, inside) = name.split_once("src/").unwrap();
        let package = before.trim_start_matches("crates/").trim_end_matches('/').to_owned();
        let room = inside.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        let text = std::fs::read_to_string(path).unwrap();
        Source { package, room, code: code_of(&text), name, text }
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

/// Returns how high a room of a package stands.
fn level(package: &str, room: &str) -> usize {
    let rooms = ROOMS.iter().find(|(of, _)| *of == package);
    rooms.and_then(|(_, rooms)| rooms.iter().position(|known| *known == room)).map_or(0, |at| at + 1)
}

/// The code up to the unit tests, which may use all of their package.
fn without_tests(code: &str) -> &str {
    code.split("#[cfg(test)]\nmod tests {").next().unwrap_or(code)
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
    // `crate::f` of lib.rs itself would be no room.
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
