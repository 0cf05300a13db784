#!/usr/bin/env python3
"""Speed and memory of the real program against the PNG way, in interleaved pairs with medians.

    make bench
    bench.py [--runs 3] [--quick] [--json FILE] [--only 480p|1080p|static|memory]

Measured: whole jobs of `upscaled run` (as it chooses itself, and held to fp32 on ONNX Runtime's CPU provider) and the
same work by png_way.py; decode, upscale and encode each alone (`upscaled parts`); processor time of the whole job
over the sum of its parts; peak memory (RssAnon + RssFile over the process tree; the RAM disk is not in it);
a static clip with and without reuse. Each figure stands beside the wanted one."""

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from pathlib import Path

import ffmedia
import sample_video
from daemon_runs import REPO, SHARED_VIDEOS, Unready, binary, descendants, environment, need_tools, processes, table

MODEL = REPO / "models" / "fast-film.onnx"
PACKAGES = ["numpy", "pillow", "onnxruntime"]
GIB = 1 << 30
# What is wanted of each figure.
TIMES_PNG_F32, TIMES_PNG_AUTO, CPU_OVER_SUM, STATIC_GAIN = 3.5, 5.0, 1.10, 5.0
MEMORY = {"480p": 0.6, "1080p": 2.0}
# "Flat": a clip four times as long may take this much more at its peak.
MEMORY_GROWTH = 1.10
F32 = {"UPSCALED_DEVICE": "cpu", "UPSCALED_PRECISION": "f32"}
SAMPLE_EVERY = 0.02


class Sampler(threading.Thread):
    """Watches a process tree: peak of RssAnon + RssFile, and processor time by thread name."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak, self.threads, self.over = pid, 0, {}, threading.Event()
        self.tick = 1 / os.sysconf("SC_CLK_TCK")

    def run(self):
        n = 0
        tree = [self.pid]
        while not self.over.is_set():
            if n % 10 == 0:
                tree = [self.pid] + descendants(self.pid, processes())
            n += 1
            self.peak = max(self.peak, sum(self.resident(p) for p in tree))
            for pid in tree:
                self.look_at_threads(pid)
            self.over.wait(SAMPLE_EVERY)

    @staticmethod
    def resident(pid):
        try:
            text = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return 0
        return sum(int(m) * 1024 for m in re.findall(r"^Rss(?:Anon|File):\s+(\d+) kB", text, re.M))

    def look_at_threads(self, pid):
        try:
            for task in os.scandir(f"/proc/{pid}/task"):
                stat = Path(task.path, "stat").read_text()
                head, tail = stat.rsplit(")", 1)
                fields = tail.split()
                name = re.sub(r"[-:_ ]?\d+$", "", head.split("(", 1)[1])
                self.threads[(task.name, name)] = (int(fields[11]) + int(fields[12])) * self.tick
        except OSError:
            pass

    def by_name(self):
        sums = {}
        for (_, name), seconds in self.threads.items():
            sums[name] = sums.get(name, 0) + seconds
        return sums


def measured(command, env=None, sample=True):
    """Runs a command: wall and processor seconds (children too), peak memory, processor time by thread, its output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen([str(c) for c in command], stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=env)
        sampler = Sampler(process.pid)
        if sample:
            sampler.start()
        process.wait()
        wall = time.monotonic() - started
        sampler.over.set()
        if sample:
            sampler.join()
        out.seek(0)
        err.seek(0)
        text, words = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode != 0:
        raise Unready(f"{' '.join(map(str, command[:4]))} .. ended with {process.returncode}: {words[-800:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu, "peak": sampler.peak, "threads": sampler.by_name(), "out": text, "err": words}


def quiet_ffmpeg(*args):
    subprocess.run(["ffmpeg", "-v", "fatal", "-nostdin", "-y", *map(str, args)], check=True)


def count(path):
    info = ffmedia.describe(path)
    stream = next(s for s in info["streams"] if s["kind"] == "video")
    return len(ffmedia.frames(path, stream["index"])[0]), stream


def clips(folder, names, frames, frames_hd):
    """name -> file, made here: from the shared videos where they are, else generated."""
    made = {}
    if {"480p", "static", "memory"} & set(names):
        film = SHARED_VIDEOS / "bbb-480p24-h264-aac51-30s.mp4"
        if not film.is_file():
            film = sample_video.make(folder / "film480.mp4", 854, 480, "24", max(30.0, frames / 24))
        made["480p"] = folder / "480p.mp4"
        quiet_ffmpeg("-i", film, "-map", "0:v", "-map", "0:a:0", "-c", "copy", "-frames:v", frames, "-t", frames / 24, made["480p"])
        made["long"] = folder / "long.mp4"
        quiet_ffmpeg("-i", film, "-map", "0:v", "-map", "0:a:0", "-c", "copy", "-frames:v", 4 * frames, "-t", 4 * frames / 24, made["long"])
    if "1080p" in names:
        film = SHARED_VIDEOS / "mpeg2-1080p24-mp2.ts"
        if not film.is_file():
            film = sample_video.make(folder / "film1080.mp4", 1920, 1080, "24", 3.0)
        made["1080p"] = folder / "1080p.mkv"
        quiet_ffmpeg("-i", film, "-map", "0:v", "-map", "0:a:0", "-c", "copy", "-frames:v", frames_hd, made["1080p"])
    if "static" in names:
        # Coded without loss, so that every decoded frame is the same
        still = folder / "still.png"
        quiet_ffmpeg("-ss", "0.5", "-i", made["480p"], "-frames:v", "1", still)
        made["static"] = folder / "static.mp4"
        quiet_ffmpeg("-loop", "1", "-framerate", "24", "-i", still, "-frames:v", frames, "-c:v", "libx264", "-qp", "0",
                     "-preset", "ultrafast", "-pix_fmt", "yuv420p", made["static"])  # fmt: skip
    return made


def bench_python(given):
    """A Python with numpy, pillow and onnxruntime: .venv, made when absent."""
    if given:
        return given
    home = REPO / ".venv"
    python = home / "bin" / "python"
    test = [python, "-c", "import numpy, PIL, onnxruntime"]
    if not python.is_file() or subprocess.run(test, capture_output=True).returncode:
        print(f"making {home} with {', '.join(PACKAGES)} for the PNG way", flush=True)
        try:
            venv.create(home, with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        except (subprocess.CalledProcessError, OSError) as error:
            raise Unready(f"{home} could not be made ({error}); install the package python3-venv, or give --python") from error
    return python


class Bench:
    def __init__(self, args, program, python, folder):
        self.args, self.program, self.python, self.folder = args, program, python, folder
        self.env = environment(program)
        # As the program chooses itself: measured at the first job of a size, and kept.
        del self.env["UPSCALED_AUTOTUNE"]
        self.outputs = 0

    def job(self, clip, settings=None, keep=None):
        """A whole job of `upscaled run`; with what its summary says of stages."""
        self.outputs += 1
        target = keep or self.folder / f"out-{self.outputs}{clip.suffix}"
        env = {**self.env, **(settings or {})}
        result = measured([self.program, "run", "--json", clip, target], env)
        result["outcome"] = outcome_in(result["out"])
        result["bytes"] = target.stat().st_size
        if not keep:
            target.unlink()
        return result

    def png(self, clip):
        target = self.folder / "png.mkv"
        command = [self.python, REPO / "scripts" / "png_way.py", clip, target, "--model", self.args.model, "--folder", self.folder]
        result = measured(command)
        result["steps"] = json.loads(result["out"].strip().splitlines()[-1])["steps"]
        return result

    def parts(self, clip, frames, settings=None):
        """Decode, upscale and encode, each alone over the same frames (`upscaled parts`): core-ms a frame."""
        result = measured([self.program, "parts", clip, "--frames", frames], {**self.env, **(settings or {})}, sample=False)
        told = json.loads(result["out"].strip().splitlines()[-1])
        return {part: 1000 * told[part]["cpu"] / told["frames"] for part in ("decode", "upscale", "encode")}

    def film(self, name, clip):
        """One clip: our two ways and the PNG way in turn, then the parts alone."""
        frames, _ = count(clip)
        rounds = []
        self.job(clip)  # what is measured once for a machine is measured here
        self.job(clip, F32)
        for turn in range(self.args.runs):
            ways = [("auto", lambda: self.job(clip)), ("f32", lambda: self.job(clip, F32)), ("png", lambda: self.png(clip))]
            if self.args.no_png:
                ways.pop()
            shift = turn % len(ways)
            rounds.append({way: call() for way, call in ways[shift:] + ways[:shift]})
            print(f"{name} round {turn + 1}: " + ", ".join(f"{w} {frames / r['wall']:.1f} fps" for w, r in rounds[-1].items()), flush=True)
        some = min(frames, self.args.part_frames)
        parts = {"auto": [], "f32": []}
        for _ in range(self.args.runs):
            parts["auto"].append(self.parts(clip, some))
            parts["f32"].append(self.parts(clip, some, F32))
        return self.sum_up(name, frames, rounds, parts)

    def sum_up(self, name, frames, rounds, parts):
        middle = lambda values: statistics.median(list(values))
        result = {"frames": frames, "fps": {}, "cpu_ms": {}, "peak_gib": {}, "parts_ms": {}, "threads_ms": {}, "wanted": []}
        for way in rounds[0]:
            result["fps"][way] = frames / middle(r[way]["wall"] for r in rounds)
            result["cpu_ms"][way] = 1000 * middle(r[way]["cpu"] for r in rounds) / frames
            result["peak_gib"][way] = max(r[way]["peak"] for r in rounds) / GIB
        for way, told in parts.items():
            for part in told[0]:
                result["parts_ms"][f"{part} {way}"] = middle(t[part] for t in told)
        for way, wanted in (("f32", TIMES_PNG_F32), ("auto", TIMES_PNG_AUTO)):
            threads = {}
            for r in rounds:
                for thread, seconds in r[way]["threads"].items():
                    threads.setdefault(thread, []).append(seconds)
            result["threads_ms"][way] = {t: 1000 * middle(v) / frames for t, v in threads.items()}
            outcome = rounds[-1][way]["outcome"]
            result.setdefault("device", {})[way] = outcome.get("device")
            result.setdefault("stages_s", {})[way] = dict(outcome.get("stages") or [])
            total = sum(ms for part, ms in result["parts_ms"].items() if part.endswith(f" {way}"))
            over = result["cpu_ms"][way] / total
            result["wanted"].append((f"{name} {way}: CPU time over decode + upscale + encode", over, f"<= {CPU_OVER_SUM}", over <= CPU_OVER_SUM))
            if "png" in rounds[0]:
                gain = middle(r["png"]["wall"] / r[way]["wall"] for r in rounds)
                ok = gain >= wanted
                label = f"{name} {way} ({outcome.get('device')}): times the PNG way"
                result["wanted"].append((label, gain, f">= {wanted}", ok))
        peak = result["peak_gib"]["auto"]
        result["wanted"].append((f"{name}: peak memory, GiB", peak, f"<= {MEMORY[name]}", peak <= MEMORY[name]))
        return result

    def static(self, clip):
        """The static clip with and without reuse: same frames, and how much faster the upscale stage is."""
        files = {way: self.folder / f"static-{way}.mp4" for way in ("reuse", "anew")}
        frames, _ = count(clip)
        rounds = []
        for turn in range(self.args.runs):
            order = list(files) if turn % 2 == 0 else list(files)[::-1]
            rounds.append({})
            for way in order:
                files[way].unlink(missing_ok=True)
                settings = {"UPSCALED_REUSE": "true" if way == "reuse" else "false"}
                rounds[-1][way] = self.job(clip, settings, files[way])
        same = ffmedia.frame_hashes(files["reuse"]) == ffmedia.frame_hashes(files["anew"])

        def stage(result):
            return dict(result["outcome"].get("stages") or []).get("upscale") or sum(
                s for t, s in result["threads"].items() if t.startswith("upscale"))  # fmt: skip

        gain = statistics.median(stage(r["anew"]) / max(1e-3, stage(r["reuse"])) for r in rounds)
        fps = {way: frames / statistics.median(r[way]["wall"] for r in rounds) for way in files}
        outcome = rounds[-1]["reuse"]["outcome"]
        return {
            "frames": frames, "fps": fps, "tiles": outcome.get("tiles"), "tiles_reused": outcome.get("tiles_reused"),
            "wanted": [("static: upscaling with reuse, times faster", gain, f">= {STATIC_GAIN}", gain >= STATIC_GAIN),
                       ("static: framemd5 with and without reuse", "same" if same else "DIFFERENT", "same", same)],
        }  # fmt: skip

    def memory(self, short, long):
        peaks = [max(self.job(c)["peak"] for _ in range(2)) for c in (short, long)]
        growth = peaks[1] / peaks[0]
        return {
            "peak_gib": [p / GIB for p in peaks],
            "wanted": [(f"memory: clip 4 times as long ({peaks[0] / GIB:.3f} to {peaks[1] / GIB:.3f} GiB)", growth,
                        f"<= {MEMORY_GROWTH}", growth <= MEMORY_GROWTH)],
        }  # fmt: skip


def outcome_in(text):
    """The outcome that `run --json` prints: the last object with stages in it."""
    for line in reversed(text.splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        for candidate in (found, *(v for v in found.values() if isinstance(v, dict))) if isinstance(found, dict) else ():
            if "stages" in candidate:
                return candidate
    return {}


def report(name, result):
    print(f"\n{name}: {result.get('frames', '')} frames")
    if "fps" in result and "cpu_ms" in result:
        rows = []
        for way in result["fps"]:
            rows.append([way, result.get("device", {}).get(way) or "", f"{result['fps'][way]:.2f}", f"{result['cpu_ms'][way]:.1f}",
                         f"{result['peak_gib'][way]:.3f}"])  # fmt: skip
        print(table(rows, ["way", "device", "frames/s", "core-ms a frame", "peak GiB"]))
        print("core-ms a frame, alone: " + ", ".join(f"{p} {ms:.1f}" for p, ms in result["parts_ms"].items()))
        for way, threads in result["threads_ms"].items():
            shown = sorted(threads.items(), key=lambda t: -t[1])
            print(f"core-ms a frame inside the job by thread, {way}: " + ", ".join(f"{t} {ms:.1f}" for t, ms in shown if ms >= 0.2))
    elif "fps" in result:
        print(", ".join(f"{way} {fps:.1f} frames/s" for way, fps in result["fps"].items()), f"; tiles reused {result.get('tiles_reused')} of {result.get('tiles')}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one run, short clips")
    parser.add_argument("--only", action="append", choices=("480p", "1080p", "static", "memory"))
    parser.add_argument("--frames", type=int, default=0, help="frames of the 480p clip (default 180, quick 48)")
    parser.add_argument("--no-png", action="store_true", help="leave the PNG way out")
    parser.add_argument("--bin", help="the program; default: the newest build")
    parser.add_argument("--python", help="a Python with numpy, pillow and onnxruntime (default: .venv, made when absent)")
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--folder", default="/dev/shm", help="where clips and outputs go: a tmpfs, the same for both ways")
    parser.add_argument("--part-frames", type=int, default=120, help="frames for measuring the parts alone")
    parser.add_argument("--json", help="write all figures to this file")
    args = parser.parse_args()
    if args.quick:
        args.runs = 1
    names = args.only or ["480p", "1080p", "static", "memory"]
    frames = args.frames or (48 if args.quick else 180)
    folder = Path(tempfile.mkdtemp(prefix="upscaled-bench-", dir=args.folder))
    try:
        need_tools("ffmpeg", "ffprobe")
        program = binary(args.bin)
        python = None if args.no_png or not {"480p", "1080p"} & set(names) else bench_python(args.python)
        if "debug" in program.parts:
            print("note: this is a debug build; its figures mean nothing")
        load = os.getloadavg()[0]
        print(f"{program}, {os.cpu_count()} cores, load {load:.1f}, {args.runs} runs", flush=True)
        files = clips(folder, names, frames, 16 if args.quick else 58)
        bench = Bench(args, program, python, folder)
        results = {}
        for name in names:
            if name == "static":
                results[name] = bench.static(files["static"])
            elif name == "memory":
                results[name] = bench.memory(files["480p"], files["long"])
            else:
                results[name] = bench.film(name, files[name])
    except (Unready, subprocess.CalledProcessError) as error:
        print(error)
        sys.exit(77)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    wanted = []
    for name, result in results.items():
        report(name, result)
        wanted += result["wanted"]
    print()
    shown = [["ok" if ok else "MISSED", what, v if isinstance(v, str) else f"{v:.2f}", w] for what, v, w, ok in wanted]
    print(table(shown, ["", "figure", "measured", "wanted"]))
    if load > 0.5 * (os.cpu_count() or 1):
        print(f"note: the machine was busy at the start (load {load:.1f}); figures are worth little")
    if args.json:
        facts = {"program": str(program), "cores": os.cpu_count(), "load": load, "results": results}
        Path(args.json).write_text(json.dumps(facts, indent=1, default=str) + "\n")
    sys.exit(0 if all(ok for *_, ok in wanted) else 1)


if __name__ == "__main__":
    main()
