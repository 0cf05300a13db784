#!/usr/bin/env bash
# Moves a program's debug information into PROGRAM.debug beside it, where backtraces find it.
#
#   split_symbols.sh PROGRAM
set -euo pipefail

program=$1
objcopy --only-keep-debug "$program" "$program.debug"
# A new file under the name: what Cargo keeps of it stays as it is.
objcopy --strip-debug --add-gnu-debuglink="$program.debug" "$program" "$program.stripped"
mv -f "$program.stripped" "$program"
