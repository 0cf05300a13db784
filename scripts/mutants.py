#!/usr/bin/env python3
"""Opens and upscales damaged films and pictures: small files of each container, changed by chance.

    mutants.py [--count N] [--seed S] [--bin PROGRAM] [--keep FOLDER]

Each mutant goes through `upscaled probe`, as the daemon has it, and where that accepts it through `upscaled run`, both
under a limit of memory. A mutant comes out, or is refused with words. A crash inside FFmpeg or another library takes
down the one process and is counted; a hang, more memory than the limit, or an end without a word is a fault. Exit code
0 when there is none, 77 when something needed is missing."""

import argparse
import concurrent.futures
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from daemon_runs import Unready, binary, environment, need_tools, table

# Name of the file: what ffmpeg makes it with.
KINDS = {
    "h264.mkv": "-c:v libx264 -bf 2 -c:a ac3", "h264.mp4": "-c:v libx264 -bf 2 -c:a aac", "mpeg4.mov": "-c:v mpeg4 -c:a aac",
    "vp9.webm": "-c:v libvpx-vp9 -deadline realtime -c:a libopus", "mpeg4.avi": "-c:v mpeg4 -c:a mp3", "h264.ts": "-c:v libx264 -c:a mp2",
    "mpeg2.mpg": "-c:v mpeg2video -c:a mp2", "flv1.flv": "-c:v flv1 -c:a mp3 -ar 44100", "theora.ogv": "-c:v libtheora -c:a libvorbis",
    "wmv2.wmv": "-c:v wmv2 -c:a wmav2", "ffv1.nut": "-c:v ffv1 -c:a pcm_s16le", "hevc.mkv": "-c:v libx265 -x265-params log-level=error -c:a flac",
    "png.png": "-frames:v 1", "jpeg.jpg": "-frames:v 1", "webp.webp": "-frames:v 1", "tiff.tiff": "-frames:v 1 -pix_fmt rgb24",
}  # fmt: skip
SETTINGS = ["eta_frames=4", "batch_frames=8", "threads=1", "device=cpu", "preset=ultrafast", "min_free_mb=0"]
# Address space of a process; a job over a small film takes about one.
MEMORY = 6 << 30
# What a process really took, in RAM.
RESIDENT = 3 << 30
# Longer is a hang: the largest pictures that are accepted take seconds.
PROBE_SECONDS, RUN_SECONDS = 30, 240
# Values that sizes and counts are set to.
ODD = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE]


def originals(folder):
    """The files that are changed, by name; those that this ffmpeg cannot make are left out."""
    made = {}
    for name, codecs in KINDS.items():
        path = folder / name
        command = ["ffmpeg", "-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.4"]
        command += [] if "frames:v" in codecs else ["-f", "lavfi", "-i", "sine=440:d=0.4", "-pix_fmt", "yuv420p"]
        done = subprocess.run([*command, *codecs.split(), str(path)], capture_output=True)
        if done.returncode == 0 and path.is_file():
            made[name] = path.read_bytes()
        else:
            print(f"{name}: left out: {done.stderr.decode(errors='replace').strip()[-100:]}")
    return made


def mutate(data, others, dice):
    """The file with one to four changes."""
    data = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        if not data:
            break
        # Headers are short and matter most
        end = len(data) if dice.random() < 0.5 else min(len(data), 1024)
        at = dice.randrange(end)
        length = min(len(data) - at, dice.choice((1, 4, 16, 64, 512, 4096)))
        kind = dice.randrange(9)
        if kind == 0:
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            data[at : at + length] = dice.randbytes(length)
        elif kind == 2:
            data[at : at + length] = bytes([dice.choice((0, 0xFF))]) * length
        elif kind == 3:
            width = dice.choice((1, 2, 4, 8))
            value = dice.choice(ODD) & (256**width - 1)
            data[at : at + width] = value.to_bytes(width, dice.choice(("big", "little")))
        elif kind == 4:
            del data[at:]
        elif kind == 5:
            del data[at : at + length]
        elif kind == 6:
            data[at:at] = data[at : at + length] * dice.choice((1, 1, 50))
        elif kind == 7:
            other = dice.choice(others)
            there = dice.randrange(len(other))
            data[at : at + length] = other[there : there + length]
        else:
            data += dice.randbytes(length)
    return bytes(data)


def limited():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(command, env, seconds):
    """(exit code, negative for a signal, None for a hang; words; most RAM it took)."""
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=words, stderr=words, preexec_fn=limited,
                                   start_new_session=True)  # fmt: skip
        hung = threading.Event()

        def end():
            hung.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(seconds, end)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        words.seek(0)
        text = words.read().decode(errors="replace")
    return (None if hung.is_set() else process.returncode), text, usage.ru_maxrss * 1024


def judge(program, env, path, output):
    """(what became of a mutant, what is wrong or None, most RAM)."""
    code, words, resident = run([program, "probe", str(path)], env, PROBE_SECONDS)
    if code == 0:
        command = [program, "run", str(path), str(output)]
        code, words, more = run(command + [w for s in SETTINGS for w in ("--set", s)], env, RUN_SECONDS)
        resident, step = max(resident, more), "run"
    else:
        step = "probe"
    if code is None:
        return f"{step} hangs", f"no end after {PROBE_SECONDS if step == 'probe' else RUN_SECONDS} s", resident
    if resident > RESIDENT:
        return f"{step} takes memory", f"{resident >> 20} MiB", resident
    if code < 0 or code == 101:
        return f"{step} crashes ({signal.Signals(-code).name if code < 0 else 'panic'})", None if code < 0 else words[-300:], resident
    if code != 0:
        return f"refused by {step}", None if len(words.split()) > 3 else f"no words: {words!r}", resident
    return "upscaled", None if output.is_file() else "no output", resident


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", help="the program; default: the newest build")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, help="for the same mutants again")
    parser.add_argument("--keep", type=Path, help="mutants that crash something or are wrong are kept in this folder")
    args = parser.parse_args()
    seed, started = args.seed if args.seed is not None else random.randrange(10**6), time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="upscaled-mutants-"))
    try:
        need_tools("ffmpeg")
        program = str(binary(args.bin))
        env = {**environment(program), "XDG_CACHE_HOME": str(folder / "cache")}
        files = originals(folder)
        if not files:
            raise Unready("ffmpeg can make none of the files")
        counts, wrong, largest = walk(program, env, files, folder, seed, args)
    except Unready as error:
        print(error)
        sys.exit(77)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    kinds = sorted({what for by in counts.values() for what in by})
    rows = [(name, *(by.get(what, "") for what in kinds)) for name, by in sorted(counts.items())]
    rows.append(("all", *(sum(by.get(what, 0) for by in counts.values()) for what in kinds)))
    print(table(rows, ["", *kinds]))
    for line in wrong:
        print(line)
    print(f"{args.count} mutants, seed {seed}, {len(wrong)} wrong, at most {largest >> 20} MiB, {time.monotonic() - started:.0f} s")
    sys.exit(1 if wrong else 0)


def output_of(folder, stem, name):
    """Pictures stay what they are; every film may be Matroska."""
    return folder / (stem + (Path(name).suffix if "frames:v" in KINDS[name] else ".mkv"))


def walk(program, env, files, folder, seed, args):
    names, contents = list(files), list(files.values())

    def one(number):
        dice = random.Random(f"{seed}-{number}")
        name = names[number % len(names)]
        path, output = folder / f"{number}-{name}", output_of(folder, f"{number}-out", name)
        path.write_bytes(mutate(files[name], contents, dice))
        what, fault, resident = judge(program, env, path, output)
        if args.keep and (fault or "crashes" in what):
            args.keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, args.keep / f"{seed}-{path.name}")
        for left in folder.glob(f"{number}-*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        return name, what, fault and f"mutant {number} of {name}: {what}: {fault}", resident

    counts, wrong, largest = {}, [], 0
    for name, data in files.items():
        (folder / name).write_bytes(data)
        what, fault, _ = judge(program, env, folder / name, output_of(folder, f"whole-{name}", name))
        if what != "upscaled":
            wrong.append(f"{name} is not upscaled even whole: {what} {fault or ''}")
    with concurrent.futures.ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        for name, what, fault, resident in pool.map(one, range(args.count)):
            by = counts.setdefault(name, {})
            by[what] = by.get(what, 0) + 1
            wrong += [fault] if fault else []
            largest = max(largest, resident)
    return counts, wrong, largest


if __name__ == "__main__":
    main()
