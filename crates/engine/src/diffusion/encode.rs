//! From what the VAE's encoder gives to the latent: a sample of its distribution, or the mean.

use anyhow::Result;

use upscaled_core::fault::Fault;

use crate::diffusion::field::Field;
use crate::diffusion::noise;
use crate::models::diffusion::LatentFacts;

/// Log variances are taken within these.
const LOG_VARIANCE: (f32, f32) = (-30.0, 20.0);

/// Which latent of the distribution is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Latent {
    /// As trained: mean and noise, the same for the same seed and size.
    #[default]
    Sample,
    /// The mean alone: calmer, less detail.
    Mean,
}

impl Latent {
    /// `sample` or `mean`.
    pub fn of(name: &str) -> Option<Latent> {
        match name {
            "sample" => Some(Latent::Sample),
            "mean" => Some(Latent::Mean),
            _ => None,
        }
    }
}

/// The scaled latent of moments: the channels of the mean, then those of the log variance.
pub fn latent(moments: Field, facts: &LatentFacts, which: Latent, seed: u64) -> Result<Field> {
    let channels = facts.channels;
    if moments.channels != 2 * channels {
        let message = format!("the VAE's encoder gave {} channels, not {}", moments.channels, 2 * channels);
        return Err(Fault::Unsupported.because(message));
    }
    let (mean, log_variance) = moments.data.split_at(moments.data.len() / 2);
    let scaled = |v: f32| (v - facts.shift) * facts.scaling;
    let data = match which {
        Latent::Mean => mean.iter().map(|&v| scaled(v)).collect(),
        Latent::Sample => {
            let noise = noise::gaussian(seed, mean.len());
            let deviation = log_variance.iter().map(|v| (0.5 * v.clamp(LOG_VARIANCE.0, LOG_VARIANCE.1)).exp());
            mean.iter().zip(deviation).zip(noise).map(|((m, d), n)| scaled(m + d * n)).collect()
        }
    };
    Field::new(channels, moments.width, moments.height, data)
}

/// What the VAE's decoder is given for a scaled latent.
pub fn unscaled(mut latent: Field, facts: &LatentFacts) -> Field {
    latent.data.iter_mut().for_each(|v| *v = *v / facts.scaling + facts.shift);
    latent
}
