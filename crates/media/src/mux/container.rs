//! Which container the output gets: MP4, MOV and Matroska stay what they are where they can
//! hold every stream; all else becomes Matroska.

use std::path::Path;

use anyhow::Result;

use upscaled_core::fault::{Fault, one_line};
use upscaled_core::types::encoder::EncoderSpec;
use upscaled_core::types::source::{SourceInfo, StreamKind};

use crate::demux::late;
use crate::ffi::{output, tags};
use crate::mux::matroska_header::Beyond;
use crate::mux::rehearsal::{OutputRequest, rehearse};
use crate::mux::samples::Samples;
use crate::mux::stream_selection::{KeptStream, container_word, takes_video};

const WRITTEN: &str = "let its name end in .mkv, .mp4, .m4v or .mov";

/// The container of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerChoice {
    /// FFmpeg's muxer name.
    pub muxer: String,
    /// File extension without the dot.
    pub extension: String,
    /// What it cannot hold of the source's streams and their description, in words.
    pub losses: Vec<String>,
    /// The source has sound and none of it can be kept.
    pub silent: bool,
    /// Streams that are kept in another form, in words.
    pub notes: Vec<String>,
}

/// Chooses by rehearsing an output with each stream of the source. `wish`: the extension of the file
/// that a person named; its container is taken whatever that loses.
///
/// # Errors
/// When the source does not open, [`Fault::Config`] when `wish` is no container that is written here,
/// or [`Fault::Unsupported`] when no container takes the video.
pub fn choose(source: &Path, info: &SourceInfo, spec: &EncoderSpec, wish: Option<&str>) -> Result<ContainerChoice> {
    let wish = wish.map(str::to_ascii_lowercase);
    let wished = wish.as_deref().map(muxer_of).transpose()?;
    late::check_picture(source, info.video.stream)?;
    let input = late::open_source(source)?;
    let brand = tags::get(&tags::of_file(&input), "major_brand").map(|brand| brand.trim().to_ascii_lowercase());
    let extension = source.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    let extension = wish.or(extension);
    let candidates: Vec<&str> = match wished {
        Some(muxer) => vec![muxer],
        None => own_container(input.format().name(), brand.as_deref()).into_iter().chain(["matroska"]).collect(),
    };
    let beyond = Beyond::read(source, &input)?;
    let samples = Samples::of_source(source, &input, info.video.stream)?;
    let mut refusals = Vec::new();
    let mut best: Option<(ContainerChoice, usize)> = None;
    for muxer in candidates {
        if let Err(why) = takes_video(spec, muxer) {
            refusals.push(format!("{}: {why}", container_word(muxer)));
            continue;
        }
        // Whether it is constant is only known at the end; a timecode track tells its own.
        let timecode = input.streams().any(|stream| &output::facts(&stream).tag == b"tmcd");
        let rate = Some(info.video.average_rate).filter(|rate| rate.is_known() && !timecode);
        let wish = OutputRequest { source, input: &input, info, spec, container: muxer, samples: &samples, rate };
        let made = match rehearse(&wish) {
            Ok(made) => made,
            Err(error) if Fault::of(&error) == Fault::Unsupported => {
                refusals.push(one_line(&error));
                continue;
            }
            Err(error) => return Err(error),
        };
        if best.as_ref().is_none_or(|(_, weight)| made.weight < *weight) {
            let mut losses = made.losses;
            losses.extend(beyond.iter().flat_map(|beyond| beyond.losses(&input, &made.kept, muxer)));
            let keeps_audio = made.kept.iter().any(|kept| kept.kind == StreamKind::Audio);
            let choice = ContainerChoice {
                muxer: muxer.to_owned(),
                extension: extension_for(muxer, extension.as_deref()).to_owned(),
                silent: made.has_sound && !keeps_audio,
                notes: made.kept.iter().filter_map(KeptStream::note).collect(),
                losses,
            };
            best = Some((choice, made.weight));
        }
    }
    match best {
        Some((choice, _)) => Ok(choice),
        None => {
            let which =
                if wished.is_some() { "the container that was asked for does not take" } else { "no container takes" };
            Err(Fault::Unsupported.because(format!("{which} the video of {} ({})", spec.name, refusals.join("; "))))
        }
    }
}

/// The muxer that a video file's extension stands for.
///
/// # Errors
/// [`Fault::Config`] for those that are never written.
pub fn muxer_of(extension: &str) -> Result<&'static str> {
    match extension.to_ascii_lowercase().as_str() {
        "mp4" | "m4v" => Ok("mp4"),
        "mov" => Ok("mov"),
        "mkv" => Ok("matroska"),
        "" => Err(Fault::Config.because(format!("OUTPUT has no extension; {WRITTEN}"))),
        other => Err(Fault::Config.because(format!("videos are not written as {other:?}; {WRITTEN}"))),
    }
}

/// The container of the source, if it is one that stays.
fn own_container(demuxer: &str, brand: Option<&str>) -> Option<&'static str> {
    let names: Vec<_> = demuxer.split(',').collect();
    if !names.contains(&"mp4") {
        // Matroska is tried for everything; WebM cannot hold H.264 and HEVC.
        return None;
    }
    match brand {
        Some("qt") => Some("mov"),
        Some(brand) if brand.starts_with("3g") => None,
        // Files without a brand are from before MP4.
        None => Some("mov"),
        _ => Some("mp4"),
    }
}

fn extension_for<'a>(muxer: &str, source: Option<&'a str>) -> &'a str {
    match (muxer, source) {
        ("mp4", Some(extension @ ("mp4" | "m4v"))) => extension,
        ("mp4", _) => "mp4",
        ("mov", _) => "mov",
        _ => "mkv",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mp4_family_is_told_apart() {
        let names = "mov,mp4,m4a,3gp,3g2,mj2";
        assert_eq!(own_container(names, Some("isom")), Some("mp4"));
        assert_eq!(own_container(names, Some("qt")), Some("mov"));
        assert_eq!(own_container(names, Some("3gp5")), None);
        assert_eq!(own_container("matroska,webm", None), None);
        assert_eq!(extension_for("mp4", Some("m4v")), "m4v");
        assert_eq!(extension_for("matroska", Some("webm")), "mkv");
        assert_eq!((muxer_of("m4v").unwrap(), muxer_of("MKV").unwrap()), ("mp4", "matroska"));
        for other in ["avi", "webm", ""] {
            assert_eq!(Fault::of(&muxer_of(other).unwrap_err()), Fault::Config, "{other}");
        }
    }
}
