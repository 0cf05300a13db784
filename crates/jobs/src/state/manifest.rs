//! Manifests: which frames of a shared folder a worker makes larger, in batches.
//!
//! The format is that of `batch_manifest_generator.py` of Bittensor-Team/vidaio-win: lines `# Key: value`, then a line
//! `batch_<id>,<frame>,<frame>,..` for each batch. Names and values are plain text.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;

use upscaled_core::fault::Fault;
use upscaled_core::file_name::NAME_MAX;

/// Scales that a manifest may ask for.
pub const SCALES: std::ops::RangeInclusive<u32> = 2..=8;
/// Most bytes of a manifest: a million frames and more.
pub const BYTES_MAX: u64 = 32 << 20;

/// Some frames that are handed out and counted together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub id: String,
    /// Names of files, the same in both folders.
    pub frames: Vec<String>,
}

/// What a worker is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub input: PathBuf,
    pub output: PathBuf,
    pub scale: u32,
    /// Frames in a batch, and side of the tiles: of interest to other workers than ours.
    pub batch_size: u32,
    pub patch_size: u32,
    /// Of all manifests of the film.
    pub total_frames: u64,
    pub batches: Vec<Batch>,
}

/// Whether a name stays in its folder and is not hidden there.
fn is_plain(name: &str) -> bool {
    let alone = Path::new(name).file_name() == Some(name.as_ref());
    alone && name.len() <= NAME_MAX && !name.starts_with('.') && !name.chars().any(char::is_control)
}

impl Manifest {
    /// Reads a manifest. What it says of batches other than their frames is not looked at.
    ///
    /// # Errors
    /// [`Fault::BadInput`] with what is wrong, and in which line.
    pub fn parse(text: &str) -> Result<Manifest> {
        let bad = |line: usize, what: &str| Fault::BadInput.because(format!("line {line} of the manifest: {what}"));
        let (mut input, mut output, mut scale) = (None, None, None);
        let (mut batch_size, mut patch_size, mut total_frames) = (8, 256, 0);
        let mut batches: Vec<Batch> = Vec::new();
        for (line, text) in (1..).zip(text.lines().map(str::trim)) {
            if let Some(comment) = text.strip_prefix('#') {
                let Some((key, value)) = comment.split_once(':') else { continue };
                let value = value.trim();
                let number = || value.parse::<u64>().map_err(|_| bad(line, "a whole number is wanted"));
                let small = || u32::try_from(number()?).map_err(|_| bad(line, "that is too much"));
                match key.trim().to_ascii_lowercase().as_str() {
                    "input dir" => input = Some(PathBuf::from(value)),
                    "output dir" => output = Some(PathBuf::from(value)),
                    "scale" => {
                        let number = value.trim_end_matches(['x', 'X']).parse().ok();
                        let within = number.filter(|scale| SCALES.contains(scale));
                        scale = Some(within.ok_or_else(|| bad(line, "the scale must be from 2 to 8"))?);
                    }
                    "batch size" => batch_size = small()?,
                    "patch size" => patch_size = small()?,
                    "total frames" => total_frames = number()?,
                    _ => {}
                }
            } else if let Some((id, frames)) = text.split_once(',') {
                let frames: Vec<String> = frames.split(',').map(|frame| frame.trim().to_owned()).collect();
                if !is_plain(id) || !frames.iter().all(|frame| is_plain(frame)) {
                    return Err(bad(line, "frames and batches have plain names, without folders"));
                }
                batches.push(Batch { id: id.to_owned(), frames });
            } else if !text.is_empty() {
                return Err(bad(line, "it is neither `# Key: value` nor `batch_N,frame,frame`"));
            }
        }
        let missing = |key: &str| Fault::BadInput.because(format!("the manifest has no line `# {key}: ..`"));
        Ok(Manifest {
            input: input.ok_or_else(|| missing("Input Dir"))?,
            output: output.ok_or_else(|| missing("Output Dir"))?,
            // As the original: twice where nothing is said.
            scale: scale.unwrap_or(2),
            batch_size,
            patch_size,
            total_frames,
            batches,
        })
    }

    /// The text of the manifest for a worker of that number.
    ///
    /// # Errors
    /// [`Fault::Unsupported`] for folders whose names the format cannot hold.
    pub fn text(&self, worker: usize) -> Result<String> {
        let folder =
            |path: &Path| match path.to_str().filter(|text| !text.contains(['\n', '\r']) && text.trim() == *text) {
                Some(text) => Ok(text.to_owned()),
                None => {
                    let name = upscaled_core::path_text::escape(path);
                    Err(Fault::Unsupported
                        .because(format!("{name}: manifests cannot hold this name; choose another folder")))
                }
            };
        let (input, output) = (folder(&self.input)?, folder(&self.output)?);
        let Manifest { scale, batch_size, patch_size, total_frames, batches, .. } = self;
        let numbers: Vec<&str> = batches.iter().map(|b| b.id.strip_prefix("batch_").unwrap_or(&b.id)).collect();
        let mut text = format!("# Worker {worker} Manifest\n# Input Dir: {input}\n# Output Dir: {output}\n");
        let _ = writeln!(text, "# Scale: {scale}x\n# Batch Size: {batch_size}\n# Patch Size: {patch_size}");
        let _ = writeln!(text, "# Total Frames: {total_frames}\n# Worker Batches: [{}]", numbers.join(", "));
        let _ = writeln!(text, "# Total Batches: {}\n", batches.len());
        for batch in batches {
            let _ = writeln!(text, "{},{}", batch.id, batch.frames.join(","));
        }
        Ok(text)
    }
}

/// Most bytes of the file of a picture of that size: four samples of 16 bits a pixel, not compressed, and room for what
/// is written beside them.
pub fn picture_bytes_max(width: u32, height: u32) -> u64 {
    let samples = u64::from(width).saturating_mul(u64::from(height)).saturating_mul(8);
    samples.saturating_add(samples / 16).saturating_add(16 << 20)
}

/// The name of a frame, counted from 1.
pub fn frame_name(number: u64) -> String {
    format!("frame_{number:06}.png")
}

/// All frames in batches, the first `batch_0`.
pub fn batches(total_frames: u64, batch_size: u32) -> Vec<Batch> {
    let size = u64::from(batch_size.max(1));
    let batch = |id: u64| {
        let frames = id * size + 1..=((id + 1) * size).min(total_frames);
        Batch { id: format!("batch_{id}"), frames: frames.map(frame_name).collect() }
    };
    (0..total_frames.div_ceil(size)).map(batch).collect()
}

/// The same, dealt out: worker w gets batches w, w + n, w + 2n, ..
pub fn dealt(total_frames: u64, workers: usize, batch_size: u32) -> Vec<Vec<Batch>> {
    let mut hands = vec![Vec::new(); workers.max(1)];
    for (n, batch) in batches(total_frames, batch_size).into_iter().enumerate() {
        hands[n % workers.max(1)].push(batch);
    }
    hands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_original_writes_is_read() {
        let text = "# Worker 1 Manifest\n# Input Dir: /s/input_frames\n# Output Dir: /s/output_frames\n# Scale: 2x\n\
                    # Batch Size: 2\n# Patch Size: 256\n# Total Frames: 7\n# Worker Batches: [1, 3]\n# Total Batches: 2\n\n\
                    batch_1,frame_000003.png,frame_000004.png\nbatch_3,frame_000007.png\n";
        let manifest = Manifest::parse(text).unwrap();
        assert_eq!((manifest.scale, manifest.total_frames, manifest.batches.len()), (2, 7, 2));
        assert_eq!(manifest.batches, dealt(7, 2, 2)[1]);
        assert_eq!(manifest.text(1).unwrap(), text);
        let plain = text.replace("# Scale: 2x", "# Scale: 4").replace("Input Dir: ", "input dir:  ");
        assert_eq!(Manifest::parse(&plain).unwrap(), Manifest { scale: 4, ..manifest });
    }

    #[test]
    fn what_leaves_its_folder_is_refused() {
        let head = "# Input Dir: /s/a\n# Output Dir: /s/b\n";
        let words = |text: &str| Manifest::parse(text).unwrap_err().to_string();
        for frame in ["../x.png", "/etc/passwd", "a/b.png", "", ".", "..", ".hidden", "a\u{0}b"] {
            assert!(words(&format!("{head}batch_0,{frame}\n")).starts_with("line 3"), "{frame:?}");
        }
        assert!(words("batch_0,a.png\n").contains("Input Dir"));
        assert!(words(&format!("{head}# Scale: 100x\n")).contains("2 to 8"));
        assert!(words(&format!("{head}what is this\n")).contains("line 3"));
        assert!(words(&format!("{head}# Total Frames: many\n")).contains("whole number"));
        assert!(Manifest::parse(head).unwrap().batches.is_empty());
        let odd = Manifest { input: "/s/a\nb".into(), ..Manifest::parse(head).unwrap() };
        assert_eq!(Fault::of(&odd.text(0).unwrap_err()), Fault::Unsupported);
    }

    #[test]
    fn every_frame_is_dealt_out_once() {
        for (frames, workers, size) in [(0, 3, 8), (1, 6, 8), (8, 1, 8), (100, 6, 8), (17, 4, 1)] {
            let hands = dealt(frames, workers, size);
            let mut all: Vec<String> = hands.iter().flatten().flat_map(|batch| batch.frames.clone()).collect();
            all.sort();
            assert_eq!(all, (1..=frames).map(frame_name).collect::<Vec<_>>());
            let most = hands.iter().map(Vec::len).max().unwrap_or(0);
            assert!(hands.iter().all(|hand| hand.len() + 1 >= most));
        }
    }
}
