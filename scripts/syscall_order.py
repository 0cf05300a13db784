#!/usr/bin/env python3
"""Traces the system calls of a small job and checks the order of every durable write.

    syscall_order.py [--bin PROGRAM] [--trace FILE] [--verbose]

For every name that appears in output/, in a job folder or beside queue.txt by a rename (clips, frame tables, plan,
queue, output): the file was written, then fsynced, then renamed, then its folder was fsynced, each call ended
before the next began, in whatever thread; and nothing wrote to it afterwards. What nobody believes (status.json, before.jpg,
after.jpg) was written and then renamed, and cost no fsync. For files that only grow (history): each
write is followed by an fsync before the program ends or goes on to the queue. `--trace` checks a trace made before.
Exit code 0 when all holds, 1 when not, 77 when strace is absent."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import sample_video
from daemon_runs import Root, Unready, binary, need_tools, table

TRACED = ("write,pwrite64,writev,pwritev,pwritev2,sendfile,copy_file_range,splice,ftruncate,truncate,fallocate,"
          "fsync,fdatasync,sync_file_range,rename,renameat,renameat2,link,linkat,unlink,unlinkat,openat,open,creat,mkdir,mkdirat")  # fmt: skip
WRITES = {"write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "copy_file_range", "splice", "ftruncate",
          "truncate", "fallocate"}  # fmt: skip
SETTINGS = {"settle_ms": 200, "eta_frames": 12, "batch_frames": 24, "log_days": 1}

# A power cut may take these
UNBELIEVED = ("status", "preview")

# Job folders go under such a name while they are emptied: nothing is published by that.
REMOVED = ".upscaled-removed"

LINE = re.compile(r"^(?:\[pid\s+)?(\d+)\]?\s+(.*)$")
CALL = re.compile(r"^(\w+)\((.*)$", re.S)
DONE = re.compile(r"\)\s+=\s+(-?\d+|\?)(.*)$", re.S)
RESUMED = re.compile(r"^<\.\.\. (\w+) resumed>(.*)$", re.S)
DESCRIPTOR = re.compile(r"^(-?\d+|AT_FDCWD)(?:<((?:[^>\\]|\\.)*)>)?")
STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')


def plain(text):
    """A path as strace prints it, without its escapes."""
    return re.sub(r"\\x([0-9a-f]{2})|\\([0-7]{1,3})|\\(.)", unescaped, text)


def unescaped(match):
    if match[1]:
        return chr(int(match[1], 16))
    if match[2]:
        return chr(int(match[2], 8))
    return {"n": "\n", "t": "\t", "r": "\r"}.get(match[3], match[3])


class Event:
    """A call that went well: when it began and ended (line numbers), and the files it concerns."""

    def __init__(self, thread, name, arguments, began, ended, result, cwd):
        self.thread, self.name, self.began, self.ended, self.result = thread, name, began, ended, result
        self.path = self.target = None
        self.flags = arguments
        first = DESCRIPTOR.match(arguments)
        if name in WRITES | {"fsync", "fdatasync", "sync_file_range"}:
            if name in ("copy_file_range", "splice"):
                third = re.search(r",\s*(\d+<(?:[^>\\]|\\.)*>)", arguments)
                first = DESCRIPTOR.match(third[1]) if third else first
            if first and first[2]:
                self.path = plain(first[2])
            elif name == "truncate":
                self.path = self.strings(arguments, cwd)[0]
        elif name.startswith(("rename", "link")):
            paths = self.strings(arguments, cwd)
            if len(paths) >= 2:
                self.path, self.target = paths[:2]
        elif name in ("openat", "open", "creat", "unlink", "unlinkat", "mkdir", "mkdirat"):
            paths = self.strings(arguments, cwd)
            self.path = paths[0] if paths else None

    @staticmethod
    def strings(arguments, cwd):
        """Absolute paths of the string arguments, each relative to the descriptor before it."""
        found = []
        for match in re.finditer(r'(?:(?:AT_FDCWD|\d+)<((?:[^>\\]|\\.)*)>,\s*)?"((?:[^"\\]|\\.)*)"', arguments):
            base = plain(match[1]) if match[1] else cwd
            found.append(os.path.normpath(os.path.join(base, plain(match[2]))))
        return found


def events(lines, cwd):
    """Calls of a trace with their begin and end, joined across `unfinished` and `resumed`."""
    open_calls, found = {}, []
    for number, line in enumerate(lines):
        head = LINE.match(line.rstrip("\n"))
        if not head:
            continue
        pid, text = head[1], head[2]
        resumed = RESUMED.match(text)
        if resumed:
            began, start = open_calls.pop((pid, resumed[1]), (number, f"{resumed[1]}("))
            text = start + resumed[2]
        else:
            began = number
            if text.endswith("<unfinished ...>"):
                call = CALL.match(text)
                if call:
                    open_calls[(pid, call[1])] = (number, text.removesuffix("<unfinished ...>").rstrip())
                continue
        call, done = CALL.match(text), DONE.search(text)
        if not call or not done or done[1] == "?":
            continue
        arguments = call[2][: call[2].rfind(")")] if ")" in call[2] else call[2]
        found.append(Event(pid, call[1], arguments, began, number, int(done[1]), cwd))
    return found


def kind_of(path, root):
    name, relative = os.path.basename(path), os.path.relpath(path, root)
    if name in ("status.json", "plan.json", "publish.json", "end.json", "queue.txt", "history.jsonl"):
        return name.split(".")[0]
    if name in ("before.jpg", "after.jpg"):
        return "preview"
    if name.endswith(".frames.json"):
        return "frame table"
    if name.endswith(".nut"):
        return "spill" if "spill" in relative else "clip"
    if "_upscaled" in name and ".job" not in relative:
        return "output"
    return "other"


def is_temporary(path):
    name = os.path.basename(path)
    return name.endswith((".part", ".tmp"))


def check(found, root):
    """Rows for the table: (ok, kind, name, what was seen)."""
    root = os.path.normpath(root)
    inside = lambda path: path and (path == root or path.startswith(root + os.sep))
    rows, published = [], {}
    for event in found:
        if event.result < 0 or not event.name.startswith(("rename", "link")) or not inside(event.target):
            continue
        pairs = [(event.path, event.target)]
        if "RENAME_EXCHANGE" in event.flags:
            pairs = [p for p in ((event.path, event.target), (event.target, event.path)) if not is_temporary(p[1])]
        for source, target in pairs:
            if is_temporary(target) or target.endswith(".sock") or os.path.basename(target).startswith(REMOVED):
                continue
            believed = kind_of(target, root) not in UNBELIEVED
            rows.append((target, *(order if believed else unsynced)(found, event, source, target)))
            published[target] = event
    # A file that only grows
    grown = {}
    for event in found:
        if event.name in WRITES and event.result >= 0 and inside(event.path) and os.path.basename(event.path) == "history.jsonl":
            grown.setdefault(event.path, []).append(event)
    for path, writes in grown.items():
        for write in writes:
            synced = next((e for e in found if e.name in ("fsync", "fdatasync") and e.path == path and e.result == 0
                           and e.began > write.ended), None)  # fmt: skip
            queue = next((e for e in found if e.target and os.path.basename(e.target) == "queue.txt" and e.began > write.ended), None)
            early = synced and queue and queue.began < synced.ended
            ok = bool(synced) and not early
            said = f"write@{write.ended} fsync@{synced.ended}" if synced else "written but never fsynced"
            rows.append((path, ok, said + (" but the queue changed before that" if early else "")))
    for target, event in published.items():
        if os.path.basename(target) in ("history.jsonl",):
            continue
        later = [e for e in found if e.name in WRITES and e.path == target and e.began > event.ended and e.result > 0]
        if later:
            rows.append((target, False, f"written in place after it was published, at line {later[0].began}"))
    return [(("ok" if ok else "FAIL"), kind_of(path, root), os.path.relpath(path, root), said) for path, ok, said in rows]


def former_names(found, event, source):
    """Every name the file had before: temporary files may be renamed on their way. With the time each was taken up."""
    names, before = [source], event.began
    while True:
        earlier = [e for e in found if e.name.startswith("rename") and e.target == names[-1] and e.result >= 0 and e.ended < before
                   and "RENAME_EXCHANGE" not in e.flags]  # fmt: skip
        if not earlier:
            return names
        names.append(earlier[-1].path)
        before = earlier[-1].began


def order(found, event, source, target):
    """Whether write, fsync, `event`, fsync of the folder stand in this order."""
    names = former_names(found, event, source)
    before = [e for e in found if e.path in names and e.result >= 0 and e.began < event.ended]
    opened = [e for e in before if e.name in ("openat", "open", "creat") and "O_CREAT" in e.flags]
    if opened:
        before = [e for e in before if e.began >= opened[-1].began]  # else of an earlier file of that name
    # The making of an empty file counts as writing it
    writes = [e for e in before if e.name in WRITES] or opened[-1:]
    syncs = [e for e in before if e.name in ("fsync", "fdatasync") and e.ended < event.began]
    folder = os.path.dirname(target)
    # The folder's fsync stands before the next name that this thread publishes: a later one, made for another name, is
    # no answer to a crash between the two
    following = [e.began for e in found if e.thread == event.thread and e.target and e.result >= 0 and e.began > event.ended]
    until = min(following, default=sys.maxsize)
    after = [e for e in found if e.name == "fsync" and e.path == folder and e.result == 0 and event.ended < e.began < until]
    if any(e.name.startswith("mkdir") and e.path in names and e.result == 0 for e in found):
        return bool(after), f"folder: {event.name}@{event.ended} " + (f"fsync of folder@{after[0].ended}" if after else "never fsynced")
    if not writes:
        return False, f"{event.name}@{event.began}: nothing was written to {os.path.basename(source)} before"
    last = writes[-1]
    good = [s for s in syncs if s.began > last.ended]
    if last.ended > event.began:
        return False, f"written while it was renamed (line {last.began})"
    if not good:
        return False, f"write@{last.ended} {event.name}@{event.began}: no fsync between"
    if not after:
        return False, f"write@{last.ended} fsync@{good[0].ended} {event.name}@{event.ended}: no fsync of its folder before the next name"
    return True, f"write@{last.ended} fsync@{good[0].ended} {event.name}@{event.ended} fsync of folder@{after[0].ended}"


def unsynced(found, event, source, target):
    """Whether a file was written, then renamed, and nothing waited for the disk."""
    before = [e for e in found if e.path == source and e.result >= 0 and e.began < event.began]
    writes, syncs = [e for e in before if e.name in WRITES], [e for e in before if e.name in ("fsync", "fdatasync")]
    if not writes or writes[-1].ended > event.began:
        return False, f"{event.name}@{event.began}: {os.path.basename(source)} was not written before"
    if syncs:
        return False, f"fsync@{syncs[0].ended}: nobody believes it, and a disk was waited for"
    return True, f"write@{writes[-1].ended} {event.name}@{event.ended}, no fsync"


def trace(program, seconds, keep):
    """Runs a small job under strace; (lines of the trace, root)."""
    root = Root(program, None, SETTINGS, "upscaled-trace-")
    sample_video.make(root.input / "film.mp4", seconds=seconds)
    log = root.path / "trace.txt"
    # -s 0: what is written does not matter, paths are always whole
    command = ["strace", "-f", "-y", "-s", "0", "-qq", "-e", f"trace={TRACED}", "-e", "signal=none", "-o", str(log)]
    command += [str(program), "daemon", "--root", str(root.path), "--once"]
    with open(root.path / "console.txt", "wb") as console:
        done = subprocess.run(command, env=root.env, stdin=subprocess.DEVNULL, stdout=console, stderr=console, timeout=600)
    lines = log.read_text(errors="surrogateescape").splitlines()
    words = root.console()
    if done.returncode != 0:
        raise Unready(f"the traced run ended with {done.returncode}: {words[-600:]}")
    if keep:
        shutil.copy(log, keep)
    root.remove()
    return lines, str(root.path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", help="the program; default: the newest build")
    parser.add_argument("--trace", help="check this trace (of `strace -f -y -s 0`) of a run in --root")
    parser.add_argument("--root", help="the root folder of --trace")
    parser.add_argument("--keep-trace", help="copy the trace to this file")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of the film")
    parser.add_argument("--verbose", action="store_true", help="a line for every single rename, not one for each name")
    args = parser.parse_args()
    started = time.monotonic()
    if args.trace:
        lines, root = Path(args.trace).read_text(errors="surrogateescape").splitlines(), args.root or "/"
    else:
        if not shutil.which("strace"):
            print("skipped: strace is not installed (apt-get install strace)")
            sys.exit(77)
        try:
            need_tools("ffmpeg", "ffprobe")
            lines, root = trace(binary(args.bin), args.seconds, args.keep_trace)
        except Unready as error:
            print(error)
            sys.exit(77)
    rows = check(events(lines, root), root)
    wrong = sum(r[0] == "FAIL" for r in rows)
    shown, seen = [], {}
    for row in rows:
        seen.setdefault((row[0], row[2]), []).append(row)
    for (word, name), same in seen.items():
        if args.verbose or word == "FAIL":
            shown += [(word, r[1], name, 1, r[3]) for r in same]
        else:
            shown.append((word, same[0][1], name, len(same), same[-1][3]))
    print(table(shown, ["", "kind", "name", "times", "order (line in the trace)"]))
    kinds = {r[1] for r in rows}
    missing = [k for k in ("clip", "status", "queue", "plan", "history", "output") if k not in kinds]
    if missing:
        print("FAIL never published:", ", ".join(missing))
    print(f"\n{len(rows)} published names and lines, {wrong} wrong, {len(lines)} lines of trace, {time.monotonic() - started:.0f} s")
    sys.exit(1 if wrong or missing or not rows else 0)


if __name__ == "__main__":
    main()
