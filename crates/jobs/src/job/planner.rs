//! Making a plan: everything that a job's bits depend on, decided before the first frame.

use std::path::Path;

use anyhow::{Context, Result};

use upscaled_core::config::settings::{JobSettings, VIDAIO};
use upscaled_core::config::target::Target;
use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_core::types::encoder::Codec;
use upscaled_core::types::engine::EngineSpec;
use upscaled_core::types::frame::{Chroma, PixelFormat};
use upscaled_core::types::plan::{BatchRule, PLAN_VERSION, Plan};
use upscaled_core::types::progress::Phase;
use upscaled_core::types::source::{Colour, SourceInfo, VideoInfo};
use upscaled_core::{clock, failpoint};
use upscaled_engine::planning::autotune::{self, Around};
use upscaled_engine::planning::choice;
use upscaled_engine::runtime::{cascade, library};
use upscaled_media::decode::frame_data::AV1_CAPTIONS;
use upscaled_media::decode::threads;
use upscaled_media::encode::encoder;
use upscaled_media::mux::container;
use upscaled_media::probe;

use crate::job::order::JobOrder;
use crate::job::reporter::Reporter;
use crate::job::runner::LOCK_PATIENCE;
use crate::job::standby::Ready;
use crate::job::{fingerprint, frame_memory, profile};
use crate::pipeline::meter::Meter;
use crate::pipeline::{frame_diffusion, frame_files, still_diffusion};
use crate::scratch::budget;
use crate::state::job_dir::JobDir;
use crate::state::requests::key_of;

/// A batch of output frames may take this much of the RAM disk, bytes, ..
const BATCH_BYTES: u64 = 1 << 30;
/// .. unless it would be shorter than this many frames.
const BATCH_FRAMES_MIN: u64 = 96;
/// Frames of the first and the following batches of a diffusion model, which takes minutes for a
/// frame: an early ETA, and clips that are soon safe.
const DIFFUSION_FRAMES: (u64, u64) = (2, 24);

/// Stands before the hash of TensorRT's engine among a plan's libraries.
pub const ENGINE: &str = "TensorRT engine ";

/// The plan that a job would get, in a folder that is only made for it. Nothing is upscaled.
pub fn plan_only(order: &JobOrder) -> Result<Plan> {
    upscaled_media::init();
    let mut dir = JobDir::create(&order.job_dir, &order.marker(), &order.key)?;
    dir.lock(LOCK_PATIENCE)?;
    let meter = Meter::default();
    let reporter = Reporter::new(order, &dir, &meter, &|_| {});
    let mut plan = make(order, &Ready::default(), probe::probe(&order.source)?, &reporter)?;
    dir.write_plan(&mut plan)?;
    dir.remove()?;
    Ok(plan)
}

/// Plans a video job for a source that was just probed; `ready`: what this process has tried already.
pub fn make(order: &JobOrder, ready: &Ready, mut info: SourceInfo, reporter: &Reporter) -> Result<Plan> {
    let mut settings = &order.settings;
    if let Some(name) = &settings.pixel_format {
        info.video.format = parse_format(name)?;
    }
    let fingerprint = fingerprint::take(&order.source)?;
    let profiled;
    let mut rules = None;
    if settings.profile.as_deref() == Some(VIDAIO) {
        profiled = profile::vidaio(settings, &mut info, fingerprint.size, reporter)?;
        (settings, rules) = (&profiled.0, Some(profiled.1));
    }
    let video = info.video.clone();
    let threads = choice::threads(settings);
    let picture = Target::of(settings).size(
        (video.width, video.height),
        video.rotation.rem_euclid(180) == 90,
        even(video.format),
    )?;
    let (width, height) = frame_size(picture, video.format);
    if (width, height) != picture {
        reporter.remark(&format!("odd output size rounded up to {width}x{height} by repeating the last row or column"));
    }
    let frame_bytes = video.format.frame_bytes(width, height) as u64;
    let (engine, remarks) = match (still_diffusion::folder(&settings.model), frame_files::folder(&settings.model)) {
        (Some(folder), _) => diffusion_engine(&folder, order, &video, picture, frame_bytes),
        (None, Some(folder)) => frame_files::pin(&folder, settings, (video.width, video.height), picture)
            .map(|pin| (pin, vec![format!("frames are taken from {}", escape(&folder))])),
        (None, None) => network_engine(order, ready, &video, picture, reporter),
    }
    .context("choosing the upscaling engine")?;
    for remark in remarks {
        reporter.log("info", &remark);
    }
    // Planning may take as long as an engine takes to build, the opening of an encoder may not.
    reporter.enter(Phase::TryingEncoders, "");
    failpoint::hit("encoder.choose")?;
    let request = encoder::EncoderRequest {
        settings,
        width,
        height,
        format: video.format,
        rate: video.average_rate,
        sample_aspect: video.sample_aspect,
        colour: if rules.is_some() { Colour { matrix: profile::matrix(&info), ..video.colour } } else { video.colour },
        hdr: video.hdr.clone(),
        threads,
    };
    let choice = encoder::choose_knowing(&request, &ready.encoders).context("choosing the encoder")?;
    for passed in &choice.passed_over {
        reporter.log("info", &format!("encoder passed over: {passed}"));
    }
    reporter.enter(Phase::Planning, "");
    let wish = order.exact_target().map(|target| target.extension().unwrap_or_default().to_string_lossy());
    let wish = wish.or_else(|| rules.map(|_| "mp4".into()));
    let chosen = container::choose(&order.source, &info, &choice.specs[0], wish.as_deref())?;
    info.losses.extend(lost_bits(settings, &info.video));
    if info.video.in_band.captions && choice.specs[0].codec == Codec::Av1 {
        reporter.remark(AV1_CAPTIONS);
    }
    for note in &chosen.notes {
        reporter.log("info", note);
    }
    if chosen.silent && !settings.drop_audio && rules.is_none() {
        let name = order.name();
        let lost: Vec<_> = chosen.losses.iter().filter(|loss| loss.starts_with("audio")).map(String::as_str).collect();
        let words = "with drop_audio = true (--set drop_audio=true) it is made without; else convert the audio first";
        return Err(Fault::Unsupported.because(format!(
            "{name} would lose all of its sound: {}; {words}, or have another container written",
            lost.join("; ")
        )));
    }
    for loss in info.losses.iter().chain(&chosen.losses) {
        reporter.remark(loss);
    }
    let mut libraries = upscaled_media::versions();
    libraries.push(library::description()?);
    libraries.extend(choice::engine_hash(&engine)?.map(|hash| format!("{ENGINE}{hash}")));
    Ok(Plan {
        version: PLAN_VERSION,
        program: format!("upscaled {}", env!("CARGO_PKG_VERSION")),
        created: clock::now_rfc3339(),
        // Payloads are read by a descriptor.
        source: key_of(&order.relative).map_or_else(|| order.source.clone(), |_| order.relative.clone()),
        fingerprint,
        batches: match engine.diffusion {
            Some(_) => BatchRule { first: DIFFUSION_FRAMES.0, following: DIFFUSION_FRAMES.1 },
            None => batch_rule(settings, frame_bytes),
        },
        width,
        height,
        container: chosen.muxer,
        extension: chosen.extension,
        decoder_threads: threads::of(&info.video.codec, threads),
        deinterlace: deinterlaces(settings, &video),
        engine,
        encoder: choice,
        // The rules hold the size of theirs, without every frame being kept for it.
        max_size_mb: settings.max_size_mb.filter(|_| rules.is_none()),
        rules,
        settings: serde_json::to_value(&order.settings).context("keeping the settings")?,
        libraries,
        key: String::new(),
        info,
    })
}

/// Returns what is to be told of samples that get fewer bits than the source's have, where nobody asked for it.
fn lost_bits(settings: &JobSettings, video: &VideoInfo) -> Option<String> {
    let (had, has) = (video.in_band.depth, video.format.depth);
    let told = had > has && settings.pixel_format.is_none();
    told.then(|| format!("{had} bits a sample: the output has {has}"))
}

/// Whether a video is deinterlaced.
pub fn deinterlaces(settings: &JobSettings, video: &VideoInfo) -> bool {
    match settings.deinterlace.as_str() {
        "on" => true,
        "off" => false,
        _ => video.interlaced,
    }
}

/// The pin of a network, as fast as it was found to be on this machine; with it words for the log.
fn network_engine(
    order: &JobOrder,
    ready: &Ready,
    video: &VideoInfo,
    picture: (u32, u32),
    reporter: &Reporter,
) -> Result<(EngineSpec, Vec<String>)> {
    let (settings, frame) = (&order.settings, (video.width, video.height));
    let (mut engine, mut remarks) = choice::choose_knowing(settings, frame, video.format.depth, ready.tried.as_ref())?;
    cascade::reach(&mut engine, frame, picture)?;
    let (width, height) = frame_size(picture, video.format);
    let frame_bytes = video.format.frame_bytes(width, height) as u64;
    frame_memory::check(frame_memory::of_video(&engine, frame, frame_bytes), picture)?;
    let around = Around {
        settings,
        frame,
        depth: video.format.depth,
        memory: budget::engine_bytes(&order.run),
        beat: &|| reporter.beat(),
    };
    remarks.extend(autotune::tune(&mut engine, &around));
    Ok((engine, remarks))
}

/// The pin of a diffusion model; with it words for the log.
fn diffusion_engine(
    folder: &Path,
    order: &JobOrder,
    video: &VideoInfo,
    picture: (u32, u32),
    frame_bytes: u64,
) -> Result<(EngineSpec, Vec<String>)> {
    let frame = (video.width, video.height);
    let (engine, words) = frame_diffusion::pin(folder, &order.settings, &order.run, frame, picture)?;
    frame_memory::check(frame_memory::of_video(&engine, frame, frame_bytes), picture)?;
    Ok((engine, words))
}

/// Lengths of the batches: the first gives an early ETA, the others fit the RAM disk.
pub fn batch_rule(settings: &JobSettings, frame_bytes: u64) -> BatchRule {
    let fit = (BATCH_BYTES / frame_bytes.max(1)).max(BATCH_FRAMES_MIN);
    BatchRule { first: settings.eta_frames.max(1), following: settings.batch_frames.clamp(1, fit) }
}

/// What the width and height of frames have to be multiples of.
fn even(format: PixelFormat) -> (u32, u32) {
    let (x, y) = format.shifts(1);
    (1 << x, 1 << y)
}

/// The size of frames that hold a picture: rounded up to what the chroma needs.
pub fn frame_size((width, height): (u32, u32), format: PixelFormat) -> (u32, u32) {
    let (x, y) = even(format);
    (width.next_multiple_of(x), height.next_multiple_of(y))
}

fn parse_format(name: &str) -> Result<PixelFormat> {
    for chroma in [Chroma::C420, Chroma::C422, Chroma::C444] {
        for depth in [8, 10] {
            let format = PixelFormat { chroma, depth };
            if format.ffmpeg_name() == name {
                return Ok(format);
            }
        }
    }
    let known = "yuv420p, yuv422p, yuv444p, yuv420p10le, yuv422p10le, yuv444p10le";
    Err(Fault::Config.because(format!("pixel_format {name:?} is not one of {known}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_up_where_chroma_needs_it() {
        let odd = |name| frame_size((483, 363), parse_format(name).unwrap());
        assert_eq!(odd("yuv420p"), (484, 364));
        assert_eq!(odd("yuv422p"), (484, 363));
        assert_eq!(odd("yuv444p"), (483, 363));
        assert!(parse_format("yuv411p").is_err());
    }

    #[test]
    fn batches_fit_the_ram_disk() {
        let settings = JobSettings::default();
        assert_eq!(batch_rule(&settings, 2 << 20), BatchRule { first: 30, following: 240 });
        assert_eq!(batch_rule(&settings, 6_000_000).following, 178);
        assert_eq!(batch_rule(&settings, 12_441_600).following, 96);
        assert_eq!(batch_rule(&settings, 1 << 30).following, 96);
    }
}
