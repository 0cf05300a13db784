//! The plan of memory: tiles, and how many in a call, from a budget; and the way down when memory
//! runs out all the same.
//!
//! The VAE's tiles follow from the budget and the model alone, not from what is free: they show in
//! the last digits of the pixels. How many tiles go in a call does not.

use crate::network::diffusion::{Folder, Part};

/// Device memory that is reckoned with where nobody says otherwise, bytes.
pub const BUDGET: u64 = 8 << 30;
/// Sides of the VAE's tiles to choose from, in latents; the last is taken whatever it needs.
const VAE_TILES: [usize; 5] = [128, 96, 64, 48, 32];
/// What two tiles of the VAE share, as a part of a tile.
const VAE_OVERLAP: usize = 4;
/// Smallest tile on the way down.
const TILE_MIN: usize = 16;
/// Most tiles in a call.
const BATCH_MAX: usize = 16;
/// Copies of the widest layer, of the attention's scores, and of the transformer's widths, that
/// are in memory at once.
const LAYERS: u64 = 3;
const SCORES: u64 = 2;
const WIDTHS: u64 = 16;

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

/// What a person or test asks for in place of the plan's own; in latents.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    pub encode_tile: Option<usize>,
    pub decode_tile: Option<usize>,
    pub vae_overlap: Option<usize>,
    pub batch: Option<usize>,
}

/// Tiles and calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Sides of the VAE's tiles, in latents.
    pub encode_tile: usize,
    pub decode_tile: usize,
    overlap: Option<usize>,
    batch: Option<usize>,
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

impl Plan {
    pub fn new(folder: &Folder, budget: u64, keep: Keep, asked: Asked) -> Plan {
        let model = Model {
            sample: if folder.precision == "f16" { 2 } else { 4 },
            factor: folder.latent.factor as u64,
            patch: folder.latent.patch as u64,
            vae_channels: folder.size.vae_channels as u64,
            heads: folder.size.heads as u64,
            width: folder.size.width as u64,
            tokens: folder.size.tokens as u64,
        };
        let weights = Part::ALL.map(|part| folder.bytes_of(part));
        let (all, largest) = (weights.iter().sum::<u64>(), weights.iter().copied().max().unwrap_or(0));
        let least = model.bytes(Part::Decoder, VAE_TILES[2], VAE_TILES[2]);
        let one_by_one = match keep {
            Keep::One => true,
            Keep::All => false,
            Keep::Auto => all.saturating_add(least) > budget,
        };
        let room = budget.saturating_sub(if one_by_one { largest } else { all });
        let vae = |part: Part, own: u64| {
            let room = if one_by_one { budget.saturating_sub(own) } else { room };
            let fits = |tile: &usize| model.bytes(part, *tile, *tile) <= room;
            VAE_TILES.into_iter().find(fits).unwrap_or(VAE_TILES[VAE_TILES.len() - 1])
        };
        Plan {
            encode_tile: asked.encode_tile.unwrap_or_else(|| vae(Part::Encoder, weights[0])),
            decode_tile: asked.decode_tile.unwrap_or_else(|| vae(Part::Decoder, weights[2])),
            overlap: asked.vae_overlap,
            batch: asked.batch,
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
    pub fn batch(&self, part: Part, (width, height): (usize, usize)) -> usize {
        let most = self.batch.unwrap_or(BATCH_MAX).max(1) as u64;
        let fit = self.room / self.model.bytes(part, width, height).max(1);
        let fit = if self.batch.is_some() { most } else { fit.clamp(1, most) };
        (fit >> self.halved[part as usize]).max(1) as usize
    }

    /// A step down for a part whose call of `batch` tiles found no memory; words about it.
    /// `None` at the bottom.
    pub fn lower(&mut self, part: Part, batch: usize, others_loaded: bool) -> Option<String> {
        if others_loaded {
            self.one_by_one = true;
            return Some("the other parts of the model are unloaded meanwhile".into());
        }
        if batch > 1 {
            self.halved[part as usize] += 1;
            return Some(format!("it goes on with {} tiles in a call", (batch / 2).max(1)));
        }
        let tile = match part {
            Part::Encoder => &mut self.encode_tile,
            Part::Decoder => &mut self.decode_tile,
            // Its tile is the size that it was trained for.
            Part::Transformer => return None,
        };
        let half = *tile / 2;
        (half >= TILE_MIN).then(|| {
            *tile = half;
            format!("it goes on with tiles of {half} latents a side, with small differences in the pixels")
        })
    }

    /// Bytes that a call of one tile is reckoned to need beside the weights.
    pub fn bytes(&self, part: Part, (width, height): (usize, usize)) -> u64 {
        self.model.bytes(part, width, height)
    }
}

impl Model {
    fn bytes(&self, part: Part, width: usize, height: usize) -> u64 {
        let area = width as u64 * height as u64;
        let squared = |tokens: u64| tokens.saturating_mul(tokens).saturating_mul(self.sample * SCORES);
        match part {
            Part::Encoder | Part::Decoder => {
                let layer = area.saturating_mul(self.factor * self.factor * self.vae_channels * self.sample);
                layer.saturating_mul(LAYERS).saturating_add(squared(area))
            }
            Part::Transformer => {
                let tokens = area / (self.patch * self.patch) + self.tokens;
                let scores = squared(tokens).saturating_mul(self.heads);
                scores.saturating_add(tokens * self.width * self.sample * WIDTHS)
            }
        }
    }
}
