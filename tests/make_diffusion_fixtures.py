#!/usr/bin/env python3
"""Makes tests/fixtures/diffusion: a tiny random network of TSD-SR's kind, exported by
training/export_tsdsr.py, and what the algorithm makes of pictures with it in PyTorch, f32.

    python3 tests/make_diffusion_fixtures.py [folder]

Needs training/requirements-tsdsr.txt; the tests themselves need none of it. The algorithm is
written here from its description (github.com/Microtreei/TSD-SR, test/test_tsdsr.py and utils/),
with sizes in multiples of 16 pixels where a picture is no more than a tile, noise from the generator of crates/engine/src/diffusion/noise.rs and
this program's own tiles for the VAE.

    model/              the exported folder
    *_embeds.pt         embeddings as PyTorch saves them
    cases.json          sizes and settings of each case
    NAME.rgb            bytes of the picture, then of the result without, with the wavelet and with
                        the AdaIN colour fix, rounded once; then the same three as the original rounds
                        them: downwards, after every step. Of a case with "every" the picture is drawn by
                        a rule, and of each result only every so-many-th byte is kept
    arithmetic.json/.f32    planes of floats: bicubic, wavelet, AdaIN and noise from NumPy
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, SD3Transformer2DModel
from PIL import Image
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from training import export_tsdsr  # noqa: E402

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "tests" / "fixtures" / "diffusion"
CHANNELS, FACTOR, PATCH, TOKENS = 4, 8, 2, 6
TILE, OVERLAP = 8, 2
SCALING = 1.5305
torch.set_num_threads(1)


# The tiny networks.


def networks(folder):
    torch.manual_seed(6)
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=PATCH, in_channels=CHANNELS, out_channels=CHANNELS, num_layers=2,
        attention_head_dim=8, num_attention_heads=2, joint_attention_dim=24, caption_projection_dim=16,
        pooled_projection_dim=12, pos_embed_max_size=24)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, latent_channels=CHANNELS, norm_num_groups=4,
        use_quant_conv=False, use_post_quant_conv=False, scaling_factor=SCALING, shift_factor=0.0609)
    for module in (transformer, vae):
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.data += 0.05 * torch.randn(parameter.shape)
    # As much contrast as a trained one has, in latents, velocities and pictures.
    with torch.no_grad():
        moments = vae.encoder(torch.rand(1, 3, 64, 64) * 2 - 1)
        vae.encoder.conv_out.weight[:CHANNELS] *= 1.0 / moments[:, :CHANNELS].std()
        vae.encoder.conv_out.bias[CHANNELS:] -= 3.0
        vae.decoder.conv_out.weight *= 0.45 / vae.decoder(torch.randn(1, CHANNELS, 12, 12)).std()
        transformer.proj_out.weight *= 6.0
    transformer.save_pretrained(folder / "sd3" / "transformer")
    vae.save_pretrained(folder / "sd3" / "vae")

    (folder / "lora").mkdir()
    ends = ("to_k", "to_q", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "proj", "linear", "proj_out")
    chosen = {
        "transformer": lambda name: any(name == end or name.endswith("." + end) for end in ends),
        "vae": lambda name: name.startswith("encoder."),
    }
    for name, module in (("transformer", transformer), ("vae", vae)):
        factors = {}
        for path, layer in module.named_modules():
            if not isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)) or not chosen[name](path):
                continue
            rank, fan = 3, layer.weight[0].numel()
            down = torch.randn(rank, *layer.weight.shape[1:]) / fan**0.5
            up = 0.3 * torch.randn(layer.weight.shape[0], rank, *(1,) * (layer.weight.dim() - 2)) / rank**0.5
            factors[f"transformer.{path}.lora_A.weight"] = down
            factors[f"transformer.{path}.lora_B.weight"] = up
        save_file(factors, folder / "lora" / f"{name}.safetensors")
    torch.save(torch.randn(1, TOKENS, 24), folder / "prompt_embeds.pt")
    torch.save(torch.randn(1, 12), folder / "pool_embeds.pt")
    return merged(folder)


def merged(folder):
    """The networks with LoRA, merged here by another way than the export's: layer by layer, by
    running both factors on the unit vectors of the layer's input."""
    transformer = SD3Transformer2DModel.from_pretrained(folder / "sd3" / "transformer").eval()
    vae = AutoencoderKL.from_pretrained(folder / "sd3" / "vae").eval()
    for name, module in (("transformer", transformer), ("vae", vae)):
        factors = load_file(folder / "lora" / f"{name}.safetensors")
        for path, layer in module.named_modules():
            down = factors.get(f"transformer.{path}.lora_A.weight")
            if down is None:
                continue
            up = factors[f"transformer.{path}.lora_B.weight"]
            with torch.no_grad():
                for index in np.ndindex(*layer.weight.shape[1:]):
                    column = up.reshape(up.shape[0], -1) @ down[(slice(None), *index)]
                    layer.weight[(slice(None), *index)] += column
    return transformer, vae


# The algorithm.


def noise(seed, count):
    """SplitMix64, then Box and Muller, in pairs; computed in f64."""
    with np.errstate(over="ignore"):
        n = np.arange(1, 2 * ((count + 1) // 2) + 1, dtype=np.uint64)
        z = np.uint64(seed) + n * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    unit = (z >> np.uint64(11)).astype(np.float64) / 2.0**53
    radius, angle = np.sqrt(-2.0 * np.log(1.0 - unit[0::2])), 2.0 * np.pi * unit[1::2]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return pairs.reshape(-1)[:count].astype(np.float32)


def planned(width, height, scale, process):
    """The size that the networks work at."""
    least = process // scale
    if min(width, height) < least:
        factor = least / min(width, height)
        width, height = int(factor * width), int(factor * height)
    sides = (width * scale, height * scale)
    # Where every tile has its full side, odd sides of the latent work, as in the original.
    tiled = min(sides) // FACTOR >= TILE and max(sides) // FACTOR > TILE
    unit = FACTOR if tiled else FACTOR * PATCH
    return tuple(max(unit, side // unit * unit) for side in sides)


def latent_places(length, tile):
    """Where tiles begin along an axis: at equal steps, the last one at the end."""
    steps = range(0, length - tile, tile - OVERLAP)
    return [*steps, length - tile]


def velocity(transformer, conditions, z):
    prompt, pooled = conditions

    def run(part):
        return transformer(hidden_states=part, timestep=torch.tensor([1000.0]), encoder_hidden_states=prompt,
                           pooled_projections=pooled, return_dict=False)[0]

    height, width = z.shape[-2:]
    if height * width <= TILE * TILE:
        return run(z)
    tile = min(TILE, height, width)
    at = torch.arange(tile, dtype=torch.float64)
    across = torch.exp(-((at - (tile - 1) / 2) ** 2) / tile**2 / 0.02)
    down = torch.exp(-((at - tile / 2) ** 2) / tile**2 / 0.02)
    weight = (down[:, None] * across[None, :]).float()
    total, weights = torch.zeros_like(z), torch.zeros(height, width)
    for y in latent_places(height, tile):
        for x in latent_places(width, tile):
            total[..., y:y + tile, x:x + tile] += weight * run(z[..., y:y + tile, x:x + tile])
            weights[y:y + tile, x:x + tile] += weight
    return total / weights


def in_tiles(run, value, tile, overlap, grows, shrinks):
    """A part of the VAE in overlapping tiles (sides in samples of `value`), blended linearly over
    the middle half of the overlap."""
    height, width = value.shape[-2:]
    if not tile or (height <= tile and width <= tile):
        return run(value)

    def spread(length):
        side = min(tile, length)
        count = 1 if length <= side else -(-(length - overlap) // (side - overlap))
        unit = shrinks
        last = (length - side) // unit
        return side, [(2 * n * last + count - 1) // (2 * (count - 1)) * unit if count > 1 else 0 for n in range(count)]

    def ramp(side, start, length):
        out = side * grows // shrinks
        cut, slope = (overlap * grows // shrinks) / 4, (overlap * grows // shrinks) / 2
        at = torch.arange(out, dtype=torch.float64) + 0.5
        rise = ((at - cut) / slope).clamp(1e-3, 1) if start > 0 else torch.ones(out, dtype=torch.float64)
        fall = ((out - at - cut) / slope).clamp(1e-3, 1) if start + side < length else torch.ones_like(rise)
        return rise * fall

    (tall, rows), (broad, columns) = spread(height), spread(width)
    total = weights = None
    for y in rows:
        for x in columns:
            part = run(value[..., y:y + tall, x:x + broad])
            if total is None:
                total = torch.zeros(*part.shape[:-2], height * grows // shrinks, width * grows // shrinks)
                weights = torch.zeros(total.shape[-2:])
            weight = (ramp(tall, y, height)[:, None] * ramp(broad, x, width)[None, :]).float()
            top, left = y * grows // shrinks, x * grows // shrinks
            place = (..., slice(top, top + part.shape[-2]), slice(left, left + part.shape[-1]))
            total[place] += weight * part
            weights[place[1:]] += weight
    return total / weights


def upscaled(parts, conditions, picture, case):
    """What the decoder makes, in -1..1 (height, width, 3)."""
    transformer, vae = parts
    height, width = picture.shape[:2]
    scale = case["scale"]
    to = planned(width, height, scale, case["process"])
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    x = F.interpolate(x, size=(to[1], to[0]), mode="bicubic", align_corners=False)
    x = (x * 2 - 1).clamp(-1, 1)
    encode_tile, decode_tile = case.get("encode_tile", 0), case.get("decode_tile", 0)
    overlap = case.get("vae_overlap", 0)
    moments = in_tiles(vae.encoder, x, encode_tile * FACTOR, overlap * FACTOR, 1, FACTOR)
    mean, log_variance = moments.chunk(2, dim=1)
    sample = mean
    if case["latent"] == "sample":
        grain = torch.from_numpy(noise(case["seed"], mean.numel())).reshape(mean.shape)
        sample = mean + (0.5 * log_variance.clamp(-30, 20)).exp() * grain
    z = sample * SCALING
    x0 = z - velocity(transformer, conditions, z)
    image = in_tiles(vae.decoder, x0 / SCALING, decode_tile, overlap, FACTOR, 1).clamp(-1, 1)
    return image[0].permute(1, 2, 0)


def finished(decoded, picture, scale):
    """In floats, 0..1: without, with the wavelet, with the AdaIN colour fix; rounded at the end."""
    size = (picture.shape[1] * scale, picture.shape[0] * scale)
    image = resized((decoded / 2 + 0.5).numpy(), size)
    source = picture.astype(np.float32) / 255
    parts = image, wavelet(image, resized(source, size)), adain(image, source)
    return [(part.clip(0, 1) * 255).round().astype(np.uint8) for part in parts]


def resized(image, size):
    """Pillow's bicubic on floats, held to 0..1 after each axis as on bytes."""
    for to in ((size[0], image.shape[0]), size):
        planes = [Image.fromarray(plane).resize(to, Image.Resampling.BICUBIC) for plane in np.moveaxis(image, 2, 0).copy()]
        image = np.stack([np.asarray(plane) for plane in planes], axis=2).clip(0, 1)
    return image


def finished_in_bytes(decoded, picture, scale):
    """The same as the original does it."""
    size = (picture.shape[1] * scale, picture.shape[0] * scale)
    image = (decoded / 2 + 0.5).mul(255).byte().numpy()
    if image.shape[1::-1] != size:
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    source = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
    fixed = [wavelet(image / 255.0, source / 255.0), adain(image / 255.0, picture / 255.0)]
    return [image, *((part.clip(0, 1) * 255).astype(np.uint8) for part in fixed)]


# The arithmetic in NumPy; planes are (height, width, channels).


def blurred(x, radius):
    kernel = np.array([1.0, 2.0, 1.0]) / 4
    for axis in (0, 1):
        around = [(radius, radius) if a == axis else (0, 0) for a in range(x.ndim)]
        wide = np.pad(x, around, mode="edge")
        length = x.shape[axis]
        x = sum(k * np.take(wide, range(n * radius, n * radius + length), axis) for n, k in enumerate(kernel))
    return x


def wavelet(image, source):
    def parts(x):
        low, high = x.astype(np.float64), 0.0
        for level in range(5):
            lower = blurred(low, 2**level)
            high, low = high + (low - lower), lower
        return high, low

    return parts(image)[0] + parts(source)[1]


def adain(image, source):
    def facts(x):
        x = x.astype(np.float64).reshape(-1, x.shape[-1])
        return x.mean(0), np.sqrt(x.var(0, ddof=1) + 1e-5)

    (mean, deviation), (to_mean, to_deviation) = facts(image), facts(source)
    return (image - mean) / deviation * to_deviation + to_mean


def bicubic(plane, to):
    """Keys' cubic with a = -3/4 at the sample's four neighbours, edges repeated."""

    def along(x, count):
        length, a = x.shape[0], -0.75
        place = (np.arange(count) + 0.5) * length / count - 0.5
        first = np.floor(place).astype(int)
        out = 0.0
        for tap in range(-1, 3):
            d = np.abs(place - (first + tap))
            inner = ((a + 2) * d - (a + 3)) * d * d + 1
            outer = a * (((d - 5) * d + 8) * d - 4)
            weight = np.where(d <= 1, inner, np.where(d < 2, outer, 0.0))
            out = out + weight[:, None] * x[np.clip(first + tap, 0, length - 1)]
        return out

    return along(along(plane.astype(np.float64), to[1]).T, to[0]).T


# The fixtures.


def picture(width, height, seed):
    """Slow light, bars and grain."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = [110 + 70 * np.sin(x / 7 + c + seed) + 40 * np.cos(y / 5 - c) + 45 * ((x + 2 * y) % 17 < 5) for c in range(3)]
    return (np.stack(planes, axis=2) + random.normal(0, 4, (height, width, 3))).clip(0, 255).astype(np.uint8)


def ruled(width, height):
    """Slow ramps and bars, in whole numbers: the tests draw it too."""
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    return (96 + (5 * x + 3 * y + 40 * c) % 97 + (x // 9 + y // 7 + c) % 2 * 50).astype(np.uint8)


CASES = [
    dict(name="below-process-size", size=[24, 20], scale=2, process=64, latent="sample", seed=0),
    dict(name="odd-untiled", size=[33, 37], scale=2, process=64, latent="sample", seed=1),
    dict(name="odd-tiled", size=[53, 41], scale=2, process=64, latent="sample", seed=2**63 + 5),
    dict(name="four-odd", size=[25, 18], scale=4, process=64, latent="mean", seed=0),
    dict(name="four-whole", size=[36, 28], scale=4, process=64, latent="sample", seed=4),
    dict(name="vae-tiles", size=[40, 52], scale=2, process=64, latent="sample", seed=5,
         encode_tile=8, decode_tile=8, vae_overlap=4),
    dict(name="large-1928x1080", size=[964, 540], scale=2, process=64, latent="sample", seed=6,
         encode_tile=64, decode_tile=64, vae_overlap=16, every=331),
    dict(name="large-1024x504", size=[512, 252], scale=2, process=64, latent="sample", seed=7,
         encode_tile=64, decode_tile=64, vae_overlap=16, every=331),
]


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        parts = networks(work)
        export_tsdsr.export(work / "sd3", work / "lora", work, FOLDER / "model", "f32", TILE, OVERLAP)
        for name in ("prompt_embeds.pt", "pool_embeds.pt"):
            shutil.copy(work / name, FOLDER / name)
        conditions = [torch.load(work / f"{name}_embeds.pt", weights_only=True) for name in ("prompt", "pool")]
    for case in CASES:
        every = case.get("every", 0)
        source = ruled(*case["size"]) if every else picture(*case["size"], case["seed"] % 1000)
        with torch.no_grad():
            decoded = upscaled(parts, conditions, source, case)
        once = finished(decoded, source, case["scale"])
        often = finished_in_bytes(decoded, source, case["scale"])
        print(case["name"], "mean", once[0].mean().round(1), "deviation", once[0].std().round(1))
        kept = [part.reshape(-1)[::every] for part in (*once, *often)] if every else [source, *once, *often]
        (FOLDER / f"{case['name']}.rgb").write_bytes(b"".join(part.tobytes() for part in kept))
    (FOLDER / "cases.json").write_text(json.dumps(CASES, indent=1) + "\n")

    random = np.random.default_rng(7)
    small, large, other = (random.random(size).astype(np.float32) for size in ((13, 17, 3), (45, 38, 3), (45, 38, 3)))
    wide = np.stack([bicubic(small[..., c], (64, 48)) for c in range(3)], axis=2)
    torch_wide = F.interpolate(torch.from_numpy(small).permute(2, 0, 1)[None], size=(48, 64), mode="bicubic")
    assert np.abs(torch_wide[0].permute(1, 2, 0).numpy() - wide).max() < 1e-5
    arrays = dict(small=small, large=large, other=other, bicubic=wide, wavelet=wavelet(large, other),
                  adain=adain(large, small), noise=noise(42, 1001)[None, :, None])
    # One plane after the other.
    planes = {name: np.moveaxis(value, 2, 0).astype("<f4") for name, value in arrays.items()}
    (FOLDER / "arithmetic.json").write_text(json.dumps({name: value.shape for name, value in planes.items()}) + "\n")
    (FOLDER / "arithmetic.f32").write_bytes(b"".join(value.tobytes() for value in planes.values()))


if __name__ == "__main__":
    main()
