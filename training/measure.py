"""Measure networks, bicubic and Lanczos on undamaged pictures and on compressed video.

    python3 -m training.measure --pictures SET5,SET14 --panned KODAK --clips A.mp4,B.mp4 models/*.onnx

Prints Markdown. Every figure is of luma, upscaled by two to 8 bits, 2 pixels left out at each
side, and the mean over pictures or frames: PSNR in dB, SSIM (Wang et al., "Image Quality
Assessment: From Error Visibility to Structural Similarity", 2004), and for compressed video also
VMAF (libvmaf's default model) and 1000 times GMSD (Xue et al., "Gradient Magnitude Similarity
Deviation", 2014), which is lower for the better picture.

Pictures are halved by antialiased bicubic. Compressed video is the half of a picture's pan or of a
clip, coded by x264 (preset medium) at the given crf and decoded; the original is what it is
compared with.
"""

import argparse
import os
import re
import subprocess
import tempfile

import imageio_ffmpeg
import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from PIL import Image

from . import damage, pictures

PAD = 16  # no network here sees further
SEGMENTS, LENGTH = 4, 24  # parts of a clip that are coded, and their frames
JUDGED = 6  # frames in the middle of a coded part that are judged


def interpolation(filter):
    return lambda low: pictures.code(pictures.resize(low, low.shape[1] * 2, low.shape[0] * 2, filter))


def network(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(low):
        y = np.pad(low, PAD, mode="edge").astype(np.float32)[None, None] / 255
        out = session.run(None, {session.get_inputs()[0].name: y})[0][0, 0]
        return pictures.code(out[2 * PAD:-2 * PAD, 2 * PAD:-2 * PAD] * 255)
    return run


def psnr(a, b):
    return 10 * np.log10(255 ** 2 / max(np.mean((a - b) ** 2), 1e-9))


def ssim(a, b):
    place = torch.arange(11, dtype=torch.float64) - 5
    taps = torch.exp(-place ** 2 / (2 * 1.5 ** 2))
    taps /= taps.sum()

    def mean(plane):
        plane = torch.from_numpy(plane).double()[None, None]
        return F.conv2d(F.conv2d(plane, taps.view(1, 1, 1, 11)), taps.view(1, 1, 11, 1))
    ma, mb = mean(a), mean(b)
    va, vb, both = mean(a * a) - ma ** 2, mean(b * b) - mb ** 2, mean(a * b) - ma * mb
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(((2 * ma * mb + c1) * (2 * both + c2) / ((ma ** 2 + mb ** 2 + c1) * (va + vb + c2))).mean())


def gmsd(a, b):
    prewitt = torch.tensor([[1.0, 0, -1]] * 3, dtype=torch.float64)[None, None] / 3

    def gradient(plane):
        plane = F.avg_pool2d(torch.from_numpy(plane).double()[None, None], 2)
        return (F.conv2d(plane, prewitt) ** 2 + F.conv2d(plane, prewitt.mT) ** 2).sqrt()
    ga, gb = gradient(a), gradient(b)
    return 1000 * float(((2 * ga * gb + 170) / (ga ** 2 + gb ** 2 + 170)).std(correction=0))


def vmaf(outs, highs):
    """Mean VMAF of frames; from the `ffmpeg` of imageio-ffmpeg, as distributions' often lack libvmaf."""
    height, width = highs[0].shape
    chroma = bytes([128]) * (height * width // 2)
    with tempfile.TemporaryDirectory() as folder:
        inputs = []
        for name, frames in (("out", outs), ("high", highs)):
            path = os.path.join(folder, name)
            with open(path, "wb") as file:
                file.writelines(frame.astype(np.uint8).tobytes() + chroma for frame in frames)
            inputs += ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{width}x{height}", "-i", path]
        told = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", *inputs, "-lavfi", "libvmaf", "-f", "null", "-"],
                              check=True, stderr=subprocess.PIPE, text=True).stderr
    return float(re.search(r"VMAF score: ([\d.]+)", told)[1])


def judge(methods, parts, measures, video=False):
    """Mean figures of each method over parts, lists of `(low, high)`; VMAF too for parts of video."""
    figures = {name: [] for name in methods}
    for part in parts:
        highs = [high.astype(np.float64)[2:-2, 2:-2] for _, high in part]
        for name, method in methods.items():
            outs = [method(low).astype(np.float64)[2:-2, 2:-2] for low, _ in part]
            row = [np.mean([measure(a, b) for a, b in zip(outs, highs)]) for measure in measures]
            figures[name].append(row + [vmaf(outs, highs)] if video else row)
    return {name: np.mean(rows, 0) for name, rows in figures.items()}


def stills(folder):
    return ([(low, high)] for _, low, high in pictures.pairs(folder))


def coded(frames, crf):
    """Pairs of the middle frames of an original and of its half, coded and decoded."""
    frames = frames[:, :frames.shape[1] // 4 * 4, :frames.shape[2] // 4 * 4]
    height, width = frames.shape[1] // 2, frames.shape[2] // 2
    low = damage.x264(np.stack([pictures.code(pictures.resize(frame, width, height)) for frame in frames]), crf)
    middle = slice((len(frames) - JUDGED) // 2, (len(frames) + JUDGED) // 2)
    return list(zip(low[middle], frames[middle]))


def panned(folder, crf):
    rng = np.random.default_rng(1)
    for name in pictures.files(folder):
        plane = pictures.code(pictures.luma(Image.open(name)))
        yield coded(damage.pan(plane, plane.shape[1] - 64, plane.shape[0] - 64, rng), crf)


def clip(path, crf):
    size = subprocess.run(["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "stream=width,height",
                           "-of", "csv=p=0", path], check=True, stdout=subprocess.PIPE, text=True).stdout
    width, height = (int(field) for field in size.split(",")[:2])
    raw = damage.ffmpeg("-i", path, "-map", "0:v:0", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-")
    planes = np.frombuffer(raw, np.uint8).reshape(-1, height * 3 // 2, width)[:, :height]
    for start in np.linspace(0, len(planes) - LENGTH, SEGMENTS + 1).astype(int)[1:]:
        yield coded(planes[start:start + LENGTH], crf)


def table(columns, methods, digits):
    """Markdown: a row for each method, a cell for each column with its figures."""
    print("\n| | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
    for name in methods:
        cells = (" / ".join(f"{figure:.{n}f}" for figure, n in zip(column[name], digits)) for column in columns.values())
        print(f"| {name} | " + " | ".join(cells) + " |")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pictures", default="", help="comma-separated folders of undamaged pictures")
    p.add_argument("--panned", default="", help="folders of pictures to pan over and code")
    p.add_argument("--clips", default="", help="files of 4:2:0 8-bit video to halve and code")
    p.add_argument("--crf", default="23,30")
    p.add_argument("networks", nargs="*", help="ONNX files")
    args = p.parse_args()
    torch.set_num_threads(1)
    methods = {"bicubic": interpolation(Image.BICUBIC), "Lanczos": interpolation(Image.LANCZOS)}
    methods |= {os.path.basename(path).removesuffix(".onnx"): network(path) for path in args.networks}

    def paths(list):
        return [(path, os.path.basename(path.rstrip("/"))) for path in list.split(",") if path]
    if args.pictures:
        table({name: judge(methods, stills(path), (psnr, ssim)) for path, name in paths(args.pictures)}, methods, (2, 4))
    for crf in args.crf.split(","):
        columns = {f"{name} panned, crf {crf}": panned(path, crf) for path, name in paths(args.panned)}
        columns |= {f"{name}, crf {crf}": clip(path, crf) for path, name in paths(args.clips)}
        if columns:
            table({name: judge(methods, parts, (psnr, ssim, gmsd), True) for name, parts in columns.items()}, methods, (2, 4, 1, 1))


if __name__ == "__main__":
    main()
