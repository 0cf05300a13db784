"""Damage as films carry it: H.264 of short pans over pictures, and JPEG.

Frames go through the `ffmpeg` program with libx264 as luma with neutral chroma, so that no
conversion of range or matrix takes place; what comes back is aligned with what went in.
"""

import io
import os
import subprocess
import tempfile

import numpy as np
from PIL import Image

from . import pictures

FRAMES = 12
WIDTH, HEIGHT = 320, 192  # the largest coded frame of a training clip


def ffmpeg(*options, **kept):
    return subprocess.run(["ffmpeg", "-nostdin", "-v", "error", *options],
                          check=True, stdout=subprocess.PIPE, **kept).stdout


def x264(frames, crf):
    """Luma frames of even size, coded with preset medium at `crf` and decoded again."""
    count, height, width = frames.shape
    chroma = bytes([128]) * (height * width // 2)
    raw = b"".join(frame.tobytes() + chroma for frame in frames)
    with tempfile.TemporaryDirectory() as folder:
        coded = os.path.join(folder, "clip.mkv")
        ffmpeg("-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{width}x{height}", "-r", "25", "-i", "-",
               "-c:v", "libx264", "-preset", "medium", "-crf", f"{crf}", "-threads", "1", coded, input=raw)
        raw = ffmpeg("-i", coded, "-f", "rawvideo", "-pix_fmt", "yuv420p", "-")
    planes = np.frombuffer(raw, np.uint8).reshape(count, height * 3 // 2, width)
    return planes[:, :height]


def jpeg(plane, quality):
    stored = io.BytesIO()
    Image.fromarray(plane).save(stored, "JPEG", quality=quality)
    return np.asarray(Image.open(stored))


def pan(plane, width, height, rng):
    """`FRAMES` windows of a plane along a straight line, at most 6 pixels a frame in each direction."""
    speed = rng.integers(-6, 7, size=2) * rng.integers(2)
    room = np.array([plane.shape[0] - height, plane.shape[1] - width])
    place = rng.integers(room + 1)
    windows = []
    for _ in range(FRAMES):
        y, x = place
        windows.append(plane[y:y + height, x:x + width])
        place = np.clip(place + speed, 0, room)
    return np.stack(windows)


def clip(images, mix, rng):
    """A coded short pan: frames and, twice as large, what they were made of."""
    while True:
        plane = pictures.source(images, mix, rng, smallest=0.35)
        width, height = (min(most, (size - 12) // 2) // 16 * 16
                         for most, size in ((WIDTH, plane.shape[1]), (HEIGHT, plane.shape[0])))
        if min(width, height) >= 2 * pictures.CROP:
            break
    high = pan(plane, 2 * width, 2 * height, rng)
    kernel = int(rng.integers(2 ** 32))
    low = np.stack([pictures.half(frame, mix, np.random.default_rng(kernel)) for frame in high])
    return x264(low, rng.uniform(17, 33)), high


def mixed(images, size, mix, rng):
    """A pool of which 60 % went through H.264, 12 % through JPEG; the rest is undamaged."""
    pool = pictures.Pool(size)
    while pool.count < 0.6 * size:
        for low, high in zip(*clip(images, mix, rng)):
            pool.add(pictures.cut(low, high, 10, rng))
    while pool.missing():
        high = pictures.source(images, mix, rng)
        if min(high.shape) >= 2 * pictures.CROP:
            low = pictures.half(high, mix, rng)
            if rng.random() < 0.3:
                low = jpeg(low, int(rng.integers(50, 96)))
            pool.add(pictures.cut(low, high, 4 + high.size // 12000, rng))
    return pool
