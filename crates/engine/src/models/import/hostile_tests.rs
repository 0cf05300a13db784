//! Damaged, wrong and hostile files of weights: each an error that says why, never a panic.

use std::io::{Cursor, Write};

use zip::write::SimpleFileOptions;

use super::testing::{cases, folder};
use super::weights::{Tensor, Weights};
use super::*;

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap()
}

/// A file of torch.save with a pickle and the values of storage 0.
fn archive(pickle: &[u8], values: &[u8]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [("any/data.pkl", pickle), ("any/data/0", values)] {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// The pickle of `{"x": tensor}`, of `count` numbers, all given as instructions.
fn tensor(count: &str, offset: &str, dims: &str, strides: &str) -> Vec<u8> {
    let long = |number: &str| format!("L{number}L\n");
    let tuple = |numbers: &str| format!("({}t", numbers.split(' ').map(long).collect::<String>());
    let storage = format!("(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\n{}tQ", long(count));
    let arguments = format!("({storage}{}{}{}I00\nNt", long(offset), tuple(dims), tuple(strides));
    format!("(dS'x'\nctorch._utils\n_rebuild_tensor_v2\n{arguments}Rs.").into_bytes()
}

fn message(bytes: &[u8]) -> String {
    format!("{:#}", parse(bytes, "x.pth").unwrap_err())
}

#[test]
fn code_in_an_archive_is_named() {
    let error = parse(&archive(b"cos\nsystem\n(S'true'\ntR.", b""), "x.pth").unwrap_err();
    assert_eq!(Fault::of(&error), Fault::Unsupported);
    assert!(error.to_string().contains("`os.system`: not weights but code; it was not run"), "{error}");
    assert!(message(b"\x80\x02cos\nsystem\n.").contains("`os.system`"));
}

#[test]
fn tensors_that_lie_are_told() {
    let values: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    // The honest one is read, and is no network.
    assert!(
        message(&archive(&tensor("4", "0", "2 2", "2 1"), &values)).contains("not known here (its tensors are `x`)")
    );
    for (count, offset, dims, strides, word) in [
        ("4", "1", "2 2", "2 1", "beyond its values"),
        ("5", "0", "2 2", "2 1", "beyond its values"),
        ("4", "0", "2 2", "3 1", "beyond its values"),
        ("4", "9223372036854775807", "2 2", "2 1", "beyond its values"),
        ("4", "0", "2 2", "9223372036854775807 1", "beyond its values"),
        ("4", "0", "1000000000 1000000000", "0 0", "larger than any network"),
        ("4", "0", "1000000000", "0", "larger than any network"),
        ("4", "0", "1 1 1 1 1 1 1 1 1", "1 1 1 1 1 1 1 1 1", "shape"),
        ("4", "0", "2 2", "1", "shape"),
        ("4", "0", "-1", "1", "size"),
        ("-4", "0", "2 2", "2 1", "size"),
        ("99999999999999999999999", "0", "2 2", "2 1", "number"),
    ] {
        let text = message(&archive(&tensor(count, offset, dims, strides), &values));
        assert!(text.contains(word), "{count} {offset} {dims} {strides}: {text}");
    }
    let nan: Vec<u8> = [1.0f32, f32::NAN, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert!(message(&archive(&tensor("4", "0", "2 2", "2 1"), &nan)).contains("`x` holds NaN"));
}

#[test]
fn other_archives_are_told() {
    assert!(message(&archive(b"N.", b"")).contains("no dictionary"));
    assert!(message(&archive(b"}.", b"")).contains("no tensors"));
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file(
        "word/document.xml",
        SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored),
    )
    .unwrap();
    assert!(message(&zip.finish().unwrap().into_inner()).contains("data.pkl"));
    for bytes in [&b""[..], b"PK\x03\x04", b"\x89PNG\r\n", b"\x80", &[0x80; 100], b"\xff\xff\xff\xff\xff\xff\xff\xff{}"]
    {
        assert!(parse(bytes, "x").is_err(), "{bytes:?}");
    }
    let huge = [&(1u64 << 40).to_le_bytes()[..], b"{\"a\":1}"].concat();
    assert!(parse(&huge, "x").is_err());
    let claim = br#"{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}"#;
    let claim = [&(claim.len() as u64).to_le_bytes()[..], claim].concat();
    assert!(message(&claim).contains("safetensors"));
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Fault::of(&read(&folder.path().join("no.pth")).unwrap_err()), Fault::NotFound);
    assert_eq!(Fault::of(&read(folder.path()).unwrap_err()), Fault::BadInput);
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    for name in ["compact-x2-one-slope.pth", "compact-x1-luma-f16.pth", "compact-x2-bf16.safetensors"] {
        let bytes = fixture(name);
        assert!(parse(&bytes, name).is_ok());
        for end in (0..bytes.len()).step_by(23).chain([bytes.len() - 1]) {
            assert!(parse(&bytes[..end], name).is_err(), "{name} cut at {end}");
        }
    }
}

#[test]
fn no_changed_byte_makes_it_panic() {
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize
    };
    let (mut well, mut ill) = (0, 0);
    for name in ["compact-x2-one-storage-old.pth", "compact-x2-parameters.pth", "compact-x2-bf16.safetensors"] {
        let bytes = fixture(name);
        for round in 0..1500 {
            let mut bytes = bytes.clone();
            for _ in 0..=round % 4 {
                // Half of the changes hit the pickle or header at the beginning.
                let within = if random() % 2 == 0 { bytes.len() } else { bytes.len().min(1200) };
                let at = random() % within;
                bytes[at] = if random() % 2 == 0 { random() as u8 } else { bytes[at] ^ 1 << (random() % 8) };
            }
            match parse(&bytes, name) {
                Ok(_) => well += 1,
                Err(_) => ill += 1,
            }
        }
    }
    assert!(well > 50 && ill > 500, "{well} {ill}");
}

/// The weights of a fixture.
fn weights(name: &str) -> Weights {
    let bytes = fixture(name);
    let state = if torch_zip::is(&bytes) {
        torch_zip::read(&bytes)
    } else if torch_legacy::is(&bytes) {
        torch_legacy::read(&bytes)
    } else {
        safetensors::read(&bytes)
    };
    state.unwrap().weights
}

#[test]
fn weights_that_do_not_fit_are_told() {
    for name in ["compact-x4.pth", "rrdb-x4-trunk.pth", "rrdb-x1-esrgan.safetensors", "span-x2.safetensors"] {
        let good = weights(name);
        assert!(recognise::recognise(&good, name).is_ok());
        let mut more = good.clone();
        more.add("body.0.more", Tensor { dims: vec![1], data: vec![1.0] }).unwrap();
        assert!(recognise::recognise(&more, name).is_err(), "{name} with one more");
        for key in good.tensors.keys() {
            let mut less = good.clone();
            let tensor = less.tensors.remove(key).unwrap();
            // A convolution may be without a bias; all else is needed.
            let bias = key.ends_with(".bias") || key.contains("eval_conv");
            assert!(bias || recognise::recognise(&less, name).is_err(), "{name} without {key}");
            for dims in [vec![], vec![0, 0, 3, 3], vec![7, 7, 2, 3], [&tensor.dims[..], &[1]].concat()] {
                let count = dims.iter().product();
                less.tensors.insert(key.clone(), Tensor { dims, data: vec![0.5; count] });
                let wrong = recognise::recognise(&less, name);
                assert!(wrong.is_err() || key.contains("eval_conv"), "{name} with another {key}");
            }
        }
    }
}

#[test]
fn other_networks_are_named() {
    let named = |key: &str| {
        let mut weights = Weights::default();
        weights.add(key, Tensor { dims: vec![1], data: vec![1.0] }).unwrap();
        recognise::recognise(&weights, "x").unwrap_err().to_string()
    };
    assert!(named("layers.0.residual_group.blocks.0.norm1.weight").contains("transformers are not supported"));
    assert!(named("feats.1.lk.conv.weight").contains("RealPLKSR"));
    assert!(named("head.0.weight").contains("not known here (its tensors are `head.0.weight`)"));
    let fsrcnn = parse(&fixture("fsrcnn_x2.safetensors"), "mine.safetensors").unwrap_err();
    assert!(fsrcnn.to_string().contains("file's name"), "{fsrcnn}");
}

#[test]
fn what_was_taken_is_told() {
    let told = |name: &str| {
        let imported = read(&folder().join(name)).unwrap();
        (imported.kind, imported.taken, imported.remarks)
    };
    let (kind, taken, remarks) = told("compact-x2-ema.pth");
    assert_eq!((kind.as_str(), taken.as_str()), ("SRVGGNetCompact, 1 convolutions, 6 wide", "params_ema"));
    assert_eq!(remarks, ["holds `params` too; `params_ema` was taken"]);
    assert_eq!(told("compact-x2-training.ckpt").1, "state_dict");
    assert_eq!(told("compact-x2-one-slope.pth").1, "bare keys");
    assert_eq!(told("rrdb-x4.pth").0, "RRDBNet (ESRGAN), 2 blocks, 3 wide, 2 growing");
    assert_eq!(cases().len(), std::fs::read_dir(folder()).unwrap().count() / 2);
}
