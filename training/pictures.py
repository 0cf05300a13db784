"""Pictures: loading, luma, reduction by two, and the pools of crop pairs a training draws from.

A *view* of a training picture is the picture reduced by a random factor and mixed to one plane.
Its half is made from the whole plane, so that crops have no border effects. Planes are 8-bit luma
code values, as video has them.
"""

import glob
import os

import numpy as np
from PIL import Image

CROP = 48  # source pixels at each side of a crop
LUMA = np.array([65.481, 128.553, 24.966], np.float32) / 255  # BT.601, limited range


def files(folder):
    return sorted(glob.glob(os.path.join(folder, "*.png")))


def luma(image, weights=LUMA):
    """Limited-range luma of an RGB picture as float code values 16..235, BT.601 unless told."""
    return 16 + np.asarray(image.convert("RGB"), np.float32) @ weights


def code(plane):
    """Float code values rounded to 8 bits."""
    return np.clip(np.rint(plane), 0, 255).astype(np.uint8)


def resize(plane, width, height, filter=Image.BICUBIC):
    """Antialiased resize of a plane, as float; bicubic has a = -0.5 as MATLAB's `imresize`."""
    image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    return np.asarray(image.resize((width, height), filter))


def blur(plane, sigma):
    """Gaussian blur with mirrored borders."""
    reach = int(np.ceil(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (reach, reach)
        wide = np.pad(plane, pad, mode="reflect")
        size = plane.shape[axis]
        plane = sum(t * np.take(wide, range(i, i + size), axis) for i, t in enumerate(taps))
    return plane


def half(plane, rng):
    """A plane of even size reduced by two with a random kernel: 77 % antialiased bicubic."""
    plane = plane.astype(np.float32)
    draw = rng.random()
    if draw < 0.77:
        filter = Image.BICUBIC
    elif draw < 0.84:
        filter = Image.LANCZOS
    elif draw < 0.90:
        filter = Image.BOX
    elif draw < 0.93:
        filter = Image.BILINEAR
    elif draw < 0.95:
        filter = Image.HAMMING
    else:
        filter = Image.BICUBIC
        plane = blur(plane, rng.uniform(0.4, 1.0))
    return code(resize(plane, plane.shape[1] // 2, plane.shape[0] // 2, filter))


def view(images, rng, smallest=0.22):
    """A random picture as an 8-bit plane of even size, reduced by a random factor.

    Small factors give the hard edges and dense texture that photographs of full size lack. Half
    of the views have random weights of red, green and blue in place of luma; some are negatives
    or have less contrast, so that the network does not depend on the level.
    """
    image = images[rng.integers(len(images))]
    factor = smallest ** rng.random()
    if factor < 0.95:
        size = (int(image.width * factor), int(image.height * factor))
        filters = (Image.LANCZOS, Image.BICUBIC, Image.BOX, Image.HAMMING)
        image = image.resize(size, filters[rng.integers(len(filters))])
    weights = LUMA if rng.random() < 0.5 else rng.dirichlet((1, 1, 1)).astype(np.float32) * LUMA.sum()
    plane = luma(image, weights)
    if rng.random() < 0.1:
        plane = 251 - plane
    if rng.random() < 0.2:
        plane = (plane - 16) * rng.uniform(0.5, 1.0) + 16
    return code(plane[:plane.shape[0] // 2 * 2, :plane.shape[1] // 2 * 2])


def detail(crop):
    crop = crop.astype(np.int16)
    return np.abs(crop[:, 1:] - crop[:, :-1])[::2].mean() + np.abs(crop[1:] - crop[:-1])[:, ::2].mean()


def cut(low, high, count, rng):
    """`count` aligned crop pairs of a plane and its half; of two places the more detailed one."""
    for _ in range(count):
        pairs = []
        for _ in range(2):
            y, x = (int(rng.integers(size - CROP + 1)) for size in low.shape)
            pairs.append((low[y:y + CROP, x:x + CROP], high[2 * y:2 * y + 2 * CROP, 2 * x:2 * x + 2 * CROP]))
        yield max(pairs, key=lambda pair: detail(pair[1]))


class Pool:
    """Crop pairs as two arrays of bytes."""

    def __init__(self, size):
        self.low = np.empty((size, CROP, CROP), np.uint8)
        self.high = np.empty((size, 2 * CROP, 2 * CROP), np.uint8)
        self.count = 0

    def missing(self):
        return len(self.low) - self.count

    def add(self, pairs):
        for low, high in pairs:
            if self.missing():
                self.low[self.count], self.high[self.count] = low, high
                self.count += 1


def load(folder):
    return [Image.open(name).convert("RGB") for name in files(folder)]


def clean(images, size, rng):
    """A pool of undamaged pairs."""
    pool = Pool(size)
    while pool.missing():
        high = view(images, rng)
        if min(high.shape) >= 2 * CROP:
            pool.add(cut(half(high, rng), high, 4 + high.size // 12000, rng))
    return pool


def pairs(folder):
    """Evaluation pairs of a folder: `(name, low, high)`, luma of the RGB half and of the picture."""
    for name in files(folder):
        image = Image.open(name).convert("RGB")
        image = image.crop((0, 0, image.width // 2 * 2, image.height // 2 * 2))
        low = image.resize((image.width // 2, image.height // 2), Image.BICUBIC)
        yield os.path.basename(name), luma(low), luma(image)
