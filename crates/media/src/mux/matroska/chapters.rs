//! Chapters as a tree, with all that they say: editions, languages, chapters in chapters.

use crate::mux::matroska::ebml::{self, ElementBody, Node, number};
use crate::text;

const EDITION: u32 = 0x45b9;
const EDITION_HIDDEN: u32 = 0x45bd;
const EDITION_ORDERED: u32 = 0x45dd;
const EDITION_DISPLAY: u32 = 0x4520;
const ATOM: u32 = 0xb6;
const UID: u32 = 0x73c4;
const START: u32 = 0x91;
const END: u32 = 0x92;
const HIDDEN: u32 = 0x98;
const ENABLED: u32 = 0x4598;
const OTHER_SEGMENT: u32 = 0x6e67;
const OTHER_EDITION: u32 = 0x6ebc;
const TRACKS: u32 = 0x8f;
const DISPLAY: u32 = 0x80;
const STRING: u32 = 0x85;
const LANGUAGE: u32 = 0x437c;
const LANGUAGE_IETF: u32 = 0x437d;
const COUNTRY: u32 = 0x437e;
const PROCESS: u32 = 0x6944;
const PROCESS_COMMAND: u32 = 0x6911;

fn is_master(id: u32) -> bool {
    matches!(id, EDITION | EDITION_DISPLAY | ATOM | TRACKS | DISPLAY | PROCESS | PROCESS_COMMAND)
}

/// The chapters of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chapters {
    nodes: Vec<Node>,
    pub editions: usize,
    /// Chapters of all editions, those in chapters not counted.
    pub atoms: usize,
    pub ordered: bool,
    /// Some stand inside others.
    pub nested: bool,
    /// Some say in which language their title is, or have several titles.
    pub languages: bool,
    /// Some, or whole editions, are hidden or switched off.
    pub hidden: bool,
    /// Some are played out of other files.
    pub elsewhere: bool,
    /// There is anything else that a title and two times do not say.
    pub more: bool,
    /// Their numbers, so far as FFmpeg takes them for those of chapters.
    uids: Vec<u64>,
}

impl Chapters {
    /// Of the content of the element; `None` where it is damaged or holds no chapter.
    pub(crate) fn of(content: &[u8]) -> Option<Chapters> {
        let mut nodes = ebml::tree(content, is_master)?;
        as_text(&mut nodes);
        let mut made = Chapters::default();
        for edition in masters(&nodes, EDITION) {
            made.editions += 1;
            made.ordered |= value(edition, EDITION_ORDERED) == Some(1);
            made.hidden |= value(edition, EDITION_HIDDEN) == Some(1);
            made.more |= masters(edition, EDITION_DISPLAY).next().is_some();
            for atom in masters(edition, ATOM) {
                made.atoms += 1;
                made.uids.extend(value(atom, UID));
                made.look(atom);
            }
        }
        made.nodes = nodes;
        (made.atoms > 0).then_some(made)
    }

    fn look(&mut self, atom: &[Node]) {
        self.hidden |= value(atom, HIDDEN) == Some(1) || value(atom, ENABLED) == Some(0);
        self.elsewhere |= atom.iter().any(|node| matches!(node.id, OTHER_SEGMENT | OTHER_EDITION));
        self.languages |= masters(atom, DISPLAY).count() > 1;
        for display in masters(atom, DISPLAY) {
            let told = |node: &Node| match (&node.body, node.id) {
                (ElementBody::Leaf(content), LANGUAGE) => content != b"und",
                (_, LANGUAGE_IETF | COUNTRY) => true,
                _ => false,
            };
            // Without a word, it is English.
            let silent = !display.iter().any(|node| matches!(node.id, LANGUAGE | LANGUAGE_IETF));
            self.languages |= silent || display.iter().any(told);
        }
        let known = |id: u32| {
            matches!(id, UID | START | END | HIDDEN | ENABLED | OTHER_SEGMENT | OTHER_EDITION | DISPLAY | ATOM)
        };
        self.more |= atom.iter().any(|node| !known(node.id));
        for inner in masters(atom, ATOM) {
            self.nested = true;
            self.look(inner);
        }
    }

    /// FFmpeg, which delivers so many of them, tells everything.
    pub(crate) fn is_plain(&self, delivered: usize) -> bool {
        let special = self.ordered || self.nested || self.languages || self.hidden || self.elsewhere || self.more;
        self.editions == 1 && self.atoms == delivered && !special
    }

    /// Their numbers fit what FFmpeg writes into tags of chapters.
    pub(crate) fn has_short_numbers(&self) -> bool {
        self.uids.iter().all(|uid| (1..=u64::from(u32::MAX)).contains(uid))
    }

    /// The content of the element with all times moved, none before zero.
    pub(crate) fn moved(&self, nanoseconds: i64) -> Vec<u8> {
        let mut nodes = self.nodes.clone();
        if nanoseconds != 0 {
            shift(&mut nodes, nanoseconds);
        }
        ebml::bytes_of(&nodes)
    }
}

/// Makes titles UTF-8, as all strings in the file have to be.
fn as_text(nodes: &mut [Node]) {
    for node in nodes {
        match &mut node.body {
            ElementBody::Master(children) => as_text(children),
            ElementBody::Leaf(content) if node.id == STRING => *content = text::of(content).into_owned().into_bytes(),
            ElementBody::Leaf(_) => {}
        }
    }
}

fn shift(nodes: &mut [Node], nanoseconds: i64) {
    for node in nodes {
        match &mut node.body {
            ElementBody::Master(children) => shift(children, nanoseconds),
            ElementBody::Leaf(content) if matches!(node.id, START | END) => {
                let moved = number(content).saturating_add_signed(nanoseconds);
                *content = moved.to_be_bytes().to_vec();
            }
            ElementBody::Leaf(_) => {}
        }
    }
}

/// The children of those nodes that have this ID.
fn masters(nodes: &[Node], id: u32) -> impl Iterator<Item = &[Node]> {
    nodes.iter().filter_map(move |node| match &node.body {
        ElementBody::Master(children) if node.id == id => Some(children.as_slice()),
        _ => None,
    })
}

fn value(nodes: &[Node], id: u32) -> Option<u64> {
    nodes.iter().find_map(|node| match &node.body {
        ElementBody::Leaf(content) if node.id == id => Some(number(content)),
        _ => None,
    })
}
