//! HDR10 metadata, Dolby Vision records and rotation, out of the bytes FFmpeg carries them in.

use ffmpeg_next::Stream;
use ffmpeg_next::codec::packet::side_data::Type as PacketData;
use ffmpeg_next::frame::{self, side_data::Type as FrameData};

use upscaled_core::types::source::Hdr;

/// Dolby Vision, as its configuration record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DolbyVision {
    pub profile: u8,
    /// 0: the base layer means nothing to an ordinary player.
    pub compatibility: u8,
}

/// HDR10 metadata of a decoded frame, else of the stream.
pub(crate) fn hdr(picture: &frame::Video, stream: &Stream) -> Option<Hdr> {
    let of_frame = |kind| picture.side_data(kind).map(|d| d.data().to_vec());
    let mastering = of_frame(FrameData::MasteringDisplayMetadata)
        .or_else(|| stream_data(stream, PacketData::MasteringDisplayMetadata))
        .and_then(|bytes| mastering_display(&bytes));
    let light_level = of_frame(FrameData::ContentLightLevel)
        .or_else(|| stream_data(stream, PacketData::ContentLightLevel))
        .and_then(|bytes| light_level(&bytes));
    (mastering.is_some() || light_level.is_some()).then_some(Hdr { mastering, light_level })
}

/// The bytes of one kind of a stream's side data.
pub(crate) fn stream_data(stream: &Stream, kind: PacketData) -> Option<Vec<u8>> {
    stream.side_data().find(|data| data.kind() == kind).map(|data| data.data().to_vec())
}

/// The Dolby Vision record of a stream.
pub(crate) fn dolby_vision(stream: &Stream) -> Option<DolbyVision> {
    // AVDOVIDecoderConfigurationRecord: one byte each for version (2), profile, level, three
    // presence flags and compatibility.
    let bytes = stream_data(stream, PacketData::DOVI_CONF)?;
    Some(DolbyVision { profile: *bytes.get(2)?, compatibility: *bytes.get(7)? })
}

/// Clockwise rotation of a stream in degrees, 0..360; mirroring is not counted.
pub(crate) fn rotation(stream: &Stream) -> i32 {
    stream_data(stream, PacketData::DisplayMatrix).map_or(0, |bytes| matrix_rotation(&integers(&bytes)))
}

/// The 32-bit integers that FFmpeg's structures consist of.
pub(crate) fn integers(bytes: &[u8]) -> Vec<i32> {
    bytes.chunks_exact(4).map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// AVMasteringDisplayMetadata: red, green and blue x and y, white x and y, least and greatest
/// luminance as fractions, then two flags. x265's notation, `None` when incomplete.
pub(crate) fn mastering_display(bytes: &[u8]) -> Option<String> {
    let values = integers(bytes);
    let has_both = *values.get(20)? != 0 && *values.get(21)? != 0;
    let scaled = |index: usize, unit: i64| -> Option<i64> {
        let (num, den) = (i64::from(values[index * 2]), i64::from(values[index * 2 + 1]));
        (den > 0 && num >= 0).then(|| (num * unit + den / 2) / den)
    };
    let chroma = |index| scaled(index, 50_000);
    let luminance = |index| scaled(index, 10_000);
    if !has_both {
        return None;
    }
    Some(format!(
        "G({},{})B({},{})R({},{})WP({},{})L({},{})",
        chroma(2)?,
        chroma(3)?,
        chroma(4)?,
        chroma(5)?,
        chroma(0)?,
        chroma(1)?,
        chroma(6)?,
        chroma(7)?,
        luminance(9)?,
        luminance(8)?
    ))
}

/// AVContentLightMetadata: MaxCLL, MaxFALL. All zero says nothing.
pub(crate) fn light_level(bytes: &[u8]) -> Option<(u32, u32)> {
    let values = integers(bytes);
    let level = (u32::try_from(*values.first()?).ok()?, u32::try_from(*values.get(1)?).ok()?);
    (level != (0, 0)).then_some(level)
}

/// From a display matrix (3 rows of 3, 16.16 fixed point), as `av_display_rotation_get`.
pub(crate) fn matrix_rotation(matrix: &[i32]) -> i32 {
    if matrix.len() < 9 {
        return 0;
    }
    let value = |index: usize| f64::from(matrix[index]) / 65536.0;
    let scale = (value(0).hypot(value(3)), value(1).hypot(value(4)));
    if scale.0 == 0.0 || scale.1 == 0.0 {
        return 0;
    }
    let clockwise = (value(1) / scale.1).atan2(value(0) / scale.0).to_degrees();
    (clockwise.round() as i32).rem_euclid(360)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[i32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_ne_bytes()).collect()
    }

    #[test]
    fn mastering_in_x265_words() {
        let values = [
            34000, 50000, 16000, 50000, 13250, 50000, 34500, 50000, 7500, 50000, 3000, 50000, 15635, 50000, 16450,
            50000, 50, 10000, 10_000_000, 10000, 1, 1,
        ];
        let wanted = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)";
        assert_eq!(mastering_display(&bytes(&values)).as_deref(), Some(wanted));
        let mut partial = values;
        partial[21] = 0;
        assert_eq!(mastering_display(&bytes(&partial)), None);
        assert_eq!(mastering_display(&bytes(&values[..20])), None);
        let mut unknown = values;
        unknown[1] = 0;
        assert_eq!(mastering_display(&bytes(&unknown)), None);
    }

    #[test]
    fn light_levels() {
        assert_eq!(light_level(&bytes(&[1000, 400])), Some((1000, 400)));
        assert_eq!(light_level(&bytes(&[0, 0])), None);
        assert_eq!(light_level(&[1, 2]), None);
    }

    #[test]
    fn quarter_turns() {
        let one = 65536;
        for (matrix, degrees) in [
            ([one, 0, 0, 0, one, 0, 0, 0, 1 << 30], 0),
            ([0, one, 0, -one, 0, 0, 0, 0, 1 << 30], 90),
            ([-one, 0, 0, 0, -one, 0, 0, 0, 1 << 30], 180),
            ([0, -one, 0, one, 0, 0, 0, 0, 1 << 30], 270),
            ([0; 9], 0),
        ] {
            assert_eq!(matrix_rotation(&matrix), degrees, "{matrix:?}");
        }
    }
}
