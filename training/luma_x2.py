#!/usr/bin/env python3
"""Train the embedded 2x luma network and write it as ONNX.

    python3 training/luma_x2.py --data DIR_OF_PNGS --eval SET5_DIR,SET14_DIR --out models/fast-luma-x2.onnx

Network: conv 1->16, four conv 16->16, conv 16->4, all 3x3 with ReLU between, the input
added to each of the four output phases, then a pixel shuffle. 10 k parameters, receptive
field 13x13 (halo 6). Input and output are luma code values / 255, `NCHW`, any size.

Data: only pictures whose licence lets the weights be ours (CC0). A training pair is a
random crop of a picture (randomly reduced first, so that 1152-pixel photos give edges of
every sharpness) and its antialiased bicubic half. Both are rounded to 8 bits as video is.
"""

import argparse
import glob
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

CHANNELS = 16
HIDDEN = 4


class LumaX2(torch.nn.Module):
    """`[n, 1, h, w]` in 0..1 to `[n, 1, 2h, 2w]`."""

    def __init__(self, channels=CHANNELS, hidden=HIDDEN):
        super().__init__()
        layers = [torch.nn.Conv2d(1, channels, 3, padding=1), torch.nn.ReLU()]
        for _ in range(hidden):
            layers += [torch.nn.Conv2d(channels, channels, 3, padding=1), torch.nn.ReLU()]
        layers += [torch.nn.Conv2d(channels, 4, 3, padding=1)]
        self.body = torch.nn.Sequential(*layers)
        for m in self.body:
            if isinstance(m, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(m.weight)
                torch.nn.init.zeros_(m.bias)
        self.body[-1].weight.data.mul_(0.1)

    def forward(self, x):
        return F.pixel_shuffle(self.body(x) + x, 2)


def luma(image):
    """BT.601 limited-range luma of an RGB picture, as float code values 16..235."""
    rgb = np.asarray(image.convert("RGB"), np.float32)
    return 16 + (65.481 * rgb[..., 0] + 128.553 * rgb[..., 1] + 24.966 * rgb[..., 2]) / 255


def half(y):
    """Antialiased bicubic (a = -0.5) reduction by two of `[n, 1, h, w]` in 0..1, rounded to 8 bits."""
    y = F.interpolate(y, scale_factor=0.5, mode="bicubic", antialias=True, align_corners=False)
    return (y * 255).round().clamp(0, 255) / 255


def load(folder):
    """Luma planes of every picture, each at several sizes."""
    planes = []
    for name in sorted(glob.glob(os.path.join(folder, "*.png"))):
        image = Image.open(name).convert("RGB")
        for factor in (1.0, 0.8, 0.6, 0.45):
            size = (int(image.width * factor), int(image.height * factor))
            reduced = image if factor == 1.0 else image.resize(size, Image.LANCZOS)
            planes.append(torch.from_numpy(luma(reduced).round().astype(np.uint8)))
    return planes


def batches(planes, rng, count, size):
    """One training batch of `count` crops of `size` x `size` as `[count, 1, size, size]` in 0..1."""
    out = []
    for _ in range(count):
        plane = planes[rng.integers(len(planes))]
        best, energy = None, -1.0
        for _ in range(2):  # of two crops keep the one with more detail: skies teach little
            y = rng.integers(plane.shape[0] - size + 1)
            x = rng.integers(plane.shape[1] - size + 1)
            crop = plane[y:y + size, x:x + size]
            e = float(crop[:, 1::4].float().sub(crop[:, ::4].float()).abs().mean())
            if e > energy:
                best, energy = crop, e
        crop = torch.rot90(best, int(rng.integers(4)), (0, 1))
        if rng.integers(2):
            crop = crop.flip(1)
        out.append(crop)
    return torch.stack(out).unsqueeze(1).float() / 255


@torch.no_grad()
def evaluate(net, folder):
    """Mean luma PSNR (8-bit output, border 2) of the network and of bicubic over a folder."""
    scores = []
    for name in sorted(glob.glob(os.path.join(folder, "*.png"))):
        image = Image.open(name).convert("RGB")
        image = image.crop((0, 0, image.width // 2 * 2, image.height // 2 * 2))
        low = image.resize((image.width // 2, image.height // 2), Image.BICUBIC)
        target = luma(image)
        y = torch.from_numpy(luma(low)).float()[None, None] / 255
        y = F.pad(y, (6, 6, 6, 6), mode="replicate")
        out = net(y)[0, 0, 12:-12, 12:-12].mul(255).round().clamp(0, 255).numpy()
        bicubic = luma(low.resize(image.size, Image.BICUBIC))
        scores.append([psnr(out, target), psnr(bicubic, target)])
    return np.mean(scores, 0)


def psnr(a, b, border=2):
    d = (a - b)[border:-border, border:-border]
    return 10 * np.log10(255 ** 2 / np.mean(d ** 2))


def export(net, path):
    """Write the network as ONNX with named, free batch, height and width."""
    from onnx import TensorProto, checker, helper, numpy_helper, save
    nodes, weights, name = [], [], "input"
    convs = [m for m in net.body if isinstance(m, torch.nn.Conv2d)]
    for i, conv in enumerate(convs):
        weights.append(numpy_helper.from_array(conv.weight.detach().numpy(), f"w{i}"))
        weights.append(numpy_helper.from_array(conv.bias.detach().numpy(), f"b{i}"))
        nodes.append(helper.make_node("Conv", [name, f"w{i}", f"b{i}"], [f"c{i}"],
                                      kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        name = f"c{i}"
        if i < len(convs) - 1:
            nodes.append(helper.make_node("Relu", [name], [f"r{i}"]))
            name = f"r{i}"
    nodes.append(helper.make_node("Add", [name, "input"], ["phases"]))
    nodes.append(helper.make_node("DepthToSpace", ["phases"], ["output"], blocksize=2, mode="CRD"))
    value = lambda n, h, w: helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 1, h, w])
    graph = helper.make_graph(nodes, "luma_x2", [value("input", "height", "width")],
                              [value("output", "out_height", "out_width")], weights)
    model = helper.make_model(graph, producer_name="upscaled", opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    checker.check_model(model)
    save(model, path)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True)
    p.add_argument("--eval", default="", help="comma-separated folders to judge on, never trained on")
    p.add_argument("--out", required=True)
    p.add_argument("--steps", type=int, default=40000)
    p.add_argument("--minutes", type=float, default=0, help="stop the schedule by the clock instead of by steps")
    p.add_argument("--batch", type=int, default=24)
    p.add_argument("--crop", type=int, default=96)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    args = p.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(args.seed)
    planes = load(args.data)
    net = LumaX2().to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(net.parameters(), lr=args.lr)
    mean = LumaX2()
    mean.load_state_dict(net.state_dict())
    start, step, done = time.time(), 0, 0.0
    while done < 1.0:
        done = (time.time() - start) / (args.minutes * 60) if args.minutes else step / args.steps
        done = min(done, 1.0)
        rate = args.lr * (0.5 * (1 + np.cos(np.pi * done)) * 0.998 + 0.002)
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 500)
        target = batches(planes, rng, args.batch, args.crop)
        out = net(half(target).to(memory_format=torch.channels_last))
        inner = (out - target)[..., 8:-8, 8:-8]
        loss = inner.abs().mean() if done < 0.4 else 20 * inner.square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimiser.step()
        decay = min(0.999, (step + 1) / (step + 10))
        with torch.no_grad():
            for a, b in zip(mean.parameters(), net.parameters()):
                a.lerp_(b, 1 - decay)
        step += 1
        if step % 1000 == 0 or done >= 1.0:
            figures = " ".join("%s %.3f (bicubic %.3f)" % ((os.path.basename(d),) + tuple(evaluate(mean, d)))
                               for d in args.eval.split(",") if d)
            print(f"step {step} {time.time() - start:.0f} s loss {loss.item():.5f} lr {rate:.1e} {figures}", flush=True)
    export(mean, args.out)


if __name__ == "__main__":
    main()
