#!/usr/bin/env python3
"""Compares what two builds of the program make of the same sources, byte by byte: films and pictures through `run`, the
daemon, the image worker and the video service, with the encoders of the processor.

    same_output.py --before OLD --after NEW [FOLDER]

The sources are those of sample_films.py and a picture of worker_load.py, and the files of FOLDER. A restructuring must
not change a byte. Exit code 0 when all outputs are equal, 77 when something needed is missing."""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import sample_films
import worker_load
from daemon_runs import Root, Unready, binary, environment, kill_tree, need_tools

# Settings of `run`, and the sources that they are tried with: all, or those of these names.
RUNS = [
    ([], None),
    (["--scale", "4"], ["short.mkv", "picture.png"]),
    (["--set", "codec=hevc"], ["vfr.mkv", "tenbit.mkv"]),
    (["--set", "codec=h264", "--size", "500x300"], ["bframes.mp4", "interlaced.ts"]),
    (["--set", "deinterlace=on"], ["interlaced.ts"]),
    (["--model", "quality"], ["short.mkv", "picture.png"]),
    (["--set", "profile=vidaio"], ["bframes.mp4"]),
]
PORTS = {"worker": 18790, "vidaio": 18791}


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


def of_file(path):
    return digest(path.read_bytes()) if path.is_file() else "no output"


def through_run(program, sources, folder):
    made = {}
    for more, names in RUNS:
        for source in sources:
            if names is not None and source.name not in names:
                continue
            ending = source.suffix if source.suffix in (".mkv", ".mp4", ".mov", ".png") else ".mkv"
            target = folder / f"out{ending}"
            target.unlink(missing_ok=True)
            command = [program, "run", source, target, "--no-resume", *more]
            subprocess.run(command, env=environment(program), capture_output=True, check=False)
            made["run", source.name, " ".join(more)] = of_file(target)
    return made


def through_daemon(program, sources):
    root = Root(program)
    for source in sources:
        root.put(source)
    root.start().wait(timeout=3600)
    entries = root.history()
    results = {source: root.result_of(entries.get(source.name, {})) for source in sources}
    return {("daemon", source.name, ""): of_file(path) if path else "no output" for source, path in results.items()}


def listening(root, port, *command):
    """The program on the root, when it answers at the port."""
    command = [root.program, *command, "--root", root.path]
    process = subprocess.Popen(command, env=root.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    worker_load.ready(port, process)
    return process


def post(port, path, body, kind):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"Content-Type": kind})
    return urllib.request.urlopen(request, timeout=600).read()


def through_worker(program, picture):
    worker = listening(Root(program), PORTS["worker"], "worker", "--port", str(PORTS["worker"]))
    body, kind = worker_load.form(picture.read_bytes()), worker_load.HEADERS["Content-Type"]
    try:
        made = {}
        for query in ("upscale=2", "upscale=4"):
            made["worker", picture.name, query] = digest(post(PORTS["worker"], f"/upscale?{query}", body, kind))
        return made
    finally:
        kill_tree(worker)


def through_vidaio(program, source, folder):
    shared = Path(tempfile.mkdtemp(dir=folder))
    clip = shared / source.name
    clip.write_bytes(source.read_bytes())
    root = Root(program, settings={"shared_folder": str(shared)})
    daemon = listening(root, PORTS["vidaio"], "daemon", "--vidaio-current", f"127.0.0.1:{PORTS['vidaio']}")
    try:
        body = json.dumps({"video_paths": [str(clip)], "scale": 2}).encode()
        answer = json.loads(post(PORTS["vidaio"], "/upscale", body, "application/json"))
        return {("vidaio", source.name, ""): of_file(Path(answer["output_paths"][0]))}
    finally:
        kill_tree(daemon)


def everything(program, sources, folder):
    by_name = {source.name: source for source in sources}
    made = through_run(program, sources, folder)
    made |= through_daemon(program, sources)
    made |= through_worker(program, by_name["picture.png"])
    return made | through_vidaio(program, by_name["bframes.mp4"], folder)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", required=True)
    parser.add_argument("--after", required=True)
    parser.add_argument("folder", nargs="?", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        try:
            need_tools("ffmpeg")
            sources, absent = sample_films.make(folder)
            picture = folder / "picture.png"
            picture.write_bytes(worker_load.png(161, 91))
            sources.append(picture)
            if asked.folder:
                sources += sorted(path for path in asked.folder.iterdir() if path.is_file())
            before, after = (everything(binary(program), sources, folder) for program in (asked.before, asked.after))
        except Unready as reason:
            print(f"skipped: {reason}")
            return 77
    if absent:
        print(f"left out, since ffmpeg lacks their encoders: {', '.join(absent)}")
    wrong = [what for what in before if before[what] != after.get(what) or before[what] == "no output"]
    for what in wrong:
        print(*what, before[what], after.get(what), sep="  ")
    print(f"{len(before) - len(wrong)} of {len(before)} outputs are equal")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
