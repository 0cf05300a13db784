//! What is taken from input/, and what is left alone without a word of failure.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{Root, describe, ready, scrap};

/// Makes a file with ffmpeg.
fn make(path: &Path, args: &[&str]) {
    let mut command = Command::new("ffmpeg");
    let status = command.args(["-v", "error", "-nostdin", "-y"]).args(args).arg(path).status();
    assert!(status.is_ok_and(|status| status.success()), "ffmpeg could not make {}", path.display());
}

/// The jobs of history.jsonl, in their order.
fn jobs(root: &Root) -> Vec<String> {
    root.history().iter().map(|entry| entry["job"].as_str().unwrap_or_default().to_string()).collect()
}

#[test]
fn files_that_are_no_films_are_left_alone() {
    if !ready("files_that_are_no_films_are_left_alone") {
        return;
    }
    let root = Root::new("ignore = [\"*.sample.*\", \"extras\"]");
    scrap(&root.input("good.mkv"), 4);
    let unfinished = [
        "half.mkv.part",
        "half.mkv.crdownload",
        "half.mkv.aria2",
        "half.mkv.filepart",
        "half.mkv.partial",
        "half.download",
        "half.mkv.opdownload",
        "half.mkv.!ut",
        "half.mkv.BC!",
        "half.mp4.ytdl",
        "half.crswap",
        "half.mkv.fdmdownload",
        "half.mp4.part-Frag3",
        "half.mkv.!qB",
        "half.mkv.xltd",
        "backup.mkv~",
        "half.mkv.lftp-pget-status",
    ];
    let companions = [
        ".hidden.mkv",
        "notes.txt",
        "VIDEO_TS/VIDEO_TS.IFO",
        "VIDEO_TS/VTS_01_0.BUP",
        "BDMV/index.bdmv",
        "BDMV/PLAYLIST/00001.mpls",
        "BDMV/CLIPINF/00001.clpi",
        "list.m3u8",
        "disc.cue",
        "page.url",
        "film.lnk",
        "film.webloc",
        "film.desktop",
        "song.mp3",
        "Thumbs.db",
        "film.r01",
    ];
    let foreign = [
        "@eaDir/a.mkv",
        "sub/#recycle/a.mkv",
        "$RECYCLE.BIN/S-1-5/a.mkv",
        "System Volume Information/a.mkv",
        "lost+found/a.mkv",
        "b.mkv.download/b.mkv",
        "a.sample.mkv",
        "sub/Extras/a.mkv",
    ];
    for name in unfinished.iter().chain(&companions).chain(&foreign) {
        fs::copy(root.input("good.mkv"), root.input(name)).unwrap();
    }
    // Looked into: sound alone, under names that may be films.
    let sine = ["-f", "lavfi", "-i", "sine=440:d=1"];
    make(&root.input("sound.mkv"), &[&sine[..], &["-c:a", "ac3"]].concat());
    make(&root.input("sound.ogg"), &[&sine[..], &["-c:a", "flac"]].concat());
    let cover = ["-f", "lavfi", "-i", "testsrc2=s=64x48:d=0.04:r=25", "-map", "0", "-map", "1", "-c:v", "png"];
    let attached = ["-disposition:v:0", "attached_pic", "-c:a", "aac"];
    make(&root.input("cover.mp4"), &[&sine[..], &cover, &attached].concat());
    assert_eq!(describe(&root.input("cover.mp4"))["streams"].as_array().map(Vec::len), Some(2));

    assert_eq!(root.drain(), 0, "{}", root.console());
    assert_eq!(jobs(&root), ["good.mkv"], "{}", root.console());
    assert_eq!(describe(&root.output("good_upscaled.mkv"))["streams"][0]["width"], 128);
    for name in ["sound.mkv", "sound.ogg", "cover.mp4"] {
        let words = format!("{name}: passed over: there is sound or text in it, and no picture");
        assert_eq!(root.console().matches(&words).count(), 1, "{}", root.console());
    }
    assert_eq!(root.leftovers(), Vec::<String>::new());
}

#[test]
fn a_film_with_its_final_name_waits_for_its_download() {
    if !ready("a_film_with_its_final_name_waits_for_its_download") {
        return;
    }
    let root = Root::new("");
    scrap(&root.input("a.mkv"), 4);
    scrap(&root.input("b.mkv"), 3);
    fs::write(root.input("a.mkv.aria2"), "pieces").unwrap();
    // As Firefox holds the place of a download.
    fs::write(root.input("c.mkv"), "").unwrap();
    fs::write(root.input("c.Ab12cd.mkv.part"), "so far").unwrap();
    assert_eq!(root.drain(), 0, "{}", root.console());
    assert_eq!(jobs(&root), ["b.mkv"], "{}", root.console());
    for name in ["a.mkv", "c.mkv"] {
        assert!(root.console().contains(&format!("{name}: passed over: a download of it is not done")));
    }
    fs::remove_file(root.input("a.mkv.aria2")).unwrap();
    fs::remove_file(root.input("c.Ab12cd.mkv.part")).unwrap();
    scrap(&root.input("c.mkv"), 2);
    assert_eq!(root.drain(), 0, "{}", root.console());
    assert_eq!(jobs(&root), ["b.mkv", "a.mkv", "c.mkv"]);
}

#[test]
fn patterns_that_cannot_be_are_refused() {
    if !ready("patterns_that_cannot_be_are_refused") {
        return;
    }
    for (line, words) in [
        ("ignore = [\"[a\"]", "it must be a list of patterns"),
        ("ignore = 3", "it must be a list of patterns"),
        ("ignore = [3]", "it must be a list of patterns"),
    ] {
        let root = Root::new(line);
        let arguments = [OsStr::new("daemon"), OsStr::new("--once"), OsStr::new("--root"), root.path().as_os_str()];
        let out = root.program(&arguments).output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(2) && text.contains(words) && text.contains("ignore"), "{text}");
    }
    // From the command line.
    let root = Root::new("");
    scrap(&root.input("a.mkv"), 2);
    scrap(&root.input("x/b.mkv"), 2);
    let set = ["daemon", "--once", "--set", "ignore=a.*, y/*", "--root"].map(OsStr::new);
    let out = root.program(&set).arg(root.path()).output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert_eq!(jobs(&root), ["x/b.mkv"]);
}
