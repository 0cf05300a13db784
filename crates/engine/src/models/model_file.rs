//! Model files: loaded, hashed, and made ready for one tile shape.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use prost::Message;

use upscaled_core::fault::Fault;
use upscaled_core::path_text;
use upscaled_core::types::engine::EngineSpec;

use crate::models::diffusion::DiffusionFolder;
use crate::models::facts::{self, ModelFacts, OpenFacts};
use crate::models::onnx::{GraphProto, ModelProto, ValueInfoProto};
use crate::models::overrides::{self, Given};
use crate::models::{canonical, output_head, registry, subgraphs};
use crate::pixels::stitch::OutputLayout;

/// Largest model file read, in bytes.
pub const MAX_BYTES: u64 = 2 << 30;

/// A network, known well enough to be run in tiles.
#[derive(Clone, Debug)]
pub struct ModelFile {
    /// `builtin:fast` or the path, as it stands in pins.
    pub name: String,
    /// SHA-256 of the file, hex.
    pub hash: String,
    pub facts: ModelFacts,
    /// What stands beside the file.
    pub given: Given,
    model: ModelProto,
}

/// A network at a fixed shape, as bytes for a session.
#[derive(Clone, Debug)]
pub struct ShapedNetwork {
    pub bytes: Vec<u8>,
    pub input: String,
    pub output: String,
    /// `[n, channels, height, width]`, 1 channel (luma) or 3 (RGB).
    pub input_dims: [usize; 4],
    /// `[n, channels * s * s, height, width]` (plane = c * s * s + dy * s + dx), or
    /// `[n, channels, s * height, s * width]`; `layout` tells which.
    pub output_dims: [usize; 4],
    pub layout: OutputLayout,
    /// The output is a difference: input channel c is to be added to each of its phases.
    pub residual: bool,
}

impl ModelFile {
    /// Opens a model by what settings or a pin call it: a name (`fast`, `builtin:fast`), or a path.
    /// What stands beside a file (`<model>.toml`) goes before what its graph says.
    pub fn open(name: &str) -> Result<ModelFile> {
        let file = load(name)?;
        let given = match &file.path {
            Some(path) => overrides::read(path)?,
            None => Given { white: Some(1), ..Given::default() },
        };
        ModelFile::parse_with(&file.name, &file.bytes, given)
    }

    /// Opens the model of a pin from its file and the pin alone: what was written beside the file
    /// since counts for new jobs only.
    ///
    /// # Errors
    /// [`Fault::ModelChanged`] for a different or missing file.
    pub fn open_pinned(pin: &EngineSpec) -> Result<ModelFile> {
        let changed = |what: &str| {
            let name = &pin.model;
            let next =
                "put the old file back, or start over: `upscaled retry --fresh`, or `upscaled run` with --no-resume";
            Fault::ModelChanged.because(format!("model {name}: {what} since the job was planned; {next}"))
        };
        let file = match load(&pin.model) {
            Ok(file) if sha256(&file.bytes) == pin.model_hash => file,
            Ok(_) => return Err(changed("the file has changed")),
            Err(error) if Fault::of(&error) == Fault::NotFound => return Err(changed("the file has gone")),
            // Something else of that name: a folder, or more than a model can be.
            Err(error) if Fault::of(&error).is_final() => return Err(changed("the file has changed")),
            Err(error) => return Err(error),
        };
        let given = Given {
            channels: Some(pin.channels),
            white: Some(pin.white),
            scale: Some(pin.model_scale),
            halo: Some(pin.halo),
            multiple: Some(multiple_of(pin)),
            ..Given::default()
        };
        let mut model = ModelFile::parse_with(&file.name, &file.bytes, given)?;
        model.facts.open = OpenFacts::default();
        Ok(model)
    }

    /// Reads a model from the bytes of its file; what is written beside it goes first. `name`
    /// stands in messages and pins.
    pub fn parse_with(name: &str, bytes: &[u8], given: Given) -> Result<ModelFile> {
        let damaged = || {
            let message = "not a readable ONNX file; `upscaled model import` takes weights of other programs too";
            Fault::BadInput.because(format!("model {name}: {message}"))
        };
        let mut model = ModelProto::decode(bytes).map_err(|_| damaged())?;
        if model.graph.as_ref().is_none_or(|g| g.node.is_empty()) {
            return Err(damaged());
        }
        subgraphs::check(&model).map_err(|what| Fault::Unsupported.because(format!("model {name}: {what}")))?;
        let changes = canonical::rewrite(&mut model, name)?;
        let graph = |model: &ModelProto| model.graph.clone().unwrap_or_default();
        let no = |what: String| Fault::Unsupported.because(format!("model {name}: {what}"));
        let mut remarks = changes.remarks;
        if let Some(growth) = facts::growth(&graph(&model)).map_err(no)?.filter(|g| g.lost != 0) {
            let pad = growth.lost / (2 * i64::from(growth.scale));
            if growth.lost < 0 || pad * 2 * i64::from(growth.scale) != growth.lost {
                let lost = growth.lost;
                return Err(no(format!("its output is {lost} pixels short of {} times the input", growth.scale)));
            }
            canonical::pad_input(&mut model, pad);
            remarks.push(format!(
                "gives {} pixels less than it should: the edge is repeated {pad} times inside",
                growth.lost
            ));
        }
        let mut facts = facts::read(&graph(&model), name, changes.white, &given)?;
        remarks.append(&mut facts.remarks);
        facts.remarks = remarks;
        Ok(ModelFile { name: name.to_owned(), hash: sha256(bytes), facts, given, model })
    }

    /// The same where nothing is written.
    #[cfg(test)]
    pub fn parse(name: &str, bytes: &[u8]) -> Result<ModelFile> {
        ModelFile::parse_with(name, bytes, Given::default())
    }

    /// The graph in its canonical form.
    pub fn graph(&self) -> &GraphProto {
        static NOTHING: std::sync::OnceLock<GraphProto> = std::sync::OnceLock::new();
        self.model.graph.as_ref().unwrap_or_else(|| NOTHING.get_or_init(GraphProto::default))
    }

    /// Sets what running the network has told; finds again where the graph can be cut.
    pub fn settle(&mut self, change: impl FnOnce(&mut ModelFacts)) {
        change(&mut self.facts);
        self.facts.align_halo();
        let graph = self.model.graph.get_or_insert_default();
        self.facts.find_tail(graph);
    }

    /// The whole network, with nothing cut off, for inputs of `[batch, channels, height, width]`,
    /// its output's size left to the runtime: for finding out about it.
    pub fn whole(&self, batch: usize, height: usize, width: usize) -> ShapedNetwork {
        let facts = &self.facts;
        let (channels, scale) = (facts.channels as usize, facts.scale as usize);
        let input_dims = [batch, channels, height, width];
        let mut model = self.model.clone();
        let graph = model.graph.get_or_insert_default();
        graph.input = vec![ValueInfoProto::float_tensor(&facts.input, input_dims)];
        graph.output = vec![ValueInfoProto::free_floats(&facts.output)];
        ShapedNetwork {
            bytes: model.encode_to_vec(),
            input: facts.input.clone(),
            output: facts.output.clone(),
            input_dims,
            output_dims: [batch, channels, height * scale, width * scale],
            layout: OutputLayout::Plane,
            residual: false,
        }
    }

    /// The network for inputs of `[batch, channels, height, width]`, its pixel shuffle cut off
    /// where the facts allow it.
    pub fn network(&self, batch: usize, height: usize, width: usize) -> Result<ShapedNetwork> {
        let facts = &self.facts;
        if facts.batch.is_some_and(|n| n != batch) {
            let message = format!("model {}: takes {} pictures a call only", self.name, facts.batch.unwrap_or(1));
            return Err(Fault::Unsupported.because(message));
        }
        if facts.scale == 0 {
            return Err(Fault::Internal.because(format!("model {}: its scale was not found out before", self.name)));
        }
        if facts.fixed[0].is_some_and(|h| h != height) || facts.fixed[1].is_some_and(|w| w != width) {
            let message = format!("model {}: takes one input size only; free its height and width", self.name);
            return Err(Fault::Unsupported.because(message));
        }
        let scale = facts.scale as usize;
        let channels = facts.channels as usize;
        let (output, output_dims) = match &facts.tail {
            Some(tail) => (&tail.phases, [batch, channels * scale * scale, height, width]),
            None => (&facts.output, [batch, channels, height * scale, width * scale]),
        };
        let input_dims = [batch, channels, height, width];
        let mut model = self.model.clone();
        let graph = model.graph.get_or_insert_default();
        for input in graph.input.iter_mut().filter(|i| i.name.as_ref() == Some(&facts.input)) {
            *input = ValueInfoProto::float_tensor(&facts.input, input_dims);
        }
        graph.output = vec![ValueInfoProto::float_tensor(output, output_dims)];
        if let Some(tail) = &facts.tail {
            if let Some(made) = &tail.reorder {
                output_head::reorder(graph, made, scale, channels)
                    .ok_or_else(|| Fault::Internal.because(format!("model {}: its end was misread", self.name)))?;
            }
            if let Some((made, taken)) = &tail.shuffle {
                output_head::bypass(graph, made, taken);
            }
        }
        // Sizes noted inside were for another shape; the runtime finds them again.
        graph.value_info.clear();
        // What nothing needs any more goes, last node first.
        let mut wanted = HashSet::from([output.clone()]);
        let mut kept: Vec<_> = Vec::with_capacity(graph.node.len());
        for node in graph.node.drain(..).rev() {
            if node.output.iter().any(|o| wanted.contains(o)) {
                wanted.extend(node.input.iter().cloned());
                kept.push(node);
            }
        }
        kept.reverse();
        graph.node = kept;
        graph.initializer.retain(|t| t.name.as_ref().is_some_and(|n| wanted.contains(n)));
        graph.input.retain(|i| i.name.as_ref().is_some_and(|n| wanted.contains(n)));
        Ok(ShapedNetwork {
            bytes: model.encode_to_vec(),
            input: facts.input.clone(),
            output: output.clone(),
            input_dims,
            output_dims,
            layout: if facts.tail.is_some() { OutputLayout::Phases } else { OutputLayout::Plane },
            residual: facts.tail.as_ref().is_some_and(|t| t.residual),
        })
    }
}

/// A model's file.
struct Loaded {
    /// As it stands in pins.
    name: String,
    bytes: Cow<'static, [u8]>,
    /// Where it lies, unless it is in the program.
    path: Option<PathBuf>,
}

/// Reads what settings or a pin call a model.
fn load(name: &str) -> Result<Loaded> {
    if let Some(builtin) = registry::builtin(name) {
        let name = format!("{}{}", registry::BUILTIN, builtin.name);
        return Ok(Loaded { name, bytes: builtin.bytes.into(), path: None });
    }
    if registry::is_name(name) && !Path::new(name).exists() {
        return load(&registry::known(name, &registry::folders(None))?);
    }
    let path = path_text::unescape(name).unwrap_or_else(|| PathBuf::from(name));
    let path = path.canonicalize().unwrap_or(path);
    let text = path_text::escape(&path);
    let size = match std::fs::metadata(&path) {
        Ok(meta) if meta.is_file() => meta.len(),
        Ok(meta) if meta.is_dir() => {
            // What it lacks to be one, or that it is one.
            let words = "is a diffusion model, of which `upscaled model check` says more; it cannot be used here";
            let whole = |_| Fault::Unsupported.because(format!("model {text} {words}"));
            return Err(DiffusionFolder::open(&path).map_or_else(|error| error, whole));
        }
        Ok(_) => return Err(Fault::BadInput.because(format!("model {text}: is not a file"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let known = "name an ONNX file, or a model that `upscaled model list` shows";
            return Err(Fault::NotFound.because(format!("model {text}: there is no such file; {known}")));
        }
        Err(error) => return Err(error).with_context(|| format!("opening model {text}")),
    };
    if size > MAX_BYTES {
        return Err(Fault::Unsupported.because(format!("model {text}: larger than 2 GiB")));
    }
    let bytes = std::fs::read(Path::new(&path)).with_context(|| format!("reading model {text}"))?;
    Ok(Loaded { name: text, bytes: bytes.into(), path: Some(path) })
}

/// What the sizes of a pin's tiles are all multiples of: what its network needs, or more.
fn multiple_of(pin: &EngineSpec) -> u32 {
    let common = |a: u32, b: u32| {
        let (mut a, mut b) = (a, b);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    [pin.tile_height, pin.halo].into_iter().fold(pin.tile_width, common).max(1)
}

impl ShapedNetwork {
    /// The same network in 16-bit floats inside, its input and output still f32.
    pub fn half(&self) -> Result<ShapedNetwork> {
        let mut model = ModelProto::decode(&self.bytes[..]).context("reading a network of ours")?;
        canonical::half(&mut model);
        Ok(ShapedNetwork { bytes: model.encode_to_vec(), ..self.clone() })
    }
}

/// A model as the bytes of a file.
pub fn bytes_of(model: &ModelProto) -> Vec<u8> {
    model.encode_to_vec()
}

/// SHA-256 of a file, in hex.
pub fn sha256_of(path: &Path) -> std::io::Result<String> {
    use sha2::Digest;
    let mut hash = sha2::Sha256::new();
    let mut file = std::fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 in hex.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex(&sha2::Sha256::digest(bytes))
}

/// Whether these bytes are an ONNX file with a graph.
pub fn is_onnx(bytes: &[u8]) -> bool {
    ModelProto::decode(bytes).is_ok_and(|model| model.graph.is_some_and(|graph| !graph.node.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::testing::TestModel;

    #[test]
    fn the_default_model_is_cut_before_its_sum() {
        let file = ModelFile::open("fast").unwrap();
        assert_eq!((file.name.as_str(), file.facts.scale, file.facts.halo), ("builtin:fast", 2, 6));
        assert!(file.facts.tail.as_ref().is_some_and(|t| t.residual));
        let network = file.network(2, 30, 40).unwrap();
        assert_eq!((network.input_dims, network.output_dims), ([2, 1, 30, 40], [2, 4, 30, 40]));
        let cut = ModelProto::decode(&network.bytes[..]).unwrap().graph.unwrap();
        assert!(cut.node.iter().all(|n| !["Add", "DepthToSpace"].contains(&n.operation())));
        assert_eq!(cut.output[0].dims(), [Some(2), Some(4), Some(30), Some(40)]);
        assert!(file.facts.fixed == [None, None] && network.residual && network.layout == OutputLayout::Phases);
    }

    #[test]
    fn a_tail_without_a_sum_is_cut_before_the_shuffle() {
        let file = ModelFile::parse("m", &TestModel { residual: false, ..Default::default() }.bytes()).unwrap();
        assert_eq!(file.facts.tail.as_ref().map(|t| t.residual), Some(false));
        assert_eq!(file.network(1, 8, 8).unwrap().output_dims, [1, 4, 8, 8]);
    }

    #[test]
    fn rgb_is_cut_before_the_shuffle_and_its_planes_put_in_order() {
        let weights = |network: &ShapedNetwork| {
            let graph = ModelProto::decode(&network.bytes[..]).unwrap().graph.unwrap();
            graph.initializer.iter().find(|t| t.name.as_deref() == Some("w2")).unwrap().floats().unwrap()
        };
        let model = TestModel { channels: 3, ..Default::default() };
        let file = ModelFile::parse("m", &model.bytes()).unwrap();
        assert_eq!((file.facts.channels, file.facts.scale, file.facts.halo), (3, 2, 3));
        let crd = file.network(2, 9, 7).unwrap();
        assert_eq!((crd.input_dims, crd.output_dims), ([2, 3, 9, 7], [2, 12, 9, 7]));
        assert!(crd.residual && crd.layout == OutputLayout::Phases);
        let file = ModelFile::parse("m", &TestModel { dcr: true, ..model }.bytes()).unwrap();
        let dcr = file.network(2, 9, 7).unwrap();
        assert!(dcr.residual && dcr.output_dims == crd.output_dims);
        let (crd, dcr) = (weights(&crd), weights(&dcr));
        let plane = crd.len() / 12;
        // Channel 1, third of its four phases: plane 6 in CRD order, plane 2 * 3 + 1 in DCR order.
        assert_eq!(dcr[6 * plane..7 * plane], crd[7 * plane..8 * plane]);
        let uncut = TestModel { residual: false, ..model };
        let file = ModelFile::parse("m", &uncut.bytes()).unwrap();
        assert!(!file.network(1, 8, 8).unwrap().residual);
    }

    #[test]
    fn models_that_cannot_run_say_why() {
        let two = TestModel { channels: 2, ..Default::default() };
        let error = ModelFile::parse("m.onnx", &two.bytes()).unwrap_err();
        assert_eq!(Fault::of(&error), Fault::Unsupported);
        assert!(error.to_string().contains("m.onnx") && error.to_string().contains("RGB"), "{error}");
        assert_eq!(Fault::of(&ModelFile::parse("m", b"not a model").unwrap_err()), Fault::BadInput);
        assert_eq!(Fault::of(&ModelFile::open("/no/such.onnx").unwrap_err()), Fault::NotFound);
    }

    #[test]
    fn a_pinned_model_must_be_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a b.onnx");
        std::fs::write(&path, TestModel::default().bytes()).unwrap();
        let file = ModelFile::open(path.to_str().unwrap()).unwrap();
        let pin = crate::models::testing::pin(&file, (8, 8));
        assert!(ModelFile::open_pinned(&pin).is_ok());
        std::fs::write(&path, TestModel { seed: 2, ..Default::default() }.bytes()).unwrap();
        assert_eq!(Fault::of(&ModelFile::open_pinned(&pin).unwrap_err()), Fault::ModelChanged);
        std::fs::write(&path, "rubbish").unwrap();
        assert_eq!(Fault::of(&ModelFile::open_pinned(&pin).unwrap_err()), Fault::ModelChanged);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(Fault::of(&ModelFile::open_pinned(&pin).unwrap_err()), Fault::ModelChanged);
    }

    /// What a person writes beside a model counts for jobs that are planned afterwards.
    #[test]
    fn what_is_written_beside_a_model_leaves_pinned_jobs_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        std::fs::write(&path, TestModel::default().bytes()).unwrap();
        let name = path.to_str().unwrap();
        let mut pin = crate::models::testing::pin(&ModelFile::open(name).unwrap(), (9, 12));
        pin.halo = 6;
        for text in ["multiple = 16\nhalo = 20\nwhite = 255", "hola = 3", "scale = 3", "channels = 3"] {
            std::fs::write(path.with_extension("toml"), text).unwrap();
            let facts = ModelFile::open_pinned(&pin).unwrap().facts;
            assert_eq!((facts.halo, facts.white, facts.scale, facts.multiple), (6, 1, 2, 3), "{text}");
        }
        assert!(ModelFile::open(name).is_err());
    }
}
