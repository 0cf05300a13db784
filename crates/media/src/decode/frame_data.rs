//! What decoded frames say beside their pixels: each kind of side data is carried, stands elsewhere, describes only the
//! old coding, or is told as lost.

use ffmpeg_next::ffi::AVPacketSideDataType::{AV_PKT_DATA_DISPLAYMATRIX, AV_PKT_DATA_SPHERICAL, AV_PKT_DATA_STEREO3D};
use ffmpeg_next::{Stream, frame};

use upscaled_core::types::source::{Hdr, InBand, SourceInfo, Stereo};
use upscaled_core::types::user_data::{Extras, TRIPLET, TRIPLETS_MAX};

use crate::decode::side_data::{self, integers};
use crate::ffi::{output, picture};

/// What becomes of a kind of side data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Captions,
    ActiveFormat,
    Matrix,
    Stereo,
    Spherical,
    Mastering,
    LightLevel,
    PanScan,
    GopTimecode,
    Unregistered,
    /// Describes how the source was coded, or sound.
    OldCoding,
    /// Cannot be carried: the words that tell of it.
    Lost(&'static str),
}

/// Every kind of FFmpeg 4.3 to 8, by the beginning of its name (their numbers are not all in older headers).
const KINDS: &[(&str, Fate)] = &[
    ("ATSC A53", Fate::Captions),
    ("Active format", Fate::ActiveFormat),
    ("3x3 displaymatrix", Fate::Matrix),
    ("Stereo 3D", Fate::Stereo),
    ("Spherical", Fate::Spherical),
    ("Mastering display", Fate::Mastering),
    ("Content light level", Fate::LightLevel),
    ("AVPanScan", Fate::PanScan),
    ("GOP timecode", Fate::GopTimecode),
    ("H.26[45] User Data Unregistered", Fate::Unregistered),
    ("SMPTE 12-1 timecode", Fate::Lost("the timecodes in the video (SMPTE 12-1)")),
    ("HDR Dynamic Metadata SMPTE2094-40", Fate::Lost("HDR10+ dynamic metadata")),
    ("HDR Dynamic Metadata CUVA", Fate::Lost("HDR Vivid dynamic metadata")),
    ("HDR Dynamic Metadata", Fate::Lost("dynamic HDR metadata")),
    ("Dolby Vision", Fate::Lost("Dolby Vision enhancement data")),
    ("Ambient viewing", Fate::Lost("the ambient viewing environment")),
    ("Film grain", Fate::Lost("film grain parameters")),
    ("ICC profile", Fate::Lost("the ICC colour profile")),
    ("LCEVC", Fate::Lost("LCEVC enhancement data")),
    ("View ID", Fate::Lost("the views of multiview video but the first")),
    ("3D Reference", Fate::Lost("the 3D reference displays")),
    ("EXIF", Fate::Lost("EXIF metadata in the video")),
    ("Motion vectors", Fate::OldCoding),
    ("QP table", Fate::OldCoding),
    ("Video encoding parameters", Fate::OldCoding),
    ("Encoding video hint", Fate::OldCoding),
    ("Regions Of Interest", Fate::OldCoding),
    ("Bounding boxes", Fate::OldCoding),
    ("AVMatrixEncoding", Fate::OldCoding),
    ("Metadata relevant to a downmix", Fate::OldCoding),
    ("AVReplayGain", Fate::OldCoding),
    ("Skip samples", Fate::OldCoding),
    ("Audio service type", Fate::OldCoding),
];

/// What is told of captions in AV1: they are written as its specification has it, yet decoders such as dav1d 1.0 hand
/// out those of some frames with another frame or not at all.
pub const AV1_CAPTIONS: &str =
    "closed captions: they are in the AV1 stream, where many players do not show all of them";

const UNKNOWN: Fate = Fate::Lost("data beside the frames that this program does not know");
const PAN_SCAN: &str = "the pan and scan window";
const GOP_TIMECODE: &str = "the timecode of the groups of pictures";
const UNREGISTERED: &str = "user data in the video (SEI)";
const MANY_CAPTIONS: &str = "closed captions of frames that have too many";
const SPHERICAL: &str = "the 360 degree projection in the video";
const MATRIX_CHANGES: &str = "rotation (display orientation) that changes in mid stream";
const STEREO_CHANGES: &str = "a stereo 3D layout that changes in mid stream";
const HDR_CHANGES: &str = "HDR10 metadata that changes in mid stream";
const ASPECT_CHANGES: &str = "the sample aspect ratio where it changes in mid stream (all frames get the first one)";

/// Identifiers with which encoders sign their streams (x264, x265, and two of Apple's): what follows describes the old
/// coding.
const BANNERS: [[u8; 16]; 4] = [
    [0xdc, 0x45, 0xe9, 0xbd, 0xe6, 0xd9, 0x48, 0xb7, 0x96, 0x2c, 0xd8, 0x20, 0xd9, 0x23, 0xee, 0xef],
    [0x2c, 0xa2, 0xde, 0x09, 0xb5, 0x17, 0x47, 0xdb, 0xbb, 0x55, 0xa4, 0xfe, 0x7f, 0xc2, 0xfc, 0x4e],
    [0x03, 0x87, 0xf4, 0x4e, 0xcd, 0x0a, 0x4b, 0xdc, 0xa1, 0x94, 0x3a, 0xc3, 0xd4, 0x9b, 0x17, 0x1f],
    [0x47, 0x56, 0x4a, 0xdc, 0x5c, 0x4c, 0x43, 0x3f, 0x94, 0xef, 0xc5, 0x11, 0x3c, 0xd1, 0x43, 0xa8],
];
/// The marker bit among those of a group's timecode.
const TIMECODE_MARKER: i64 = 1 << 12;
/// FFmpeg's largest number of a stereo layout that says something.
const STEREO_LAST: i32 = 7;

fn fate(name: &str) -> Fate {
    KINDS.iter().find(|(begin, _)| name.starts_with(begin)).map_or(UNKNOWN, |(_, fate)| *fate)
}

/// Whether the container says these things itself.
#[derive(Clone, Copy, Debug, Default)]
struct Container {
    matrix: bool,
    stereo: bool,
    spherical: bool,
}

impl Container {
    fn of(stream: &Stream<'_>) -> Container {
        let has = |kind| output::stream_side_data(stream, kind).is_some();
        Container {
            matrix: has(AV_PKT_DATA_DISPLAYMATRIX),
            stereo: has(AV_PKT_DATA_STEREO3D),
            spherical: has(AV_PKT_DATA_SPHERICAL),
        }
    }
}

/// What one frame says.
#[derive(Default)]
struct Said {
    captions: Vec<u8>,
    active_format: Option<u8>,
    matrix: Option<Vec<i32>>,
    stereo: Option<Stereo>,
    hdr: Hdr,
    /// Its group's timecode is not zero.
    timecode: bool,
    losses: Vec<&'static str>,
}

fn said(picture: &frame::Video, container: Container) -> Said {
    let mut said = Said::default();
    for (name, bytes) in picture::side_data(picture) {
        match fate(&name) {
            Fate::Captions => {
                let most = TRIPLETS_MAX * TRIPLET;
                said.captions = bytes[..bytes.len().min(most) / TRIPLET * TRIPLET].to_vec();
                if bytes.len() > most {
                    said.losses.push(MANY_CAPTIONS);
                }
            }
            Fate::ActiveFormat => said.active_format = bytes.first().map(|format| format & 15),
            Fate::Matrix if !container.matrix => said.matrix = Some(integers(bytes)).filter(|m| m.len() == 9),
            Fate::Stereo if !container.stereo => said.stereo = stereo(bytes),
            Fate::Spherical if !container.spherical => said.losses.push(SPHERICAL),
            Fate::Matrix | Fate::Stereo | Fate::Spherical | Fate::OldCoding => {}
            Fate::Mastering => said.hdr.mastering = side_data::mastering_display(bytes),
            Fate::LightLevel => said.hdr.light_level = side_data::light_level(bytes),
            Fate::PanScan if cuts(bytes, picture) => said.losses.push(PAN_SCAN),
            Fate::PanScan => {}
            Fate::GopTimecode => {
                let code = bytes.first_chunk::<8>().map_or(0, |bytes| i64::from_ne_bytes(*bytes));
                said.timecode = code & !TIMECODE_MARKER != 0;
            }
            Fate::Unregistered if BANNERS.iter().any(|banner| bytes.starts_with(banner)) => {}
            Fate::Unregistered => said.losses.push(UNREGISTERED),
            Fate::Lost(words) => said.losses.push(words),
        }
    }
    said
}

/// AVStereo3D begins with the layout and flags, of which 1 says that views are inverted.
fn stereo(bytes: &[u8]) -> Option<Stereo> {
    let &[layout, flags, ..] = &integers(bytes)[..] else { return None };
    (1..=STEREO_LAST).contains(&layout).then_some(Stereo { layout: layout as u32, inverted: flags & 1 != 0 })
}

/// AVPanScan: number, width and height of the window, then its places, all in 16ths of a pixel. Whether it leaves
/// something out.
fn cuts(bytes: &[u8], picture: &frame::Video) -> bool {
    let &[_, width, height, ref places @ ..] = &integers(bytes)[..] else { return false };
    let is_whole = |side: i32, of: u32| side <= 0 || i64::from(side) >= i64::from(of) * 16;
    let whole = is_whole(width, picture.width()) && is_whole(height, picture.height());
    !whole || (width > 0 && places.iter().any(|place| *place != 0))
}

/// What the frames say that a probe looks at.
pub(crate) struct FirstFrames {
    container: Container,
    frames: u32,
    in_band: InBand,
    losses: Vec<&'static str>,
}

impl FirstFrames {
    pub(crate) fn new(stream: &Stream<'_>) -> FirstFrames {
        FirstFrames { container: Container::of(stream), frames: 0, in_band: InBand::default(), losses: Vec::new() }
    }

    /// Takes in the next frame.
    pub(crate) fn look(&mut self, picture: &frame::Video) {
        let said = said(picture, self.container);
        if self.frames == 0 {
            let depth = picture::frame_facts(picture).map_or(0, |facts| facts.depth);
            self.in_band = InBand { depth, captions: false, matrix: said.matrix, stereo: said.stereo };
            // Those that begin at zero say no more than the frames' own times.
            if said.timecode {
                self.losses.push(GOP_TIMECODE);
            }
        }
        self.frames += 1;
        self.in_band.captions |= !said.captions.is_empty();
        for words in said.losses {
            if !self.losses.contains(&words) {
                self.losses.push(words);
            }
        }
    }

    /// Returns what they say, and what of it is lost, in words.
    pub(crate) fn found(self) -> (InBand, Vec<&'static str>) {
        (self.in_band, self.losses)
    }
}

/// Watches all frames of a source for what they say.
pub(crate) struct SideDataWatch {
    container: Container,
    in_band: InBand,
    hdr: Hdr,
    /// Sample aspect of the first frame seen.
    aspect: Option<(i32, i32)>,
    told: Vec<String>,
}

impl SideDataWatch {
    /// For a source of which the probe told.
    pub(crate) fn new(info: &SourceInfo, stream: &Stream<'_>) -> SideDataWatch {
        SideDataWatch {
            container: Container::of(stream),
            in_band: info.video.in_band.clone(),
            hdr: info.video.hdr.clone().unwrap_or_default(),
            aspect: None,
            told: info.losses.clone(),
        }
    }

    /// Returns what a frame says, every loss of it included.
    pub(crate) fn look(&mut self, picture: &frame::Video) -> Extras {
        let said = said(picture, self.container);
        let mut losses = said.losses;
        if said.matrix.is_some() && said.matrix != self.in_band.matrix {
            losses.push(MATRIX_CHANGES);
        }
        if said.stereo.is_some() && said.stereo != self.in_band.stereo {
            losses.push(STEREO_CHANGES);
        }
        let differs = said.hdr.mastering.is_some() && said.hdr.mastering != self.hdr.mastering
            || said.hdr.light_level.is_some() && said.hdr.light_level != self.hdr.light_level;
        if differs {
            losses.push(HDR_CHANGES);
        }
        let aspect = picture.aspect_ratio();
        let aspect = (aspect.numerator(), aspect.denominator());
        let aspect = if aspect.0 > 0 && aspect.1 > 0 { aspect } else { (1, 1) };
        let first = *self.aspect.get_or_insert(aspect);
        if i64::from(aspect.0) * i64::from(first.1) != i64::from(aspect.1) * i64::from(first.0) {
            losses.push(ASPECT_CHANGES);
        }
        Extras {
            captions: said.captions,
            active_format: said.active_format,
            losses: losses.into_iter().map(str::to_owned).collect(),
        }
    }

    /// Leaves those losses that were not told before.
    pub(crate) fn tell_once(&mut self, losses: &mut Vec<String>) {
        losses.retain(|words| !self.told.iter().any(|told| told.starts_with(words)));
        losses.dedup();
        self.told.extend(losses.iter().cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_this_ffmpeg_knows_has_a_fate() {
        let unknown: Vec<_> = picture::side_data_kinds().into_iter().filter(|name| fate(name) == UNKNOWN).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        assert_eq!(fate("Something of FFmpeg 12"), UNKNOWN);
        assert_eq!(fate("HDR Dynamic Metadata SMPTE2094-50"), Fate::Lost("dynamic HDR metadata"));
    }

    #[test]
    fn windows_and_layouts_are_read() {
        let bytes = |values: &[i32]| values.iter().flat_map(|v| v.to_ne_bytes()).collect::<Vec<u8>>();
        let picture = frame::Video::new(ffmpeg_next::format::Pixel::YUV420P, 64, 48);
        for (window, cut) in [
            ([0, 0, 0, 0, 0, 0], false),
            ([0, 64 * 16, 48 * 16, 0, 0, 0], false),
            ([0, 48 * 16, 48 * 16, 0, 0, 0], true),
            ([0, 64 * 16, 48 * 16, 5, 0, 0], true),
        ] {
            assert_eq!(cuts(&bytes(&window), &picture), cut, "{window:?}");
        }
        assert_eq!(stereo(&bytes(&[2, 1, 0])), Some(Stereo { layout: 2, inverted: true }));
        assert_eq!((stereo(&bytes(&[0, 0, 0])), stereo(&bytes(&[99, 0, 0])), stereo(&[1])), (None, None, None));
    }
}
