//! Damaged and missing files of both kinds of folder, and what is said of them.

use std::path::{Path, PathBuf};

use upscaled_core::fault::Fault;

use super::folder::{DiffusionFolder, DiffusionPart, EMBEDDINGS, FACTS};
use super::original::{self, ExportState};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/diffusion/model")
}

/// A copy of the exported folder.
fn copy() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture()).unwrap().flatten() {
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

/// The fault and the words that a folder is refused with.
fn refused(folder: &Path) -> (Fault, String) {
    let error = DiffusionFolder::open(folder).unwrap_err();
    (Fault::of(&error), format!("{error:#}"))
}

#[test]
fn an_exported_folder_is_read() {
    let folder = DiffusionFolder::open(&fixture()).unwrap();
    assert_eq!((folder.latent.channels, folder.latent.factor, folder.latent.patch), (4, 8, 2));
    assert_eq!((folder.latent.tile, folder.latent.overlap, folder.step.timestep), (8, 2, 1000.0));
    assert!((folder.latent.scaling - 1.5305).abs() < 1e-6 && folder.latent.shift == 0.0);
    folder.files.iter().for_each(|file| folder.verify(file).unwrap());
    let embeddings = folder.embeddings().unwrap();
    assert_eq!((embeddings.prompt.1, embeddings.pooled.1), (vec![1, 6, 24], vec![1, 12]));
    assert!(DiffusionPart::ALL.iter().all(|&part| folder.bytes_of(part) > 50_000));
}

#[test]
fn a_file_that_is_missing_short_or_changed_is_named() {
    for file in [DiffusionPart::Transformer.file(), DiffusionPart::Decoder.file(), EMBEDDINGS] {
        let folder = copy();
        let path = folder.path().join(file);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let (fault, words) = refused(folder.path());
        assert_eq!(fault, Fault::BadInput);
        assert!([file, "bytes", "export_tsdsr.py"].iter().all(|word| words.contains(word)), "{words}");
        let mut flipped = bytes;
        flipped[100] ^= 1;
        std::fs::write(&path, &flipped).unwrap();
        let opened = DiffusionFolder::open(folder.path()).unwrap();
        let facts = opened.files.iter().find(|f| f.name == file).unwrap();
        let error = opened.verify(facts).unwrap_err();
        assert!(Fault::of(&error) == Fault::BadInput && error.to_string().contains(file), "{error}");
        std::fs::remove_file(&path).unwrap();
        let (fault, words) = refused(folder.path());
        assert!(fault == Fault::NotFound && words.contains(file) && words.contains("missing"), "{words}");
    }
}

#[test]
fn facts_that_cannot_be_are_refused() {
    let folder = copy();
    let path = folder.path().join(FACTS);
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to, word) in [
        ("tile = 8", "tile = 7", "latent.tile"),
        ("overlap = 2", "overlap = 8", "latent.overlap"),
        ("factor = 8", "factor = 0", "latent.factor"),
        ("scaling = 1.5305", "scaling = nan", "scaling"),
        ("\"tsd-sr\"", "\"other\"", "kind"),
        ("precision = \"f32\"", "precision = \"f8\"", "precision"),
        ("name = \"transformer.onnx\"", "name = \"../transformer.onnx\"", "../transformer.onnx"),
        ("name = \"vae_encoder.onnx\"", "name = \"other.onnx\"", "vae_encoder.onnx"),
        ("[step]", "[stride]", "stride"),
        ("version = 1", "version = 0", "version"),
        ("version = 1", "version", "="),
    ] {
        assert!(text.contains(from), "{from}");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let (fault, words) = refused(folder.path());
        assert!(fault == Fault::BadInput && words.contains(word) && words.contains(FACTS), "{from}: {words}");
    }
    std::fs::write(&path, text.replacen("version = 1", "version = 2", 1)).unwrap();
    assert_eq!(refused(folder.path()).0, Fault::NewerState);
    std::fs::remove_file(&path).unwrap();
    let (fault, words) = refused(folder.path());
    assert!(fault == Fault::NotFound && words.contains("model.toml") && words.contains("check"), "{words}");
    assert_eq!(refused(&folder.path().join("none")).0, Fault::NotFound);
}

/// A file of safetensors with one tensor of that name.
fn weights(path: &Path, name: &str) {
    let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([0; 8]);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn the_originals_files_are_looked_at_one_by_one() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path();
    assert!(!original::looks_like_it(folder));
    assert!(original::look(folder).iter().all(|file| file.state == ExportState::Missing));
    let at = |file: &str| folder.join(file);
    weights(&at("sd3/transformer/diffusion_pytorch_model.safetensors"), "a");
    weights(&at("sd3/vae/diffusion_pytorch_model.safetensors"), "a");
    weights(&at("lora/transformer.safetensors"), "transformer.x.lora_A.weight");
    weights(&at("lora/vae.safetensors"), "transformer.x.lora_B.weight");
    std::fs::write(at("sd3/transformer/config.json"), r#"{"_class_name":"SD3Transformer2DModel"}"#).unwrap();
    std::fs::write(at("sd3/vae/config.json"), r#"{"_class_name":"AutoencoderKL"}"#).unwrap();
    for (file, source) in [("prompt_embeds.pt", "prompt_embeds.pt"), ("pool_embeds.pt", "pool_embeds.pt")] {
        std::fs::copy(fixture().with_file_name(source), at(file)).unwrap();
    }
    let looked = original::look(folder);
    assert!(looked.iter().all(|file| matches!(file.state, ExportState::Right(_))), "{looked:?}");
    assert_eq!(original::folders(folder), [at("sd3"), at("lora"), folder.to_owned()]);
    let (fault, words) = refused(folder);
    assert!(fault == Fault::NotFound && words.contains("export_tsdsr.py"), "{words}");

    let wrong = |file: &str, word: &str| {
        let looked = original::look(folder);
        let found = looked.iter().find(|looked| looked.file == file).unwrap();
        assert!(matches!(&found.state, ExportState::Wrong(why) if why.contains(word)), "{file}: {found:?}");
        assert!(found.from.contains("TSD-SR") || found.from.contains("stable-diffusion-3"));
    };
    weights(&at("lora/vae.safetensors"), "decoder.weight");
    wrong("lora/vae.safetensors", "decoder.weight");
    let part = at("sd3/vae/diffusion_pytorch_model.safetensors");
    let bytes = std::fs::read(&part).unwrap();
    std::fs::write(&part, &bytes[..bytes.len() - 3]).unwrap();
    wrong("sd3/vae/diffusion_pytorch_model.safetensors", "in part");
    std::fs::write(&part, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n").unwrap();
    wrong("sd3/vae/diffusion_pytorch_model.safetensors", "Git LFS");
    std::fs::write(at("sd3/vae/config.json"), r#"{"_class_name":"UNet"}"#).unwrap();
    wrong("sd3/vae/config.json", "UNet");
    std::fs::copy(at("pool_embeds.pt"), at("prompt_embeds.pt")).unwrap();
    wrong("prompt_embeds.pt", "3 dimensions");
    std::fs::write(at("pool_embeds.pt"), "<html>").unwrap();
    wrong("pool_embeds.pt", "torch.save");

    // Weights in several files, named by an index.
    std::fs::remove_file(&part).unwrap();
    let index = at("sd3/vae/diffusion_pytorch_model.safetensors.index.json");
    std::fs::write(&index, r#"{"weight_map":{"a":"one.safetensors"}}"#).unwrap();
    wrong("sd3/vae/diffusion_pytorch_model.safetensors.index.json", "one.safetensors");
    weights(&at("sd3/vae/one.safetensors"), "a");
    let looked = original::look(folder);
    assert_eq!(looked[3].state, ExportState::Right("1 files".into()));
}
