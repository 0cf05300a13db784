//! A part of the model in a session that takes any size.

use std::borrow::Cow;
use std::path::PathBuf;

use anyhow::{Context, Result};
use ort::session::{Session, SessionInputValue};
use ort::value::TensorRef;

use upscaled_core::failpoint;
use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;

use crate::models::diffusion::{DiffusionFolder, DiffusionPart};
use crate::runtime::provider::{self, SessionTarget};
use crate::runtime::session::{Opening, count};

/// An input: its name, its shape, its numbers.
pub type Input<'a> = (&'static str, Vec<usize>, &'a [f32]);

/// A part, loaded or not.
pub struct PartSession {
    pub part: DiffusionPart,
    path: PathBuf,
    target: SessionTarget,
    session: Option<Session>,
    verified: bool,
}

impl PartSession {
    pub fn new(folder: &DiffusionFolder, part: DiffusionPart, target: SessionTarget) -> PartSession {
        PartSession { part, path: folder.path.join(part.file()), target, session: None, verified: false }
    }

    pub fn is_loaded(&self) -> bool {
        self.session.is_some()
    }

    /// Loads the part, if it is not; the first time its bytes are compared with their hashes.
    pub fn load(&mut self, folder: &DiffusionFolder) -> Result<()> {
        if self.session.is_some() {
            return Ok(());
        }
        let _opening = Opening::begin();
        if !self.verified {
            folder.files_of(self.part).try_for_each(|file| folder.verify(file))?;
            self.verified = true;
        }
        let session = provider::open_file(&self.path, self.target);
        self.session = Some(session.with_context(|| format!("loading {}", escape(&self.path)))?);
        Ok(())
    }

    /// Gives its memory back.
    pub fn unload(&mut self) {
        self.session = None;
    }

    /// Runs the part; what it gives, with its shape (pictures, channels, height, width).
    pub fn run(&mut self, inputs: &[Input]) -> Result<([usize; 4], Vec<f32>)> {
        failpoint::hit("infer.memory").map_err(|error| Fault::DeviceMemory.because(error.to_string()))?;
        failpoint::hit("infer")?;
        let provider = self.target.provider;
        let told = |error: ort::Error| provider::failure(provider, &error);
        let session = self.session.as_mut().ok_or_else(|| Fault::Internal.because("a part is not loaded"))?;
        let mut values: Vec<(Cow<str>, SessionInputValue)> = Vec::with_capacity(inputs.len());
        for (name, shape, data) in inputs {
            let tensor = TensorRef::from_array_view((shape.clone(), *data)).map_err(told)?;
            values.push((Cow::Borrowed(*name), tensor.into()));
        }
        let outputs = session.run(values).map_err(told)?;
        count();
        let (shape, data) = outputs[0].try_extract_tensor::<f32>().map_err(told)?;
        let unlike = || Fault::Unsupported.because(format!("{} gave a result of shape {shape:?}", escape(&self.path)));
        let dims: [usize; 4] =
            shape.iter().map(|&d| d as usize).collect::<Vec<_>>().try_into().map_err(|_| unlike())?;
        if data.iter().any(|v| !v.is_finite()) {
            return Err(Fault::Device.because(format!(
                "{} gave what is no number; export it in f32 (--precision f32) if it is in f16",
                escape(&self.path)
            )));
        }
        Ok((dims, data.to_vec()))
    }
}
