//! Tests of what picture files hold: pages, frames and further pictures are found, and no bytes do harm.

use std::io::Cursor;

use image::ImageFormat::{self, Gif, Jpeg, Png, Tiff, WebP};
use proptest::prelude::*;

use super::*;

const NOTHING: [&str; 0] = [];

/// A TIFF whose directories hold these entries (tag, type, value), one page after the other.
fn tiff(pages: &[&[(u16, u16, u32)]]) -> Vec<u8> {
    let mut made = b"II*\0\0\0\0\0".to_vec();
    let mut link = 4;
    for entries in pages {
        let at = made.len() as u32;
        made[link..link + 4].copy_from_slice(&at.to_le_bytes());
        made.extend((entries.len() as u16).to_le_bytes());
        for (tag, kind, value) in *entries {
            made.extend(tag.to_le_bytes());
            made.extend(kind.to_le_bytes());
            made.extend(1u32.to_le_bytes());
            made.extend(value.to_le_bytes());
        }
        link = made.len();
        made.extend([0; 4]);
    }
    made
}

fn of(bytes: &[u8], format: ImageFormat) -> FileParts {
    look(&mut Cursor::new(bytes), format).unwrap()
}

fn segment(marker: u8, bytes: &[u8]) -> Vec<u8> {
    [&[0xff, marker][..], &(bytes.len() as u16 + 2).to_be_bytes(), bytes].concat()
}

/// A JPEG's markers with an index of pictures of these kinds after the first, and what follows it.
fn mpo(kinds: &[u32], behind: &[u8]) -> Vec<u8> {
    let mut index = b"MPF\0MM\0*\0\0\0\x08\0\x01\xb0\x02\0\x07".to_vec();
    index.extend((16 * (kinds.len() as u32 + 1)).to_be_bytes());
    index.extend(26u32.to_be_bytes());
    index.extend([0; 4]);
    for kind in [0x03_0000].iter().chain(kinds) {
        index.extend(kind.to_be_bytes());
        index.extend([0; 12]);
    }
    let entropy = [&segment(0xda, &[1, 1, 0, 0, 63, 0])[..], &[1, 2, 0xff, 0, 3, 0xff, 0xd0, 4, 0xff, 0xd9]].concat();
    [&[0xff, 0xd8][..], &segment(0xe2, &index), &entropy, behind].concat()
}

#[test]
fn pages_are_told_from_copies_masks_and_previews() {
    const FULL: (u16, u16, u32) = (254, 4, 0);
    const COPY: (u16, u16, u32) = (254, 4, 1);
    let one = of(&tiff(&[&[FULL]]), Tiff);
    assert_eq!((one.pages.len(), one.losses.len(), one.refusal), (1, 0, None));
    // Old files say it in another tag, or not at all.
    assert_eq!(of(&tiff(&[&[FULL], &[COPY], &[(255, 3, 2)], &[(256, 3, 1)]]), Tiff).pages.len(), 2);
    // Nothing but a copy is still read.
    assert_eq!(of(&tiff(&[&[COPY]]), Tiff).pages, [8]);
    assert_eq!(of(&tiff(&[&[FULL], &[(254, 4, 4)]]), Tiff).losses, ["a transparency mask"]);
    assert_eq!(
        of(&tiff(&[&[(37724, 7, 0), (700, 7, 0)]]), Tiff).losses,
        ["the layers of Photoshop", "the XMP metadata"]
    );
    // A directory inside the page, of a full picture: the page's own second directory serves as one.
    let inside = tiff(&[&[COPY, (330, 4, 38)], &[FULL]]);
    let mut raw = inside.clone();
    raw[34..38].fill(0);
    assert!(of(&raw, Tiff).refusal.is_some_and(|words| words.contains("raw file of a camera")));
    raw[18] = 0;
    assert_eq!(of(&raw, Tiff).losses, ["a picture that lies inside a page"]);
    assert!(of(&tiff(&[&[(50706, 1, 1)]]), Tiff).refusal.is_some());
    // A chain that leads back, or out of the file
    for next in [8u32, 4_000_000] {
        let mut bytes = tiff(&[&[FULL]]);
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&next.to_le_bytes());
        let parts = of(&bytes, Tiff);
        assert_eq!(parts.pages, [8]);
        assert_eq!(parts.losses, ["whatever follows picture 1 of the file, which is damaged there"]);
    }
    assert_eq!(of(b"II*\0\xff\xff\xff\x7f", Tiff).losses, NOTHING);
}

#[test]
fn further_pictures_of_a_jpeg_are_named() {
    let told = |kinds: &[u32], behind: &[u8]| of(&mpo(kinds, behind), Jpeg).losses;
    assert_eq!(told(&[], b""), NOTHING);
    // Smaller copies for screens, and what pads the file
    assert_eq!(told(&[0x01_0001, 0x01_0002], b"\xff\xd8\xff\xe1"), NOTHING);
    assert_eq!(told(&[], &[0; 5000]), NOTHING);
    let stereo = "1 further picture of the file (stereo, panorama or other angles)";
    assert_eq!(told(&[0x02_0002], b"\xff\xd8\xff\xe1"), [stereo]);
    assert_eq!(told(&[0], b"\xff\xd8\xff\xe1"), ["a further picture of the file"]);
    assert_eq!(told(&[0], b"\xff\xd8\xff\xe1..hdrgm:Version"), ["the HDR gain map"]);
    assert_eq!(told(&[], b"\0\0\xff\xd8\xff\xe1"), ["what follows the first picture of the file"]);
    // The word may fall between two readings.
    for padding in 4070..4100 {
        let behind = [&vec![7; padding][..], b"\0\0\0\x18ftypmp42"].concat();
        let mut file = std::io::BufReader::with_capacity(64, Cursor::new(mpo(&[], &behind)));
        assert_eq!(look(&mut file, Jpeg).unwrap().losses, ["the video of a motion photo"], "{padding}");
    }
    let with = |marker, bytes: &[u8]| of(&[&[0xff, 0xd8][..], &segment(marker, bytes), &[0xff, 0xd9]].concat(), Jpeg);
    assert_eq!(with(0xe1, b"http://ns.adobe.com/xap/1.0/\0<x/>").losses, ["the XMP metadata"]);
    assert_eq!(with(0xed, b"Photoshop 3.0\08BIM\x04\x04\0\0").losses, ["the IPTC metadata"]);
    assert_eq!(with(0xed, b"Photoshop 3.0\08BIM\x03\xed\0\0").losses, NOTHING);
    assert_eq!(with(0xfe, b"hello").losses, ["the comment"]);
    // A thumbnail inside EXIF is no picture of its own.
    assert_eq!(with(0xe1, b"Exif\0\0..\xff\xd8\xff\xd9").losses, NOTHING);
}

#[test]
fn notes_and_frames_are_found() {
    let chunk = |kind: &[u8], bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes()[..], kind, bytes, &[0; 4]].concat();
    let png =
        |chunks: &[Vec<u8>]| of(&[&b"\x89PNG\r\n\x1a\n"[..], &chunks.concat(), &chunk(b"IEND", b"")].concat(), Png);
    assert_eq!(png(&[chunk(b"acTL", &[0, 0, 0, 5, 0, 0, 0, 0])]).frames, 5);
    assert_eq!(png(&[chunk(b"acTL", &[0, 0, 0, 1, 0, 0, 0, 0])]).frames, 1);
    assert_eq!(png(&[chunk(b"IDAT", &[0; 99]), chunk(b"tEXt", b"Title\0x")]).losses, ["the text notes"]);
    assert_eq!(png(&[chunk(b"iTXt", b"XML:com.adobe.xmp\0..")]).losses, ["the XMP metadata"]);
    assert_eq!(png(&[chunk(b"gAMA", &45_455u32.to_be_bytes())]).losses, NOTHING);
    assert_eq!(png(&[chunk(b"gAMA", &100_000u32.to_be_bytes())]).losses, ["the gamma that it is to be shown with"]);
    assert_eq!(of(b"RIFF\0\0\0\0WEBPVP8 \x03\0\0\0abc\0XMP \x01\0\0\0x\0", WebP).losses, ["the XMP metadata"]);
    let frame = b"\x21\xf9\x04\0\0\0\0\0\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0";
    let gif =
        |frames: usize| [&b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff"[..], &frame.repeat(frames), b";"].concat();
    assert_eq!((of(&gif(1), Gif).frames, of(&gif(7), Gif).frames), (1, 2));
}

#[test]
fn a_page_is_shown_as_the_first() {
    use std::io::{Read, Seek, SeekFrom};
    let bytes = tiff(&[&[(254, 4, 0)], &[(254, 4, 2)]]);
    let mut shown = pages::OnePage::new(Cursor::new(&bytes), 26).unwrap();
    let mut all = Vec::new();
    shown.read_to_end(&mut all).unwrap();
    assert_eq!((&all[..4], &all[4..8], &all[8..]), (&bytes[..4], &[26, 0, 0, 0][..], &bytes[8..]));
    let mut four = [0; 4];
    shown.seek(SeekFrom::Start(6)).unwrap();
    shown.read_exact(&mut four).unwrap();
    assert_eq!(four[..], all[6..10]);
}

proptest! {
    /// Seeds with bytes changed, cut off and repeated.
    #[test]
    fn no_bytes_do_harm(
        seed in 0usize..4,
        changes in prop::collection::vec((any::<u16>(), any::<u8>()), 0..12),
        length in any::<u16>(),
    ) {
        let mut bytes = match seed {
            0 => tiff(&[&[(254, 4, 0), (330, 4, 40)], &[(254, 3, 2), (330, 13, 8)], &[(330, 16, 26)]]),
            1 => mpo(&[0x02_0002, 0, 0x01_0001], b"\xff\xd8\xff\xe1\0\0\0\x18ftypmp42"),
            2 => b"\x89PNG\r\n\x1a\n\0\0\0\x08acTL\0\0\0\x02\0\0\0\0....\0\0\0\x04gAMA\0\x01\0\0....".to_vec(),
            _ => b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0;".to_vec(),
        };
        for (at, value) in changes {
            let at = usize::from(at) % bytes.len();
            bytes[at] = value;
        }
        bytes.truncate(usize::from(length) % (2 * bytes.len()) + 1);
        for format in [Tiff, Jpeg, Png, WebP, Gif] {
            prop_assert!(look(&mut Cursor::new(&bytes), format).is_ok());
        }
    }
}
