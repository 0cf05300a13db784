#!/usr/bin/env python3
"""Draws a picture of our own with fine detail of every kind: leaves, bricks, thin lines, letters, soft gradients.

    sample_picture.py OUT.png [--width 480] [--seed 3]

Drawn four times as large and reduced, so that edges are as soft as those of a photograph. Same arguments, same
picture. It is the source of the sheet in docs/. Needs Pillow."""

import argparse
import math
import random

from PIL import Image, ImageDraw, ImageFont

FINE = 4
SKY_TOP, SKY_LOW = (58, 110, 178), (226, 214, 190)


def mix(a, b, t):
    return tuple(round(x + (y - x) * t) for x, y in zip(a, b))


def shade(colour, rng, amount):
    by = rng.uniform(-amount, amount)
    return tuple(max(0, min(255, round(c + by))) for c in colour)


def sky(draw, w, h, u):
    for y in range(h):
        draw.line([(0, y), (w, y)], fill=mix(SKY_TOP, SKY_LOW, min(1, y / (0.6 * h))))
    cx, cy = 0.8 * w, 0.2 * h
    for k in range(72):
        a = 2 * math.pi * k / 72
        near, far = 22 * u, (34 + 10 * (k % 2)) * u
        ends = [(cx + r * math.cos(a), cy + r * math.sin(a)) for r in (near, far)]
        draw.line(ends, fill=(255, 236, 170), width=max(1, round(0.8 * u)))
    draw.ellipse([cx - 18 * u, cy - 18 * u, cx + 18 * u, cy + 18 * u], fill=(255, 244, 200))


def ridge(rng, w, base, height):
    """A broken skyline by midpoint displacement."""
    heights, amount = [base, base - height / 2], height
    for _ in range(8):
        between = [(a + b) / 2 + rng.uniform(-amount, amount) for a, b in zip(heights, heights[1:])]
        heights = [v for pair in zip(heights, between) for v in pair] + heights[-1:]
        amount *= 0.55
    return [(w * i / (len(heights) - 1), y) for i, y in enumerate(heights)]


def hills(draw, rng, w, h):
    for base, height, colour in ((0.50, 0.14, (120, 132, 158)), (0.56, 0.09, (92, 112, 118)), (0.62, 0.05, (74, 100, 72))):
        line = ridge(rng, w, base * h, height * h)
        draw.polygon([(0, h), *line, (w, h)], fill=colour)


def field(draw, rng, w, h):
    top = round(0.66 * h)
    draw.rectangle([0, top, w, h], fill=(122, 142, 74))
    for k in range(-60, 61):
        end = w / 2 + k * w / 14
        draw.line([(w / 2 + k * w / 120, top), (end, h)], fill=shade((98, 116, 52), rng, 14), width=FINE)
    for _ in range(9000):
        x, y = rng.uniform(0, w), top + (h - top) * rng.random() ** 0.7
        long = (y - top) / (h - top) * 9 * FINE + 2
        lean = rng.uniform(-0.4, 0.4) * long
        draw.line([(x, y), (x + lean, y - long)], fill=shade((128, 152, 70), rng, 46), width=max(1, FINE // 2))


def house(draw, rng, x, y, w, h, u):
    draw.rectangle([x, y, x + w, y + h], fill=(206, 196, 186))
    brick_w, brick_h = 8 * u, 3.4 * u
    for row in range(int(h / brick_h) + 1):
        for column in range(-1, int(w / brick_w) + 1):
            left = x + column * brick_w + (row % 2) * brick_w / 2
            box = [max(x, left), y + row * brick_h, min(x + w, left + brick_w - 0.8 * u), y + (row + 1) * brick_h - 0.8 * u]
            if box[0] < box[2] and box[3] <= y + h:
                draw.rectangle(box, fill=shade((164, 82, 62), rng, 22))
    roof = [(x - 10 * u, y), (x + w / 2, y - 0.5 * h), (x + w + 10 * u, y)]
    draw.polygon(roof, fill=(82, 74, 84))
    for k in range(1, 24):
        t = k / 24
        left, right = x - 10 * u + t * (w / 2 + 10 * u), x + w + 10 * u - t * (w / 2 + 10 * u)
        draw.line([(left, y - 0.5 * h * t), (right, y - 0.5 * h * t)], fill=(116, 106, 114), width=max(1, round(0.6 * u)))
    for cx in (0.28, 0.72):
        left, top = x + cx * w - 14 * u, y + 0.24 * h
        draw.rectangle([left, top, left + 28 * u, top + 34 * u], fill=(236, 232, 220))
        for i in range(3):
            for j in range(4):
                pane = [left + (2 + 8.6 * i) * u, top + (2 + 8 * j) * u, left + (9 + 8.6 * i) * u, top + (8.6 + 8 * j) * u]
                draw.rectangle(pane, fill=shade((70, 96, 126), rng, 18))


def fence(draw, w, y, u):
    for k in range(int(w / (7 * u)) + 1):
        x = k * 7 * u
        draw.polygon([(x, y), (x + 1.6 * u, y - 22 * u), (x + 3.2 * u, y)], fill=(238, 234, 226))
    for dy in (6, 15):
        draw.rectangle([0, y - dy * u, w, y - (dy - 1.4) * u], fill=(226, 222, 214))


def tree(draw, rng, cx, cy, r, u):
    draw.polygon([(cx - 5 * u, cy + 1.5 * r), (cx - 2 * u, cy), (cx + 2 * u, cy), (cx + 5 * u, cy + 1.5 * r)], fill=(84, 62, 46))
    for k in range(30):
        a, far = rng.uniform(0, 2 * math.pi), rng.uniform(0.3, 0.95) * r
        draw.line([(cx, cy + 0.3 * r), (cx + far * math.cos(a), cy + far * math.sin(a))], fill=(92, 70, 52), width=max(1, round(0.9 * u)))
    for _ in range(2600):
        a, far = rng.uniform(0, 2 * math.pi), r * math.sqrt(rng.random())
        x, y, s = cx + far * math.cos(a), cy + 0.9 * far * math.sin(a), rng.uniform(0.9, 2.2) * u
        light = (x - cx - y + cy) / (3 * r)
        colour = shade(mix((48, 92, 38), (150, 182, 78), max(0, min(1, 0.5 + light))), rng, 22)
        b = rng.uniform(0, math.pi)
        dx, dy = s * math.cos(b), s * math.sin(b)
        draw.polygon([(x - dx, y - dy), (x - dy / 2, y + dx / 2), (x + dx, y + dy), (x + dy / 2, y - dx / 2)], fill=colour)


def sign(draw, x, y, u):
    draw.rectangle([x, y, x + 92 * u, y + 40 * u], fill=(244, 240, 226), outline=(40, 40, 44), width=max(1, round(u)))
    for text, size, dy in (("UPSCALED", 15, 3), ("every frame, every stream", 7, 20), ("0123456789 & thin lines", 6, 29)):
        font = ImageFont.load_default(size * u)
        draw.text((x + 5 * u, y + dy * u), text, fill=(30, 30, 36), font=font)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--width", type=int, default=480)
    p.add_argument("--seed", type=int, default=3)
    args = p.parse_args()
    rng = random.Random(args.seed)
    width, height = args.width, args.width * 2 // 3
    w, h = width * FINE, height * FINE
    u = w / 480  # a pixel of a picture 480 wide
    image = Image.new("RGB", (w, h))
    draw = ImageDraw.Draw(image)
    sky(draw, w, h, u)
    hills(draw, rng, w, h)
    field(draw, rng, w, h)
    house(draw, rng, 0.30 * w, 0.44 * h, 0.36 * w, 0.34 * h, u)
    tree(draw, rng, 0.16 * w, 0.40 * h, 0.17 * h, u)
    fence(draw, w, 0.90 * h, u)
    sign(draw, 0.74 * w, 0.56 * h, u)
    image.resize((width, height), Image.LANCZOS).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
