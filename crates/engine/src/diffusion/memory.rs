//! The plan of memory: tiles, and how many in a call, from a budget; and the way down when memory
//! runs out all the same.
//!
//! The VAE's tiles follow from the budget, the kind of device and the model alone, not from what is free: they show in
//! the last digits of the pixels. How many tiles go in a call does not.

use crate::models::diffusion::{DiffusionFolder, DiffusionPart};

/// Device memory that is reckoned with where nobody says otherwise, bytes.
pub const BUDGET: u64 = 8 << 30;
/// Sides of the VAE's tiles to choose from, in latents; the last is taken whatever it needs.
const VAE_TILES: [usize; 5] = [128, 96, 64, 48, 32];
/// What two tiles of the VAE share, as a part of a tile.
const VAE_OVERLAP: usize = 4;
/// Smallest tile on the way down.
const TILE_MIN: usize = 16;
/// Most tiles in a call of a graphics device. The processor gains nothing by more than one, and
/// would say nothing for too long.
const BATCH_MAX: usize = 16;
/// Side of the VAE's tiles that the processor takes, at most.
const PROCESSOR_TILE: usize = 64;
/// Copies of the widest layer and of the attention's scores that are in memory at once, for the
/// encoder and the decoder, as measured at the size of Stable Diffusion 3 (docs/diffusion.md).
const ENCODER: (u64, u64) = (3, 2);
const DECODER: (u64, u64) = (4, 4);
/// The transformer's scores and widths.
const TRANSFORMER: (u64, u64) = (2, 16);

/// When parts are in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// All, if the budget has room for the weights and for tiles beside them, else one by one.
    #[default]
    Auto,
    All,
    /// Each is loaded when its turn has come and unloaded after it.
    One,
}

impl Keep {
    /// Of the word in the settings.
    pub fn of(word: &str) -> Keep {
        match word {
            "together" => Keep::All,
            "one_by_one" => Keep::One,
            _ => Keep::Auto,
        }
    }
}

/// What a person or test asks for in place of the plan's own; in latents.
#[derive(Clone, Copy, Debug, Default)]
pub struct TileOverride {
    pub encode_tile: Option<usize>,
    pub decode_tile: Option<usize>,
    pub vae_overlap: Option<usize>,
    pub batch: Option<usize>,
    /// The VAE's tiles stay as they are, whatever happens: other ones would give other pixels.
    pub pinned: bool,
}

/// Tiles and calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TilingPlan {
    /// Sides of the VAE's tiles, in latents.
    pub encode_tile: usize,
    pub decode_tile: usize,
    overlap: Option<usize>,
    batch: Option<usize>,
    pinned: bool,
    /// How often the calls have been halved, by part.
    halved: [u32; 3],
    pub one_by_one: bool,
    /// For tiles, beside the weights.
    room: u64,
    model: Model,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Model {
    sample: u64,
    factor: u64,
    patch: u64,
    vae_channels: u64,
    heads: u64,
    width: u64,
    tokens: u64,
}

impl TilingPlan {
    /// `gpu`: it runs on a graphics device. `budget`: bytes of its memory.
    pub fn new(folder: &DiffusionFolder, gpu: bool, budget: u64, keep: Keep, asked: TileOverride) -> TilingPlan {
        let model = Model {
            sample: if folder.precision == "f16" { 2 } else { 4 },
            factor: folder.latent.factor as u64,
            patch: folder.latent.patch as u64,
            vae_channels: folder.size.vae_channels as u64,
            heads: folder.size.heads as u64,
            width: folder.size.width as u64,
            tokens: folder.size.tokens as u64,
        };
        let weights = DiffusionPart::ALL.map(|part| folder.bytes_of(part));
        let (all, largest) = (weights.iter().sum::<u64>(), weights.iter().copied().max().unwrap_or(0));
        let least = model.bytes(DiffusionPart::Decoder, VAE_TILES[2], VAE_TILES[2]);
        let short = all.saturating_add(least) > budget;
        let one_by_one = match keep {
            Keep::One => true,
            Keep::All => false,
            Keep::Auto => short,
        };
        // Not by what is kept: that may be changed at any time, and pixels must not.
        let room = budget.saturating_sub(if short { largest } else { all });
        let vae = |part: DiffusionPart, own: u64| {
            let room = if short { budget.saturating_sub(own) } else { room };
            let fits = |tile: &usize| (gpu || *tile <= PROCESSOR_TILE) && model.bytes(part, *tile, *tile) <= room;
            VAE_TILES.into_iter().find(fits).unwrap_or(VAE_TILES[VAE_TILES.len() - 1])
        };
        TilingPlan {
            encode_tile: asked.encode_tile.unwrap_or_else(|| vae(DiffusionPart::Encoder, weights[0])),
            decode_tile: asked.decode_tile.unwrap_or_else(|| vae(DiffusionPart::Decoder, weights[2])),
            overlap: asked.vae_overlap,
            batch: asked.batch.or((!gpu).then_some(1)),
            pinned: asked.pinned,
            halved: [0; 3],
            one_by_one,
            room,
            model,
        }
    }

    /// Latents that neighbouring tiles of the VAE share at least, below the tile's side.
    pub fn overlap(&self, tile: usize) -> usize {
        self.overlap.unwrap_or(tile / VAE_OVERLAP).min(tile - 1)
    }

    /// Tiles of `width` x `height` latents in a call of a part.
    pub fn batch(&self, part: DiffusionPart, (width, height): (usize, usize)) -> usize {
        let most = self.batch.unwrap_or(BATCH_MAX).max(1) as u64;
        let fit = (self.room / self.model.bytes(part, width, height).max(1)).clamp(1, most);
        (fit >> self.halved[part as usize]).max(1) as usize
    }

    /// A step down for a part whose call of `batch` tiles found no memory; words about it.
    /// `None` at the bottom.
    pub fn lower(&mut self, part: DiffusionPart, batch: usize, others_loaded: bool) -> Option<String> {
        if others_loaded {
            self.one_by_one = true;
            return Some("the other parts of the model are unloaded meanwhile".into());
        }
        if batch > 1 {
            self.halved[part as usize] += 1;
            return Some(format!("it goes on with {} tiles in a call", (batch / 2).max(1)));
        }
        let tile = match part {
            _ if self.pinned => return None,
            DiffusionPart::Encoder => &mut self.encode_tile,
            DiffusionPart::Decoder => &mut self.decode_tile,
            // Its tile is the size that it was trained for.
            DiffusionPart::Transformer => return None,
        };
        let half = *tile / 2;
        (half >= TILE_MIN).then(|| {
            *tile = half;
            format!("it goes on with tiles of {half} latents a side, with small differences in the pixels")
        })
    }

    /// Bytes that a call of one tile is reckoned to need beside the weights.
    pub fn bytes(&self, part: DiffusionPart, (width, height): (usize, usize)) -> u64 {
        self.model.bytes(part, width, height)
    }
}

impl Model {
    fn bytes(&self, part: DiffusionPart, width: usize, height: usize) -> u64 {
        let area = width as u64 * height as u64;
        let squared = |tokens: u64| tokens.saturating_mul(tokens).saturating_mul(self.sample);
        let vae = |(layers, scores): (u64, u64)| {
            let layer = area.saturating_mul(self.factor * self.factor * self.vae_channels * self.sample);
            layer.saturating_mul(layers).saturating_add(squared(area).saturating_mul(scores))
        };
        match part {
            DiffusionPart::Encoder => vae(ENCODER),
            DiffusionPart::Decoder => vae(DECODER),
            DiffusionPart::Transformer => {
                let tokens = area / (self.patch * self.patch) + self.tokens;
                let scores = squared(tokens).saturating_mul(self.heads * TRANSFORMER.0);
                scores.saturating_add(tokens * self.width * self.sample * TRANSFORMER.1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const GIB: u64 = 1 << 30;

    /// A folder with the sizes of Stable Diffusion 3 medium.
    fn folder(precision: &str) -> DiffusionFolder {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/diffusion/model");
        let mut folder = DiffusionFolder::read(&path).unwrap();
        let bytes = if precision == "f16" { 2 } else { 4 };
        folder.precision = precision.into();
        (folder.latent.tile, folder.latent.side_max) = (64, 384);
        folder.size.vae_channels = 256;
        (folder.size.heads, folder.size.width, folder.size.tokens) = (24, 1536, 333);
        for file in &mut folder.files {
            file.bytes = match file.name.as_str() {
                "transformer.onnx" => 2_028_000_000 * bytes,
                "vae_encoder.onnx" => 34_000_000 * bytes,
                "vae_decoder.onnx" => 50_000_000 * bytes,
                _ => file.bytes,
            };
        }
        folder
    }

    #[test]
    fn tiles_follow_from_the_budget_and_not_from_what_is_kept() {
        let plan = |precision: &str, gpu, budget, keep| {
            TilingPlan::new(&folder(precision), gpu, budget, keep, TileOverride::default())
        };
        let tiles = |plan: &TilingPlan| (plan.encode_tile, plan.decode_tile, plan.one_by_one);
        let half = plan("f16", true, 8 * GIB, Keep::Auto);
        assert_eq!(tiles(&half), (128, 128, false));
        assert_eq!(tiles(&plan("f16", true, 8 * GIB, Keep::One)), (128, 128, true));
        assert_eq!(tiles(&plan("f16", true, 5 * GIB, Keep::Auto)), (64, 64, false));
        // 8 GB of weights: one by one, and then there is room.
        assert_eq!(tiles(&plan("f32", true, 8 * GIB, Keep::Auto)), (128, 96, true));
        assert_eq!(tiles(&plan("f32", true, 8 * GIB, Keep::All)), (128, 96, false));
        assert_eq!(tiles(&plan("f32", true, 24 * GIB, Keep::Auto)), (128, 128, false));
        // The processor's calls are short.
        let processor = plan("f32", false, 24 * GIB, Keep::Auto);
        assert_eq!(tiles(&processor), (64, 64, false));
        assert_eq!(processor.batch(DiffusionPart::Transformer, (64, 64)), 1);
        let batch = half.batch(DiffusionPart::Transformer, (64, 64));
        assert!((8..=16).contains(&batch), "{batch}");
        assert!(
            half.batch(DiffusionPart::Transformer, (16, 16)) >= batch
                && half.batch(DiffusionPart::Decoder, (128, 128)) == 1
        );
        // As docs/diffusion.md says it.
        let gib = |part, side| processor.bytes(part, (side, side)) as f64 / GIB as f64;
        assert!(
            (gib(DiffusionPart::Decoder, 64) - 1.25).abs() < 0.05
                && (gib(DiffusionPart::Transformer, 64) - 0.45).abs() < 0.05
        );
    }

    #[test]
    fn the_way_down_ends() {
        let mut plan = TilingPlan::new(&folder("f16"), true, 8 * GIB, Keep::Auto, TileOverride::default());
        assert!(plan.lower(DiffusionPart::Decoder, 4, true).unwrap().contains("unloaded") && plan.one_by_one);
        let before = plan.batch(DiffusionPart::Decoder, (32, 32));
        assert!(plan.lower(DiffusionPart::Decoder, before, false).is_some());
        assert_eq!(plan.batch(DiffusionPart::Decoder, (32, 32)), (before / 2).max(1));
        let sides: Vec<usize> =
            std::iter::from_fn(|| plan.lower(DiffusionPart::Decoder, 1, false).map(|_| plan.decode_tile)).collect();
        assert_eq!(sides, [64, 32, 16]);
        assert_eq!((plan.encode_tile, plan.lower(DiffusionPart::Transformer, 1, false)), (128, None));
        let mut pinned = TilingPlan::new(
            &folder("f16"),
            true,
            8 * GIB,
            Keep::Auto,
            TileOverride { pinned: true, ..TileOverride::default() },
        );
        assert!(pinned.lower(DiffusionPart::Decoder, 2, false).is_some());
        assert_eq!(pinned.lower(DiffusionPart::Decoder, 1, false), None);
    }
}
