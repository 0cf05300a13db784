#!/usr/bin/env python3
"""Makes tests/fixtures/networks: small random networks of every kind we import, with a picture
and what PyTorch makes of it. Needs PyTorch only (CPU); the tests themselves do not need it.

    python3 tests/make_fixtures.py [folder]

The networks are written from their published formulas (see crates/engine/src/models/import/*.rs). Each case
is a file of weights and NAME.io: eight u32 (dimensions of input and output), then both as f32,
all little endian. Same seed, same numbers; the bytes of .pth files may differ between versions
of PyTorch.
"""

import json
import struct
import sys
from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "fixtures" / "networks")
torch.set_num_threads(1)


class Numbers:
    """Random layers by name: the weights and the functions that use them."""

    def __init__(self, seed):
        self.random = torch.Generator().manual_seed(seed)
        self.state = OrderedDict()

    def make(self, name, *dims, gain=1.0):
        if name not in self.state:
            fan = 1
            for d in dims[1:]:
                fan *= d
            self.state[name] = torch.randn(dims, generator=self.random) * gain / max(fan, 1) ** 0.5
        return self.state[name]

    def conv(self, name, x, to, kernel=3, gain=1.0, bias=True, pad=None):
        weight = self.make(name + ".weight", to, x.shape[1], kernel, kernel, gain=gain)
        offset = self.make(name + ".bias", to, gain=0.1) if bias else None
        return F.conv2d(x, weight, offset, padding=kernel // 2 if pad is None else pad)

    def slopes(self, name, count):
        if name not in self.state:
            self.state[name] = torch.rand(count, generator=self.random) * 1.6 - 0.3
        return self.state[name]


def nearest(x, scale):
    return F.interpolate(x, scale_factor=scale, mode="nearest")


def compact(net, x, depth, width, scale, act="prelu"):
    y = x
    for n in range(depth + 1):
        y = net.conv(f"body.{2 * n}", y, width)
        if act == "relu":
            y = F.relu(y)
        else:
            y = F.prelu(y, net.slopes(f"body.{2 * n + 1}.weight", 1 if act == "one" else width))
    y = net.conv(f"body.{2 * depth + 2}", y, x.shape[1] * scale * scale)
    return F.pixel_shuffle(y, scale) + nearest(x, scale)


def lrelu(x):
    return F.leaky_relu(x, 0.2)


def rrdb_net(net, x, blocks, width, grow, scale, names):
    """`names` maps the names of today's files to others."""

    def conv(name, y, to):
        return net.conv(names(name), y, to)

    def dense(name, y):
        all_of = [y]
        for n in range(1, 5):
            all_of.append(lrelu(conv(f"{name}.conv{n}", torch.cat(all_of, 1), grow)))
        return conv(f"{name}.conv5", torch.cat(all_of, 1), width) * 0.2 + y

    shrink, ups = {1: (4, 2), 2: (2, 2), 4: (1, 2), 8: (1, 3)}[scale] if names("x") == "x" else (1, {1: 0, 2: 1, 4: 2, 8: 3}[scale])
    channels = x.shape[1]
    y = first = conv("conv_first", F.pixel_unshuffle(x, shrink), width)
    for n in range(blocks):
        block = y
        for m in range(1, 4):
            block = dense(f"body.{n}.rdb{m}", block)
        y = block * 0.2 + y
    y = first + conv("conv_body", y, width)
    for n in range(1, ups + 1):
        y = lrelu(conv(f"conv_up{n}", nearest(y, 2), width))
    return conv("conv_last", lrelu(conv("conv_hr", y, width)), channels)


def today(name):
    return name


def trunk(name):
    """Names of the year 2019."""
    name = name.replace("body.", "RRDB_trunk.").replace("rdb", "RDB").replace("conv_body", "trunk_conv")
    return name.replace("conv_up", "upconv").replace("conv_hr", "HRconv")


def sequence(blocks, ups):
    """Names of the first ESRGAN files."""
    fixed = {"conv_first": "model.0", "conv_body": f"model.1.sub.{blocks}"}
    for n in range(1, ups + 1):
        fixed[f"conv_up{n}"] = f"model.{3 * n}"
    fixed["conv_hr"], fixed["conv_last"] = f"model.{3 * ups + 2}", f"model.{3 * ups + 4}"

    def name(today):
        if today in fixed:
            return fixed[today]
        return today.replace("body.", "model.1.sub.").replace("rdb", "RDB") + ".0"

    return name


def span(net, x, width, scale, norm, deploy=False):
    def conv(name, y, to, gain=2):
        """The trained form as run: with zeros around, so that the first bias counts there too."""
        if deploy:
            return net.conv(name + ".eval_conv", y, to)
        beside = net.conv(name + ".sk", y, to, 1)
        z = net.conv(name + ".conv.0", F.pad(y, (1, 1, 1, 1)), y.shape[1] * gain, 1)
        z = net.conv(name + ".conv.1", z, to * gain, 3, pad=0)
        z = net.conv(name + ".conv.2", z, to, 1) + beside
        net.make(name + ".eval_conv.weight", to, y.shape[1], 3, 3)  # stale, must not be used
        net.make(name + ".eval_conv.bias", to)
        return z

    if norm:
        x = (x - torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)) * 255
    else:
        net.make("no_norm", 1)
    y = features = conv("conv_1", x, width)
    for n in range(1, 7):
        inner = F.silu(conv(f"block_{n}.c1_r", y, width))
        third = conv(f"block_{n}.c3_r", F.silu(conv(f"block_{n}.c2_r", inner, width)), width)
        y = (third + y) * (torch.sigmoid(third) - 0.5)
        if n == 1:
            of_first = y
    y = torch.cat([features, conv("conv_2", y, width), of_first, inner], 1)
    y = net.conv("conv_cat", y, width, 1)
    return F.pixel_shuffle(net.conv("upsampler.0", y, 3 * scale * scale), scale)


def espcn(net, x, scale):
    y = torch.tanh(net.conv("first_part.0", x, 8, 5))
    y = torch.tanh(net.conv("first_part.2", y, 6))
    return F.pixel_shuffle(net.conv("last_part.0", y, x.shape[1] * scale * scale), scale)


def espcn_relu(net, x, scale):
    y = F.relu(net.conv("conv1", x, 8, 5))
    y = F.relu(net.conv("conv3", F.relu(net.conv("conv2", y, 8)), 6))
    return F.pixel_shuffle(net.conv("conv4", y, x.shape[1] * scale * scale), scale)


def fsrcnn(net, x, scale, width=8, narrow=4, depth=2):
    y = F.prelu(net.conv("first_part.0", x, width, 5), net.slopes("first_part.1.weight", width))
    sizes = [(narrow, 1)] + [(narrow, 3)] * depth + [(width, 1)]
    for n, (channels, kernel) in enumerate(sizes):
        y = net.conv(f"mid_part.{2 * n}", y, channels, kernel)
        y = F.prelu(y, net.slopes(f"mid_part.{2 * n + 1}.weight", channels))
    weight = net.make("last_part.weight", width, x.shape[1], 9, 9)
    bias = net.make("last_part.bias", x.shape[1], gain=0.1)
    return F.conv_transpose2d(y, weight, bias, stride=scale, padding=4, output_padding=scale - 1)


def case(name, seed, run, channels=3, size=(8, 12), change=lambda state: state, save=torch.save):
    """Builds a network by running it, changes its numbers, runs it again, saves all."""
    net = Numbers(seed)
    x = torch.rand((1, channels, *size), generator=torch.Generator().manual_seed(seed + 1000))
    run(net, x)
    state = change(net.state)
    inner = state
    while not torch.is_tensor(next(iter(inner.values()))):
        inner = next(inner[key] for key in ("params_ema", "params", "state_dict") if key in inner)
    net.state = OrderedDict((k.removeprefix("module."), v.float().contiguous()) for k, v in inner.items())
    keys = list(net.state)
    y = run(net, x)
    assert list(net.state) == keys, "the second run must not add weights"
    save(state, FOLDER / name)
    with open(FOLDER / (name + ".io"), "wb") as out:
        out.write(struct.pack("<8I", *x.shape, *y.shape))
        out.write(x.numpy().tobytes() + y.detach().contiguous().numpy().tobytes())


def old_form(state, path):
    torch.save(state, path, _use_new_zipfile_serialization=False)


def safetensors(state, path):
    """The safetensors format: length, JSON header, numbers."""
    kinds = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in state.items():
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": kinds[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def to(kind):
    return lambda state: OrderedDict((k, v.to(kind)) for k, v in state.items())


def parallel(state):
    return OrderedDict(("module." + k, v) for k, v in state.items())


def one_storage(state):
    """All numbers in one storage, and convolutions with their channels last."""
    flat = torch.cat([v.permute(0, 2, 3, 1).reshape(-1) if v.dim() == 4 else v.reshape(-1) for v in state.values()])
    out, at = OrderedDict(), 0
    for name, v in state.items():
        part = flat[at : at + v.numel()]
        if v.dim() == 4:
            o, i, h, w = v.shape
            out[name] = part.view(o, h, w, i).permute(0, 3, 1, 2)
        else:
            out[name] = part.view(v.shape)
        at += v.numel()
    return out


def both(state):
    return {"params": OrderedDict((k, v * 2) for k, v in state.items()), "params_ema": state}


def training(state):
    return {"epoch": 7, "loss": 0.25, "state_dict": parallel(state), "lr": [1e-4, 5e-5], "done": True, "none": None}


def parameters(state):
    return OrderedDict((k, torch.nn.Parameter(v)) for k, v in state.items())


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    c = lambda *args, **kw: lambda net, x: compact(net, x, *args, **kw)
    r = lambda *args: lambda net, x: rrdb_net(net, x, *args)
    with torch.no_grad():
        case("compact-x4.pth", 1, c(2, 8, 4), change=lambda s: {"params": s})
        case("compact-x2-ema.pth", 2, c(1, 6, 2), change=both)
        case("compact-x2-one-slope.pth", 3, c(2, 5, 2, act="one"), change=parallel, save=old_form)
        case("compact-x3-relu.safetensors", 4, c(1, 6, 3, act="relu"), save=safetensors)
        case("compact-x1-luma-f16.pth", 5, c(1, 7, 1), channels=1, change=to(torch.float16))
        case("compact-x2-bf16.safetensors", 6, c(0, 8, 2), change=to(torch.bfloat16), save=safetensors)
        case("compact-x2-f64-old.pth", 7, c(1, 4, 2), change=to(torch.float64), save=old_form)
        case("compact-x2-one-storage.pth", 8, c(1, 6, 2), change=one_storage)
        case("compact-x2-one-storage-old.pth", 9, c(1, 6, 2), change=one_storage, save=old_form)
        case("compact-x2-training.ckpt", 10, c(0, 6, 2), change=training)
        case("compact-x2-parameters.pth", 11, c(0, 6, 2), change=parameters)
        case("rrdb-x4.pth", 20, r(2, 3, 2, 4, today), change=lambda s: {"params_ema": s}, size=(6, 7))
        case("rrdb-x2.safetensors", 21, r(1, 6, 2, 2, today), save=safetensors)
        case("rrdb-x1.safetensors", 22, r(1, 4, 2, 1, today), save=safetensors, size=(12, 16))
        case("rrdb-x8.safetensors", 23, r(1, 4, 2, 8, today), save=safetensors, size=(4, 3))
        case("rrdb-x4-esrgan.pth", 24, r(2, 3, 2, 4, sequence(2, 2)), save=old_form, size=(5, 6))
        case("rrdb-x2-esrgan.safetensors", 25, r(1, 4, 2, 2, sequence(1, 1)), save=safetensors, size=(5, 6))
        case("rrdb-x1-esrgan.safetensors", 26, r(1, 4, 2, 1, sequence(1, 0)), save=safetensors, size=(5, 6))
        case("rrdb-x4-trunk.pth", 27, r(1, 4, 3, 4, trunk), save=old_form, size=(5, 6))
        case("span-x2.safetensors", 40, lambda net, x: span(net, x, 3, 2, True), save=safetensors, size=(5, 6))
        case("span-x4-plain.safetensors", 41, lambda net, x: span(net, x, 3, 4, False, True), save=safetensors, size=(5, 4))
        case("espcn-x3.pth", 50, lambda net, x: espcn(net, x, 3), channels=1, size=(7, 5))
        case("espcn-x2-relu.pth", 51, lambda net, x: espcn_relu(net, x, 2), channels=1, size=(7, 5))
        for scale in (2, 3, 4):
            case(f"fsrcnn_x{scale}.safetensors", 60, lambda net, x: fsrcnn(net, x, scale), channels=1, save=safetensors, size=(5, 6))


if __name__ == "__main__":
    main()
