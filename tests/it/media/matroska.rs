//! What Matroska says and FFmpeg does not pass on: it stays in Matroska, and is told where it does not.

use std::path::Path;

use crate::common::{Root, ready};
use crate::media::ebml::{
    ATOM, CHAPTERS, EDITION, ENTRY, Element, TRACKS, VIDEO, changed, element, elements, find, master, segment, with,
};
use crate::media::kit::{at, ffmpeg, output_of, run};

const LANGUAGE: u32 = 0x22_b59c;
const LANGUAGE_IETF: u32 = 0x22_b59d;
const ENABLED: u32 = 0xb9;

/// A short film: video, sound in Portuguese and subtitles in Chinese.
fn film(root: &Root) -> Vec<u8> {
    std::fs::write(at(root, "s.srt"), "1\n00:00:00,100 --> 00:00:00,400\nhi\n").unwrap();
    let inputs = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=0.5", "-f", "lavfi", "-i", "sine=d=0.5", "-i", "s.srt"];
    let maps = ["-map", "0", "-map", "1", "-map", "2", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac"];
    let tags = ["-metadata:s:1", "language=por", "-metadata:s:2", "language=chi", "film.mkv"];
    ffmpeg(root, &[&inputs[..], &maps, &tags].concat());
    std::fs::read(at(root, "film.mkv")).unwrap()
}

fn tracks(file: &Path) -> Vec<Vec<Element>> {
    let segment = segment(&std::fs::read(file).unwrap());
    let tracks = elements(find(&segment, TRACKS).unwrap());
    tracks.iter().filter(|(id, _)| *id == ENTRY).map(|(_, entry)| elements(entry)).collect()
}

fn number(of: &[Element], id: u32) -> Option<u64> {
    find(of, id).map(|content| content.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// Returns what ffprobe complains of when it reads all packets of a file, and what it tells.
fn probed(root: &Root, file: &str, entries: &str) -> String {
    let out =
        output_of(root, "ffprobe", &["-show_packets", "-show_chapters", "-show_entries", entries, "-of", "json", file]);
    String::from_utf8(out).expect("UTF-8")
}

#[test]
fn language_tags_flags_and_cropping_stay() {
    if !ready("language_tags_flags_and_cropping_stay") {
        return;
    }
    let root = Root::new("");
    let film = film(&root);
    let languages = [None, Some("pt-BR"), Some("zh-Hant-TW")];
    let source = changed(
        &film,
        &[],
        |n, entry| {
            let tag = languages[n].map(|tag| element(LANGUAGE_IETF, tag.as_bytes()));
            let off = (n == 2).then(|| element(ENABLED, &[0]));
            // Bottom and top, and the size that what is left is to be shown in
            let picture = [(0x54aau32, 8u8), (0x54bb, 6), (0x54b0, 64), (0x54ba, 48)].map(|(id, v)| element(id, &[v]));
            with(entry, &tag.into_iter().chain(off).collect::<Vec<_>>(), &picture)
        },
        &[],
    );
    std::fs::write(at(&root, "in.mkv"), source).unwrap();
    let log = run(&root, &at(&root, "in.mkv"), &at(&root, "out.mkv"), &[]).done();
    assert!(!log.contains("warn"), "{log}");
    let made = tracks(&at(&root, "out.mkv"));
    assert_eq!(made.len(), 3);
    for (n, want) in languages.iter().enumerate() {
        assert_eq!(find(&made[n], LANGUAGE_IETF).map(String::from_utf8_lossy).as_deref(), *want, "track {n}");
        assert_eq!(find(&made[n], LANGUAGE), Some(&[&b"und"[..], b"por", b"chi"][n]).copied());
        assert_eq!(number(&made[n], ENABLED).unwrap_or(1), u64::from(n != 2));
    }
    let picture = elements(find(&made[0], VIDEO).unwrap());
    let sizes = [0xb0, 0xba, 0x54aa, 0x54bb, 0x54b0, 0x54ba].map(|id| number(&picture, id));
    assert_eq!(sizes, [128, 96, 16, 12, 128, 96].map(Some));
    let told = probed(&root, "out.mkv", "stream=codec_name,width:stream_tags=language");
    assert!(told.contains("\"por\"") && told.contains("\"chi\"") && !told.contains("room"), "{told}");
    // The same bits once more
    run(&root, &at(&root, "in.mkv"), &at(&root, "again.mkv"), &[]).done();
    assert!(std::fs::read(at(&root, "out.mkv")).unwrap() == std::fs::read(at(&root, "again.mkv")).unwrap());
    // MP4 has no place for them.
    let log = run(&root, &at(&root, "in.mkv"), &at(&root, "out.mp4"), &[]).done();
    for words in ["the language tag pt-BR of stream 1", "the cropping of stream 0 (top 6, bottom 8"] {
        assert!(log.contains(words), "{log}");
    }
}

#[test]
fn chapters_stay_as_they_are() {
    if !ready("chapters_stay_as_they_are") {
        return;
    }
    let root = Root::new("");
    let film = film(&root);
    let time = |id: u32, ms: u64| element(id, &(ms * 1_000_000).to_be_bytes());
    let title = |words: &str, language: &str, ietf: &str| {
        let ietf = element(0x437d, ietf.as_bytes());
        master(0x80, &[element(0x85, words.as_bytes()), element(0x437c, language.as_bytes()), ietf])
    };
    let atom = |uid: u64, start: u64, more: &[Vec<u8>]| {
        let head = [element(0x73c4, &uid.to_be_bytes()), time(0x91, start), time(0x92, start + 200)];
        master(ATOM, &[&head[..], more].concat())
    };
    let two = [title("Ende", "ger", "de-AT"), title("End", "eng", "en")];
    let inner = atom(u64::MAX - 5, 10, &[title("inside", "eng", "en")]);
    let ordered = [element(0x45dd, &[1]), atom(1 << 60, 250, &two), atom(7, 0, &[title("start", "eng", "en"), inner])];
    let hidden = [element(0x45bd, &[1]), atom(9, 100, &[element(0x98, &[1])])];
    let chapters = master(CHAPTERS, &[master(EDITION, &ordered), master(EDITION, &hidden)]);
    std::fs::write(at(&root, "in.mkv"), changed(&film, &[], |_, entry| entry.to_vec(), &chapters)).unwrap();
    let log = run(&root, &at(&root, "in.mkv"), &at(&root, "out.mkv"), &[]).done();
    assert!(!log.contains("warn"), "{log}");
    let made = segment(&std::fs::read(at(&root, "out.mkv")).unwrap());
    // Padding stands behind them.
    let kept = elements(find(&made, CHAPTERS).unwrap()).into_iter().filter(|(id, _)| *id != 0xec);
    let kept: Vec<Vec<u8>> = kept.map(|(id, content)| element(id, &content)).collect();
    assert!(master(CHAPTERS, &kept) == chapters);
    let shown = |file| probed(&root, file, "chapter=start_time,end_time:chapter_tags=title");
    let chapters_of = |told: String| told[told.find("\"chapters\"").unwrap()..].to_owned();
    assert_eq!(chapters_of(shown("in.mkv")), chapters_of(shown("out.mkv")));
    let log = run(&root, &at(&root, "in.mkv"), &at(&root, "out.mp4"), &[]).done();
    for words in [
        "ordered edition",
        "division of chapters into editions",
        "chapters inside chapters",
        "languages of chapter titles",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
}

#[test]
fn links_to_other_files_are_told() {
    if !ready("links_to_other_files_are_told") {
        return;
    }
    let root = Root::new("");
    let film = film(&root);
    let linked = changed(&film, &element(0x3e_b923, &[7; 16]), |_, entry| entry.to_vec(), &[]);
    std::fs::write(at(&root, "in.mkv"), linked).unwrap();
    let log = run(&root, &at(&root, "in.mkv"), &at(&root, "out.mkv"), &[]).done();
    assert!(log.contains("linked segments"), "{log}");
    let log = run(&root, &at(&root, "film.mkv"), &at(&root, "plain.mkv"), &[]).done();
    assert!(!log.contains("warn"), "{log}");
}

#[test]
fn tags_become_utf8() {
    if !ready("tags_become_utf8") {
        return;
    }
    let root = Root::new("");
    let film = film(&root);
    // Titles of the file, of a stream and of a chapter in Latin-1, one of them as Windows has quotation marks
    let atom = [
        element(0x73c4, &[5]),
        element(0x91, &[0]),
        master(0x80, &[element(0x85, b"premi\xe8re"), element(0x437c, b"und")]),
    ];
    let chapters = master(CHAPTERS, &[master(EDITION, &[master(ATOM, &atom)])]);
    let track = |n: usize, entry: &[u8]| with(entry, &[element(0x536e, [&b"Ton"[..], b"caf\xe9", b"Text"][n])], &[]);
    let info = element(0x7ba9, b"\x93d\xe9j\xe0 vu\x94");
    std::fs::write(at(&root, "in.mkv"), changed(&film, &info, track, &chapters)).unwrap();
    for name in ["out.mkv", "out.mp4"] {
        let log = run(&root, &at(&root, "in.mkv"), &at(&root, name), &[]).done();
        assert!(log.contains("Windows-1252"), "{log}");
        let told = probed(&root, name, "format_tags:stream_tags:chapter_tags");
        assert!(told.contains("\u{201c}d\u{e9}j\u{e0} vu\u{201d}") && told.contains("premi\u{e8}re"), "{name}: {told}");
        assert!(name == "out.mp4" || told.contains("caf\u{e9}"), "{told}");
    }
}
