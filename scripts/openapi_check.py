#!/usr/bin/env python3
"""The API against its own description: starts the daemon, with the video service, and the image worker, has /openapi.json
of all four listeners validated, and lets schemathesis ask for what they describe, rightly and wrongly. No answer may be a
5xx.

Needs openapi-spec-validator and schemathesis (pip install them into a virtual environment; --tools names its bin folder).
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import daemon_runs
import sample_video

# A stream that never ends would be waited for.
ENDLESS = ["--exclude-path", "/api/events"]


# The words before an address: of the daemon's listeners, and of the worker's.
DAEMON = {
    "the daemon": "the page is at ",
    "the video service": "(upscale-video) is at ",
    "the video service's current contract": "(upscale) is at ",
}
WORKER = {"the image worker": "ready on "}
# Of the video service: no payload is waited for, and there is a folder for paths.
SETTINGS = 'fetch_seconds = 2\nshared_folder = "shared"\n'


def started(command, log, marks):
    """A process that has said where it listens, and those addresses."""
    process = subprocess.Popen([str(c) for c in command], stdout=log, stderr=log)
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        text = Path(log.name).read_text()
        found = [re.search(re.escape(mark) + r"http://([0-9.:]+[0-9])", text) for mark in marks.values()]
        if all(found):
            return process, {name: "http://" + match[1] for name, match in zip(marks, found)}
        time.sleep(0.2)
    process.kill()
    raise SystemExit(f"{command[1]} does not come up:\n{Path(log.name).read_text()}")


def checked(name, url, tools, arguments):
    with tempfile.TemporaryDirectory() as folder:
        document = Path(folder) / "openapi.json"
        document.write_bytes(urllib.request.urlopen(url + "/openapi.json").read())
        subprocess.run([tools / "openapi-spec-validator", document], check=True)
        command = [tools / "schemathesis", "run", url + "/openapi.json", "--max-examples", str(arguments.examples)]
        command += ["--checks", arguments.checks, "--seed", str(arguments.seed), "--request-timeout", "60", *ENDLESS]
        environment = {**os.environ, "NO_COLOR": "1"}
        done = subprocess.run([str(c) for c in command], cwd=folder, env=environment, capture_output=True, text=True)
    tail = done.stdout if done.returncode else done.stdout[done.stdout.rfind("SUMMARY") - 40 :]
    print(f"== {name}: {'right' if done.returncode == 0 else 'WRONG'}\n{tail}{done.stderr}", flush=True)
    return done.returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", help="the program")
    parser.add_argument("--tools", type=Path, help="folder with openapi-spec-validator and schemathesis")
    parser.add_argument("--examples", type=int, default=100, help="requests of a kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--checks",
        default="not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
    )
    arguments = parser.parse_args()
    found = arguments.tools or (shutil.which("schemathesis") and Path(shutil.which("schemathesis")).parent)
    if not found or not (found / "schemathesis").exists():
        raise SystemExit("schemathesis is not there: pip install schemathesis openapi-spec-validator, and name --tools")
    program = daemon_runs.binary(arguments.bin)
    right = True
    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        (root / "input").mkdir()
        sample_video.make(root / "input" / "a.mkv", seconds=1)
        (root / "shared").mkdir()
        (root / "upscaled.toml").write_text(SETTINGS)
        listen = [word for flag in ("--listen", "--vidaio", "--vidaio-current") for word in (flag, "127.0.0.1:0")]
        daemon = [program, "daemon", "--root", root, *listen]
        worker = [program, "worker", "--root", root, "--port", "0", "--shared", root / "shared", "--set", "device=cpu"]
        for command, marks in ((daemon, DAEMON), (worker, WORKER)):
            with open(root / "console", "w") as log:
                process, urls = started(command, log, marks)
                try:
                    for name, url in urls.items():
                        right = checked(name, url, found, arguments) and right
                    if process.poll() is not None:
                        print(f"== {command[1]} has ended:\n{Path(log.name).read_text()[-2000:]}")
                        right = False
                finally:
                    process.terminate()
                    process.wait()
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
