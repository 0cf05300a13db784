#!/usr/bin/env python3
"""Cuts the power at random moments of a job, on paper: what was not fsynced is lost.

    power_cut.py [--cuts N] [--again M] [--seed S] [--bin PROGRAM]

A job is traced with strace, the data it writes included. For each cut a moment of the trace is chosen, and the folder
is built as a disk may have it then: files hold what was fsynced, and of what was written since a part, torn, or zeros;
names are those of the last fsync of their folder, and of the changes since a part. Either in the order in which they
were made, as a journal keeps it, or for each folder on its own, which is all that is promised. The work area, which is
in RAM, is gone. Then the program is started on that folder: the output must be, bit for bit, that of the traced run,
and nothing else may be left. Behind every fourth cut that start is traced too, and cut in its turn, twice. Exit code 0 when all cuts hold, 77 when something needed is missing."""

import argparse
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import sample_video
from daemon_runs import Root, Unready, binary, need_tools, table
from syscall_order import DESCRIPTOR, STRING, events, plain

TRACED = ("openat,open,creat,lseek,write,writev,pwrite64,pwritev,pwritev2,ftruncate,truncate,fallocate,copy_file_range,"
          "sendfile,splice,fsync,fdatasync,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,"
          "mkdir,mkdirat,clone,clone3,fork,vfork")  # fmt: skip
SETTINGS = {"settle_ms": 100, "eta_frames": 4, "batch_frames": 6, "log_days": 1, "threads": 1, "device": "cpu",
            "preset": "ultrafast", "min_free_mb": 0, "rescan_seconds": 1}  # fmt: skip
FILM = "film.mkv"
# A start on what a cut left takes a second or two.
LIMIT = 120
SECTOR = 512
# Every so manieth start that follows a cut is cut itself.
AGAIN_EVERY = 4
TWICE = "cut twice: "


class File:
    def __init__(self):
        self.data, self.synced, self.since = bytearray(), b"", []

    def write(self, at, data):
        self.since.append((at, bytes(data)))
        self.data.extend(b"\0" * (at - len(self.data)))
        self.data[at : at + len(data)] = data

    def resize(self, size):
        self.since.append((size, None))
        del self.data[size:]
        self.data.extend(b"\0" * (size - len(self.data)))

    def sync(self):
        self.synced, self.since = bytes(self.data), []

    def after_cut(self, dice):
        """What a disk may hold of it."""
        if not self.since:
            return self.synced
        kept = self.since[: dice.randint(0, len(self.since))]
        found, zeros = File(), dice.random() < 0.3
        found.data = bytearray(self.synced)
        for n, (at, data) in enumerate(kept):
            if data is None:
                found.resize(at)
            else:
                torn = n + 1 == len(kept) and dice.random() < 0.5
                data = data[: dice.randint(0, len(data)) // SECTOR * SECTOR] if torn else data
                found.write(at, b"\0" * len(data) if zeros else data)
        return bytes(found.data)


class Folder:
    """Names now, names at the last fsync, and the changes since: (number, {name: node or None}, number needed)."""

    def __init__(self):
        self.now, self.synced, self.since = {}, {}, []

    def change(self, number, names, needs=None):
        for name, node in names.items():
            self.now.pop(name, None) if node is None else self.now.__setitem__(name, node)
        self.since.append((number, names, needs))

    def sync(self):
        self.synced, self.since = dict(self.now), []


class Disk:
    """The folder of a traced run, as the kernel had it and as the disk had it."""

    def __init__(self, root, outside):
        self.root, self.outside = root, outside
        self.top, self.number, self.committed = Folder(), 0, 0
        self.offsets, self.group = {}, {}

    def holds(self, path):
        return bool(path) and path.startswith(self.root + "/") and not path.startswith(self.outside)

    def find(self, path):
        node = self.top
        for part in [p for p in os.path.relpath(path, self.root).split("/") if p != "."]:
            node = node.now.get(part) if isinstance(node, Folder) else None
        return node

    def place(self, path):
        return self.find(os.path.dirname(path)), os.path.basename(path)

    def change(self, path, node):
        folder, name = self.place(path)
        self.number += 1
        folder.change(self.number, {name: node})

    def rename(self, source, target, swap):
        (one, a), (two, b) = self.place(source), self.place(target)
        node, other = one.now.get(a), two.now.get(b)
        self.number += 1
        if one is two:
            one.change(self.number, {a: other if swap else None, b: node})
        else:
            two.change(self.number, {b: node})
            one.change(self.number, {a: other if swap else None}, needs=two)

    def take(self, event):
        """Does one call of the trace. Whether it changed anything that a cut may lose."""
        name, arguments, result = event.name, event.flags, event.result
        if name in ("clone", "clone3", "fork", "vfork"):
            if result > 0 and "CLONE_THREAD" in arguments:
                self.group[str(result)] = self.group.get(event.thread, event.thread)
            return False
        if result < 0:
            return False
        process = self.group.get(event.thread, event.thread)
        if name in ("openat", "open", "creat"):
            path = event.path
            self.offsets[process, result] = None if "O_APPEND" in arguments else 0
            if not self.holds(path):
                return False
            node = self.find(path)
            if node is None and ("O_CREAT" in arguments or name == "creat"):
                self.change(path, File())
                return True
            if isinstance(node, File) and "O_TRUNC" in arguments and node.data:
                node.resize(0)
                return True
            return False
        if name.startswith(("rename", "link")):
            if not self.holds(event.path) or not self.holds(event.target):
                if self.holds(event.path) or self.holds(event.target):
                    raise Unready(f"cannot follow a {name} across the border: {event.path} {event.target}")
                return False
            if name.startswith("link"):
                self.change(event.target, self.find(event.path))
            else:
                self.rename(event.path, event.target, "RENAME_EXCHANGE" in arguments)
            return True
        if name in ("mkdir", "mkdirat", "unlink", "unlinkat", "rmdir", "symlink", "symlinkat"):
            path = event.path or self.string(arguments)
            if name.startswith("symlink") and self.holds(path):
                raise Unready(f"cannot follow {name}")
            if not self.holds(path):
                return False
            self.change(path, Folder() if name.startswith("mkdir") else None)
            return True
        return self.data(process, name, arguments, result)

    @staticmethod
    def string(arguments):
        found = STRING.search(arguments)
        return os.path.normpath(plain(found[1])) if found else None

    def data(self, process, name, arguments, result):
        first = DESCRIPTOR.match(arguments)
        if not first or not first[2]:
            return False
        path, key = plain(first[2]), (process, int(first[1]))
        if name == "lseek":
            if self.offsets.get(key) is not None:
                self.offsets[key] = result
            return False
        node = self.find(path) if self.holds(path) or path == self.root else None
        if node is None:
            return False
        if name in ("fsync", "fdatasync"):
            node.sync()
            # A journal writes all that was before it
            self.committed = self.number
            return True
        if name == "write":
            data = raw(STRING.search(arguments, first.end())[1])
            at = self.offsets.get(key)
            node.write(len(node.data) if at is None else at, data[:result])
            if at is not None:
                self.offsets[key] = at + result
        elif name == "pwrite64":
            node.write(int(arguments.rsplit(",", 1)[1].strip(" )")), raw(STRING.search(arguments, first.end())[1])[:result])
        elif name == "ftruncate":
            node.resize(int(arguments.rsplit(",", 1)[1].strip(" )")))
        else:
            raise Unready(f"cannot follow {name} on {path}")
        return True

    def chosen(self, folders, dice):
        """How the disk may have kept the changes since the last fsync: for each folder, the first so many."""
        ordered, until = dice.random() < 0.5, dice.randint(self.committed, self.number)
        counts = {}
        for folder in folders:
            since = folder.since
            counts[id(folder)] = sum(c[0] <= until for c in since) if ordered else dice.randint(0, len(since))
        # A rename to another folder takes the old name away only once the new one is there
        changed = True
        while changed:
            changed = False
            for folder in folders:
                for n, (number, _, needs) in enumerate(folder.since[: counts[id(folder)]]):
                    waits = [] if needs is None else [c[0] for c in needs.since[counts[id(needs)] :]]
                    if number in waits:
                        counts[id(folder)], changed = n, True
                        break
        return ("in order" if ordered else "each folder on its own"), counts

    def build(self, dice, keep):
        """Makes the folder as a disk may have it now. `keep`: names at the top that are not touched."""
        every = [self.top]
        for folder in every:
            nodes = [*folder.now.values(), *folder.synced.values(), *(n for c in folder.since for n in c[1].values())]
            every += [n for n in dict.fromkeys(nodes) if isinstance(n, Folder) and n not in every]
        how, counts = self.chosen(every, dice)
        names = {}
        for folder in every:
            there = names[id(folder)] = dict(folder.synced)
            for _, changed, _ in folder.since[: counts[id(folder)]]:
                for name, node in changed.items():
                    there.pop(name, None) if node is None else there.__setitem__(name, node)
        for entry in os.listdir(self.root):
            if entry not in keep:
                path = os.path.join(self.root, entry)
                shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
        stack = [(self.root, names[id(self.top)])]
        while stack:
            at, entries = stack.pop()
            for name, node in entries.items():
                path = os.path.join(at, name)
                if at == self.root and name in keep:
                    continue
                if isinstance(node, Folder):
                    os.mkdir(path)
                    stack.append((path, names[id(node)]))
                else:
                    Path(path).write_bytes(node.after_cut(dice))
        return how


def raw(text):
    """The bytes of a string as `strace -xx` prints it."""
    return bytes.fromhex(text.replace("\\x", ""))


def seed_disk(disk, node, path):
    """What was there before the trace began, all of it durable."""
    for entry in os.scandir(path):
        if entry.is_dir():
            inner = node.now[entry.name] = Folder()
            seed_disk(disk, inner, entry.path)
        else:
            inner = node.now[entry.name] = File()
            inner.data = bytearray(Path(entry.path).read_bytes())
            inner.sync()
    node.sync()


def trace(root):
    """Runs the job under strace. Its calls, and the disk before them."""
    disk = Disk(str(root.path), str(root.path / "ram") + "/")
    seed_disk(disk, disk.top, root.path)
    log = root.path.with_suffix(".trace")
    command = ["strace", "-f", "-y", "-xx", "-s", str(64 << 20), "-qq", "-e", f"trace={TRACED}", "-e", "signal=none", "-o", str(log)]
    command += [str(root.program), "daemon", "--root", str(root.path), "--once"]
    done = subprocess.run(command, env=root.env, stdin=subprocess.DEVNULL, capture_output=True, timeout=300)
    (root.path / "console.txt").write_bytes(done.stderr)
    if done.returncode != 0:
        raise Unready(f"the traced run ended with {done.returncode}: {done.stderr[-600:].decode(errors='replace')}")
    lines = log.read_text(errors="surrogateescape").splitlines()
    log.unlink()
    return events(lines, str(root.path)), disk


def same_as_traced(disk, path, inside):
    """The names and bytes in which the followed disk differs from the real one: none, or this program is wrong."""
    wrong = []
    real = {e.name: e for e in os.scandir(path) if e.name not in inside and not stat.S_ISSOCK(e.stat().st_mode)}
    node = disk.find(path) if path != disk.root else disk.top
    known = {n for n in node.now if n not in inside}
    wrong += [os.path.join(path, n) for n in known ^ set(real)]
    for name in known & set(real):
        if isinstance(node.now[name], Folder):
            wrong += same_as_traced(disk, real[name].path, ())
        elif bytes(node.now[name].data) != Path(real[name].path).read_bytes():
            wrong.append(real[name].path)
    return wrong


def start_again(root, calm):
    """Faults of a start on what a cut left, and how it went on."""
    console = root.path / "console.txt"
    console.unlink(missing_ok=True)
    process = root.start()
    try:
        process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return [f"the daemon hangs: {root.console()[-400:]}"], ""
    faults, state = outcome(root, calm)
    if process.returncode != 0:
        faults.append(f"the daemon ended with {process.returncode}: {root.console()[-400:]}")
    return faults, state


def outcome(root, calm):
    """Faults of a start that has ended, and how it went on."""
    faults = []
    entry = root.history().get(FILM, {})
    if entry.get("state") != "done":
        faults.append(f"history: {entry.get('state')} {entry.get('reason')}: {root.console()[-400:]}")
    found = {str(p.relative_to(root.output)): p.read_bytes() for p in root.output.rglob("*") if p.is_file()}
    found.pop("history.jsonl", None)
    if found != calm:
        faults.append("outputs: " + ", ".join(f"{n}{'' if calm.get(n) == d else ' (wrong)'}" for n, d in found.items()))
    faults += [f"left in the queue: {line}" for line in root.queue_lines()]
    faults += [f"left: {p}" for p in root.path.rglob("*") if p.name.endswith(".part") or p.parent.name == "ram"]
    words = root.console()
    state = "resumed" if "resuming:" in words else "begun anew" if "queued" in words or "plan:" in words else "done before"
    return faults, "published before" if "was published before" in words else state


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", help="the program; default: the newest build")
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--again", type=int, default=2, help="cuts of each traced start that follows a cut; 0: none")
    parser.add_argument("--seed", type=int, help="for the same cuts again")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.randrange(10**6)
    started, dice = time.monotonic(), random.Random(seed)
    root = None
    try:
        need_tools("ffmpeg", "strace")
        root = Root(binary(args.bin), None, SETTINGS, "upscaled-cut-", inside=True)
        sample_video.make(root.input / FILM, 64, 48, rate="25", seconds=0.8)
        calls, disk = trace(root)
        calm = {p.name: p.read_bytes() for p in root.output.iterdir() if p.is_file() and p.name != "history.jsonl"}
        if len(calm) != 1:
            raise Unready(f"the traced run made {sorted(calm)}")
        rows, counts = cut(root, calls, disk, calm, args.cuts, dice, args.again)
    except Unready as error:
        print(error)
        sys.exit(77)
    finally:
        if root:
            root.remove()
    print(table([(str(n), state) for state, n in sorted(counts.items())], ["cuts", "after the start"]))
    for row in rows:
        print(*row)
    twice = sum(n for state, n in counts.items() if state.startswith(TWICE))
    print(f"{args.cuts} cuts and {twice} of the start that follows one, seed {seed}, {len(rows)} wrong, {time.monotonic() - started:.0f} s")
    sys.exit(1 if rows or not counts else 0)


def cut(root, calls, disk, calm, cuts, dice, again=0):
    """Follows the calls and cuts at moments chosen by chance: what went wrong, and how the starts went on. Behind every
    so manieth cut the start is cut too, `again` times."""
    # The moments behind calls that change something; all of them are as likely
    before = Disk(disk.root, disk.outside)
    seed_disk_from(before, disk)
    moments = [n for n, call in enumerate(calls) if before.take(call)]
    wrong = same_as_traced(before, disk.root, ("logs", "ram", "input", "console.txt"))
    if wrong:
        raise Unready(f"the trace was not followed rightly: {wrong[:5]}")
    if not moments:
        return [], {}
    chosen = sorted(dice.choices(moments, k=cuts))
    rows, counts, at = [], {}, 0
    for number, moment in enumerate(chosen):
        while at <= moment:
            disk.take(calls[at])
            at += 1
        how = disk.build(random.Random(dice.random()), ("input", "upscaled.toml", "logs"))
        call = calls[moment]
        place = f"cut {number} behind call {moment} ({call.name} {call.path or ''}), {how}:"
        if again and number % AGAIN_EVERY == 0:
            wrong, found = cut_again(root, calm, again, dice)
            rows += [(place, *row) for row in wrong]
        else:
            faults, state = start_again(root, calm)
            rows += [(place, "; ".join(faults))] if faults else []
            found = {state: 1}
        for state, count in found.items():
            counts[state] = counts.get(state, 0) + count
    return rows, counts


def cut_again(root, calm, cuts, dice):
    """Cuts the start on what a cut left."""
    try:
        calls, disk = trace(root)
    except subprocess.TimeoutExpired:
        return [("the traced start hangs",)], {}
    except Unready as error:
        return [(str(error),)], {}
    faults, _ = outcome(root, calm)
    rows, counts = cut(root, calls, disk, calm, cuts, dice)
    return [*rows, *[(fault,) for fault in faults]], {"cut once: traced": 1, **{TWICE + state: n for state, n in counts.items()}}


def seed_disk_from(target, source):
    """The same tree again, to be changed on its own."""

    def copy(node):
        if isinstance(node, File):
            new = File()
            new.data = bytearray(node.data)
        else:
            new = Folder()
            new.now = {name: copy(inner) for name, inner in node.now.items()}
        new.sync()
        return new

    target.top = copy(source.top)


if __name__ == "__main__":
    main()
