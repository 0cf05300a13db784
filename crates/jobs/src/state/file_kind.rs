//! What a file's or folder's name alone tells: not whole yet, or no film but what lies beside one.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Endings of names that are still being written (downloads of browsers, of clients for torrents and shares, copies on
/// their way), or are backups.
const UNFINISHED: [&str; 34] = [
    ".part",             // Firefox, KDE, Transmission, JDownloader, yt-dlp, gallery-dl
    ".part.met",         // eMule
    ".tmp",              // Syncthing, Dropbox, many others
    ".temp",             // yt-dlp, merging
    ".crdownload",       // Chrome, Edge, Brave
    ".crswap",           // Chrome, writing by a page
    ".opdownload",       // Opera
    ".download",         // Safari (a folder), Samsung
    ".partial",          // Internet Explorer, rsync, Go clients
    ".filepart",         // WinSCP, FileZilla
    ".aria2",            // aria2
    ".aria2__temp",      // aria2, writing that
    ".st",               // axel
    ".lftp-pget-status", // lftp
    ".ytdl",             // yt-dlp
    ".fdmdownload",      // Free Download Manager
    ".!ut",              // uTorrent
    ".!qb",              // qBittorrent
    ".!bt",              // BitTorrent
    ".!sync",            // Resilio Sync
    ".bts",              // Resilio Sync
    ".bc!",              // BitComet
    ".az!",              // Vuze
    ".jc!",              // FlashGet
    ".ob!",              // Orbit
    ".xltd",             // Xunlei
    ".td",               // Xunlei
    ".td.cfg",           // Xunlei
    ".downloading",      // Baidu
    ".adadownload",      // AdaDownload
    ".unfinished",       // NZBGet and others
    ".incomplete",       // amule, SoulSeek clients
    ".inprogress",
    "~", // editors
];
/// Begins of such names.
const UNFINISHED_BEGINS: [&str; 3] = ["~utorrentpartfile_", "_____padding_file", "~syncthing~"];
/// In such names: fragments of yt-dlp.
const UNFINISHED_INSIDE: &str = ".part-frag";
/// Endings that a download's list of pieces has beside the file itself, which has its final name and is not whole.
const PIECES: [&str; 4] = [".aria2", ".aria2__temp", ".st", ".lftp-pget-status"];

/// Extensions of what lies beside films and is none: never probed, never failed.
const SIDECARS: [&str; 6] = [SUBTITLES, NOTES, LISTS, DISCS, ARCHIVES, SOUND];
const SUBTITLES: &str = "srt ass ssa sub idx sup vtt smi sami ttml dfxp scc stl sbv lrc mks usf jss psb aqt pjs mpl2";
const NOTES: &str = "nfo txt md json jsonl xml log ini toml yaml yml csv html htm pdf doc docx odt rtf epub edl chapters \
    xmp gpx db sqlite plist bif tbn thm";
const LISTS: &str =
    "m3u m3u8 pls cue xspf asx wpl zpl smil url lnk desktop webloc website torrent magnet nzb metalink meta4";
/// Of DVD and Blu-ray folders.
const DISCS: &str = "ifo bup bdmv mpls clpi bdjo jar properties otf ttf crt crl sig cer inf aacs tbl cci";
/// With sums.
const ARCHIVES: &str = "md5 sha1 sha256 sha512 sfv par2 zip rar 7z gz bz2 xz zst tar tgz";
/// Of the names that never mean a film; other sound is known by a look inside.
const SOUND: &str = "mp3 flac m4a m4b m4r aac ac3 eac3 ec3 dts dtshd thd truehd mlp opus oga wav w64 rf64 aif aiff aifc caf \
    wma ape alac tta wv mpc mp2 mpa amr au snd dsf dff mid midi spx mka cda";

/// Folders that file servers, systems and unpackers keep beside a person's own.
const SYSTEM_FOLDERS: [&str; 20] = [
    "@eadir",
    "@tmp",
    "@sharebin",
    "@recycle",
    "@recently-snapshot",
    "@transcode",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "recycler",
    "recycled",
    "recycle bin",
    "system volume information",
    "lost+found",
    "found.000",
    "~snapshot",
    "network trash folder",
    "temporary items",
    "thevolumesettingsfolder",
    "__macosx",
];
/// Endings of names of folders that hold a download.
const UNFINISHED_FOLDERS: [&str; 9] =
    [".part", ".partial", ".download", ".downloading", ".incomplete", ".unfinished", ".!ut", ".!qb", ".bc!"];
/// Begins of names of folders that are being unpacked.
const UNPACKING: &str = "_unpack_";

/// Whether the name is that of a download or copy in progress, or of an editor's backup.
pub fn is_unfinished(name: &OsStr) -> bool {
    let lower = lower(name);
    UNFINISHED.iter().any(|end| lower.ends_with(end.as_bytes()) && lower.len() > end.len())
        || UNFINISHED_BEGINS.iter().any(|begin| lower.starts_with(begin.as_bytes()))
        || lower.windows(UNFINISHED_INSIDE.len()).any(|part| part == UNFINISHED_INSIDE.as_bytes())
}

/// The name of the file that this one is the list of pieces of: it is not whole as long as both are there.
pub fn in_pieces(name: &OsStr) -> Option<&OsStr> {
    let lower = lower(name);
    let end = PIECES.iter().find(|end| lower.ends_with(end.as_bytes()))?;
    let whole = &name.as_bytes()[..lower.len() - end.len()];
    (!whole.is_empty()).then(|| OsStr::from_bytes(whole))
}

/// The name that yt-dlp makes whole of pictures and sound, given the stem of one of them: `Show` of `Show.f137`.
pub fn whole_of_format(stem: &OsStr) -> Option<&OsStr> {
    let at = stem.as_bytes().iter().rposition(|byte| *byte == b'.')?;
    let format = stem.as_bytes()[at + 1..].strip_prefix(b"f")?;
    let numbered = format.first().is_some_and(u8::is_ascii_digit) && format.len() <= 16;
    (at > 0 && numbered).then(|| OsStr::from_bytes(&stem.as_bytes()[..at]))
}

/// Returns whether the name is that of a subtitle, a note, a playlist, sound, an archive or the like.
pub fn is_sidecar(name: &OsStr) -> bool {
    let extension = Path::new(name).extension().unwrap_or_default().as_bytes();
    let named = SIDECARS
        .iter()
        .flat_map(|group| group.split_whitespace())
        .any(|known| extension.eq_ignore_ascii_case(known.as_bytes()));
    // Of macOS, with a return at its end.
    named || is_volume(extension) || name.as_bytes() == b"Icon\r"
}

/// A volume of an archive: `.r00`, `.s01`, `.z02`.
fn is_volume(extension: &[u8]) -> bool {
    matches!(extension, [kind, a, b] if b"rszRSZ".contains(kind) && a.is_ascii_digit() && b.is_ascii_digit())
}

/// Returns whether the folder is kept by a file server or a system.
pub fn is_system_folder(name: &OsStr) -> bool {
    let lower = lower(name);
    SYSTEM_FOLDERS.iter().any(|known| lower == known.as_bytes())
}

/// Returns whether the folder holds what is being downloaded or unpacked.
pub fn is_unfinished_folder(name: &OsStr) -> bool {
    let lower = lower(name);
    lower.starts_with(UNPACKING.as_bytes()) || UNFINISHED_FOLDERS.iter().any(|end| lower.ends_with(end.as_bytes()))
}

fn lower(name: &OsStr) -> Vec<u8> {
    name.as_bytes().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in [
            "a.mkv.part",
            "a.!qB",
            "a.mkv~",
            "A.TMP",
            "a.mkv.aria2",
            "a.FilePart",
            "a.mkv.partial",
            "Film.download",
            "a.opdownload",
            "a.!ut",
            "a.mkv.BC!",
            "a.mp4.ytdl",
            "a.crswap",
            "a.fdmdownload",
            "a.mp4.part-Frag12",
            "Unconfirmed 8.crdownload",
            "001.part.met",
            "~uTorrentPartFile_1F.dat",
            "a.mkv.!sync",
            "a.mkv.lftp-pget-status",
        ] {
            assert!(is_unfinished(OsStr::new(name)) && !is_sidecar(OsStr::new(name)), "{name}");
        }
        for name in [
            "a.SRT",
            "upscaled.toml",
            "a.b.zip",
            "VIDEO_TS.IFO",
            "VTS_01_0.BUP",
            "index.bdmv",
            "00001.mpls",
            "00001.clpi",
            "list.m3u8",
            "a.cue",
            "a.lnk",
            "a.webloc",
            "a.mp3",
            "A.FLAC",
            "a.r00",
            "Thumbs.db",
            "desktop.ini",
            "Icon\r",
        ] {
            assert!(is_sidecar(OsStr::new(name)) && !is_unfinished(OsStr::new(name)), "{name}");
        }
        for name in [
            "a.mkv",
            "part",
            "srt",
            "a.tmp.mkv",
            "download",
            "a.download.mkv",
            "a.ogg",
            "a.vob",
            "a.dat",
            "a.m2ts",
            "a.ts",
            "a.rm",
            "a.s0",
            "part-frag.mkv",
            ".part",
        ] {
            assert!(!is_sidecar(OsStr::new(name)) && !is_unfinished(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn pieces_and_folders() {
        assert_eq!(in_pieces(OsStr::new("a.mkv.aria2")), Some(OsStr::new("a.mkv")));
        assert_eq!(in_pieces(OsStr::new("a.MKV.ARIA2")), Some(OsStr::new("a.MKV")));
        assert_eq!(whole_of_format(OsStr::new("A.b.f137")), Some(OsStr::new("A.b")));
        assert_eq!(whole_of_format(OsStr::new("A.b.f251-drc")), Some(OsStr::new("A.b")));
        assert!(["A.fx", "A", ".f1", "A.f", "A.137"].iter().all(|stem| whole_of_format(OsStr::new(stem)).is_none()));
        assert_eq!((in_pieces(OsStr::new("a.mkv")), in_pieces(OsStr::new(".aria2"))), (None, None));
        for name in [
            "@eaDir",
            "#recycle",
            "$RECYCLE.BIN",
            "System Volume Information",
            "lost+found",
            "_UNPACK_film",
            "a.mkv.download",
            "__MACOSX",
        ] {
            assert!(is_system_folder(OsStr::new(name)) || is_unfinished_folder(OsStr::new(name)), "{name}");
        }
        for name in ["films", "download", "recycle", "VIDEO_TS", "a.tmp", "extras~", "@home"] {
            assert!(!is_system_folder(OsStr::new(name)) && !is_unfinished_folder(OsStr::new(name)), "{name}");
        }
    }
}
