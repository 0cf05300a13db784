//! Languages of streams in containers that write them in another form than the source.

use crate::common::{Root, describe, ready, streams};
use crate::media::kit::{at, ffmpeg, run};

const FILM: [&str; 12] = [
    "-f",
    "lavfi",
    "-i",
    "testsrc2=s=64x48:r=10:d=0.5",
    "-f",
    "lavfi",
    "-i",
    "sine=440:r=48000:d=0.5",
    "-c:v",
    "libx264",
    "-pix_fmt",
    "yuv420p",
];

/// A film with sound of a language, in Matroska, which takes any.
fn film(root: &Root, name: &str, language: &str) {
    let tag = format!("language={language}");
    ffmpeg(root, &[&FILM[..], &["-preset", "ultrafast", "-c:a", "aac", "-metadata:s:a:0", &tag, name]].concat());
}

fn language(root: &Root, name: &str) -> Option<String> {
    let audio = streams(&describe(&at(root, name)), "audio").remove(0);
    audio["tags"]["language"].as_str().map(str::to_owned)
}

#[test]
fn mov_keeps_languages_that_the_macintosh_had_no_number_for() {
    if !ready("mov_keeps_languages_that_the_macintosh_had_no_number_for") {
        return;
    }
    let root = Root::new("");
    // As Apple's programs write them; FFmpeg's muxer has a number for `ger`, none for `deu`.
    for code in ["deu", "swe", "zho", "qaa", "fra"] {
        film(&root, "in.mkv", code);
        let (source, target) = (at(&root, "in.mkv"), at(&root, "out.mov"));
        let log = run(&root, &source, &target, &["--no-resume"]).done();
        assert_eq!(language(&root, "out.mov").as_deref(), Some(code));
        assert!(!log.contains("language"), "{log}");
        // And once more, from MOV to MOV.
        let again = at(&root, "again.mov");
        run(&root, &target, &again, &["--no-resume"]).done();
        assert_eq!(language(&root, "again.mov").as_deref(), Some(code));
        std::fs::remove_file(target).unwrap();
        std::fs::remove_file(again).unwrap();
    }
}

#[test]
fn two_letters_become_three_where_there_is_room_for_no_others() {
    if !ready("two_letters_become_three_where_there_is_room_for_no_others") {
        return;
    }
    let root = Root::new("");
    for (tag, extension, kept, told) in [
        ("en", "mp4", Some("eng"), None),
        ("DE", "mov", Some("deu"), None),
        ("ENG", "mp4", Some("eng"), None),
        ("pt-BR", "mp4", Some("por"), Some("language pt-BR of stream 1: MP4 holds it as por")),
        ("klingon", "mov", None, Some("language klingon of stream 1: MOV cannot hold it")),
        ("xx", "mp4", None, Some("language xx of stream 1: MP4 cannot hold it")),
        ("de", "mkv", Some("de"), None),
    ] {
        film(&root, "in.mkv", tag);
        let name = format!("out.{extension}");
        let log = run(&root, &at(&root, "in.mkv"), &at(&root, &name), &["--no-resume"]).done();
        let found = language(&root, &name).filter(|language| language != "und");
        assert_eq!(found.as_deref(), kept, "{tag} in {extension}");
        match told {
            Some(words) => {
                // Before the first frame, and at the end.
                let (plan, end) =
                    (log.find("plan:").expect("a plan"), log.rfind("not kept").expect("losses at the end"));
                assert!(log.find(words).is_some_and(|at| at < plan), "{log}");
                assert!(log[end..].contains(words), "{log}");
            }
            None => assert!(!log.contains("language"), "{tag} in {extension}: {log}"),
        }
        std::fs::remove_file(at(&root, &name)).unwrap();
    }
}
