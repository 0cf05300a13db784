#!/usr/bin/env python3
"""Everything here that goes by chance, with other dice each time, for a given time.

    make torture MINUTES=60
    torture.py --minutes M [--bin PROGRAM]

Goes round kills, power cuts and damaged media, some minutes each, until the time is up. The seed of a round that found
something wrong is in its words. Exit code 0 when all rounds hold, 77 when something needed is missing."""

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path

from daemon_runs import Unready, binary, need_tools, table

SCRIPTS = Path(__file__).resolve().parent
# What a round does, so that each takes a few minutes.
ROUNDS = {"kill_loop.py": ["--minutes", "4"], "power_cut.py": ["--cuts", "60"], "mutants.py": ["--count", "300"]}
# Words that are kept of a round that went wrong.
LAST = 3000


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", help="the program; default: the newest build")
    parser.add_argument("--minutes", type=float, required=True)
    args = parser.parse_args()
    try:
        need_tools("ffmpeg", "ffprobe")
        program = binary(args.bin)
    except Unready as error:
        print(error)
        sys.exit(77)
    end, rows = time.monotonic() + 60 * args.minutes, {name: [0, 0, 0, ""] for name in ROUNDS}
    while time.monotonic() < end:
        for name, much in ROUNDS.items():
            left = (end - time.monotonic()) / 60
            if left <= 0:
                break
            much = ["--minutes", f"{min(left, 4):.2f}"] if name == "kill_loop.py" else much
            seed = random.SystemRandom().randrange(10**6)
            command = [sys.executable, str(SCRIPTS / name), "--bin", str(program), "--seed", str(seed), *much]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
            said = (done.stdout + done.stderr).strip()
            row = rows[name]
            row[0] += 1
            row[1] += done.returncode not in (0, 77)
            row[2] += done.returncode == 77
            row[3] = said.splitlines()[-1] if said else ""
            print(f"{name} --seed {seed}: {row[3]}", flush=True)
            if done.returncode not in (0, 77):
                print(f"FAIL, exit code {done.returncode}:\n{said[-LAST:]}", flush=True)
    print(table([[name, *row] for name, row in rows.items()], ["check", "rounds", "wrong", "skipped", "the last one's words"]))
    wrong = sum(row[1] for row in rows.values())
    sys.exit(1 if wrong else 77 if sum(row[0] for row in rows.values()) == sum(row[2] for row in rows.values()) else 0)


if __name__ == "__main__":
    main()
