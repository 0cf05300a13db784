#!/usr/bin/env python3
"""The checks of gpu_check.sh, which says how to call them."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
NO_DEVICE = 77
# Largest difference from the processor in f32, in 8-bit code values, and least PSNR in dB.
EXACT_MAX, SHORT_MAX, SHORT_PSNR = 1, 4, 50.0
# A device's memory is held to so many MiB, one after the other, until it runs out.
MEMORY_MB = (512, 256, 128, 64, 32, 16)
SIZES = ("854x480", "1920x1080")


class Report:
    """What was found: (check, result, words, figures)."""

    def __init__(self):
        self.rows = []
        self.facts = {}

    def add(self, check, ok, words, **figures):
        result = {True: "ok", False: "FAILED", None: "skipped"}[ok]
        self.rows.append({"check": check, "result": result, "words": words, **figures})
        print(f"{result:8} {check}: {words}", flush=True)

    def failed(self):
        return any(row["result"] == "FAILED" for row in self.rows)

    def write(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gpu_check.json").write_text(json.dumps({"facts": self.facts, "checks": self.rows}, indent=1) + "\n")
        lines = ["# GPU check", ""] + [f"* {name}: {value}" for name, value in self.facts.items()]
        lines += ["", "| check | result | |", "|---|---|---|"]
        lines += [f"| {r['check']} | {r['result']} | {r['words'].replace('|', '/')} |" for r in self.rows]
        (folder / "gpu_check.md").write_text("\n".join(lines) + "\n")
        print(f"written: {folder / 'gpu_check.json'} and .md")


class Program:
    def __init__(self, path, cache):
        self.path = path
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("UPSCALED_")}
        # Measured anew, and nothing of it in the person's own folder.
        self.env["XDG_CACHE_HOME"] = str(cache)
        self.env.pop("CACHE_DIRECTORY", None)
        self.folder = cache

    def call(self, *args, timeout=1800, **env):
        command = [str(self.path), *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, env={**self.env, **env}, cwd=self.folder,
                              stdin=subprocess.DEVNULL, timeout=timeout)  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def bench(self, device, size, *more, model="fast", **env):
        """The first row of `model bench --json`; its `error` says why there are no figures."""
        code, out, err = self.call("model", "bench", model, "--size", size, "--device", device, "--json", *more, **env)
        try:
            return json.loads(out)[0]
        except (ValueError, IndexError, KeyError):
            return {"error": (err or out).strip()[-600:] or f"ended with {code}"}


def program():
    given = os.environ.get("UPSCALED_BIN")
    path = Path(given) if given else REPO / "target/release/upscaled"
    if not path.is_file():
        print(f"gpu_check: there is no program at {path}; build it (make build) or name it in UPSCALED_BIN", file=sys.stderr)
        sys.exit(2)
    return path.resolve()


def devices_here():
    """Names of the NVIDIA devices, by the driver's own tool or folder."""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip().splitlines()
    return sorted(str(p) for p in Path("/proc/driver/nvidia/gpus").glob("*"))


def cut_words(cut):
    return f"{cut['tile_width']}x{cut['tile_height']} tiles by {cut['batch']}, {cut['sessions']} x {cut['threads']} threads"


def speed(report, tool, device, size, model, precision, quick):
    name = f"{device} {model} {size} {precision}"
    row = tool.bench(device, size, "--check", "--set", f"precision={precision}", model=model,
                     **({"UPSCALED_AUTOTUNE": "false"} if quick else {}))  # fmt: skip
    if row.get("error"):
        report.add(name, False, row["error"])
        return
    words = f"{row['fps']:.2f} frames/s on {row['ran_on']}, {cut_words(row['cut'])}"
    report.add(f"speed {name}", True, words, fps=row["fps"], milliseconds=row["milliseconds"], cut=row["cut"], tuned=row["tuned"])
    found = row["agreement"]
    exact = row["ran_on"].endswith("f32")
    fine = found["largest"] <= EXACT_MAX if exact else found["largest"] <= SHORT_MAX and (found["psnr"] or 999) >= SHORT_PSNR
    psnr = "equal" if found["psnr"] is None else f"{found['psnr']:.1f} dB"
    report.add(f"agreement {name}", fine, f"{psnr}, at most {found['largest']} off, {found['share']:.3%} differ", **found)
    batches = row["batches"] or []
    times = ", ".join(f"{b['batch']}: {b['milliseconds']:.2f} ms{'' if b['same'] else ' OTHER BITS'}" for b in batches)
    # Where bits depend on the batch, autotune leaves it at one: told, and no failure.
    report.add(f"batches {name}", True if batches else None, times or "not measured", batches=batches)


def memory(report, tool, device, model):
    if device.split(":")[0] not in ("cuda", "tensorrt"):
        report.add(f"memory {device}", None, "only of a graphics device can the memory be limited")
        return
    ways = ("--check", "--set", "autotune=false", "--set", "tile=1920x1080", "--set", "precision=f32")
    gave = []
    for limit in MEMORY_MB:
        row = tool.bench(device, "1920x1080", *ways, model=model, UPSCALED_GPU_MEMORY_MB=str(limit))
        if row.get("error"):
            told = "memory" in row["error"].lower()
            gave.append({"limit": limit, "error": row["error"]})
            report.add(f"memory {device} {limit} MiB", told, row["error"])
            continue
        smaller = row["cut"]["tile_width"] < 1920 or row["cut"]["tile_height"] < 1080 or row["memory"] is not None
        same = row["agreement"]["largest"] <= EXACT_MAX
        gave.append({"limit": limit, "cut": row["cut"], "memory": row["memory"]})
        words = f"{cut_words(row['cut'])}, {row['memory'] or 'nothing said'}; at most {row['agreement']['largest']} off"
        report.add(f"memory {device} {limit} MiB", same, words, smaller=smaller)
    went_down = any("error" in g or g["memory"] or g["cut"]["tile_width"] < 1920 or g["cut"]["tile_height"] < 1080 for g in gave)
    report.add(f"memory ladder {device}", went_down, "went down with less memory" if went_down else "no limit was felt: lower MEMORY_MB", limits=gave)


def encoders(report, tool, folder, device):
    if not shutil.which("ffmpeg"):
        report.add("encoders", None, "there is no ffmpeg tool to make a film with")
        return
    film = folder / "film.mp4"
    made = subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25", "-t", "2",
                           "-pix_fmt", "yuv420p", str(film)], capture_output=True, text=True)  # fmt: skip
    if made.returncode:
        report.add("encoders", None, f"ffmpeg could not make a film: {made.stderr.strip()[-300:]}")
        return
    code, out, err = tool.call("run", film, folder / "out.mp4", "--device", device, "--json", "--set", "autotune=false")
    events = []
    for line in out.splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            pass
    words = [l for l in (out + err).splitlines() if "nvenc" in l.lower() or "encoder passed over" in l.lower()]
    outcome = next((e.get("outcome", e) for e in reversed(events) if "encoder" in str(e) and "frames" in str(e)), {})
    encoder = outcome.get("encoder") if isinstance(outcome, dict) else None
    report.add("job and encoder", code == 0, f"ended with {code}, encoder {encoder}; " + ("; ".join(words)[-500:] or err.strip()[-300:] or "nothing said of NVENC"),
               outcome=outcome)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(prog="gpu_check.sh", description=__doc__)
    parser.add_argument("--device", help="cuda:N, tensorrt:N, or cpu or openvino as a rehearsal [default: all of a GPU]")
    parser.add_argument("--model", action="append", help="a model besides `fast`; may be repeated")
    parser.add_argument("--quick", action="store_true", help="480p only, nothing tuned")
    parser.add_argument("--out", default="gpu-check", help="folder for the figures [default: gpu-check]")
    args = parser.parse_args()
    rehearsal = args.device in ("cpu", "openvino")
    gpus = devices_here()
    if not gpus and not rehearsal:
        print("gpu_check: there is no NVIDIA device here (no nvidia-smi that answers, nothing in /proc/driver/nvidia); "
              "`--device cpu` rehearses on the processor")  # fmt: skip
        sys.exit(NO_DEVICE)
    path = program()
    report = Report()
    out = Path(args.out).absolute()
    with tempfile.TemporaryDirectory(prefix="upscaled-gpu-check-") as scratch:
        folder = Path(scratch)
        tool = Program(path, folder)
        report.facts = {"devices": "; ".join(gpus) or "none: a rehearsal", "program": tool.call("--version")[1].strip(),
                        "rehearsal": rehearsal}  # fmt: skip
        code, text, err = tool.call("doctor", "--json")
        try:
            found = json.loads(text)
            found = found if isinstance(found, list) else found.get("findings", [])
        except ValueError:
            found = []
        for finding in found:
            if finding["subject"] in ("engine", "device", "choice", "precision", "gpu", "encoder", "cache"):
                report.facts[f"doctor, {finding['subject']}"] = (
                    report.facts.get(f"doctor, {finding['subject']}", "") + f"{finding['found']}{'' if finding['works'] else ' (no)'}. "
                )
        report.add("doctor", bool(found), f"{len(found)} findings" if found else (err.strip()[-300:] or f"ended with {code}"))
        devices = [args.device] if args.device else ["tensorrt", "cuda"]
        for device in devices:
            probe = tool.bench(device, "64x48", UPSCALED_AUTOTUNE="false")
            if probe.get("error"):
                # TensorRT is not everywhere; a device that was named, and CUDA, must be.
                report.add(f"provider {device}", None if device == "tensorrt" and not args.device else False, probe["error"])
                continue
            report.add(f"provider {device}", True, f"opens as {probe['ran_on']}")
            for model in ["fast", *[str(Path(m).absolute()) if os.sep in m else m for m in args.model or []]]:
                for size in SIZES[:1] if args.quick else SIZES:
                    for precision in ("auto", "f32"):
                        speed(report, tool, device, size, model, precision, args.quick)
            memory(report, tool, device, "fast")
        encoders(report, tool, folder, args.device or "auto")
    report.write(out)
    sys.exit(1 if report.failed() else 0)


if __name__ == "__main__":
    main()
