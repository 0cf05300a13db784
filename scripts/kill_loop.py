#!/usr/bin/env python3
"""Kills the program at random moments, as often as wanted, and compares the result with that of an undisturbed run.

    make kill N=50 [VIDEO=film.mkv] [SEED=1]
    kill_loop.py [--kills N | --minutes M] [--seed S] [VIDEO ..]

Goes round a set of films, those of sample_films.py and, where they are, some of the shared ones. Each round takes one:
the daemon is started, killed (the whole group, the supervisor alone, or the job process
alone), started again, until the job is done. Two moments of three are random; the third follows at once on a change
in the job folder or in output/, where the delicate steps are. Afterwards the output must be the undisturbed one, by
framemd5 of all streams and by its bytes, and nothing may be left. Kills are no attempts of a job: attempts_max is as it
comes. Exit code 0 when all rounds hold, 77 when something
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
import sample_films
from daemon_runs import SHARED_VIDEOS, Root, Unready, binary, descendants, escape, job_child, kill, kill_tree, need_tools
from daemon_runs import outcome_of, processes, table, wait_until

# Small batches give many moments at which something is sealed.
SETTINGS = {"settle_ms": 200, "eta_frames": 12, "batch_frames": 24, "rescan_seconds": 1}
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
            # Between two attempts there is none; the daemon has it again after a pause.
            end = time.monotonic() + 3
            while child is None and process.poll() is None and time.monotonic() < end:
                time.sleep(0.01)
                child = job_child(process.pid)
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

    def run(self, kills_left, most):
        self.root.put(self.video)
        budget = min(kills_left, self.dice.randint(min(4, most), most))
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
            self.check()
        finally:
            kill_tree(process)

    def check(self):
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
        if not wait_until(lambda: not self.root.areas(), 5):
            self.faults.append(f"work area left: {self.root.areas()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="*", type=Path, help="default: those of sample_films.py, and some of the shared ones")
    parser.add_argument("-n", "--kills", type=int, default=50)
    parser.add_argument("--minutes", type=float, help="go on for so long, however many kills that makes")
    parser.add_argument("--films", help="of sample_films.py these alone, with commas between (vfr,tenbit), or made: all of them")
    parser.add_argument("--size", default="320x180", help="of the films that are made")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of the films that are made")
    parser.add_argument("--most", type=int, default=KILLS_A_ROUND, help="kills a round")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--bin", help="the program; default: the newest build")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=NUMBER", help="a setting of the daemon")
    parser.add_argument("--limit", type=int, default=900, help="seconds for one round")
    parser.add_argument("--keep", action="store_true", help="keep the folders of rounds that failed")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1 << 32)
    dice = random.Random(seed)
    # Told to stop, it leaves nothing behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    settings = dict(SETTINGS)
    for pair in args.set:
        key, _, value = pair.partition("=")
        settings[key] = int(value) if value.isdigit() else value
    with tempfile.TemporaryDirectory(prefix="upscaled-sample-") as folder:
        try:
            need_tools("ffmpeg", "ffprobe")
            program = binary(args.bin)
            videos = args.videos
            if not videos:
                size = tuple(int(n) for n in args.size.split("x"))
                only = None if args.films == "made" else args.films and args.films.split(",")
                videos, absent = sample_films.make(folder, size, args.seconds, only)
                if absent:
                    print(f"without {', '.join(absent)}: this ffmpeg has no encoder for them")
                if not args.films:
                    videos += [p for name in CHOICE if (p := SHARED_VIDEOS / name).is_file()]
            for video in videos:
                if not video.is_file():
                    raise Unready(f"{video} is not there")
            much = f"{args.minutes:g} minutes of kills" if args.minutes else f"{args.kills} kills"
            print(f"{much} over {len(videos)} films, seed {seed} (SEED={seed} repeats the same dice)", flush=True)
            films, faults, done = loop(program, videos, settings, dice, args)
        except Unready as error:
            print(error)
            sys.exit(77)
    rows = [film.row() for film in films.values()]
    sums = [sum(row[i] for row in rows) for i in range(2, 9)]
    print(table(rows + [["all", "", *sums, ""]], ["film", "frames", "jobs", "kills", *KINDS, "aimed", "starts", "result"]))
    jobs, kills, group, supervisor, child, aimed, _ = sums
    print(f"\n{kills} kills ({group} group, {supervisor} supervisor, {child} child; {aimed} aimed) in {jobs} jobs: "
          f"{'every output is that of the undisturbed run' if not faults else f'{faults} jobs WRONG'}; seed {seed}")  # fmt: skip
    sys.exit(1 if faults or not done else 0)


class Film:
    """What was done to one film so far."""

    def __init__(self, name, calm):
        self.name, self.calm = name, calm
        self.pictures = sum(line.startswith("0,") for line in calm[3]) // 2
        self.jobs = self.aimed = self.starts = 0
        self.kills, self.faults = dict.fromkeys(KINDS, 0), []

    def add(self, turn, faults):
        self.jobs, self.aimed, self.starts = self.jobs + 1, self.aimed + turn.aimed, self.starts + turn.starts
        self.faults += faults
        for kind in KINDS:
            self.kills[kind] += turn.kills[kind]

    def row(self):
        result = "same" if not self.faults else "** " + "; ".join(self.faults)
        return [self.name, self.pictures, self.jobs, sum(self.kills.values()), *self.kills.values(), self.aimed, self.starts, result]


def loop(program, videos, settings, dice, args):
    films, faults, done, index, idle = {}, 0, 0, 0, 0
    end = args.minutes and time.monotonic() + 60 * args.minutes
    wanted = sys.maxsize if end else args.kills
    while done < wanted and idle < 2 * len(videos) and not (end and time.monotonic() > end):
        video = videos[index % len(videos)]
        index += 1
        if video not in films:
            films[video] = Film(escape(os.fsencode(video.name)), undisturbed(program, video, settings, args.limit))
        turn = Round(program, video, settings, films[video].calm, dice, args.limit)
        keep = False
        try:
            turn.run(wanted - done, args.most)
        finally:
            keep = args.keep and turn.faults
            if not keep:
                turn.root.remove()
        films[video].add(turn, [*turn.faults, *([f"kept: {turn.root.path}"] if keep else [])])
        count = sum(turn.kills.values())
        idle = 0 if count else idle + 1
        done += count
        faults += bool(turn.faults)
        if turn.faults or index % 10 == 0:
            print(f"{done}{'' if end else f'/{wanted}'} {video.name}: {'; '.join(turn.faults) or 'same'}", flush=True)
    return films, faults, done


if __name__ == "__main__":
    main()
