#!/usr/bin/env bash
# Upscales one video with the real daemon, in a root folder of its own: .demo/.
# VIDEO=film.mkv takes that film, else a short sample is made. Interrupted, it goes on when run again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

upscaled=$PWD/target/release/upscaled
root=$PWD/.demo
history=$root/output/history.jsonl
say() { printf 'demo: %s\n' "$*"; }
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }

[ -x "$upscaled" ] || die "there is no $upscaled; run: make demo"
mkdir -p "$root"/{input,output,logs,sample}

video=${VIDEO:-}
if [ -n "$video" ]; then
  [ -f "$video" ] || die "there is no file $video"
else
  video=$root/sample/sample.mkv
  if [ ! -f "$video" ]; then
    say "making a sample video of 5 seconds"
    ffmpeg -nostdin -v error -y \
      -f lavfi -i "mandelbrot=size=320x240:rate=25:start_scale=0.6:end_scale=0.002:end_pts=200" \
      -f lavfi -i "testsrc2=size=320x240:rate=25" \
      -f lavfi -i "sine=frequency=330:sample_rate=48000" \
      -filter_complex "[0:v][1:v]hstack,format=yuv420p[v]" -map "[v]" -map 2:a -t 5 \
      -c:v libx264 -preset fast -crf 16 -c:a aac -b:a 96k \
      -metadata title="A sample" -metadata:s:a:0 language=eng -f matroska "$root/sample/.sample.part"
    mv "$root/sample/.sample.part" "$video"
  fi
fi

name=$(basename -- "$video")
seen=0
[ -f "$history" ] && seen=$(wc -l <"$history")

daemon=
stop() {
  if [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; then
    kill -TERM "$daemon"
    wait "$daemon" || true
  fi
  daemon=
}
trap stop EXIT
trap 'stop; exit 130' INT TERM

"$upscaled" daemon --root "$root" &
daemon=$!

# Copied under a name the daemon ignores, then renamed: it never sees half a file.
# A job of an interrupted demo goes on: the same source is not copied again.
if [ -f "$root/input/$name" ] && [ -d "$root/output/$name.job" ] && cmp -s -- "$video" "$root/input/$name"; then
  say "going on with $name"
else
  cp -- "$video" "$root/input/.$name.part"
  mv -- "$root/input/.$name.part" "$root/input/$name"
  say "dropped $name into $root/input"
fi

# The line of history.jsonl that ends this job, in words; nothing while there is none.
finished() {
  [ -f "$history" ] || return 0
  tail -n "+$((seen + 1))" "$history" | NAME=$name python3 -c '
import json, os, re, sys

def path(text):  # as crates/core/src/path_text.rs writes it
    escape = rb"\\\\|\\x([0-9a-f]{2})"
    return re.sub(escape, lambda m: bytes.fromhex(m[1].decode()) if m[1] else b"\\", text.encode())

for line in sys.stdin:
    try:
        entry = json.loads(line)
    except ValueError:
        continue  # still being written
    if path(entry.get("job", "")) != os.fsencode(os.environ["NAME"]):
        continue
    if entry.get("state") == "retried":
        continue
    outcome = entry.get("outcome") or {}
    print(entry.get("state", "?"))
    sys.stdout.flush()
    sys.stdout.buffer.write(path(outcome.get("output", "")) + b"\n")
    sys.stdout.buffer.flush()
    print(outcome.get("verified") or "")
    print(entry.get("reason") or "")
    break
'
}

result=
while [ -z "$result" ]; do
  kill -0 "$daemon" 2>/dev/null || { wait "$daemon" || true; daemon=; die "the daemon ended early; see $root/logs"; }
  sleep 1
  result=$(finished)
done
stop

{ read -r state; read -r output; read -r verified; read -r reason; } <<<"$result"$'\n\n\n' || true
[ "$state" = "done" ] || die "$name: $state: $reason"
case $output in /*) ;; *) output=$root/output/$output ;; esac
[ -f "$output" ] || die "history.jsonl names $output, which is not there"

size() { ffprobe -v error -select_streams v:0 -show_entries stream=width,height -of csv=p=0:s=x -- "$1" | head -n 1; }
say "the result:   $output"
say "its size:     $(size "$output") from $(size "$video")"
say "how verified: $verified"
