"""Starts the real program in a folder of its own and reads what it left: history, processes, work areas."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
SHARED_VIDEOS = REPO.parent / "shared" / "videos"

# In RAM, and a place where every user may make a folder.
SHARED_MEMORY = Path("/dev/shm")


class Unready(Exception):
    """Something these checks need is not installed or not built; the message says what to do."""


def binary(given=None):
    """The program to test: the argument, else UPSCALED_BIN, else the newest build of this repository."""
    if given or os.environ.get("UPSCALED_BIN"):
        path = Path(given or os.environ["UPSCALED_BIN"])
        if not path.is_file():
            raise Unready(f"{path} is not there; build it with: cargo build --release")
        return path.resolve()
    for build in ("release", "debug"):
        path = REPO / "target" / build / "upscaled"
        if path.is_file():
            return path
    raise Unready("target/release/upscaled is not there; build it with: cargo build --release")


def need_tools(*names):
    for name in names:
        if not shutil.which(name):
            raise Unready(f"{name} is not installed; install the package that has it (ffmpeg, strace)")


def escape(raw):
    """A path (bytes) as the program writes it in its state files and logs."""
    out = []
    text = raw.decode("utf-8", "surrogateescape")
    for c in text:
        n = ord(c)
        if c == "\\":
            out.append("\\\\")
        elif 0xDC80 <= n <= 0xDCFF:
            out.append(f"\\x{n - 0xDC00:02x}")
        elif n < 0x20 or 0x7F <= n < 0xA0 or 0x2028 <= n <= 0x202E:
            out.extend(f"\\x{b:02x}" for b in c.encode())
        else:
            out.append(c)
    if out and out[0] in (" ", "#"):
        out[0] = f"\\x{ord(out[0]):02x}"
    if out and out[-1] == " ":
        out[-1] = "\\x20"
    return "".join(out)


def unescape(text):
    """The path (bytes) of an escaped text."""
    raw, out, i = text.encode(), bytearray(), 0
    while i < len(raw):
        if raw[i : i + 2] == b"\\\\":
            out.append(0x5C)
            i += 2
        elif raw[i : i + 2] == b"\\x":
            out.append(int(raw[i + 2 : i + 4], 16))
            i += 4
        else:
            out.append(raw[i])
            i += 1
    return bytes(out)


def environment(program):
    """The environment of the program: ours, without settings of the person who runs the check, and with the
    library of this repository where the binary lies elsewhere. Nothing is measured before a job: it changes no pixel."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("UPSCALED_")}
    env["UPSCALED_AUTOTUNE"] = "false"
    if "ORT_DYLIB_PATH" not in env:
        for folder in (REPO / "lib", Path(program).parent.parent.parent / "lib"):
            found = sorted(folder.glob("libonnxruntime.so*")) if folder.is_dir() else []
            if found:
                env["ORT_DYLIB_PATH"] = str(found[0])
                break
    return env


class Root:
    """A daemon's folder, made fresh, with a work area of its own: in RAM, or with `inside` in the folder `ram` there."""

    def __init__(self, program, parent=None, settings=None, prefix="upscaled-check-", inside=False):
        self.program = Path(program)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        self.input, self.output = self.path / "input", self.path / "output"
        for folder in ("input", "output", "logs"):
            (self.path / folder).mkdir()
        inside = inside or not os.access(SHARED_MEMORY, os.W_OK)
        self.ram = self.path / "ram" if inside else Path(tempfile.mkdtemp(prefix=prefix, dir=SHARED_MEMORY))
        settings = {"work_area": str(self.ram), **(settings or {})}
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        (self.path / "upscaled.toml").write_text("\n".join(lines) + "\n")
        self.env = environment(program)

    def put(self, source, name=None):
        """Hard link of a file, or a copy where links do not work, in input/. An old mtime, so that it settles at
        once, is kept."""
        target = self.input / (name or Path(source).name)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
        return target

    def start(self, once=True, quiet=True):
        """The daemon in a process group of its own; its words go to `console.txt`."""
        command = [str(self.program), "daemon", "--root", str(self.path)] + (["--once"] if once else [])
        with open(self.path / "console.txt", "ab") as console:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console if quiet else None,
                stderr=console if quiet else None,
                env=self.env,
                start_new_session=True,
            )

    def console(self):
        try:
            return (self.path / "console.txt").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def history(self):
        """Lines of history.jsonl, by job (escaped relative path); the last line of a job counts."""
        entries = {}
        try:
            text = (self.output / "history.jsonl").read_text(errors="replace")
        except FileNotFoundError:
            return entries
        for line in text.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            job = entry.get("job")
            if isinstance(job, str):
                entries[job] = entry
        return entries

    def queue_lines(self):
        try:
            text = (self.path / "queue.txt").read_text(errors="replace")
        except FileNotFoundError:
            return []
        return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]

    def result_of(self, entry):
        """Path of the output a history line names, or None."""
        name = entry.get("output") or (entry.get("outcome") or {}).get("output")
        if not name:
            return None
        path = Path(os.fsdecode(unescape(name)))
        for base in (path, self.output / path, self.path / path):
            if base.is_absolute() and base.is_file():
                return base
        return None

    def job_folders(self):
        return sorted(str(p.relative_to(self.path)) for p in self.path.rglob("*.job*") if p.is_dir())

    def areas(self):
        """Work areas that are there now, and mounts of them, as text."""
        return sorted({*map(str, self.ram.glob("*")), *(f"mount {point}" for point in self.mounts())})

    def mounts(self):
        points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        return [p for p in points if p.startswith((f"{self.path}/", f"{self.ram}/"))]

    def remove(self):
        for point in self.mounts():
            subprocess.run(["umount", "-l", point], check=False)
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.rmtree(self.ram, ignore_errors=True)


def outcome_of(entry):
    """The outcome's fields of a history line, wherever they stand in it."""
    inner = entry.get("outcome")
    return {**entry, **inner} if isinstance(inner, dict) else entry


def processes():
    """pid -> (parent, name, arguments) of everything that runs."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            stat = Path(f"/proc/{name}/stat").read_bytes()
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        head, tail = stat.rsplit(b")", 1)
        fields = tail.split()
        if fields[0] in (b"Z", b"X"):
            continue
        found[int(name)] = (int(fields[1]), head.split(b"(", 1)[1].decode(errors="replace"), words[:-1])
    return found


def descendants(pid, table=None):
    """Everything below a process, itself not among them."""
    table = table or processes()
    found, wanted = [], {pid}
    while True:
        new = [p for p, (parent, _, _) in table.items() if parent in wanted and p not in found]
        if not new:
            return found
        found += new
        wanted.update(new)


def job_child(pid):
    """The job process of a supervisor: the one whose arguments name `job`."""
    table = processes()
    for child in descendants(pid, table):
        if b"job" in table[child][2][1:]:
            return child
    return None


def kill(pid, number=signal.SIGKILL):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def kill_tree(process):
    """Ends a daemon we started, and what it started."""
    below = descendants(process.pid)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    for pid in below:
        kill(pid)
    process.wait()


def wait_until(test, seconds, step=0.05):
    """Whether `test` came true in time."""
    end = time.monotonic() + seconds
    while not test():
        if time.monotonic() > end:
            return False
        time.sleep(step)
    return True


def table(rows, header):
    """Columns as wide as their content; the last one is not padded."""
    rows = [[str(c) for c in row] for row in rows]
    widths = [max(len(r[i]) for r in rows + [header]) for i in range(len(header))]
    lines = []
    for row in [header] + rows:
        cells = [c.ljust(w) for c, w in zip(row[:-1], widths)] + [row[-1]]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * w for w in widths[:-1] + [min(widths[-1], 40)]))
    return "\n".join(lines)
