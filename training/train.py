"""Train one of the four luma networks and write it as ONNX.

    python3 -m training.train fast-base --data PICTURES --eval SET5,SET14 --out fast-base.onnx
    python3 -m training.train fast-clean --data PICTURES --start fast-base.onnx --out models/fast-clean.onnx

Owns the recipes and the training loop. The rate is warmed up, constant, and falls linearly to
zero over the last part of the steps; the loss is L1. So a training is the same for every number
of steps until its fall begins. What a step draws is a function of seed and step alone, and
`--resume` continues from a checkpoint as if never stopped.
"""

import argparse
import dataclasses
import os
import time

import numpy as np
import torch

from . import damage, pictures
from .export import export, restore
from .network import SHAPES, Network, halo, upscale


@dataclasses.dataclass
class Recipe:
    """How a network is trained; the schedule falls to zero over the last part of the steps."""
    shape: str
    steps: int
    rate: float
    start: bool = False  # from another network, named by --start
    film: bool = False
    fall: float = 0.25  # part of the steps in which the rate falls
    batch: int = 16
    pool: int = 60_000  # crop pairs
    warm: int = 500
    seed: int = 1


RECIPES = {
    "fast-base": Recipe("fast", 40_000, 1e-3),
    "fast-clean": Recipe("fast", 16_000, 8e-4, start=True),
    "fast-film": Recipe("fast", 25_000, 5e-4, film=True, pool=40_000, start=True),
    "quality-base": Recipe("quality", 20_000, 6e-4, batch=8),
    "quality-middle": Recipe("quality", 24_000, 6e-4, batch=8, start=True, seed=2),
    "quality-clean": Recipe("quality", 68_000, 5e-4, batch=8, start=True, seed=3, fall=0.5, pool=120_000),
    "quality-film-base": Recipe("quality", 12_000, 3e-4, film=True, pool=40_000, batch=8, start=True),
    "quality-film": Recipe("quality", 14_000, 3e-4, film=True, pool=40_000, batch=8, start=True, seed=2),
}
MIX = pictures.Mix(bicubic=0.9, drawn=0.35)
MEAN = 0.999
EDGE = 4  # source pixels at each side of a crop that the loss leaves out: padding is seen there


def batch(pool, size, seed, step):
    """Source and target of one step, in 0..1, all flipped or rotated alike."""
    rng = np.random.default_rng((seed, step))
    index = rng.integers(len(pool.low), size=size)
    turns, flip = int(rng.integers(4)), rng.integers(2)
    out = []
    for plane in (pool.low, pool.high):
        plane = np.rot90(plane[index], turns, (1, 2))
        plane = np.ascontiguousarray(plane[:, :, ::-1] if flip else plane)
        out.append(torch.from_numpy(plane).unsqueeze(1).float().div_(255))
    return out


def rate(recipe, steps, step):
    fall = recipe.fall * steps
    return recipe.rate * min(1, (step + 1) / recipe.warm, (steps - step) / fall)


@torch.no_grad()
def psnr(plain, folder):
    """Mean luma PSNR over a folder: 8-bit output, 2 pixels left out at each side."""
    scores, pad = [], halo(plain)
    for _, low, high in pictures.pairs(folder):
        y = torch.from_numpy(np.pad(low, pad, mode="edge") / 255)[None, None].float()
        out = upscale(plain, y)[0, 0].mul(255).round().clamp(0, 255).numpy()[2 * pad:-2 * pad, 2 * pad:-2 * pad]
        scores.append(10 * np.log10(255 ** 2 / np.mean((out - high)[2:-2, 2:-2] ** 2)))
    return np.mean(scores)


def pool_of(recipe, args):
    """The pool of a recipe; kept in a file if one is named, since film pools take minutes."""
    if args.keep and os.path.exists(args.keep):
        return pictures.Pool.read(args.keep)
    make = damage.mixed if recipe.film else pictures.clean
    pool = make(pictures.load(args.data), recipe.pool, MIX, np.random.default_rng((1, 2)))
    if args.keep:
        pool.save(args.keep)
    return pool


@torch.no_grad()
def learn(pool, teacher):
    """Move the targets of a pool half way to what a larger network makes of the sources."""
    for at in range(0, len(pool.low), 64):
        y = torch.from_numpy(pool.low[at:at + 64]).unsqueeze(1).float() / 255
        y = torch.nn.functional.pad(y, (6, 6, 6, 6), mode="replicate").to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            out = upscale(teacher, y)[:, 0, 12:-12, 12:-12].mul(255).numpy()
        pool.high[at:at + 64] = pictures.code((pool.high[at:at + 64] + out) / 2)


def train(name, recipe, args):
    torch.manual_seed(args.seed)
    net = Network(*SHAPES[recipe.shape])
    if args.start:
        net.take(restore(args.start))
    optimiser = torch.optim.Adam(net.parameters(), lr=recipe.rate, betas=(0.9, 0.99), fused=True)
    mean = [tensor.detach().clone() for pair in net.plain() for tensor in pair]
    step = 0
    if args.resume:
        state = torch.load(args.checkpoint)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        mean, step = state["mean"], state["step"]
    pool = pool_of(recipe, args)
    if args.teacher:
        learn(pool, restore(args.teacher))
    began, first, saved = time.time(), step, time.time()
    print(f"{name}: pool ready, step {step} of {args.steps}", flush=True)
    until = min(args.until or args.steps, args.steps)
    while step < until:
        for group in optimiser.param_groups:
            group["lr"] = rate(recipe, args.steps, step)
        low, high = batch(pool, recipe.batch, args.seed, step)
        plain = net.plain()
        with torch.autocast("cpu", torch.bfloat16):
            out = upscale(plain, low.to(memory_format=torch.channels_last))
        error = (out - high)[..., 2 * EDGE:-2 * EDGE, 2 * EDGE:-2 * EDGE]
        loss = error.abs().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimiser.step()
        step += 1
        with torch.no_grad():
            now = [tensor for pair in plain for tensor in pair]
            torch._foreach_lerp_(mean, now, 1 - min(MEAN, step / (step + 9)))
        if step % args.every == 0 or step == until:
            plain = list(zip(mean[::2], mean[1::2]))
            figures = " ".join(f"{os.path.basename(d)} {psnr(plain, d):.3f}" for d in args.eval.split(",") if d)
            pace = (time.time() - began) / (step - first) * 1000
            print(f"step {step} {pace:.1f} ms/step loss {loss.item():.5f} {figures}", flush=True)
        if args.checkpoint and (time.time() - saved > 180 or step == until):
            state = {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "mean": mean, "step": step}
            torch.save(state, args.checkpoint + ".part")
            os.replace(args.checkpoint + ".part", args.checkpoint)
            export(list(zip(mean[::2], mean[1::2])), args.checkpoint + ".onnx")
            saved = time.time()
    export(list(zip(mean[::2], mean[1::2])), args.out)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("name", choices=RECIPES)
    p.add_argument("--data", required=True, help="folder of the training pictures (PNG)")
    p.add_argument("--out", required=True, help="the ONNX file to write")
    p.add_argument("--start", help="ONNX file of the network to start from")
    p.add_argument("--teacher", help="ONNX file of a larger network to learn from")
    p.add_argument("--eval", default="", help="comma-separated folders to judge on, never trained on")
    p.add_argument("--every", type=int, default=5000, help="steps between two judgements")
    p.add_argument("--checkpoint", help="file for the state, written every three minutes, with an ONNX beside it")
    p.add_argument("--resume", action="store_true", help="continue from the checkpoint")
    p.add_argument("--steps", type=int, help="instead of the recipe's")
    p.add_argument("--until", type=int, help="end the schedule early, after this step")
    p.add_argument("--keep", help="file (.npz) to keep the pool in, or to take it from if it is there")
    p.add_argument("--seed", type=int, help="instead of the recipe's; the pool's is always 1")
    p.add_argument("--threads", type=int, default=2)
    args = p.parse_args()
    recipe = RECIPES[args.name]
    args.steps = args.steps or recipe.steps
    args.seed = args.seed if args.seed is not None else recipe.seed
    if recipe.start != bool(args.start):
        p.error(f"{args.name} needs --start" if recipe.start else f"{args.name} starts from nothing")
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    train(args.name, recipe, args)


if __name__ == "__main__":
    main()
