#!/usr/bin/env python3
"""The API against its own description: starts the daemon, with the video service, and the image worker, has /openapi.json
of all four listeners validated, and lets schemathesis ask for what they describe, rightly and wrongly: of listeners without a
token, of ones with a token that is given, and of ones with a token that is not. No answer may be a 5xx but the 503 that is
described.

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
import urllib.error
import urllib.request
from pathlib import Path

import daemon_runs
import sample_video

# A stream that never ends would be waited for.
ENDLESS = ["--exclude-path", "/api/events"]
TOKEN = "a-token-for-this-check-alone"


# The words before an address: of the daemon's listeners, and of the worker's.
DAEMON = {
    "the daemon": "the page is at ",
    "the video service": "(upscale-video) is at ",
    "the video service's current contract": "(upscale) is at ",
}
WORKER = {"the image worker": "ready on "}
# Of the video service: no payload is waited for, and there is a folder for paths.
SETTINGS = 'fetch_seconds = 2\nshared_folder = "shared"\n'


def started(command, log, marks, token):
    """A process that has said where it listens, and those addresses."""
    environment = {**os.environ, **({"UPSCALED_TOKEN": token} if token else {})}
    process = subprocess.Popen([str(c) for c in command], stdout=log, stderr=log, env=environment)
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        text = Path(log.name).read_text()
        found = [re.search(re.escape(mark) + r"http://([0-9.:]+[0-9])", text) for mark in marks.values()]
        if all(found):
            return process, {name: "http://" + match[1] for name, match in zip(marks, found)}
        time.sleep(0.2)
    process.kill()
    raise SystemExit(f"{command[1]} does not come up:\n{Path(log.name).read_text()}")


def checked(name, url, tools, arguments, token, given):
    """`token`: of the listener; `given`: whether requests bear it."""
    bearer = {"Authorization": f"Bearer {token}"} if token else {}
    with tempfile.TemporaryDirectory() as folder:
        document = Path(folder) / "openapi.json"
        request = urllib.request.Request(url + "/openapi.json", headers=bearer)
        document.write_bytes(urllib.request.urlopen(request).read())
        subprocess.run([tools / "openapi-spec-validator", document], check=True)
        command = [tools / "schemathesis", "run", document, "--url", url]
        command += ["--max-examples", str(arguments.examples if given else min(arguments.examples, 20))]
        command += ["--checks", arguments.checks, "--exclude-checks", arguments.exclude_checks, "--seed", str(arguments.seed), "--request-timeout", "60"]
        # Without the token the stream of events ends at once, with a refusal.
        command += ENDLESS if given else []
        if given:
            command += [word for name, value in bearer.items() for word in ("-H", f"{name}: {value}")]
        environment = {**os.environ, "NO_COLOR": "1"}
        done = subprocess.run([str(c) for c in command], cwd=folder, env=environment, capture_output=True, text=True)
    tail = done.stdout if done.returncode else done.stdout[done.stdout.rfind("SUMMARY") - 40 :]
    print(f"== {name}: {'right' if done.returncode == 0 else 'WRONG'}\n{tail}{done.stderr}", flush=True)
    return done.returncode == 0


def refused(name, url):
    """Without the token, nothing but what is open to all is answered."""
    for path in ("/openapi.json", "/metrics", "/api/jobs", "/api/events", "/stats", "/info"):
        try:
            answered = urllib.request.urlopen(url + path).status
        except urllib.error.HTTPError as error:
            answered = error.code
        if answered not in (401, 404):
            print(f"== {name}: {path} is answered with {answered} without the token")
            return False
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", help="the program")
    parser.add_argument("--tools", type=Path, help="folder with openapi-spec-validator and schemathesis")
    parser.add_argument("--examples", type=int, default=100, help="requests of a kind")
    parser.add_argument("--only", choices=["daemon", "worker"], help="one of them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--checks", default="all")
    # What a schema cannot say (there is no such file, no such place) is refused all the same.
    parser.add_argument("--exclude-checks", default="positive_data_acceptance")
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
        for kind, command, marks in (("daemon", daemon, DAEMON), ("worker", worker, WORKER)):
            if arguments.only not in (None, kind):
                continue
            for token, given, how in ((None, True, ""), (TOKEN, True, ", with its token"), (TOKEN, False, ", without its token")):
                with open(root / "console", "w") as log:
                    process, urls = started(command, log, marks, token)
                    try:
                        for name, url in urls.items():
                            right = checked(name + how, url, found, arguments, token, given) and right
                            right = (given or refused(name + how, url)) and right
                        if process.poll() is not None:
                            print(f"== the {kind}{how} has ended:\n{Path(log.name).read_text()[-2000:]}")
                            right = False
                    finally:
                        process.terminate()
                        process.wait()
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
