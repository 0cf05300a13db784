//! Rewrites the edit lists of an MP4 whose `moov` stands behind its samples, as ffmpeg leaves it.

/// One edit: length in thousandths of a second, and the time of the track where it begins.
pub(crate) type Edit = (u32, i32);

const CONTAINERS: [&[u8; 4]; 4] = [b"moov", b"trak", b"edts", b"mdia"];

/// The file with other edit lists: `lists` is asked for each track, `soun` or `vide`.
pub(crate) fn with_edits(file: &[u8], lists: &dyn Fn(&str) -> Vec<Edit>) -> Vec<u8> {
    rebuilt(file, "", lists)
}

fn rebuilt(data: &[u8], track: &str, lists: &dyn Fn(&str) -> Vec<Edit>) -> Vec<u8> {
    let mut made = Vec::new();
    let mut rest = data;
    while rest.len() >= 8 {
        let size = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        assert!((8..=rest.len()).contains(&size), "a box of {size} bytes");
        let (name, content) = (&rest[4..8], &rest[8..size]);
        let has = |kind: &[u8]| content.windows(4).any(|window| window == kind);
        let track = match name {
            b"trak" if has(b"soun") => "soun",
            b"trak" if has(b"vide") => "vide",
            b"trak" => "",
            _ => track,
        };
        let content = match name {
            b"elst" if !lists(track).is_empty() => edit_list(&lists(track)),
            name if CONTAINERS.iter().any(|container| *container == name) => rebuilt(content, track, lists),
            _ => content.to_vec(),
        };
        made.extend((content.len() as u32 + 8).to_be_bytes());
        made.extend(name);
        made.extend(content);
        rest = &rest[size..];
    }
    made
}

fn edit_list(edits: &[Edit]) -> Vec<u8> {
    let mut made = vec![0; 4];
    made.extend((edits.len() as u32).to_be_bytes());
    for (length, from) in edits {
        made.extend(length.to_be_bytes());
        made.extend(from.to_be_bytes());
        made.extend([0, 1, 0, 0]);
    }
    made
}
