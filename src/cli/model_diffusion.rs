//! `upscaled model show` of a diffusion model: a folder of several networks.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use upscaled_core::path_text::escape;
use upscaled_engine::models::diffusion::{DiffusionFolder, DiffusionPart};

use crate::cli::output;

#[derive(Serialize)]
struct DiffusionDetails {
    name: String,
    /// SHA-256 of the list of files with theirs.
    sha256: String,
    diffusion: bool,
    /// `f32` or `f16`.
    precision: String,
    /// Bytes of the three networks, by name.
    parts: Vec<(&'static str, u64)>,
    /// Side of the transformer's tiles in pixels of the result, and what neighbours share.
    tile: usize,
    overlap: usize,
    /// What sizes inside are multiples of, pixels.
    multiple: usize,
    timestep: f32,
}

/// Prints the facts of a model's folder.
pub(super) fn show(path: &Path, json: bool) -> Result<()> {
    let folder = DiffusionFolder::open(path)?;
    let latent = &folder.latent;
    let shown = DiffusionDetails {
        name: escape(path),
        sha256: folder.hash.clone(),
        diffusion: true,
        precision: folder.precision.clone(),
        parts: DiffusionPart::ALL.map(|part| (part.name(), folder.bytes_of(part))).to_vec(),
        tile: latent.tile * latent.factor,
        overlap: latent.overlap * latent.factor,
        multiple: latent.factor * latent.patch,
        timestep: folder.step.timestep,
    };
    if json {
        return output::json(&shown);
    }
    let parts: Vec<String> =
        shown.parts.iter().map(|(name, bytes)| format!("{name} {:.1} MB", *bytes as f64 / 1e6)).collect();
    let rows = [
        ("model", shown.name),
        ("kind", "diffusion, one step: docs/diffusion.md".to_owned()),
        ("enlarges", "1 to 8 times".to_owned()),
        ("precision", shown.precision),
        ("parts", parts.join(", ")),
        ("tile", format!("{} x {} pixels of the result, {} of them shared", shown.tile, shown.tile, shown.overlap)),
        ("size", format!("any; inside in steps of {}", shown.multiple)),
        ("sha256", format!("{} of its list of files", shown.sha256)),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, text)| vec![name.to_owned(), text]).collect();
    output::table(&rows).iter().try_for_each(|row| output::line(row))
}
