"""Pictures: loading, luma, reduction by two, and the pools of crop pairs a training draws from.

A *view* of a training picture is the picture reduced by a random factor and mixed to one plane.
Its half is made from the whole plane, so that crops have no border effects. Planes are 8-bit luma
code values, as video has them. Part of the planes are drawn by this code.
"""

import dataclasses
import glob
import os

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CROP = 48  # source pixels at each side of a crop
LUMA = np.array([65.481, 128.553, 24.966], np.float32) / 255  # BT.601, limited range
FILTERS = (Image.LANCZOS, Image.BICUBIC, Image.BOX, Image.HAMMING)


@dataclasses.dataclass
class Mix:
    """What a pool is made of."""
    bicubic: float  # part of the planes halved by plain antialiased bicubic
    drawn: float  # part of the planes that are drawn instead of views of pictures


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


def half(plane, mix, rng):
    """A plane of even size reduced by two with a random kernel, mostly antialiased bicubic."""
    plane = plane.astype(np.float32)
    filter = Image.BICUBIC
    other = (rng.random() - mix.bicubic) / (1 - mix.bicubic)
    if other > 0.783:
        plane = blur(plane, rng.uniform(0.4, 1.0))
    elif other > 0:
        filter = (Image.LANCZOS, Image.BOX, Image.BILINEAR, Image.HAMMING)[np.searchsorted((0.304, 0.565, 0.696), other)]
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
        image = image.resize(size, FILTERS[rng.integers(len(FILTERS))])
    weights = LUMA if rng.random() < 0.5 else rng.dirichlet((1, 1, 1)).astype(np.float32) * LUMA.sum()
    plane = luma(image, weights)
    if rng.random() < 0.1:
        plane = 251 - plane
    if rng.random() < 0.2:
        plane = (plane - 16) * rng.uniform(0.5, 1.0) + 16
    return code(plane[:plane.shape[0] // 2 * 2, :plane.shape[1] // 2 * 2])


def drawn(rng, size=384, fine=3):
    """A plane of random discs, polygons, lines and letters over a slope, drawn `fine` times larger.

    They have what the few photographs lack: hard edges of every direction, corners, thin lines
    and text (in Pillow's own font).
    """
    side = size * fine
    y, x = np.mgrid[0:1:side * 1j, 0:1:side * 1j].astype(np.float32)
    slope = rng.uniform(30, 220) + rng.uniform(-60, 60) * x + rng.uniform(-60, 60) * y
    image = Image.fromarray(code(np.clip(slope, 16, 235)))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(20, 120))):
        tone = int(rng.integers(16, 236))
        place = rng.uniform(0, side, 2)
        reach = side * 0.25 * 0.08 ** rng.random()
        points = [tuple(place + reach * rng.uniform(-1, 1, 2)) for _ in range(int(rng.integers(3, 7)))]
        width = int(fine * rng.uniform(0.8, 6))
        kind = rng.integers(6)
        if kind == 0:
            pen.ellipse([*(place - reach), *(place + reach * rng.uniform(0.1, 1))], fill=tone)
        elif kind == 1:
            pen.ellipse([*(place - reach), *(place + reach * rng.uniform(0.1, 1))], outline=tone, width=width)
        elif kind == 2:
            pen.polygon(points, fill=tone)
        elif kind == 3:
            pen.line(points, fill=tone, width=width, joint="curve")
        elif kind == 4:
            step = rng.uniform(-1, 1, 2) * fine * 8
            for i in range(12):
                pen.line([tuple(np.array(p) + i * step) for p in points[:2]], fill=tone, width=width)
        else:
            letters = "".join(chr(rng.integers(33, 127)) for _ in range(int(rng.integers(3, 12))))
            pen.text(tuple(place - reach), letters, fill=tone, font=ImageFont.load_default(int(fine * rng.uniform(9, 40))))
    plane = resize(np.asarray(image), size, size, FILTERS[rng.integers(len(FILTERS))])
    if rng.random() < 0.5:
        plane = blur(plane, rng.uniform(0.3, 1.2))
    return code(plane)


def source(images, mix, rng, smallest=0.22):
    """A plane to make pairs of: drawn, or a view of a picture."""
    return drawn(rng) if mix.drawn and rng.random() < mix.drawn else view(images, rng, smallest)


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

    def save(self, path):
        np.savez(path, low=self.low, high=self.high)

    @classmethod
    def read(cls, path):
        pool = cls(0)
        with np.load(path) as kept:
            pool.low, pool.high = kept["low"], kept["high"]
        return pool


def load(folder):
    return [Image.open(name).convert("RGB") for name in files(folder)]


def clean(images, size, mix, rng):
    """A pool of undamaged pairs."""
    pool = Pool(size)
    while pool.missing():
        high = source(images, mix, rng)
        if min(high.shape) >= 2 * CROP:
            pool.add(cut(half(high, mix, rng), high, 4 + high.size // 12000, rng))
    return pool


def pairs(folder):
    """Evaluation pairs of a folder: `(name, low, high)`, luma of the RGB half and of the picture."""
    for name in files(folder):
        image = Image.open(name).convert("RGB")
        image = image.crop((0, 0, image.width // 2 * 2, image.height // 2 * 2))
        low = image.resize((image.width // 2, image.height // 2), Image.BICUBIC)
        yield os.path.basename(name), luma(low), luma(image)
