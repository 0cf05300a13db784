#!/usr/bin/env python3
"""Writes the table of models in docs/models.md: size, reach, closeness to true pictures, speed.

    model_table.py --bin target/release/upscaled --pictures ../shared/images/eval --models ../shared/models [--write]

Measured with `upscaled model show`, `measure` and `bench`. Without --write the table is only printed. The pictures are
halved and enlarged twice, whatever a model's own scale is, as `--scale 2` does; slow models are measured on the first
folders only (--slow)."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

BEGIN, END = "<!-- table: made by scripts/model_table.py -->", "<!-- end of table -->"
BUILT_IN = ["fast", "fast-clean", "quality", "quality-clean"]
SIZES = {"854x480": "480p", "1920x1080": "1080p"}


def ask(binary, *words):
    """A command's answer, as JSON; None with its words on standard error when it fails."""
    done = subprocess.run([binary, "model", *words, "--json"], capture_output=True, text=True)
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError:
        print(" ".join(words), "->", done.stderr.strip(), file=sys.stderr)
        return None


def scores(binary, folders, model, log):
    """`{way: {folder: (psnr, ssim)}}` of bicubic, Lanczos and a model."""
    found = {}
    for folder in folders:
        log(f"measure {model} on {folder.name}")
        for part in ask(binary, "measure", str(folder), "--models", model) or []:
            for score in part["scores"]:
                found.setdefault(score["way"], {})[folder.name] = (score["psnr"], score["ssim"])
    return found


def speeds(binary, model, size, autotune, log):
    """`{device: frames a second}`."""
    log(f"bench {model} at {size}")
    rows = ask(binary, "bench", model, "--size", size, "--set", f"autotune={str(autotune).lower()}") or []
    return {row["device"]: row["fps"] for row in rows if row.get("fps")}


def number(value, digits):
    return "" if value is None else f"{value:.{digits}f}"


def fps(value):
    return "" if value is None else f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def table(binary, models, folders, slow_folders, slow_sizes, autotune, log):
    devices, lines, rows = [], [], []
    plain = {}
    for model in models:
        shown = ask(binary, "show", model)
        if not shown:
            continue
        # a picture of 0.1 megapixels in less than half a second on one core, roughly
        slow = shown["multiply_adds"] > 2e5
        found = scores(binary, slow_folders if slow else folders, model, log)
        for way in ("bicubic", "Lanczos"):
            plain.setdefault(way, {}).update(found.pop(way, {}))
        speed = {size: speeds(binary, model, size, autotune, log) if not slow or size in slow_sizes else {} for size in SIZES}
        devices += [d for d in dict.fromkeys(d for s in speed.values() for d in s) if d not in devices]
        rows.append((Path(model).stem if "/" in model else model, shown, next(iter(found.values()), {}), speed))
    head = ["model", "scale", "channels", "parameters", "reach"]
    head += [f"{f.name} PSNR / SSIM" for f in folders]
    head += [f"{name}, {device}, fps" for name in SIZES.values() for device in devices]
    lines.append("| " + " | ".join(head) + " |")
    lines.append("|" + "---|" * len(head))

    def cells(found):
        return [f"{number(found[f.name][0], 2)} / {number(found[f.name][1], 4)}" if f.name in found else "" for f in folders]

    for way, found in plain.items():
        lines.append("| " + " | ".join([way, "", "", "", "", *cells(found)] + [""] * len(SIZES) * len(devices)) + " |")
    for name, shown, found, speed in rows:
        reach = "whole picture" if shown["global"] else str(shown["halo"])
        channels = "RGB" if shown["channels"] == 3 else "luma"
        row = [f"`{name}`", f"{shown['scale']}x", channels, f"{shown['parameters']:,}", reach, *cells(found)]
        row += [fps(speed[size].get(device)) for size in SIZES for device in devices]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bin", default="target/release/upscaled")
    p.add_argument("--pictures", type=Path, required=True, help="folder of folders of pictures")
    p.add_argument("--models", type=Path, help="folder of ONNX files, beside the built-in ones")
    p.add_argument("--sets", default="set5,set14,kodak,cid22", help="the folders, in this order")
    p.add_argument("--slow", default="set5,set14", help="those that slow models are measured on")
    p.add_argument("--slow-sizes", default=",".join(SIZES), help="sizes at which the speed of slow models is measured")
    p.add_argument("--autotune", action="store_true", help="speeds with the cut that autotune finds, not the fixed rule's")
    p.add_argument("--doc", type=Path, default=Path(__file__).parent.parent / "docs" / "models.md")
    p.add_argument("--write", action="store_true", help="put the table into docs/models.md")
    args = p.parse_args()
    folders = [args.pictures / name for name in args.sets.split(",") if (args.pictures / name).is_dir()]
    if not folders:
        sys.exit(f"{args.pictures} holds none of the folders {args.sets}")
    slow = [f for f in folders if f.name in args.slow.split(",")]
    others = sorted(args.models.glob("*.onnx")) if args.models else []
    log = lambda words: print(words, file=sys.stderr, flush=True)
    text = table(args.bin, BUILT_IN + [str(m) for m in others], folders, slow, args.slow_sizes.split(","), args.autotune, log)
    print(text)
    if args.write:
        doc = args.doc.read_text()
        if BEGIN not in doc or END not in doc:
            sys.exit(f"{args.doc} has no place for the table ({BEGIN} .. {END})")
        before, rest = doc.split(BEGIN, 1)
        args.doc.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}")


if __name__ == "__main__":
    main()
