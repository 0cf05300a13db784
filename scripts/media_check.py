#!/usr/bin/env python3
"""Puts every video of a folder through the real daemon and compares each result with its source.

    make media MEDIA=folder
    media_check.py FOLDER [--only PATTERN] [--jobs N] [--keep] [--set KEY=VALUE]

A source of which a decoder delivers no frame must fail: a reason in history.jsonl, no output. Every source must be
untouched. Exit code 0 when all is right, 1 when not, 77 when something needed is missing."""

import argparse
import fnmatch
import hashlib
import json
import math
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ffmedia
from daemon_runs import Root, Unready, binary, escape, kill_tree, need_tools, outcome_of, table
from daemon_runs import wait_until
from media_compare import compare

SKIPPED_TAILS = (".part", ".tmp", ".crdownload", ".!qB", "~", ".toml", ".txt", ".md", ".json", ".jsonl", ".srt", ".nfo")
# A refusal for size is right only beyond what encoders open at.
WIDTH_ANY_ENCODER_OPENS = 8192


def videos(folder, only):
    found = []
    for path in sorted(Path(folder).rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not path.is_file() or hidden or path.name.endswith(SKIPPED_TAILS):
            continue
        if not only or any(fnmatch.fnmatch(path.name, pattern) or pattern in path.name for pattern in only):
            found.append(path)
    return found


def digest(path):
    h = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            h.update(chunk)
    return h.hexdigest()


def playable(path):
    """The widest video stream of which at least one frame can be decoded, else None."""
    try:
        streams = ffmedia.describe(path)["streams"]
    except ffmedia.ProbeFailed:
        return None
    found = [s for s in streams if s["kind"] == "video" and ffmedia.first_frame(path, s["index"]).get("width")]
    return max(found, key=lambda s: s["width"]) if found else None


def dolby_without_base(stream):
    return any(d.get("dv_profile") == 5 for d in stream.get("side_data_list", []))


def run_daemon(root, limit, say):
    """Runs the daemon until it has nothing left to do; its exit code, or None when it took too long."""
    process = root.start()
    end, told = time.monotonic() + limit, ""
    try:
        while process.poll() is None:
            time.sleep(0.2)
            if time.monotonic() > end:
                return None
            done = len(root.history())
            text = f"{done} done"
            if say and text != told:
                print(f"\r{text} ", end="", file=sys.stderr, flush=True)
                told = text
        return process.returncode
    finally:
        if say:
            print(file=sys.stderr)
        kill_tree(process)


def check_one(source, relative, root, entry, before, options):
    """(result, verdict) of a file; `result` is a word for the table."""
    faults, notes = [], []
    verdict = None
    if digest(source) != before[0] or source.stat().st_mtime_ns != before[1]:
        faults.append("source: changed")
    stream = playable(source)
    leftovers = [p for p in root.output.joinpath(relative).parent.glob("*") if p.is_file() and entry is None and source.stem in p.name]
    if entry is None and stream is None and f"{source.name}: passed over" in root.console():
        return "left", None, faults, ["left alone, as the log says"]
    if entry is None:
        return "LOST", None, faults + [f"history: no line for it {[p.name for p in leftovers] or ''}"], notes
    state, reason = entry.get("state"), entry.get("reason") or ""
    result = root.result_of(entry)
    if state == "failed":
        files = [p for p in root.output.joinpath(relative).parent.glob("*_upscaled*") if p.stem.startswith(source.stem + "_upscaled")]
        if not reason.strip():
            faults.append("failed: no reason given")
        if result or files:
            faults.append(f"failed: but there is an output {result or files}")
        fault = entry.get("fault")
        notes.append(reason)
        if stream is None or dolby_without_base(stream):
            return "refused", None, faults, notes
        # A film is not made silent unasked.
        if fault == "unsupported" and "drop_audio" in reason:
            return "refused", None, faults, notes
        if stream["width"] * options.scale > WIDTH_ANY_ENCODER_OPENS and fault in (None, "unsupported"):
            return "refused", None, faults, notes
        return "FAILED", None, faults + ["failed: but it can be decoded"], notes
    if state != "done":
        return "LOST", None, faults + [f"history: state {state}"], notes
    if stream is None:
        faults.append("done: but no frame of it can be decoded")
    if not result:
        return "LOST", None, faults + [f"output: {entry.get('output')} is not there"], notes
    outcome = outcome_of(entry)
    verdict = compare(
        source, result, scale=options.scale, losses=outcome.get("losses") or (), psnr=not options.no_psnr,
        damaged=bool(outcome.get("damaged")))  # fmt: skip
    if outcome.get("frames") is not None and outcome["frames"] != verdict.frames:
        faults.append(f"history: says {outcome['frames']} frames")
    notes += [f"{len(outcome['losses'])} losses named"] if outcome.get("losses") else []
    return "done", verdict, faults, notes


def left_behind(root):
    """What a finished run must not leave: job folders, temp files, queue lines, processes, work areas."""
    ended = root.history()
    # A failed job keeps its folder, for a retry
    kept = {e for e, entry in ended.items() if entry.get("state") == "failed"}
    folders = [p for p in root.job_folders() if not any(p.startswith(f"output/{k}.job") for k in kept)]
    faults = [f"job folder left: {p}" for p in folders]
    faults += [f"temp file left: {p.relative_to(root.path)}" for p in root.output.rglob("*.part")]
    faults += [f"queue line left: {line}" for line in root.queue_lines()]
    wait_until(lambda: not root.areas(), 3)
    faults += [f"work area left: {area}" for area in root.areas()]
    return faults


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--only", action="append", help="file names to take (pattern or part of the name); may be repeated")
    parser.add_argument("--skip", action="append", default=[], help="file names to leave out")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="comparisons at the same time")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the daemon")
    parser.add_argument("--bin", help="the program; default: the newest build")
    parser.add_argument("--work", help="folder for the daemon's root (default: the temp folder)")
    parser.add_argument("--keep", action="store_true", help="keep the daemon's folder")
    parser.add_argument("--no-psnr", action="store_true")
    parser.add_argument("--reuse-root", help="compare what an earlier run with --keep left, without running the daemon")
    parser.add_argument("--timeout", type=int, default=7200, help="seconds for the daemon")
    parser.add_argument("--json", help="write the results to this file")
    args = parser.parse_args()
    try:
        need_tools("ffmpeg", "ffprobe")
        program = binary(args.bin)
    except Unready as error:
        print(error)
        sys.exit(77)
    folder = Path(args.folder)
    if not folder.is_dir():
        sys.exit(f"{folder} is no folder; give one with videos: make media MEDIA=folder")
    sources = [p for p in videos(folder, args.only) if not any(s in p.name for s in args.skip)]
    if not sources:
        sys.exit(f"no file in {folder} fits")

    settings = {"settle_ms": 300, "unreadable_seconds": 3, "scale": args.scale}
    for pair in args.set:
        key, _, value = pair.partition("=")
        try:
            settings[key] = json.loads(value)
        except ValueError:
            settings[key] = value
    root = Root(program, args.work, settings, "upscaled-media-")
    if args.reuse_root:
        root.remove()
        root.path = Path(args.reuse_root)
        root.input, root.output = root.path / "input", root.path / "output"
    before = {}
    for source in sources:
        before[source] = (digest(source), source.stat().st_mtime_ns)
        if not args.reuse_root:
            root.put(source, source.relative_to(folder))
    started, faults = time.monotonic(), []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    if not args.reuse_root:
        code = run_daemon(root, args.timeout, sys.stderr.isatty())
        if code is None:
            faults.append(f"daemon: not finished after {args.timeout} s")
        history = root.history()
        failed = sum(e.get("state") == "failed" for e in history.values())
        if code not in (None, 3 if failed else 0):
            faults.append(f"daemon: exit code {code} with {failed} failed files; its last words: {root.console()[-600:]}")
        faults += left_behind(root)
    history = root.history()
    spent = time.monotonic() - started

    def one(source):
        relative = source.relative_to(folder)
        entry = history.get(escape(os.fsencode(relative)))
        try:
            return check_one(source, relative, root, entry, before[source], args)
        except Exception as error:  # one strange file must not hide the others
            return "ERROR", None, [f"check: {type(error).__name__}: {error}"], []

    with ThreadPoolExecutor(args.jobs) as pool:
        results = list(pool.map(one, sources))
    rows, record, wrong = [], [], 0
    for source, (word, verdict, own, notes) in zip(sources, results):
        bad = own + (verdict.faults if verdict else [])
        wrong += bool(bad)
        said = notes + (verdict.notes if verdict else [])
        pixels = worst = "-"
        if verdict and verdict.psnr:
            pixels = " ".join("  - " if math.isnan(x) else f"{x:4.1f}" for x in verdict.psnr)
            worst = f"{verdict.worst:.1f}"
        name = escape(os.fsencode(source.relative_to(folder)))
        rows.append(["FAIL" if bad else "ok", name, word, verdict.frames if verdict else "-", pixels, worst,
                     "; ".join([f"** {b}" for b in bad] + said)])  # fmt: skip
        record.append({"file": name, "result": word, "faults": bad, "notes": said,
                       "frames": verdict.frames if verdict else None, "psnr": list(verdict.psnr) if verdict else None})  # fmt: skip
    print(table(rows, ["", "file", "result", "frames", "PSNR Y U V", "worst", "what was found"]))
    for fault in faults:
        print("FAIL", fault)
    done = sum(r[2] == "done" for r in rows)
    refused = sum(r[2] == "refused" for r in rows)
    print(f"\n{len(rows)} files: {done} upscaled, {refused} refused, {wrong} wrong; the daemon took {spent:.0f} s")
    if args.json:
        Path(args.json).write_text(json.dumps({"files": record, "daemon": faults, "seconds": spent}, indent=1) + "\n")
    if args.keep or args.reuse_root:
        print(f"kept: {root.path}")
    else:
        root.remove()
    sys.exit(1 if wrong or faults else 0)


if __name__ == "__main__":
    main()
