//! Lines people write, and edits that must leave the rest alone.

use super::*;
use proptest::prelude::*;

fn resolver() -> LineResolver {
    LineResolver::new(Path::new("/nowhere/root"), Path::new("/nowhere/root/input"))
}

fn jobs(text: &str) -> Vec<String> {
    let lines = QueueLines::parse(text.as_bytes(), &resolver()).unwrap();
    lines.jobs().iter().map(|j| escape(j)).collect()
}

fn paths(text: &str) -> Vec<PathBuf> {
    text.split_whitespace().map(PathBuf::from).collect()
}

#[test]
fn what_people_write() {
    for (text, expected) in [
        ("", vec![]),
        ("film.mkv", vec!["film.mkv"]),
        ("film.mkv\r\nb.mkv\r\n", vec!["film.mkv", "b.mkv"]),
        ("\u{feff}film.mkv\n", vec!["film.mkv"]),
        ("  film.mkv \t\n\n   \n# c\n  # c\n", vec!["film.mkv"]),
        ("./a.mkv\ninput/b.mkv\n./input/c.mkv\n.//d/./e.mkv\n", vec!["a.mkv", "b.mkv", "c.mkv", "d/e.mkv"]),
        ("/nowhere/root/input/x/y.mkv\n/nowhere/root/input/../z\n/etc/passwd\n", vec!["x/y.mkv"]),
        ("a\n./a\ninput/a\nb\na\n", vec!["a", "b"]),
        ("../x\na/../b\n.\n/\n./\n", vec![]),
        ("\\x23odd\nAC\\DC.mkv\n-dash\n\"quoted\"\n", vec!["\\x23odd", "AC\\\\DC.mkv", "-dash", "\"quoted\""]),
        ("\\x69nput/b.mkv\n", vec!["input/b.mkv"]),
        ("bad\\xzz\nnul\\x00\n", vec!["bad\\\\xzz", "nul\\\\x00"]),
    ] {
        assert_eq!(jobs(text), expected, "{text:?}");
    }
}

#[test]
fn damage() {
    for bad in [&b"a\0b\n"[..], b"film.mkv\n\xff\xfe\n", b"# comment \xff\n", b"\xff\xfef\0i\0"] {
        assert!(QueueLines::parse(bad, &resolver()).is_err(), "{bad:?}");
    }
}

#[test]
fn names_in_input_decide() {
    let root = tempfile::tempdir().unwrap();
    let input = root.path().join("input");
    fs::create_dir_all(input.join("input")).unwrap();
    let resolver = LineResolver::new(root.path(), &input);
    let parse = |text: &[u8]| QueueLines::parse(text, &resolver).map(|l| l.jobs());
    fs::write(input.join("input/b.mkv"), b"").unwrap();
    fs::write(input.join("a\\x41"), b"").unwrap();
    assert_eq!(parse(b"input/b.mkv\na\\x41\n").unwrap(), paths("input/b.mkv a\\x41"));
    let latin = OsStr::from_bytes(b"caf\xe9.mkv");
    assert!(parse(b"caf\xe9.mkv\n").is_err());
    fs::write(input.join(latin), b"").unwrap();
    assert_eq!(parse(b"caf\xe9.mkv\n").unwrap(), [PathBuf::from(latin)]);
    // Through a symbolic link to the root as well.
    let link = root.path().join("link");
    std::os::unix::fs::symlink(root.path(), &link).unwrap();
    let linked = LineResolver::new(&link, &link.join("input"));
    let line = input.canonicalize().unwrap().join("q.mkv");
    let lines = QueueLines::parse(line.as_os_str().as_bytes(), &linked).unwrap();
    assert_eq!(lines.jobs(), paths("q.mkv"));
}

#[test]
fn edits_touch_only_their_lines() {
    for (before, wanted, after) in [
        ("# top\na\n\nb # not a comment\n", "a c", "# top\na\n\nc\n"),
        ("# top\na\nb\n# end\n", "b", "# top\nb\n# end\n"),
        ("# top\na\nb\n# end\n", "a b c", "# top\na\nb\n# end\nc\n"),
        ("a\n# about b\n./b \nc", "c a b", "c\na\n# about b\n./b \n"),
        ("a\nb\nc", "a b c", "a\nb\nc"),
        ("a\nb\nc", "a b", "a\nb\n"),
        ("a\nb\nc", "a b c d", "a\nb\nc\nd\n"),
        ("a\r\nb\r\n", "a b x", "a\r\nb\r\nx\r\n"),
        ("a\na\nb\n./a\n", "b", "b\n"),
        ("a\na\nb\n", "a", "a\na\n"),
        ("../odd\na\n", "", "../odd\n"),
        ("", "a", "a\n"),
        ("\u{feff}a\nb\n", "b", "\u{feff}b\n"),
        ("a\nb\n", "x a y b", "x\na\ny\nb\n"),
        ("a\n", "input/z a", "\\x69nput/z\na\n"),
    ] {
        let lines = QueueLines::parse(before.as_bytes(), &resolver()).unwrap();
        let text = lines.rearranged(&paths(wanted), &resolver());
        assert_eq!(String::from_utf8(text).unwrap(), after, "{before:?} -> {wanted}");
    }
}

fn file() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        4 => "[a-f]{1,2}",
        1 => "# [a-z ]{0,5}",
        1 => Just(String::new()),
        1 => "\\./[a-f]",
        1 => Just("../up".to_string()),
        1 => "[a-f] ?\r",
    ];
    (proptest::collection::vec(line, 0..12), any::<bool>())
        .prop_map(|(lines, open)| lines.join("\n") + if open { "" } else { "\n" })
}

fn others(text: &[u8]) -> Vec<Vec<u8>> {
    let lines = QueueLines::parse(text, &resolver()).unwrap();
    lines.lines.into_iter().filter(|l| l.kind == LineKind::Other && !l.text.is_empty()).map(|l| l.text).collect()
}

proptest! {
    #[test]
    fn the_wanted_jobs_in_order_and_all_other_lines_kept(
        before in file(),
        wanted in proptest::collection::vec("[a-g]{1,2}", 0..10),
    ) {
        let mut seen = HashSet::new();
        let wanted: Vec<PathBuf> = wanted.into_iter().map(PathBuf::from).filter(|w| seen.insert(w.clone())).collect();
        let lines = QueueLines::parse(before.as_bytes(), &resolver()).unwrap();
        let after = lines.rearranged(&wanted, &resolver());
        let read = QueueLines::parse(&after, &resolver()).unwrap();
        prop_assert_eq!(read.jobs(), wanted);
        prop_assert_eq!(others(before.as_bytes()), others(&after));
        let same = lines.rearranged(&lines.jobs(), &resolver());
        prop_assert_eq!(same, before.as_bytes());
    }

    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(lines) = QueueLines::parse(&bytes, &resolver()) {
            prop_assert_eq!(lines.rearranged(&lines.jobs(), &resolver()), bytes);
        }
    }

    #[test]
    fn every_name_comes_back(name in proptest::collection::vec(1u8..=255, 1..30)) {
        let Some(job) = clean_relative(Path::new(OsStr::from_bytes(&name))) else { return Ok(()) };
        let empty = QueueLines::parse(b"", &resolver()).unwrap();
        let text = empty.rearranged(&[job.clone(), "input/x".into()], &resolver());
        let read = QueueLines::parse(&text, &resolver()).unwrap().jobs();
        prop_assert_eq!(&read[0], &job);
    }
}
