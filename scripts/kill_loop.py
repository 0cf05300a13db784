#!/usr/bin/env python3
"""Kills the program at random moments, as often as wanted, and compares the result with that of an undisturbed run.

    make kill N=50 [VIDEO=film.mkv] [SEED=1]
    kill_loop.py [--kills N] [--seed S] [VIDEO ..]

Each round takes a video: the daemon is started, killed (the whole group, the supervisor alone, or the job process
alone), started again, until the job is done. Two moments of three are random; the third follows at once on a change
in the job folder or in output/, where the delicate steps are. Afterwards the output must be the undisturbed one, by
framemd5 of all streams and by its bytes, and nothing may be left. Exit code 0 when all rounds hold, 77 when something
needed is missing."""

import argparse
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import ffmedia
import sample_video
from daemon_runs import SHARED_VIDEOS, Root, Unready, binary, descendants, escape, job_child, kill, kill_tree, need_tools
from daemon_runs import outcome_of, processes, running_in, table, wait_until, work_areas

# Small batches give many moments at which something is sealed. Attempts are not what is tested here.
SETTINGS = {"settle_ms": 200, "eta_frames": 12, "batch_frames": 24, "attempts_max": 1000, "rescan_seconds": 1}
# From the shared folder where it is there: film with 5.1 sound; every kind of stream; MP4 with two videos; TS.
CHOICE = ["d-kitchen-sink.mkv", "rabbit-240p30-h264-aac.mp4", "sintel-110p24-chapter-track.mp4", "d-theora-vorbis.ogv",
          "nasa-2video-2audio-2subs.mp4", "d-hevc-hdr10-mastering.mp4", "d-mpeg2-576i-tff-ac3.vob"]  # fmt: skip
KINDS = ("group", "supervisor", "child")
# One round is not killed more often than this, so that a slow machine gets through.
KILLS_A_ROUND = 12


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def undisturbed(program, video, settings, limit):
    """(seconds, name of the output, its hash, its framemd5 lines)."""
    root = Root(program, None, settings, "upscaled-calm-")
    try:
        root.put(video)
        started = time.monotonic()
        process = root.start()
        if not wait_until(lambda: process.poll() is not None, limit):
            raise Unready(f"the undisturbed run of {video.name} did not end in {limit} s")
        seconds = time.monotonic() - started
        entry = root.history().get(escape(os.fsencode(video.name)), {})
        if entry.get("state") != "done":
            raise Unready(f"{video.name} is not upscaled even undisturbed: {entry.get('reason') or root.console()[-400:]}")
        result = root.result_of(outcome_of(entry))
        return seconds, result.name, digest(result), ffmedia.frame_hashes(result)
    finally:
        kill_tree(process)
        root.remove()


def listing(root):
    """What there is in the job folder and in output/: changes mark the delicate steps."""
    found = set()
    for folder, _, names in os.walk(root.output):
        found.update(os.path.join(folder, n) for n in names)
    return found


def wait_for_moment(root, process, dice, seconds):
    """Waits for the moment of the next kill; a word for it, or None when the daemon ended before."""
    end = time.monotonic() + seconds
    if dice.random() < 1 / 3:
        before, skip = listing(root), dice.randrange(4)
        while process.poll() is None and time.monotonic() < end * 1.0 + seconds:
            now = listing(root)
            if now != before:
                if skip == 0:
                    time.sleep(dice.choice((0, 0, 0.002, 0.02)))
                    return "aimed"
                before, skip = now, skip - 1
            time.sleep(0.0005)
    else:
        while process.poll() is None and time.monotonic() < end:
            time.sleep(min(0.01, max(0.0, end - time.monotonic())))
    return "random" if process.poll() is None else None


class Round:
    def __init__(self, program, video, settings, calm, dice, limit):
        self.program, self.video, self.dice, self.limit = program, video, dice, limit
        self.calm_seconds, self.calm_name, self.calm_hash, self.calm_frames = calm
        self.root = Root(program, None, settings, "upscaled-kill-")
        self.kills = dict.fromkeys(KINDS, 0)
        self.aimed, self.faults, self.starts = 0, [], 0

    def kill_once(self, process, kind):
        """One kill. Gives the daemon that goes on, a new one where the old one is dead."""
        child = job_child(process.pid)
        if kind == "child":
            if child is None:
                kind = "supervisor"
            else:
                kill(child)
                self.kills["child"] += 1
                return process
        if kind == "group":
            below = descendants(process.pid)
            os.killpg(process.pid, signal.SIGKILL)
            for pid in below:
                kill(pid)
        else:
            kill(process.pid)
        self.kills[kind] += 1
        process.wait()
        if child and kind == "supervisor" and self.dice.random() < 0.5:
            # Otherwise the new one starts while the old child may still be dying: its lock must hold
            if not wait_until(lambda: child not in processes(), 10):
                self.faults.append(f"job process {child} outlived its supervisor by 10 s")
        return self.start()

    def start(self):
        """Each start finds other bytes in fresh memory (glibc fills it): an output that depends on memory never
        written, as libx264's once did, shows itself."""
        self.starts += 1
        self.root.env["MALLOC_PERTURB_"] = str(self.dice.randint(1, 255))
        return self.root.start()

    def run(self, kills_left):
        areas = work_areas()
        self.root.put(self.video)
        budget = min(kills_left, self.dice.randint(4, KILLS_A_ROUND))
        process = self.start()
        deadline = time.monotonic() + self.limit
        try:
            while sum(self.kills.values()) < budget:
                longest = self.calm_seconds * self.dice.choice((0.15, 0.5, 1.0))
                moment = wait_for_moment(self.root, process, self.dice, self.dice.uniform(0.02, longest))
                if moment is None:
                    break
                self.aimed += moment == "aimed"
                process = self.kill_once(process, self.dice.choice(KINDS))
            if not wait_until(lambda: process.poll() is not None, max(1, deadline - time.monotonic())):
                self.faults.append(f"not done {self.limit} s after the start; {self.root.console()[-300:]}")
            elif process.returncode != 0:
                self.faults.append(f"daemon ended with {process.returncode}: {self.root.console()[-300:]}")
            self.check(areas)
        finally:
            kill_tree(process)

    def check(self, areas):
        entry = self.root.history().get(escape(os.fsencode(self.video.name)))
        if not entry or entry.get("state") != "done":
            self.faults.append(f"history: {entry and (entry.get('state'), entry.get('reason'))}")
            return
        lines = [p for p in self.root.output.iterdir() if p.is_file() and "_upscaled" in p.name]
        if [p.name for p in lines] != [self.calm_name]:
            self.faults.append(f"outputs: {[p.name for p in lines]} in place of {self.calm_name}")
            return
        result = lines[0]
        if digest(result) != self.calm_hash:
            frames = ffmedia.frame_hashes(result)
            differ = sum(a != b for a, b in zip(frames, self.calm_frames)) + abs(len(frames) - len(self.calm_frames))
            self.faults.append(f"output differs: {differ} of {len(self.calm_frames)} framemd5 lines, "
                               f"{'other frames' if differ else 'same frames, other bytes'}")  # fmt: skip
        elif ffmedia.frame_hashes(result) != self.calm_frames:
            self.faults.append("framemd5 differs though the bytes are the same")
        self.faults += [f"left: {p}" for p in self.root.job_folders()]
        self.faults += [f"left: {p.name}" for p in self.root.output.rglob("*") if p.name.endswith(".part")]
        self.faults += [f"left in the queue: {line}" for line in self.root.queue_lines()]
        pattern = os.fsencode(str(self.root.path))
        ours = lambda: [p for p, (_, _, words) in processes().items() if pattern in b" ".join(words) and p != os.getpid()]
        if not wait_until(lambda: not ours(), 10):
            self.faults.append(f"processes left: {ours()}")
        if not running_in(self.program):  # with other daemons on the machine theirs cannot be told apart
            if not wait_until(lambda: not work_areas() - areas, 5):
                self.faults.append(f"work area left: {sorted(work_areas() - areas)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="*", type=Path, help="default: several of the shared videos, or a sample made here")
    parser.add_argument("-n", "--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--bin", help="the program; default: the newest build")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=NUMBER", help="a setting of the daemon")
    parser.add_argument("--limit", type=int, default=900, help="seconds for one round")
    parser.add_argument("--keep", action="store_true", help="keep the folders of rounds that failed")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1 << 32)
    dice = random.Random(seed)
    settings = dict(SETTINGS)
    for pair in args.set:
        key, _, value = pair.partition("=")
        settings[key] = int(value) if value.isdigit() else value
    with tempfile.TemporaryDirectory(prefix="upscaled-sample-") as folder:
        try:
            need_tools("ffmpeg", "ffprobe")
            program = binary(args.bin)
            videos = args.videos or [p for name in CHOICE if (p := SHARED_VIDEOS / name).is_file()]
            if not videos:
                videos = [sample_video.make(Path(folder) / "sample.mkv", seconds=8), sample_video.make(Path(folder) / "sample.mp4", 426, 240, "30000/1001", 6)]
            for video in videos:
                if not video.is_file():
                    raise Unready(f"{video} is not there")
            print(f"{args.kills} kills over {len(videos)} videos, seed {seed} (SEED={seed} repeats the same dice)", flush=True)
            rows, faults, done = loop(program, videos, settings, dice, args)
        except Unready as error:
            print(error)
            sys.exit(77)
    header = ["", "video", "frames", "calm s", "took s", "group", "supervisor", "child", "aimed", "starts", "result"]
    print(table(rows, header))
    sums = [sum(int(r[i]) for r in rows) for i in (5, 6, 7, 8)]
    print(f"\n{done} kills ({sums[0]} group, {sums[1]} supervisor, {sums[2]} child; {sums[3]} aimed) in {len(rows)} jobs: "
          f"{'every output is that of the undisturbed run' if not faults else f'{faults} jobs WRONG'}; seed {seed}")  # fmt: skip
    sys.exit(1 if faults else 0)


def loop(program, videos, settings, dice, args):
    calm, rows, faults, done, index, idle = {}, [], 0, 0, 0, 0
    while done < args.kills and idle < 2 * len(videos):
        video = videos[index % len(videos)]
        index += 1
        if video not in calm:
            calm[video] = undisturbed(program, video, settings, args.limit)
        turn = Round(program, video, settings, calm[video], dice, args.limit)
        started = time.monotonic()
        try:
            turn.run(args.kills - done)
        finally:
            keep = args.keep and turn.faults
            if not keep:
                turn.root.remove()
        count = sum(turn.kills.values())
        idle = 0 if count else idle + 1
        done += count
        faults += bool(turn.faults)
        pictures = sum(line.startswith("0,") for line in calm[video][3]) // 2
        result = "same" if not turn.faults else "** " + "; ".join(turn.faults) + (f" [{turn.root.path}]" if keep else "")
        rows.append(["FAIL" if turn.faults else "ok", escape(os.fsencode(video.name)), pictures, f"{calm[video][0]:.1f}",
                     f"{time.monotonic() - started:.1f}", *[turn.kills[k] for k in KINDS], turn.aimed, turn.starts, result])  # fmt: skip
        print(f"{done}/{args.kills} {video.name}: {result}", flush=True)
    return rows, faults, done


if __name__ == "__main__":
    main()
