//! Models measured: pictures made half as large, enlarged again, compared with what they were.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use upscaled_core::config::settings::JobSettings;
use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_media::image::still;

use crate::frames::{self, STILL_COLOUR};
use crate::quality::{self, Plane};
use crate::ways::{self, UpscaleMethod};

/// Pixels left out at every side, as the literature does for 2x.
const BORDER: usize = 2;
/// Bits of the frames that go through a network: the literature does not round the luma of an
/// 8-bit RGB picture either. What comes out is rounded to 8 bits.
const DEPTH: u8 = 10;
/// The factor.
const SCALE: u32 = 2;
/// Smallest side of a picture that is measured: below it there is nothing left between borders.
const SIDE_MIN: u32 = 16;
/// Extensions of the files that must be pictures.
const PICTURES: [&str; 6] = ["png", "jpg", "jpeg", "webp", "tif", "tiff"];
/// Pictures read from one folder.
const PICTURES_MAX: usize = 10_000;

/// What one way reached over the pictures of a folder: means over the pictures of the luma
/// (BT.601, limited range, 8 bits out).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    pub way: String,
    pub pictures: usize,
    /// dB.
    pub psnr: f64,
    pub ssim: f64,
}

/// Measures every way on the pictures of a folder. `done` hears after each picture and way.
///
/// # Errors
/// A folder without pictures, a picture that cannot be read, a model that does not run.
pub fn folder(
    folder: &Path,
    ways: &[UpscaleMethod],
    settings: &JobSettings,
    done: &mut dyn FnMut(&str),
) -> Result<Vec<Score>> {
    let settings = JobSettings { scale: SCALE, ..settings.clone() };
    let mut scores: Vec<Score> =
        ways.iter().map(|way| Score { way: way.title(), pictures: 0, psnr: 0.0, ssim: 0.0 }).collect();
    for path in pictures(folder)? {
        let name = escape(&path);
        let true_picture = frames::even(&still::read(&path)?);
        if true_picture.width.min(true_picture.height) < SIDE_MIN {
            let message = format!("{name} is smaller than {SIDE_MIN} pixels; take it out of the folder");
            return Err(Fault::BadInput.because(message));
        }
        let source = frames::frame(&frames::half(&true_picture), DEPTH);
        let wanted = frames::luma(&true_picture);
        let (width, height) = (true_picture.width as usize, true_picture.height as usize);
        for (way, score) in ways.iter().zip(&mut scores) {
            let made = ways::enlarge(way, &source, &STILL_COLOUR, &settings, false)?.frame;
            let luma = frames::luma_of(&made);
            let (made, wanted) = (Plane { samples: &luma, width, height }, Plane { samples: &wanted, width, height });
            score.psnr += quality::psnr(made, wanted, BORDER, 255.0);
            score.ssim += quality::ssim(made, wanted, BORDER, 255.0);
            score.pictures += 1;
            done(&format!("{name}: {}", score.way));
        }
    }
    for score in &mut scores {
        let count = score.pictures.max(1) as f64;
        (score.psnr, score.ssim) = (score.psnr / count, score.ssim / count);
    }
    Ok(scores)
}

/// The still pictures of a folder, in the order of their names.
fn pictures(folder: &Path) -> Result<Vec<PathBuf>> {
    let name = escape(folder);
    let entries = std::fs::read_dir(folder).with_context(|| format!("reading the folder {name}"))?;
    let mut paths = Vec::new();
    for entry in entries.take(PICTURES_MAX) {
        let path = entry?.path();
        let named =
            path.extension().is_some_and(|e| PICTURES.contains(&e.to_string_lossy().to_ascii_lowercase().as_str()));
        // What is called a picture and is none must not leave the mean without a word.
        if path.is_file() && (named || matches!(still::kind_of(&path), Ok(Some(_)))) {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        return Err(Fault::NotFound.because(format!("the folder {name} holds no PNG, JPEG, WebP or TIFF picture")));
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Canvas;
    use upscaled_media::image::png;

    #[test]
    fn plain_ways_are_ranked_as_they_should_be() {
        let folder = tempfile::tempdir().unwrap();
        let data = (0..64 * 48).flat_map(|i| {
            let (x, y) = ((i % 64) as f32, (i / 64) as f32);
            let v = 128.0 + 60.0 * (x * 0.35 + y * 0.15).sin() + 40.0 * (y * 0.4).cos();
            [v as u8, v as u8, 128]
        });
        let picture = Canvas { width: 64, height: 48, data: data.collect() };
        png::write_rgb(&folder.path().join("a.png"), 64, 48, &picture.data).unwrap();
        std::fs::write(folder.path().join("notes.txt"), "not a picture").unwrap();
        let mut heard = 0;
        let ways = [UpscaleMethod::Nearest, UpscaleMethod::Bicubic, UpscaleMethod::Lanczos];
        let scores = super::folder(folder.path(), &ways, &JobSettings::default(), &mut |_| heard += 1).unwrap();
        assert_eq!((heard, scores[0].pictures), (3, 1));
        let [nearest, bicubic, lanczos] = [0, 1, 2].map(|n: usize| (scores[n].psnr, scores[n].ssim));
        assert!(nearest.0 + 3.0 < bicubic.0 && bicubic.0 < lanczos.0, "{scores:?}");
        assert!(nearest.1 < bicubic.1 && bicubic.1 < lanczos.1 && lanczos.1 < 1.0, "{scores:?}");
    }

    #[test]
    fn an_empty_folder_and_a_broken_picture_are_told() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("broken.PNG"), "text").unwrap();
        let error =
            super::folder(folder.path(), &[UpscaleMethod::Bicubic], &JobSettings::default(), &mut |_| ()).unwrap_err();
        assert!(format!("{error:#}").contains("broken.PNG"), "{error:#}");
        std::fs::remove_file(folder.path().join("broken.PNG")).unwrap();
        let error =
            super::folder(folder.path(), &[UpscaleMethod::Bicubic], &JobSettings::default(), &mut |_| ()).unwrap_err();
        assert_eq!(Fault::of(&error), Fault::NotFound);
    }
}
