#!/usr/bin/env python3
"""Prints the table of docs/video-service.md: what settings of the profile `vidaio` give in VMAF, seconds and bytes.

    scripts/vidaio_table.py --bin target/release/upscaled FOLDER [--clips 5] [--seconds 5]

Of each film in FOLDER a piece at 960x540 or below is the original; half of it, coded as the validator does (x264
ultrafast), is the payload. VMAF is measured by the FFmpeg inside PyPI's imageio-ffmpeg, which is installed into .venv
when it is missing: those of distributions are often built without libvmaf.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["bbb-480p24", "bottles-360p30", "gopro-480p", "mpeg2-1080p24", "nasa-2video", "phone-4k60", "rabbit-240p30-h264"]
SETTINGS = [(model, crf) for model in ("fast", "fast-clean", "quality") for crf in (8, 12, 16, 20)]


def measuring_ffmpeg():
    python = ROOT / ".venv" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", ROOT / ".venv"], check=True)
    find = [python, "-c", "import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())"]
    found = subprocess.run(find, capture_output=True, text=True)
    if found.returncode:
        subprocess.run([python, "-m", "pip", "install", "--quiet", "imageio-ffmpeg"], check=True)
        found = subprocess.run(find, capture_output=True, text=True, check=True)
    return found.stdout.strip()


def ffmpeg(*words):
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, words)], check=True)


def vmaf(tool, made, original):
    graph = "[0:v]settb=AVTB,setpts=N[a];[1:v]settb=AVTB,setpts=N[b];[a][b]libvmaf=log_fmt=json:log_path=/dev/stdout"
    words = [tool, "-v", "error", "-nostdin", "-i", made, "-i", original, "-lavfi", graph, "-f", "null", "-"]
    out = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return json.loads(out[out.index("{"):])["pooled_metrics"]["vmaf"]["mean"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True, type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    asked = parser.parse_args()
    films = sorted(p for p in asked.folder.iterdir() if any(p.name.startswith(n) for n in NAMES))[: asked.clips]
    if not films:
        print(f"skipped: none of the films is in {asked.folder}")
        return 77
    tool = measuring_ffmpeg()
    rows = {setting: [] for setting in SETTINGS}
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        for n, film in enumerate(films):
            original, payload = work / f"{n}.original.mp4", work / f"{n}.payload.mp4"
            fit = "scale='min(960,iw)':'min(540,ih)':force_original_aspect_ratio=decrease:force_divisible_by=4"
            ffmpeg("-i", film, "-map", "0:v:0", "-t", asked.seconds, "-vf", f"{fit},setsar=1", "-pix_fmt", "yuv420p",
                   "-c:v", "libx264", "-crf", 4, "-preset", "veryfast", original)
            ffmpeg("-i", original, "-vf", "scale=iw/2:ih/2:flags=bicubic", "-c:v", "libx264", "-preset", "ultrafast", payload)
            for model, crf in SETTINGS:
                made = work / "made.mp4"
                made.unlink(missing_ok=True)
                start = time.monotonic()
                subprocess.run([asked.bin, "run", payload, made, "--root", work, "--model", model, "--set", "profile=vidaio",
                                "--set", f"crf={crf}"], check=True, capture_output=True)
                seconds = time.monotonic() - start
                size = made.stat().st_size / payload.stat().st_size
                rows[model, crf].append((vmaf(tool, made, original), seconds, size))
                print(film.name, model, crf, *(round(v, 2) for v in rows[model, crf][-1]), file=sys.stderr, flush=True)
    print("| model | crf | VMAF, mean | least | seconds a clip | bytes over the payload's, mean | most |")
    print("|---|---|---|---|---|---|---|")
    for (model, crf), figures in rows.items():
        scores, times, sizes = zip(*figures)
        print(f"| `{model}` | {crf} | {statistics.mean(scores):.1f} | {min(scores):.1f} | {statistics.mean(times):.1f} "
              f"| {statistics.mean(sizes):.1f} | {max(sizes):.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
