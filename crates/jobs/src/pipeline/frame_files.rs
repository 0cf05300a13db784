//! Frames that are made larger elsewhere: each a PNG in a folder, before and after.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};

use upscaled_core::config::settings::JobSettings;
use upscaled_core::fault::Fault;
use upscaled_core::jail::{Denied, Jail, JailFolder};
use upscaled_core::path_text::{escape, unescape};
use upscaled_core::types::engine::{EngineSpec, FRAMES, Precision, Provider};
use upscaled_core::types::frame::Frame;
use upscaled_engine::pixels::sample::{self, Coding};
use upscaled_engine::runtime::cascade;
use upscaled_engine::runtime::pool::{AfterPanic, Pool};
use upscaled_engine::runtime::worker::EngineThread;
use upscaled_media::image::still::{self, Opened, Still, StillKind};

use crate::pipeline::rgb::RgbSource;
use crate::pipeline::upscale::FrameShape;
use crate::state::manifest::{SCALES, frame_name, picture_bytes_max};

/// The folder with frames that a setting names in place of a model: `frames:FOLDER`.
pub fn folder(model: &str) -> Option<PathBuf> {
    let path = model.strip_prefix(FRAMES)?;
    Some(unescape(path).unwrap_or_else(|| path.into()))
}

/// Name of the frame with an index from 0.
pub fn name(index: u64) -> String {
    frame_name(index + 1)
}

/// The pin for frames of a size that lie enlarged in a folder, and become the size `to`.
///
/// # Errors
/// [`Fault::NotFound`] without a first frame, [`Fault::Unsupported`] where that is no whole multiple.
pub fn pin(folder: &Path, job: &JobSettings, frame: (u32, u32), to: (u32, u32)) -> Result<EngineSpec> {
    let most = *SCALES.end();
    let files =
        FrameFiles { jail: opened(folder)?, size: (frame.0.saturating_mul(most), frame.1.saturating_mul(most)) };
    let (bytes, path) = files.bytes(0)?;
    let (width, height) = Opened::new(&bytes, &escape(&path))?.size();
    let scale = width / frame.0.max(1);
    if scale == 0 || (width, height) != (frame.0 * scale, frame.1.saturating_mul(scale)) {
        return Err(Fault::Unsupported.because(format!(
            "{}: {width}x{height} is not {}x{} a whole number of times",
            escape(&path),
            frame.0,
            frame.1
        )));
    }
    let mut pin = EngineSpec {
        model: format!("{FRAMES}{}", escape(folder)),
        model_hash: String::new(),
        model_scale: scale,
        passes: 1,
        channels: 3,
        white: 1,
        picture: None,
        provider: Provider::Cpu,
        device: 0,
        precision: Precision::F32,
        tile_width: frame.0,
        tile_height: frame.1,
        halo: 0,
        batch: 1,
        sessions: 1,
        threads: upscaled_engine::planning::choice::threads(job),
        reuse: job.reuse,
        diffusion: None,
    };
    cascade::reach(&mut pin, frame, to)?;
    Ok(pin)
}

/// The folder of frames: who enlarges them writes there, and no link leads out.
fn opened(folder: &Path) -> Result<Jail> {
    Jail::open(folder).with_context(|| format!("opening {}", escape(folder)))
}

/// Enlarged frames in a folder.
pub struct FrameFiles {
    jail: Jail,
    /// Of each picture, or the most that it can be.
    size: (u32, u32),
}

impl FrameFiles {
    /// Opens the frames of a pin whose model is a folder of them.
    pub fn open(pin: &EngineSpec, folder: &Path, frame: (u32, u32)) -> Result<FrameFiles> {
        let size = (frame.0.saturating_mul(pin.model_scale), frame.1.saturating_mul(pin.model_scale));
        Ok(FrameFiles { jail: opened(folder)?, size })
    }

    fn bytes(&self, index: u64) -> Result<(Vec<u8>, PathBuf)> {
        let path = self.jail.root().path().join(name(index));
        let refuse = |fault: Fault, words: &str| fault.because(format!("{} {words}", escape(&path)));
        let file = match self.jail.file(&path) {
            Ok(found) => found.file,
            Err(Denied::Missing) => return Err(refuse(Fault::NotFound, "is not there")),
            Err(Denied::Outside) => return Err(refuse(Fault::BadInput, "is a link that leads out of its folder")),
            Err(Denied::Failed(error)) => return Err(error.context(format!("reading {}", escape(&path)))),
        };
        let most = picture_bytes_max(self.size.0, self.size.1);
        let mut bytes = Vec::new();
        file.take(most.saturating_add(1))
            .read_to_end(&mut bytes)
            .with_context(|| format!("reading {}", escape(&path)))?;
        match bytes.len() as u64 > most {
            true => Err(refuse(Fault::BadInput, "is larger than any picture of its size")),
            false => Ok((bytes, path)),
        }
    }

    /// An enlarged frame: planes of R, G and B, one after the other, coded as [`Coding::RGB`].
    pub fn planes(&self, index: u64) -> Result<Vec<u8>> {
        let (bytes, path) = self.bytes(index)?;
        let picture = Opened::new(&bytes, &escape(&path))?.decode()?;
        if (picture.width, picture.height) != self.size {
            let (width, height) = self.size;
            let found = format!("{}x{}", picture.width, picture.height);
            return Err(Fault::Mismatch.because(format!("{} is {found}, not {width}x{height}", escape(&path))));
        }
        let code = |value: &f32| Coding::RGB.code(*value).to_le_bytes();
        Ok(picture.rgb().iter().flatten().flat_map(code).collect())
    }
}

/// Writes source frames as PNGs: 8 bits a sample, 16 where the source has more.
pub struct FrameWriter {
    folder: JailFolder,
    shape: FrameShape,
    rgb: RgbSource,
    pool: Pool<EngineThread>,
}

impl FrameWriter {
    pub fn new(folder: JailFolder, shape: FrameShape, threads: u32) -> Result<FrameWriter> {
        let pool = Pool::start(threads as usize, AfterPanic::End, || Ok(EngineThread::default()))?;
        Ok(FrameWriter { folder, shape, rgb: RgbSource::new(shape), pool })
    }

    /// Writes a frame, unless a file of its name is there: those are whole.
    ///
    /// Colours beyond those of RGB are clamped, as a PNG has none.
    pub fn write(&self, index: u64, frame: Frame) -> Result<()> {
        let name = name(index);
        if self.folder.entry(name.as_ref())?.is_some() {
            return Ok(());
        }
        let (width, height, depth) = (self.shape.width, self.shape.height, self.shape.format.depth);
        let codes = self.rgb.planes(&self.pool, &Arc::new(frame))?;
        let plane = |codes: &[u8]| {
            let mut values = vec![0.0; codes.len() / 2];
            sample::load(codes, Coding::RGB, 1.0, &mut values);
            values.iter_mut().for_each(|value| *value = value.clamp(0.0, 1.0));
            values
        };
        let mut planes = codes.chunks_exact(codes.len() / 3).map(plane);
        let [luma, cb, cr] = still::ycc(std::array::from_fn(|_| planes.next().unwrap_or_default()));
        let depth = if depth > 8 { 16 } else { 8 };
        let (kind, alpha, gray, icc, exif) = (StillKind::Png, None, false, None, None);
        let picture = Still { kind, width, height, luma, cb, cr, alpha, depth, gray, icc, exif };
        self.folder.write(name.as_ref(), &picture.encode()?.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::upscale::FrameUpscaler;
    use upscaled_core::types::frame::PixelFormat;
    use upscaled_core::types::source::Colour;

    /// Frames out to PNGs, made twice as large by repeating pixels, and in again.
    #[test]
    fn frames_come_back_as_they_were() {
        for format in [PixelFormat::YUV420, PixelFormat { depth: 10, ..PixelFormat::YUV420 }] {
            let folder = tempfile::tempdir().unwrap();
            let colour = Colour { range: 1, primaries: 1, transfer: 1, matrix: 1, chroma_location: 1 };
            let (width, height) = (24, 18);
            let shape = FrameShape { format, width, height, colour };
            // Grays of several levels, which RGB has all of.
            let frame = |level: u32| {
                let mut frame = Frame::new(format, width, height);
                let [y, c] = [level, 128].map(|v| (v << (format.depth - 8)) as u16);
                let luma = (width * height) as usize;
                let codes = (0..frame.data.len() / sample::bytes(format.depth)).map(|n| if n < luma { y } else { c });
                frame.data = match format.depth {
                    8 => codes.map(|code| code as u8).collect(),
                    _ => codes.flat_map(u16::to_le_bytes).collect(),
                };
                frame
            };
            let writer = FrameWriter::new(opened(folder.path()).unwrap().root().clone(), shape, 2).unwrap();
            for (index, level) in [(0, 16), (1, 100), (2, 235)] {
                writer.write(index, frame(level)).unwrap();
                let path = folder.path().join(name(index));
                let small = Opened::new(&std::fs::read(&path).unwrap(), "a frame").unwrap().decode().unwrap();
                assert_eq!(small.depth, if format.depth > 8 { 16 } else { 8 });
                let wide = width as usize;
                let twice = |plane: &[f32]| -> Vec<f32> {
                    (0..plane.len() * 4).map(|n| plane[n / (4 * wide) * wide + n % (2 * wide) / 2]).collect()
                };
                let planes = [&small.luma, &small.cb, &small.cr].map(|plane| twice(plane));
                let [luma, cb, cr] = planes;
                let large = Still { width: 2 * width, height: 2 * height, luma, cb, cr, ..small.bare() };
                std::fs::write(&path, large.encode().unwrap().0).unwrap();
            }
            let job = JobSettings::default();
            let pin = pin(folder.path(), &job, (width, height), (2 * width, 2 * height)).unwrap();
            assert_eq!((pin.model_scale, pin.picture), (2, None));
            let mut upscaler = FrameUpscaler::open(&pin, shape, 2 * width, 2 * height).unwrap();
            for (index, level) in [(2, 235u32), (0, 16), (1, 100)] {
                let (made, _) = upscaler.upscale_nth(index, &frame(level)).unwrap();
                let want = (level << (format.depth - 8)) as i32;
                let luma = made.plane(0);
                let code = match format.depth {
                    8 => i32::from(luma[700]),
                    _ => i32::from(u16::from_le_bytes([luma[1400], luma[1401]])),
                };
                assert!((code - want).abs() <= 1, "{code} for {want}");
            }
            let error = upscaler.upscale_nth(3, &frame(50)).unwrap_err();
            assert!(Fault::of(&error) == Fault::NotFound && error.to_string().contains("frame_000004.png"), "{error}");
            std::fs::copy(folder.path().join(name(0)), folder.path().join(name(3))).unwrap();
            assert!(FrameUpscaler::open(&pin, shape, 48, 36).unwrap().upscale_nth(3, &frame(50)).is_ok());
            assert!(super::pin(folder.path(), &job, (25, 18), (50, 36)).is_err());
            // Neither what lies elsewhere, nor a FIFO, nor more than a picture
            let third = folder.path().join(name(3));
            let outside = tempfile::tempdir().unwrap();
            std::fs::rename(&third, outside.path().join("x.png")).unwrap();
            std::os::unix::fs::symlink(outside.path().join("x.png"), &third).unwrap();
            let mut fault = || Fault::of(&upscaler.upscale_nth(3, &frame(50)).unwrap_err());
            assert_eq!(fault(), Fault::BadInput);
            std::fs::remove_file(&third).unwrap();
            nix::unistd::mkfifo(&third, nix::sys::stat::Mode::S_IRWXU).unwrap();
            assert_eq!(fault(), Fault::NotFound);
            std::fs::remove_file(&third).unwrap();
            std::fs::write(&third, vec![0; 17 << 20]).unwrap();
            assert_eq!(fault(), Fault::BadInput);
        }
    }
}
