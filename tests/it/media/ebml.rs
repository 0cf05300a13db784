//! Matroska files taken apart and put together again, to say in them what no tool at hand writes.

/// An element: its ID and its content.
pub(crate) type Element = (u32, Vec<u8>);

pub(crate) const SEGMENT: u32 = 0x1853_8067;
pub(crate) const INFO: u32 = 0x1549_a966;
pub(crate) const TRACKS: u32 = 0x1654_ae6b;
pub(crate) const ENTRY: u32 = 0xae;
pub(crate) const VIDEO: u32 = 0xe0;
pub(crate) const CHAPTERS: u32 = 0x1043_a770;
pub(crate) const EDITION: u32 = 0x45b9;
pub(crate) const ATOM: u32 = 0xb6;
const CLUSTER: u32 = 0x1f43_b675;

/// The elements side by side in some bytes.
pub(crate) fn elements(mut bytes: &[u8]) -> Vec<Element> {
    let mut made = Vec::new();
    while !bytes.is_empty() {
        let id_length = bytes[0].leading_zeros() as usize + 1;
        let id = bytes[..id_length].iter().fold(0, |id, byte| id << 8 | u32::from(*byte));
        bytes = &bytes[id_length..];
        let length = bytes[0].leading_zeros() as usize + 1;
        let size = bytes[..length].iter().fold(0u64, |size, byte| size << 8 | u64::from(*byte));
        let size = (size & ((1 << (7 * length)) - 1)) as usize;
        made.push((id, bytes[length..length + size].to_vec()));
        bytes = &bytes[length + size..];
    }
    made
}

/// The first element with an ID.
pub(crate) fn find(of: &[Element], id: u32) -> Option<&[u8]> {
    of.iter().find(|(found, _)| *found == id).map(|(_, content)| content.as_slice())
}

/// An element's bytes.
pub(crate) fn element(id: u32, content: &[u8]) -> Vec<u8> {
    let mut made: Vec<u8> = id.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
    let length = (1..8).find(|length| (content.len() as u64) < (1 << (7 * length)) - 1).unwrap();
    made.extend(&((content.len() as u64) | 1 << (7 * length)).to_be_bytes()[8 - length..]);
    made.extend(content);
    made
}

/// One with children.
pub(crate) fn master(id: u32, children: &[Vec<u8>]) -> Vec<u8> {
    element(id, &children.concat())
}

/// The children of a file's segment.
pub(crate) fn segment(file: &[u8]) -> Vec<Element> {
    elements(find(&elements(file), SEGMENT).unwrap())
}

/// A file with its segment's information and tracks changed, with chapters, and without an index.
pub(crate) fn changed(file: &[u8], info: &[u8], track: impl Fn(usize, &[u8]) -> Vec<u8>, chapters: &[u8]) -> Vec<u8> {
    let mut children = Vec::new();
    for (id, content) in segment(file) {
        match id {
            INFO => children.push(element(INFO, &[&without_sum(&content)[..], info].concat())),
            TRACKS => {
                let entries = elements(&content).into_iter().filter(|(id, _)| *id == ENTRY).enumerate();
                children.push(master(
                    TRACKS,
                    &entries.map(|(n, (id, entry))| element(id, &track(n, &entry))).collect::<Vec<_>>(),
                ));
                children.push(chapters.to_vec());
            }
            CLUSTER => children.push(element(id, &content)),
            _ => {}
        }
    }
    let head = elements(file).remove(0);
    [element(head.0, &head.1), master(SEGMENT, &children)].concat()
}

/// Content without the checksum before it.
fn without_sum(content: &[u8]) -> Vec<u8> {
    elements(content).iter().filter(|(id, _)| *id != 0xbf).flat_map(|(id, content)| element(*id, content)).collect()
}

/// A track's header with elements added to it, and to the description of its picture.
pub(crate) fn with(entry: &[u8], more: &[Vec<u8>], picture: &[Vec<u8>]) -> Vec<u8> {
    let mut made = more.concat();
    for (id, content) in elements(entry) {
        match id {
            VIDEO => made.extend(element(id, &[content, picture.concat()].concat())),
            _ => made.extend(element(id, &content)),
        }
    }
    made
}
