#!/usr/bin/env python3
"""The usual way to upscale a film, as a measure for ours: every frame as a PNG file on a tmpfs.

    png_way.py IN OUT --model models/fast-film.onnx [--batch 8] [--folder /dev/shm/..]

Extracts with ffmpeg, upscales batches of whole frames with ONNX Runtime on the CPU (luma through the network, chroma
bicubic beside it), writes PNG files, encodes with libx264 crf 18 preset fast, copies the sound. Needs numpy, pillow and
onnxruntime (`bench.py` puts them into .venv). Prints the seconds of each step as JSON."""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image


def ffmpeg(*args):
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, args)], check=True)


def rate_of(path):
    out = subprocess.run(["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "stream=avg_frame_rate",
                          "-of", "csv=p=0", f"file:{path}"], capture_output=True, text=True, check=True)  # fmt: skip
    return out.stdout.strip().strip(",").split("\n")[0]


def upscale(session, files, target):
    """One batch: read, network, write."""
    pictures = [Image.open(f).convert("YCbCr").split() for f in files]
    luma = np.stack([np.asarray(p[0], np.float32)[None] / 255 for p in pictures])
    large = session.run(None, {session.get_inputs()[0].name: luma})[0]
    large = np.clip(np.rint(large * 255), 0, 255).astype(np.uint8)
    for file, (_, blue, red), plane in zip(files, pictures, large):
        y = Image.fromarray(plane[0])
        chroma = [c.resize(y.size, Image.BICUBIC) for c in (blue, red)]
        Image.merge("YCbCr", (y, *chroma)).convert("RGB").save(target / file.name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--folder", default="/dev/shm", help="where the PNG files go")
    args = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    session = onnxruntime.InferenceSession(args.model, options, providers=["CPUExecutionProvider"])
    folder = Path(tempfile.mkdtemp(prefix="png-way-", dir=args.folder))
    try:
        small, large = folder / "small", folder / "large"
        small.mkdir()
        large.mkdir()
        times = [time.monotonic()]
        ffmpeg("-i", f"file:{args.input}", "-map", "0:v:0", "-vsync", "passthrough", small / "%06d.png")
        times.append(time.monotonic())
        files = sorted(small.iterdir())
        for at in range(0, len(files), args.batch):
            upscale(session, files[at : at + args.batch], large)
        times.append(time.monotonic())
        ffmpeg("-framerate", rate_of(args.input), "-i", large / "%06d.png", "-i", f"file:{args.input}", "-map", "0:v", "-map", "1:a?",
               "-c:a", "copy", "-c:v", "libx264", "-preset", "fast", "-crf", "18", "-pix_fmt", "yuv420p", args.output)  # fmt: skip
        times.append(time.monotonic())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    steps = dict(zip(("extract", "upscale", "encode"), (b - a for a, b in zip(times, times[1:]))))
    print(json.dumps({"frames": len(files), "seconds": times[-1] - times[0], "steps": steps}))


if __name__ == "__main__":
    sys.exit(main())
