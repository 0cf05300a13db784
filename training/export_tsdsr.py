#!/usr/bin/env python3
"""Exports TSD-SR for `upscaled`: Stable Diffusion 3's VAE and transformer, with TSD-SR's LoRA
merged into them, as three ONNX files, the text embeddings as plain tensors, and model.toml.

    python3 training/export_tsdsr.py --sd3 SD3 --lora LORA --embeddings EMB --out models/tsdsr

SD3    the folder of stabilityai/stable-diffusion-3-medium-diffusers; only `transformer/` and
       `vae/` of it are read
LORA   the folder with TSD-SR's `transformer.safetensors` and `vae.safetensors`
EMB    the folder with TSD-SR's `prompt_embeds.pt` and `pool_embeds.pt`

Nothing is fetched, and the .pt files are read as plain tensors only (`weights_only`). Each part
is compared with PyTorch before the folder gets its name. Facts about the files and the algorithm:
github.com/Microtreei/TSD-SR (test/test_tsdsr.py, utils/util.py).
"""

import argparse
import hashlib
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from safetensors.torch import load_file, save_file

TIMESTEP = 1000.0
# The scaling is SD3's. SD3 also shifts its latents; TSD-SR neither trains nor runs with a shift.
SHIFT = 0.0
LATENT_TILE, LATENT_OVERLAP = 64, 8
OPSET = 18
FACTS = "model.toml"
# Larger files keep their weights in a second one.
EXTERNAL_BYTES = 1 << 30
# Largest difference between ONNX and PyTorch, as a part of the largest value.
TOLERANCE = {"f32": 1e-3, "f16": 3e-2}


class Refused(Exception):
    """What is wrong with which file, and what to do."""


def merge(module, lora, source):
    """Adds to each weight the product of its two LoRA factors; returns how many were changed."""
    prefix, down, up = "transformer.", ".lora_A.weight", ".lora_B.weight"
    modules = dict(module.named_modules())
    left, merged = dict(lora), 0
    for key in sorted(lora):
        if not key.endswith(down):
            continue
        path = key.removeprefix(prefix).removesuffix(down)
        a = left.pop(key).float()
        b = left.pop(prefix + path + up, None)
        target = getattr(modules.get(path), "weight", None)
        if not key.startswith(prefix) or b is None or target is None:
            raise Refused(f"{source}: {key} has no place in this network; is it the LoRA of another one?")
        b = b.float()
        change = torch.einsum("or,ri->oi", b.flatten(1), a.flatten(1))
        if b.shape[1] != a.shape[0] or b[0, 0].numel() != 1 or change.numel() != target.numel():
            raise Refused(f"{source}: {key} is {tuple(a.shape)}, which does not fit a weight of {tuple(target.shape)}")
        target.data += change.reshape(target.shape)
        merged += 1
    if left or not merged:
        raise Refused(f"{source}: {next(iter(left), 'nothing in it')} is no LoRA weight that is known")
    return merged


def places_of(patch_embed):
    """The middle of the position table, written so that sizes stay free in the exported graph."""
    side, patch = patch_embed.pos_embed_max_size, patch_embed.patch_size

    def crop(height, width):
        table = patch_embed.pos_embed.reshape(side, side, -1)

        def middle(length):
            count = length // patch
            return torch.arange(count) + (side - count) // 2

        return table[middle(height)][:, middle(width)].reshape(1, -1, table.shape[-1])

    return crop


class Encoder(torch.nn.Module):
    """Picture in -1..1 to the moments: mean, then log variance."""

    def __init__(self, vae):
        super().__init__()
        self.encoder = vae.encoder
        self.after = vae.quant_conv or torch.nn.Identity()

    def forward(self, image):
        return self.after(self.encoder(image.to(self.encoder.conv_in.weight.dtype))).float()


class Decoder(torch.nn.Module):
    """Latent, unscaled, to a picture in about -1..1."""

    def __init__(self, vae):
        super().__init__()
        self.before = vae.post_quant_conv or torch.nn.Identity()
        self.decoder = vae.decoder

    def forward(self, latent):
        return self.decoder(self.before(latent.to(self.decoder.conv_in.weight.dtype))).float()


class Transformer(torch.nn.Module):
    """Latents and the conditions, which all of them share, to velocities."""

    def __init__(self, transformer):
        super().__init__()
        self.transformer = transformer
        transformer.pos_embed.cropped_pos_embed = places_of(transformer.pos_embed)

    def forward(self, latent, timestep, prompt, pooled):
        count, kind = latent.shape[0], self.transformer.dtype
        return self.transformer(
            hidden_states=latent.to(kind),
            timestep=timestep.expand(count),
            encoder_hidden_states=prompt.to(kind).expand(count, -1, -1),
            pooled_projections=pooled.to(kind).expand(count, -1),
            return_dict=False,
        )[0].float()


def write(module, inputs, shapes, names, output, path):
    program = torch.onnx.export(
        module, inputs, input_names=names, output_names=[output], dynamic_shapes=shapes, opset_version=OPSET,
        dynamo=True, verbose=False,
    )
    ClearMetadataAndDocStringPass()(program.model)
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    program.save(path, external_data=size > EXTERNAL_BYTES)


def check(path, wanted, cases, names, precision):
    """The largest difference between an ONNX file and what PyTorch gave."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    worst, largest = 0.0, 0.0
    for inputs, want in zip(cases, wanted):
        got = session.run(None, {name: value.numpy() for name, value in zip(names, inputs)})[0]
        worst = max(worst, float(np.abs(got - want).max()))
        largest = max(largest, float(np.abs(want).max()))
    limit = TOLERANCE[precision] * max(largest, 1.0)
    print(f"{path.name}: largest difference from PyTorch {worst:.2e} of values up to {largest:.2f}")
    if not worst <= limit:
        raise Refused(f"{path.name} differs from PyTorch by {worst:.2e}, more than {limit:.2e}: nothing is kept")


def part(module, cases, shapes, names, output, path, precision):
    """Writes one part and compares it at several sizes with PyTorch in f32."""
    module.eval().requires_grad_(False)
    wanted = [module(*inputs).numpy() for inputs in cases]
    if precision == "f16":
        module.half()
    write(module, cases[0], shapes, names, output, path)
    check(path, wanted, cases, names, precision)


def tensor_of(path, dims):
    value = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(value, torch.Tensor) or value.dim() != dims or value.shape[0] != 1:
        raise Refused(f"{path}: not one tensor of {dims} dimensions, the first of length 1")
    return value.float().contiguous()


def found(path):
    if not path.exists():
        raise Refused(f"{path} is missing; `upscaled model check` says where each file comes from")
    return path


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def export(sd3, lora, embeddings, out, precision="f32", tile=LATENT_TILE, overlap=LATENT_OVERLAP):
    sd3, lora, embeddings, out = (Path(p) for p in (sd3, lora, embeddings, out))
    if out.exists() and not (out / FACTS).exists():
        raise Refused(f"{out} is there and was not made by this program; choose another name")
    prompt = tensor_of(found(embeddings / "prompt_embeds.pt"), 3)
    pooled = tensor_of(found(embeddings / "pool_embeds.pt"), 2)
    vae = AutoencoderKL.from_pretrained(found(sd3 / "vae"), torch_dtype=torch.float32, local_files_only=True)
    transformer = SD3Transformer2DModel.from_pretrained(
        found(sd3 / "transformer"), torch_dtype=torch.float32, local_files_only=True)
    for module, name in [(vae, "vae"), (transformer, "transformer")]:
        file = found(lora / f"{name}.safetensors")
        print(f"{file}: {merge(module, load_file(file), file)} weights changed")

    config = transformer.config
    if prompt.shape[2] != config.joint_attention_dim or pooled.shape[1] != config.pooled_projection_dim:
        raise Refused(f"{embeddings}: embeddings of {prompt.shape[2]} and {pooled.shape[1]} numbers, but this "
                      f"transformer takes {config.joint_attention_dim} and {config.pooled_projection_dim}")
    channels, patch = config.in_channels, config.patch_size
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    part_folder = out.with_name(f".{out.name}.part")
    shutil.rmtree(part_folder, ignore_errors=True)
    part_folder.mkdir(parents=True)
    random = torch.Generator().manual_seed(1)

    def noise(*dims):
        return torch.randn(dims, generator=random)

    # More than one of each that shall stay free, and an odd number of patches.
    sizes = [(2, 8 * patch, 6 * patch), (1, 5 * patch, 7 * patch), (3, 4 * patch, 4 * patch)]
    dim = torch.export.Dim
    count = dim("batch")
    with torch.no_grad():
        part(Encoder(vae), [(noise(n, 3, h * factor, w * factor).clamp(-1, 1),) for n, h, w in sizes],
             ({0: count, 2: factor * dim("high"), 3: factor * dim("wide")},), ["image"], "moments",
             part_folder / "vae_encoder.onnx", precision)
        part(Decoder(vae), [(noise(n, channels, h, w),) for n, h, w in sizes],
             ({0: count, 2: dim("high"), 3: dim("wide")},), ["latent"], "image",
             part_folder / "vae_decoder.onnx", precision)
        part(Transformer(transformer),
             [(noise(n, channels, h, w), torch.tensor([TIMESTEP]), prompt, pooled) for n, h, w in sizes],
             ({0: count, 2: patch * dim("high"), 3: patch * dim("wide")}, None, None, None),
             ["latent", "timestep", "prompt", "pooled"], "velocity", part_folder / "transformer.onnx", precision)
    save_file({"prompt": prompt, "pooled": pooled}, part_folder / "embeddings.safetensors")

    for file in part_folder.iterdir():
        # A service of another user reads them too.
        file.chmod(0o644)
    lines = [
        "# TSD-SR, exported by training/export_tsdsr.py of upscaled. docs/diffusion.md explains it.",
        "version = 1",
        'kind = "tsd-sr"',
        f'precision = "{precision}"',
        "",
        "[latent]",
        f"channels = {channels}",
        "# Pixels a side of one latent, and latents a side of one patch.",
        f"factor = {factor}",
        f"patch = {patch}",
        "# Latents a side that the position table reaches.",
        f"side_max = {config.pos_embed_max_size * patch}",
        "# latent = (sample - shift) * scaling",
        f"scaling = {float(vae.config.scaling_factor)}",
        f"shift = {SHIFT}",
        "# Of the transformer, in latents.",
        f"tile = {tile}",
        f"overlap = {overlap}",
        "",
        "[step]",
        f"timestep = {TIMESTEP}",
        "",
        "# For estimates of memory.",
        "[size]",
        f"vae_channels = {vae.config.block_out_channels[min(1, len(vae.config.block_out_channels) - 1)]}",
        f"heads = {config.num_attention_heads}",
        f"width = {config.num_attention_heads * config.attention_head_dim}",
        f"tokens = {prompt.shape[1]}",
    ]
    for file in sorted(part_folder.iterdir()):
        lines += ["", "[[file]]", f'name = "{file.name}"', f"bytes = {file.stat().st_size}",
                  f'sha256 = "{sha256(file)}"']
    (part_folder / FACTS).write_text("\n".join(lines) + "\n")
    if out.exists():
        shutil.rmtree(out)
    os.rename(part_folder, out)
    print(f"{out}: {sum(f.stat().st_size for f in out.iterdir()) / 2**20:.1f} MiB")


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    args.add_argument("--sd3", required=True, help="folder of Stable Diffusion 3 medium, in diffusers' layout")
    args.add_argument("--lora", required=True, help="folder with transformer.safetensors and vae.safetensors")
    args.add_argument("--embeddings", required=True, help="folder with prompt_embeds.pt and pool_embeds.pt")
    args.add_argument("--out", required=True, help="folder to write; an older export is replaced")
    args.add_argument("--precision", choices=["f32", "f16"], default="f16", help="of the weights and sums inside")
    args = args.parse_args()
    try:
        export(args.sd3, args.lora, args.embeddings, args.out, args.precision)
    except Refused as why:
        sys.exit(f"error: {why}")


if __name__ == "__main__":
    main()
