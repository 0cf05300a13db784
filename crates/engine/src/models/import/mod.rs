//! Weights of other programs turned into ONNX, without running anything that is in them.
//!
//! A reader ([`torch_zip`], [`torch_legacy`], [`safetensors`]) gives named tensors; a recogniser
//! a kind of network (one file each) tells the network from names and shapes, and writes its graph.

mod build;
mod cursor;
#[cfg(test)]
mod hostile_tests;
mod layers;
mod pickle;
mod recognise;
mod rrdbnet;
mod safetensors;
mod small;
mod span;
mod srvgg;
mod state;
#[cfg(test)]
pub(crate) mod testing;
mod torch_globals;
mod torch_legacy;
mod torch_tensor;
mod torch_zip;
mod value;
mod weights;

pub use self::build::constant;
pub use self::weights::Tensor;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use crate::models::onnx::ModelProto;
use upscaled_core::fault::Fault;
use upscaled_core::path_text;

use self::state::StateDict;
use self::weights::{MAX_FILE, refused};

/// First byte of a pickle of protocol 2 and above, and of no ONNX file.
const PICKLE: u8 = 0x80;

/// A network rebuilt from a file of weights.
#[derive(Clone, Debug)]
pub struct Imported {
    /// `SRVGGNetCompact, 32 convolutions, 64 wide`.
    pub kind: String,
    /// How many times wider and higher its pictures become.
    pub scale: u32,
    /// 1, luma, or 3, RGB.
    pub channels: u32,
    /// The wrapper the weights were taken from: `params_ema`, or `bare keys`.
    pub taken: String,
    /// What a person should know, one sentence each; often none.
    pub remarks: Vec<String>,
    /// The network: `[n, channels, h, w]` to `[n, channels, scale*h, scale*w]`, f32, white is 1.
    pub model: ModelProto,
}

/// Whether a file is one that [`read`] takes, by its first bytes.
pub fn is_weights(head: &[u8]) -> bool {
    torch_zip::is(head) || head.first() == Some(&PICKLE) || head.get(8) == Some(&b'{')
}

/// Reads a file of weights of PyTorch (both forms of `torch.save`) or safetensors.
///
/// [`Fault::Unsupported`] for networks and forms that are not known and for files that hold
/// code, [`Fault::BadInput`] for files that are damaged or no weights, [`Fault::NotFound`].
pub fn read(path: &Path) -> Result<Imported> {
    let text = path_text::escape(path);
    let bytes = load(path, &text)?;
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    parse(&bytes, &name).with_context(|| format!("weights {text}"))
}

/// Reads the tensors of such a file, whatever network they are of, or of none. A lone tensor
/// has the name `tensor`.
pub fn tensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let text = path_text::escape(path);
    let bytes = load(path, &text)?;
    let state = state_of(&bytes).with_context(|| format!("weights {text}"))?;
    Ok(state.weights.tensors)
}

fn load(path: &Path, text: &str) -> Result<Vec<u8>> {
    let size = match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => meta.len(),
        Ok(_) => return Err(Fault::BadInput.because(format!("weights {text}: is not a file"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Fault::NotFound.because(format!("weights {text}: there is no such file")));
        }
        Err(error) => return Err(error).with_context(|| format!("opening weights {text}")),
    };
    if size > MAX_FILE {
        let most = MAX_FILE >> 30;
        return Err(Fault::Unsupported.because(format!(
            "weights {text}: larger than {most} GiB; save only the network's state_dict(), without the training's state"
        )));
    }
    std::fs::read(path).with_context(|| format!("reading weights {text}"))
}

/// The tensors in the bytes of a file.
fn state_of(bytes: &[u8]) -> Result<StateDict> {
    if torch_zip::is(bytes) {
        torch_zip::read(bytes)
    } else if torch_legacy::is(bytes) {
        torch_legacy::read(bytes)
    } else if safetensors::is(bytes) {
        safetensors::read(bytes)
    } else if bytes.first() == Some(&PICKLE) {
        // A plain pickle: say what it holds, it cannot be weights of torch.save.
        pickle::read(bytes)?;
        Err(refused("is a pickle that torch.save did not write"))
    } else {
        Err(Fault::BadInput.because("neither a file of torch.save nor safetensors"))
    }
}

/// Reads weights from the bytes of a file; its name tells a scale that they do not.
pub fn parse(bytes: &[u8], name: &str) -> Result<Imported> {
    let state = state_of(bytes)?;
    let network = recognise::recognise(&state.weights, name)?;
    let mut remarks = state.remarks;
    remarks.extend(network.remarks);
    Ok(Imported {
        kind: network.kind,
        scale: network.scale as u32,
        channels: network.channels as u32,
        taken: state.taken,
        remarks,
        model: network.model,
    })
}
