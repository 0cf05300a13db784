//! What goes from step to step: some channels of a picture, or of what stands for it.

use anyhow::Result;

use upscaled_core::fault::Fault;

/// Planes of floats, one after the other, rows without padding.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub channels: usize,
    pub width: usize,
    pub height: usize,
    pub data: Vec<f32>,
}

impl Field {
    pub fn new(channels: usize, width: usize, height: usize, data: Vec<f32>) -> Result<Field> {
        if data.len() != channels * width * height || data.is_empty() {
            return Err(Fault::Internal.because(format!("{} numbers are no {channels}x{width}x{height}", data.len())));
        }
        Ok(Field { channels, width, height, data })
    }

    pub fn zeros(channels: usize, width: usize, height: usize) -> Field {
        Field { channels, width, height, data: vec![0.0; channels * width * height] }
    }

    pub fn planes(&self) -> impl Iterator<Item = &[f32]> {
        self.data.chunks_exact(self.width * self.height)
    }

    /// The same size with each plane made anew.
    pub fn resized(&self, (width, height): (usize, usize), make: impl Fn(&[f32]) -> Vec<f32>) -> Field {
        Field { channels: self.channels, width, height, data: self.planes().flat_map(make).collect() }
    }
}
