//! Which encoder a job uses: found by really encoding a few frames at its size and format.

use anyhow::Result;
use ffmpeg_next::Packet;

use upscaled_core::config::settings::{CodecChoice, JobSettings};
use upscaled_core::fault::{Fault, one_line};
use upscaled_core::sys::{memory, processors};
use upscaled_core::types::encoder::{Codec, EncoderChoice, EncoderSpec};
use upscaled_core::types::frame::{Frame, PixelFormat};
use upscaled_core::types::source::{Colour, Hdr, Rational};

use crate::encode::options::{KNOWN, KnownEncoder, STAND_IN, Wishes, options};
use crate::encode::parameter_sets;
use crate::encode::session::Session;
use crate::ffi::log;

/// H.264 ends here by default: hardware encoders and many players go no further.
pub const H264_SIDE_MAX: u32 = 4096;
/// Slowest and fastest nominal frame rate an encoder is told.
pub const RATE_MAX: i32 = 240;
/// Seconds between key frames, at most, and the same in frames.
const GOP_SECONDS: f64 = 5.0;
const GOP_MAX: u32 = 250;
/// Frames of a trial: enough for a reference and a look-ahead to be used.
const TRIAL_FRAMES: u64 = 3;
/// How much of a trial's frame is noise.
const NOISE_BYTES: usize = 16 << 10;

/// What the encoder must do.
pub struct EncoderRequest<'a> {
    pub settings: &'a JobSettings,
    /// Size of the output in pixels.
    pub width: u32,
    pub height: u32,
    pub format: PixelFormat,
    /// Average frame rate of the source; may be unknown or absurd.
    pub rate: Rational,
    pub sample_aspect: Rational,
    pub colour: Colour,
    pub hdr: Option<Hdr>,
    /// 0: all cores.
    pub threads: u32,
}

/// Finds the first encoder that works, and for a hardware one the software that goes on when
/// it dies.
///
/// # Errors
/// [`Fault::Config`] for an encoder name this program does not know, [`Fault::Unsupported`]
/// when nothing encodes at this size, naming the largest size that works.
pub fn choose(request: &EncoderRequest<'_>) -> Result<EncoderChoice> {
    choose_knowing(request, &[])
}

/// The same where these encoders were seen to work in this process: software with the same options is not tried again
/// at a size between two of theirs.
pub fn choose_knowing(request: &EncoderRequest<'_>, known_to_work: &[EncoderSpec]) -> Result<EncoderChoice> {
    let mut passed_over = Vec::new();
    for codec in codecs(request)? {
        let mut specs = Vec::new();
        for known in candidates(request, codec) {
            let second_set = codec == Codec::H264 && !specs.is_empty();
            let spec = spec(request, &known, second_set);
            // A moment's lack of memory must not choose another codec; hardware may be in use for long.
            let tried = match is_between(&spec, known_to_work) {
                true => Ok(()),
                false => try_out(&spec).or_else(|why| if known.hardware { Err(why) } else { try_out(&spec) }),
            };
            if let Err((Fault::Memory, why)) = &tried {
                return Err(Fault::Memory.because(format!(
                    "memory has run out while encoder {} was tried at {}x{}, and no other encoder takes its place for \
                     that (it says: {why})",
                    spec.name, spec.width, spec.height
                )));
            }
            match tried {
                Ok(()) => {
                    let software = !known.hardware;
                    specs.push(spec);
                    if software {
                        break;
                    }
                }
                Err((_, why)) => passed_over.push(format!("{}: {why}", known.name)),
            }
        }
        if !specs.is_empty() {
            return Ok(EncoderChoice { specs, passed_over });
        }
    }
    let largest = match largest_size(request)? {
        Some((width, height)) => format!("the largest size of this shape that works is {width}x{height}"),
        None => "no encoder works for this pixel format at any size".into(),
    };
    Err(Fault::Unsupported.because(format!(
        "no encoder works at {}x{} {}: {largest} ({})",
        request.width,
        request.height,
        request.format.ffmpeg_name(),
        passed_over.join("; ")
    )))
}

/// Whether a software encoder works at this size, since it does at a smaller and at a larger one.
fn is_between(spec: &EncoderSpec, known_to_work: &[EncoderSpec]) -> bool {
    let same =
        |known: &&EncoderSpec| (&known.name, &known.options, known.format) == (&spec.name, &spec.options, spec.format);
    let known = || known_to_work.iter().filter(same);
    !spec.hardware
        && spec.width.is_multiple_of(2)
        && spec.height.is_multiple_of(2)
        && known().any(|known| known.width <= spec.width && known.height <= spec.height)
        && known().any(|known| known.width >= spec.width && known.height >= spec.height)
}

/// The codecs to try, best first.
fn codecs(request: &EncoderRequest<'_>) -> Result<Vec<Codec>> {
    if let Some(name) = &request.settings.encoder {
        return match KNOWN.iter().find(|known| known.name == name) {
            Some(known) => Ok(vec![known.codec]),
            None => {
                let names: Vec<_> = KNOWN.iter().map(|known| known.name).collect();
                Err(Fault::Config.because(format!("encoder = {name:?} is not known; known are {}", names.join(", "))))
            }
        };
    }
    Ok(match request.settings.codec {
        CodecChoice::H264 => vec![Codec::H264],
        CodecChoice::Hevc => vec![Codec::Hevc],
        CodecChoice::Av1 => vec![Codec::Av1],
        CodecChoice::Auto => {
            let large = request.width > H264_SIDE_MAX || request.height > H264_SIDE_MAX;
            match large || request.format.depth > 8 {
                true => vec![Codec::Hevc, Codec::Av1, Codec::H264],
                false => vec![Codec::H264, Codec::Hevc, Codec::Av1],
            }
        }
    })
}

/// The encoders of a codec in order; one named in the settings alone, but with the software
/// behind it when it is hardware.
fn candidates(request: &EncoderRequest<'_>, codec: Codec) -> Vec<KnownEncoder> {
    let of_codec = KNOWN.iter().filter(|known| known.codec == codec);
    match &request.settings.encoder {
        None => of_codec.filter(|known| known.name != STAND_IN).copied().collect(),
        Some(name) => {
            let named_hardware = KNOWN.iter().any(|known| known.name == name && known.hardware);
            of_codec.filter(|known| known.name == name || named_hardware && !known.hardware).copied().collect()
        }
    }
}

fn spec(request: &EncoderRequest<'_>, known: &KnownEncoder, second_set: bool) -> EncoderSpec {
    let threads = match request.threads {
        0 => processors::count(),
        n => n,
    };
    let wishes = Wishes {
        crf: request.settings.crf,
        cq: request.settings.cq,
        // A preset is a word of one family of encoders: it is used where it was meant.
        preset: request.settings.preset.clone().filter(|preset| fits(known, preset)),
        threads,
        second_set,
    };
    let rate = nominal_rate(request.rate);
    EncoderSpec {
        codec: known.codec,
        name: known.name.to_owned(),
        hardware: known.hardware,
        options: options(known, &wishes, request.format, request.colour, request.hdr.as_ref()),
        width: request.width,
        height: request.height,
        format: request.format,
        rate,
        gop: ((rate.value() * GOP_SECONDS).round() as u32).clamp(12, GOP_MAX),
        sample_aspect: request.sample_aspect,
        colour: request.colour,
        hdr: request.hdr.clone(),
    }
}

/// Whether a preset's name belongs to an encoder: `p1`..`p7` NVENC, a number AV1, words x264
/// and x265.
fn fits(known: &KnownEncoder, preset: &str) -> bool {
    let number = preset.parse::<u32>().is_ok();
    let nvenc = preset.strip_prefix('p').is_some_and(|rest| rest.parse::<u32>().is_ok());
    match known.name {
        name if name.ends_with("_nvenc") && name != STAND_IN => nvenc || matches!(preset, "slow" | "medium" | "fast"),
        "libsvtav1" | "libaom-av1" => number,
        _ => !number && !nvenc,
    }
}

/// The average rate within 1..=240 and with terms an encoder's header can hold; 25 when
/// unknown.
pub fn nominal_rate(average: Rational) -> Rational {
    if !average.is_known() {
        return Rational::new(25, 1);
    }
    let value = average.value();
    if value < 1.0 {
        return Rational::new(1, 1);
    }
    if value > f64::from(RATE_MAX) {
        return Rational::new(RATE_MAX, 1);
    }
    if average.num <= 240_000 && average.den <= 1_001_000 {
        return average;
    }
    Rational::new((value * 1000.0).round() as i32, 1000)
}

/// Encodes a few frames of noise and looks whether every one came out, with its parameter
/// sets in band.
fn try_out(spec: &EncoderSpec) -> Result<(), (Fault, String)> {
    let (result, said) = log::errors_during(|| encode_noise(spec));
    result.map_err(|error| {
        // FFmpeg's first complaint is the cause; the error code that follows says little.
        let why = said.first().cloned().unwrap_or_else(|| one_line(&error));
        let fault = if memory::is_told(&why) && !spec.hardware { Fault::Memory } else { Fault::of(&error) };
        (fault, why)
    })
}

fn encode_noise(spec: &EncoderSpec) -> Result<()> {
    let mut session = Session::open(spec)?;
    let mut packets = 0;
    let mut headers = false;
    let mut sink = |packet: Packet| {
        packets += 1;
        headers |= packet.data().is_some_and(|data| parameter_sets::has_sets(spec.codec, data));
        Ok(())
    };
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut frame = Frame::new(spec.format, spec.width, spec.height);
    for _ in 0..TRIAL_FRAMES {
        fill_with_noise(&mut frame, &mut state);
        session.send(&frame, &mut sink)?;
    }
    session.finish(&mut sink)?;
    if packets != TRIAL_FRAMES || !headers {
        return Err(Fault::Unsupported
            .because(format!("{packets} packets for {TRIAL_FRAMES} frames, parameter sets in band: {headers}")));
    }
    Ok(())
}

/// Grey with a little noise in its first rows, the same each time: quick to encode at any size
/// (a 4K frame full of noise takes libx264 most of a second), yet never empty.
fn fill_with_noise(frame: &mut Frame, state: &mut u64) {
    let wide = frame.format.sample_bytes() == 2;
    let grey: [u8; 2] = if wide { [0, 2] } else { [128, 128] };
    frame.data.chunks_exact_mut(2).for_each(|samples| samples.copy_from_slice(&grey));
    let noisy = frame.data.len().min(NOISE_BYTES);
    for word in frame.data[..noisy].chunks_mut(8) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        for (i, byte) in word.iter_mut().enumerate() {
            let noise = (*state >> (8 * i)) as u8 & 15;
            *byte = match (wide, i % 2) {
                (false, _) => 120 + noise,
                (true, 0) => noise << 4,
                (true, _) => 2,
            };
        }
    }
}

/// The largest size of the request's shape at which some encoder opens.
fn largest_size(request: &EncoderRequest<'_>) -> Result<Option<(u32, u32)>> {
    let longest = request.width.max(request.height);
    for side in [16384u32, 8192, 4096, 2048, 1024].into_iter().filter(|side| *side < longest) {
        let scaled = |length: u32| {
            let pixels = u64::from(length) * u64::from(side) / u64::from(longest);
            (pixels as u32 & !1).max(2)
        };
        let (width, height) = (scaled(request.width), scaled(request.height));
        for codec in codecs(request)? {
            for known in candidates(request, codec) {
                let spec = EncoderSpec { width, height, ..spec(request, &known, false) };
                if log::errors_during(|| Session::open(&spec)).0.is_ok() {
                    return Ok(Some((width, height)));
                }
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use upscaled_core::types::frame::Chroma;

    fn request(settings: &JobSettings, width: u32, height: u32, format: PixelFormat) -> EncoderRequest<'_> {
        EncoderRequest {
            settings,
            width,
            height,
            format,
            rate: Rational::new(24, 1),
            sample_aspect: Rational::new(1, 1),
            colour: Colour { range: 1, primaries: 1, transfer: 1, matrix: 1, chroma_location: 1 },
            hdr: None,
            threads: 2,
        }
    }

    #[test]
    fn rates_stay_within_what_encoders_take() {
        assert_eq!(nominal_rate(Rational::new(57600, 1)), Rational::new(240, 1));
        assert_eq!(nominal_rate(Rational::new(0, 0)), Rational::new(25, 1));
        assert_eq!(nominal_rate(Rational::new(1, 3)), Rational::new(1, 1));
        assert_eq!(nominal_rate(Rational::new(30000, 1001)), Rational::new(30000, 1001));
        assert_eq!(nominal_rate(Rational::new(26_543_211, 1_000_003)), Rational::new(26_543, 1000));
    }

    #[test]
    fn eight_bits_are_h264_and_ten_bits_hevc() {
        let settings = JobSettings::default();
        let choice = choose(&request(&settings, 320, 180, PixelFormat::YUV420)).unwrap();
        let last = choice.specs.last().unwrap();
        assert_eq!((last.codec, last.name.as_str()), (Codec::H264, "libx264"));
        assert_eq!(choice.specs.len() + choice.passed_over.len(), 2, "{choice:?}");
        assert!(choice.specs.len() == 2 || choice.passed_over[0].starts_with("h264_nvenc: "), "{choice:?}");
        let ten = PixelFormat { chroma: Chroma::C420, depth: 10 };
        let choice = choose(&request(&settings, 320, 180, ten)).unwrap();
        assert_eq!(choice.specs.last().unwrap().name, "libx265");
    }

    #[test]
    fn what_works_at_two_sizes_works_between() {
        let settings = JobSettings { codec: CodecChoice::Hevc, ..JobSettings::default() };
        let spec = |width, height, preset: &str| {
            let settings = JobSettings { preset: Some(preset.into()), ..settings.clone() };
            let known = KNOWN.iter().find(|known| known.name == "libx265").unwrap();
            spec(&request(&settings, width, height, PixelFormat::YUV420), known, false)
        };
        let known = [spec(256, 144, "superfast"), spec(3840, 2160, "superfast")];
        for (size, yes) in [((1920, 1080), true), ((256, 2160), true), ((3842, 2160), false), ((254, 1080), false)] {
            assert_eq!(is_between(&spec(size.0, size.1, "superfast"), &known), yes, "{size:?}");
        }
        assert!(!is_between(&spec(1921, 1080, "superfast"), &known), "odd sizes have their own rules");
        assert!(!is_between(&spec(1920, 1080, "fast"), &known));
        assert!(!is_between(&spec(1920, 1080, "superfast"), &known[..1]));
        assert!(!is_between(&EncoderSpec { hardware: true, ..spec(1920, 1080, "superfast") }, &known));
    }

    #[test]
    fn odd_sizes_and_unknown_names_are_refused() {
        let settings = JobSettings { codec: CodecChoice::H264, ..JobSettings::default() };
        let error = choose(&request(&settings, 161, 121, PixelFormat::YUV420)).unwrap_err();
        assert_eq!(Fault::of(&error), Fault::Unsupported);
        let settings = JobSettings { encoder: Some("libtheora".into()), ..JobSettings::default() };
        let error = choose(&request(&settings, 160, 120, PixelFormat::YUV420)).unwrap_err();
        assert_eq!(Fault::of(&error), Fault::Config);
        assert!(error.to_string().contains("libx264"), "{error}");
    }

    #[test]
    fn a_codec_asked_for_is_used() {
        let settings = JobSettings { codec: CodecChoice::Av1, ..JobSettings::default() };
        let choice = choose(&request(&settings, 128, 96, PixelFormat::YUV420)).unwrap();
        assert_eq!(choice.specs.last().unwrap().codec, Codec::Av1);
    }
}
