//! Which arithmetic a network runs in: a fixed rule, and a check that it is good enough here.
//!
//! The rule. A person's `f32`, `bf16` or `f16` is taken as it is. `auto`: f32 for video of more
//! than 8 bits. For 8 bits, OpenVINO takes bf16 where the processor multiplies it in hardware
//! and the network gives only what is added to the source (bf16 has 8 significant bits: too
//! few for whole pictures), TensorRT and CUDA take f16 (11 significant bits), and the plain
//! processor f32. What is short by this rule must also reach [`PSNR_MIN`] against f32 on a
//! generated picture, on the device itself; else it is f32.

use anyhow::Result;

use upscaled_core::fault::{Fault, one_line};
use upscaled_core::types::engine::{Precision, Provider};

use crate::models::facts::ModelFacts;
use crate::models::model_file::ModelFile;
use crate::planning::test_picture;
use crate::runtime::cache::{Cache, CacheKey};
use crate::runtime::provider::{self, SessionTarget};
use crate::runtime::session::Net;

/// What short arithmetic must reach against f32, dB, white being 1.
pub const PSNR_MIN: f64 = 50.0;
/// Side of the picture that is checked, in source pixels.
const SIDE: usize = 96;
/// Larger than any figure: equal in every bit. dB.
const PSNR_EQUAL: f64 = 200.0;

/// The precision for a provider by the rule; `None` where a person asked for one that this
/// provider has not.
pub fn wanted(asked: &str, provider: Provider, depth: u8, facts: &ModelFacts, bf16: bool) -> Result<Option<Precision>> {
    let residual = facts.tail.as_ref().is_some_and(|t| t.residual);
    Ok(match (asked, provider) {
        ("f32", _) => Some(Precision::F32),
        ("bf16", Provider::Openvino) => Some(Precision::Bf16),
        ("f16", Provider::Tensorrt | Provider::Cuda) => Some(Precision::F16),
        ("bf16" | "f16", _) => None,
        ("auto", Provider::Openvino) if bf16 && depth == 8 && residual => Some(Precision::Bf16),
        ("auto", Provider::Tensorrt | Provider::Cuda) if depth == 8 => Some(Precision::F16),
        ("auto", _) => Some(Precision::F32),
        (other, _) => {
            return Err(Fault::Config.because(format!("precision: `{other}` is not auto, f32, bf16 or f16")));
        }
    })
}

/// What the precision that was asked for needs, in words.
pub fn needs(asked: &str) -> String {
    let what = match asked {
        "f16" => "an NVIDIA device (--device cuda:N or tensorrt:N)",
        "bf16" => "OpenVINO (--device openvino)",
        _ => "another device",
    };
    format!("{asked} needs {what}")
}

/// The precision that the check leaves of a short one, and the check in words.
pub fn checked(
    model: &ModelFile,
    target: SessionTarget,
    cache: Option<&Cache>,
    beat: &dyn Fn(),
) -> Result<(Precision, String)> {
    let SessionTarget { provider, precision, .. } = target;
    let key = CacheKey::of(model, target)?;
    let known = cache.and_then(|cache| cache.read::<f64>(&key));
    let figure = match known {
        Some(figure) => figure,
        None => {
            let figure = psnr(model, target, beat)?;
            if let Some(Err(error)) = cache.map(|cache| cache.write(&key, &figure)) {
                tracing::debug!("the check of the precision is not kept: {}", one_line(&error));
            }
            figure
        }
    };
    let name = precision.name();
    let words = format!("{name} against f32 on {}: {figure:.1} dB", provider::name(provider));
    if figure >= PSNR_MIN {
        Ok((precision, words))
    } else {
        Ok((Precision::F32, format!("{words}, less than {PSNR_MIN} dB; so f32")))
    }
}

/// PSNR (dB, white being 1) of the network in the target's precision against f32 on the same
/// device, over a generated picture of 8-bit codes. 0 where it gives what is no number.
pub fn psnr(model: &ModelFile, target: SessionTarget, beat: &dyn Fn()) -> Result<f64> {
    let facts = &model.facts;
    let multiple = facts.multiple.max(1) as usize;
    let side = |fixed: Option<usize>| fixed.unwrap_or(SIDE.next_multiple_of(multiple));
    let (height, width) = (side(facts.fixed[0]), side(facts.fixed[1]));
    let white = facts.white as f32;
    let network = model.network(facts.batch.unwrap_or(1), height, width)?;
    let outputs = [Precision::F32, target.precision].map(|precision| -> Result<Vec<f32>> {
        beat();
        let mut net = Net::open(&network, SessionTarget { precision, ..target })?;
        let planes = net.input().chunks_exact_mut(width * height);
        for (n, plane) in planes.enumerate() {
            let values = test_picture::plane(width, height, n as u32 + 1, 0);
            plane.iter_mut().zip(values).for_each(|(to, value)| *to = (value * 255.0).round() / 255.0 * white);
        }
        beat();
        net.run(|_, output| output.iter().map(|v| v / white).collect())
    });
    let [exact, short] = outputs;
    Ok(compare(&exact?, &short?))
}

fn compare(exact: &[f32], short: &[f32]) -> f64 {
    let sum: f64 = exact.iter().zip(short).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let error = sum / exact.len().max(1) as f64;
    match error {
        0.0 => PSNR_EQUAL,
        e if e.is_finite() => (-10.0 * e.log10()).clamp(0.0, PSNR_EQUAL),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::runtime_is_here;

    #[test]
    fn the_rule_follows_depth_hardware_and_network() {
        let facts = ModelFile::open("fast").unwrap().facts;
        let whole = ModelFacts { tail: None, ..facts.clone() };
        let rule = |asked, provider, depth, facts: &ModelFacts, bf16| wanted(asked, provider, depth, facts, bf16);
        let some = |precision| Some(precision);
        use Provider::{Cpu, Cuda, Openvino, Tensorrt};
        for (asked, provider, depth, facts, bf16, want) in [
            ("auto", Openvino, 8, &facts, true, some(Precision::Bf16)),
            ("auto", Openvino, 8, &facts, false, some(Precision::F32)),
            ("auto", Openvino, 10, &facts, true, some(Precision::F32)),
            ("auto", Openvino, 8, &whole, true, some(Precision::F32)),
            ("f32", Openvino, 8, &facts, true, some(Precision::F32)),
            ("bf16", Openvino, 10, &facts, false, some(Precision::Bf16)),
            ("bf16", Cpu, 8, &facts, true, None),
            ("f16", Openvino, 8, &facts, true, None),
            ("auto", Tensorrt, 8, &whole, false, some(Precision::F16)),
            ("auto", Tensorrt, 10, &facts, false, some(Precision::F32)),
            ("auto", Cuda, 8, &facts, true, some(Precision::F16)),
            ("f16", Cuda, 10, &facts, true, some(Precision::F16)),
            ("auto", Cpu, 8, &facts, true, some(Precision::F32)),
        ] {
            assert_eq!(rule(asked, provider, depth, facts, bf16).unwrap(), want, "{asked} {provider:?} {depth}");
        }
        let error = rule("f8", Cpu, 8, &facts, true).unwrap_err();
        assert_eq!(Fault::of(&error), Fault::Config);
    }

    #[test]
    fn figures_are_decibels() {
        assert_eq!(compare(&[0.5; 4], &[0.5; 4]), PSNR_EQUAL);
        assert!((compare(&[0.5; 4], &[0.51; 4]) - 40.0).abs() < 1e-3);
        assert_eq!((compare(&[0.5], &[f32::NAN]), compare(&[0.5], &[f32::INFINITY])), (0.0, 0.0));
    }

    #[test]
    fn the_default_model_passes_and_the_figure_is_kept() {
        if !runtime_is_here() || !provider::is_here(Provider::Openvino) {
            return;
        }
        let model = ModelFile::open("fast").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let target = SessionTarget { provider: Provider::Openvino, device: 0, precision: Precision::Bf16, threads: 1 };
        let first = checked(&model, target, cache.as_ref(), &|| {}).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(first.0 == Precision::Bf16 && first.1.contains("dB"), "{}", first.1);
        assert_eq!(checked(&model, target, cache.as_ref(), &|| {}).unwrap(), first);
        let f32 = psnr(&model, SessionTarget { precision: Precision::F32, ..target }, &|| {}).unwrap();
        assert_eq!(f32, PSNR_EQUAL);
    }
}
