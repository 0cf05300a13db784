//! EBML: elements read from bytes that anybody may have written, and elements written.

use std::io::{Error, ErrorKind, Result};

/// Longest head of an element: 4 bytes of ID, 8 of size.
pub(super) const HEAD_MAX: usize = 12;
/// Elements deeper than this are not looked into.
const DEPTH_MAX: u32 = 16;
/// Elements of a tree that are read.
const NODES_MAX: usize = 100_000;

pub(super) const VOID: u32 = 0xec;
pub(super) const CRC: u32 = 0xbf;

/// The head of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ElementHead {
    pub id: u32,
    /// Bytes of the content; `None` where the file does not tell.
    pub size: Option<u64>,
    /// Bytes of the head itself.
    pub length: usize,
}

/// Reads a head; `None` for what is none or is cut off.
pub(super) fn head(bytes: &[u8]) -> Option<ElementHead> {
    let id_length = bytes.first()?.leading_zeros() as usize + 1;
    if id_length > 4 {
        return None;
    }
    let id = bytes.get(..id_length)?.iter().fold(0, |id, byte| id << 8 | u32::from(*byte));
    let rest = &bytes[id_length..];
    let size_length = rest.first()?.leading_zeros() as usize + 1;
    if size_length > 8 {
        return None;
    }
    let digits = rest.get(..size_length)?;
    let mark = 1u64 << (7 * size_length);
    let size = digits.iter().fold(0, |size, byte| size << 8 | u64::from(*byte)) & (mark - 1);
    let size = (size != mark - 1).then_some(size);
    Some(ElementHead { id, size, length: id_length + size_length })
}

/// The elements side by side in these bytes, up to what is damaged.
pub(super) fn elements(bytes: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let head = head(rest)?;
        // Of unknown size is only what ends where its parent does.
        let behind = &rest[head.length..];
        let size = head.size.map_or(Some(behind.len()), |size| usize::try_from(size).ok())?;
        let content = behind.get(..size)?;
        rest = &behind[size..];
        Some((head.id, content))
    })
}

/// The content of the first element with an ID.
pub(super) fn find(bytes: &[u8], id: u32) -> Option<&[u8]> {
    elements(bytes).find(|(found, _)| *found == id).map(|(_, content)| content)
}

/// An unsigned number; of what is longer than 8 bytes, its last ones.
pub(super) fn number(content: &[u8]) -> u64 {
    content.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A string without the zeros behind it, of at most so many bytes.
pub(super) fn text(content: &[u8], most: usize) -> String {
    let end = content.iter().position(|byte| *byte == 0).unwrap_or(content.len());
    String::from_utf8_lossy(&content[..end.min(most)]).into_owned()
}

/// An element with its content or its children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub id: u32,
    pub body: ElementBody,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ElementBody {
    Leaf(Vec<u8>),
    Master(Vec<Node>),
}

/// The tree of elements in these bytes; those of which `is_master` says so are looked into. Padding and checksums are
/// left out. `None` where it is damaged, too deep or too large.
pub(super) fn tree(bytes: &[u8], is_master: fn(u32) -> bool) -> Option<Vec<Node>> {
    let mut left = NODES_MAX;
    branch(bytes, is_master, DEPTH_MAX, &mut left)
}

fn branch(bytes: &[u8], is_master: fn(u32) -> bool, depth: u32, left: &mut usize) -> Option<Vec<Node>> {
    let (mut nodes, mut read) = (Vec::new(), 0);
    for (id, content) in elements(bytes) {
        read = (content.as_ptr() as usize + content.len()) - bytes.as_ptr() as usize;
        *left = left.checked_sub(1)?;
        if matches!(id, VOID | CRC) {
            continue;
        }
        let body = match is_master(id) {
            true => ElementBody::Master(branch(content, is_master, depth.checked_sub(1)?, left)?),
            false => ElementBody::Leaf(content.to_vec()),
        };
        nodes.push(Node { id, body });
    }
    (read == bytes.len()).then_some(nodes)
}

/// The bytes of elements side by side.
pub(super) fn bytes_of(nodes: &[Node]) -> Vec<u8> {
    let mut made = Vec::new();
    for node in nodes {
        match &node.body {
            ElementBody::Leaf(content) => element(&mut made, node.id, content),
            ElementBody::Master(children) => element(&mut made, node.id, &bytes_of(children)),
        }
    }
    made
}

/// Appends an element.
pub(super) fn element(to: &mut Vec<u8>, id: u32, content: &[u8]) {
    to.extend(id.to_be_bytes().iter().skip_while(|byte| **byte == 0));
    let length = (1..8).find(|length| (content.len() as u64) < (1 << (7 * length)) - 1).unwrap_or(8);
    size(to, content.len() as u64, length);
    to.extend_from_slice(content);
}

fn size(to: &mut Vec<u8>, size: u64, length: usize) {
    let marked = size | 1 << (7 * length);
    to.extend_from_slice(&marked.to_be_bytes()[8 - length..]);
}

/// Appends a number in as few bytes as it takes.
pub(super) fn number_element(to: &mut Vec<u8>, id: u32, value: u64) {
    let skip = (value.leading_zeros() as usize / 8).min(7);
    element(to, id, &value.to_be_bytes()[skip..]);
}

/// Appends padding that takes so many bytes.
///
/// # Errors
/// For 1 byte, which no element takes.
pub(super) fn void(to: &mut Vec<u8>, bytes: usize) -> Result<()> {
    match bytes {
        0 => {}
        1 => return Err(Error::new(ErrorKind::InvalidData, "no element takes 1 byte")),
        2..=9 => {
            to.push(VOID as u8);
            size(to, bytes as u64 - 2, 1);
            to.resize(to.len() + bytes - 2, 0);
        }
        _ => {
            to.push(VOID as u8);
            size(to, bytes as u64 - 9, 8);
            to.resize(to.len() + bytes - 9, 0);
        }
    }
    Ok(())
}

/// EBML's checksum.
pub(super) fn crc(bytes: &[u8]) -> [u8; 4] {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
        }
    }
    (!sum).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_back() {
        let mut made = Vec::new();
        for size in [0usize, 1, 126, 127, 128, 16_382, 16_383, 70_000] {
            element(&mut made, 0x22_b59c, &vec![7; size]);
            number_element(&mut made, 0xd7, size as u64);
            void(&mut made, size + 2).unwrap();
        }
        let sizes: Vec<_> = elements(&made).filter(|(id, _)| *id == 0x22_b59c).map(|(_, c)| c.len()).collect();
        assert_eq!(sizes, [0, 1, 126, 127, 128, 16_382, 16_383, 70_000]);
        let numbers: Vec<_> = elements(&made).filter(|(id, _)| *id == 0xd7).map(|(_, c)| number(c)).collect();
        assert_eq!(numbers, [0, 1, 126, 127, 128, 16_382, 16_383, 70_000]);
        let tree = tree(&made, |_| false).unwrap();
        assert_eq!(tree.len(), 16);
        assert_eq!(
            bytes_of(&tree).len(),
            made.len()
                - elements(&made)
                    .filter(|(id, _)| *id == VOID)
                    .map(|(_, c)| c.len() + if c.len() < 8 { 2 } else { 9 })
                    .sum::<usize>()
        );
        for bytes in 2..40 {
            let mut padding = Vec::new();
            void(&mut padding, bytes).unwrap();
            assert_eq!((padding.len(), elements(&padding).count()), (bytes, 1));
        }
        assert!(void(&mut Vec::new(), 1).is_err());
    }

    #[test]
    fn heads_of_others_are_none() {
        assert_eq!(head(&[0x08, 1, 2, 3, 4, 0x81]), None);
        assert_eq!(head(&[0x1a, 0x45, 0xdf]), None);
        assert_eq!(head(&[0xec, 0]), None);
        assert_eq!(head(&[0xec, 0xff]), Some(ElementHead { id: VOID, size: None, length: 2 }));
        assert_eq!(head(&[0x42, 0x86, 0x81]), Some(ElementHead { id: 0x4286, size: Some(1), length: 3 }));
        assert_eq!(tree(&[0xec, 0x85, 0], |_| false), None);
        // A master in itself, deeper than anything has a right to be
        let mut deep = Vec::new();
        for _ in 0..40 {
            let mut outer = Vec::new();
            element(&mut outer, 0xb6, &deep);
            deep = outer;
        }
        assert_eq!(tree(&deep, |_| true), None);
        assert_eq!(crc(b"123456789"), 0xcbf4_3926u32.to_le_bytes());
    }
}
