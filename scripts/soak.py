#!/usr/bin/env python3
"""Many short jobs in one daemon: what it holds must not grow with what it has done.

    soak.py [--jobs N] [--bin PROGRAM]

Prints memory, file descriptors, threads, mounts and child processes of the daemon as the jobs go by, and compares what
it always holds in the last fifth with the same in the second. Exit code 0 when all is flat and all jobs are done, 77 when something needed is missing."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from daemon_runs import Root, Unready, binary, kill_tree, need_tools, processes, table

SETTINGS = {"settle_ms": 100, "eta_frames": 4, "batch_frames": 8, "log_days": 1, "threads": 1, "device": "cpu",
            "preset": "ultrafast", "min_free_mb": 0, "rescan_seconds": 5}  # fmt: skip
FIELDS = ("memory KiB", "descriptors", "threads", "mounts", "children", "zombies")
# How much more the last fifth may have than the second. The history of each job is kept in memory: about 2 KiB.
KIB_A_JOB, SLACK_KIB = 2, 4096
SLACK = {"descriptors": 2, "threads": 3, "mounts": 0, "children": 0, "zombies": 0}
ROWS = 20
# A daemon that finishes no job for so long has stopped.
PATIENCE = 120


def film(path):
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.08", "-c:v", "libx264", str(path)]
    subprocess.run(command, check=True)


def sample(pid, root):
    """FIELDS of a daemon at this moment."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    below = [p for p, (parent, _, _) in processes().items() if parent == pid]
    zombies = 0
    for name in os.listdir("/proc"):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split() if name.isdigit() else None
        except OSError:
            continue
        zombies += bool(fields and fields[0] == "Z" and int(fields[1]) == pid)
    mounts = sum(str(root.path) in line for line in Path("/proc/self/mounts").read_text().splitlines())
    return {"memory KiB": int(status["VmRSS"].split()[0]), "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
            "threads": int(status["Threads"]), "mounts": mounts, "children": len(below), "zombies": zombies}  # fmt: skip


def serve(root, jobs):
    """(jobs done so far, sample) while a daemon does them all."""
    process, found, ended, since = root.start(once=False), [], 0, time.monotonic()
    history = root.output / "history.jsonl"
    try:
        while ended < jobs:
            time.sleep(0.5)
            if process.poll() is not None:
                raise AssertionError(f"the daemon ended with {process.returncode}: {root.console()[-500:]}")
            now = history.read_bytes().count(b"\n") if history.exists() else 0
            if now != ended:
                ended, since = now, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                raise AssertionError(f"no job ended for {PATIENCE} s: {root.console()[-500:]}")
            found.append((ended, sample(process.pid, root)))
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            kill_tree(process)
    return found


def fifth(found, jobs, n):
    """The least of each field in a fifth of the jobs: a running job has files, a mount and a process of its own, and what
    is given back at its end is no growth. Of memory the most."""
    part = [s for done, s in found if n * jobs / 5 <= done <= (n + 1) * jobs / 5]
    return {field: (max if field == "memory KiB" else min)(s[field] for s in part) for field in FIELDS}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", help="the program; default: the newest build")
    parser.add_argument("--jobs", type=int, default=1000)
    args = parser.parse_args()
    started, faults, root = time.monotonic(), [], None
    try:
        need_tools("ffmpeg")
        root = Root(binary(args.bin), None, SETTINGS, "upscaled-soak-", inside=True)
        film(root.path / "film.mkv")
        for n in range(args.jobs):
            root.put(root.path / "film.mkv", f"{n:05}.mkv")
        found = serve(root, args.jobs)
        rows = [found[round(i * (len(found) - 1) / (ROWS - 1))] for i in range(ROWS)]
        print(table([(done, *(s[f] for f in FIELDS)) for done, s in rows], ["jobs done", *FIELDS]))
        early, late = fifth(found, args.jobs, 1), fifth(found, args.jobs, 4)
        slack = {**SLACK, "memory KiB": SLACK_KIB + KIB_A_JOB * args.jobs}
        faults += [f"{f}: {early[f]} in the second fifth, {late[f]} in the last" for f in FIELDS if late[f] > early[f] + slack[f]]
        done = sum(entry.get("state") == "done" for entry in root.history().values())
        if done != args.jobs:
            faults.append(f"{done} of {args.jobs} jobs are done")
        faults += [f"left: {p}" for p in [*root.job_folders(), *(root.path / "ram").glob("*"), *root.queue_lines()]]
    except Unready as error:
        print(error)
        sys.exit(77)
    except AssertionError as error:
        faults.append(str(error))
    finally:
        if root:
            root.remove()
    for fault in faults:
        print("FAIL", fault)
    print(f"{args.jobs} jobs in {time.monotonic() - started:.0f} s, {len(faults)} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
