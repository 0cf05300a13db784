#!/usr/bin/env bash
# Installs the built daemon as a systemd service: binary, ONNX Runtime, user, folders, unit.
# PREFIX (default /usr/local) chooses where; DESTDIR stages the files and leaves this system alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PREFIX=${PREFIX:-/usr/local}
DESTDIR=${DESTDIR:-}
say() { printf 'install: %s\n' "$*"; }
die() { printf 'install: %s\n' "$*" >&2; exit 1; }

[ -x target/release/upscaled ] || die "nothing is built yet; run: make install"
if [ -z "$DESTDIR" ] && [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || die "this needs root and there is no sudo; as root, run: scripts/install.sh"
  exec sudo PREFIX="$PREFIX" "${BASH_SOURCE[0]}"
fi

install -D -m 755 target/release/upscaled "$DESTDIR$PREFIX/bin/.upscaled.new"
mv -f "$DESTDIR$PREFIX/bin/.upscaled.new" "$DESTDIR$PREFIX/bin/upscaled"

if [ -e lib/libonnxruntime.so ]; then
  # The new library takes the old one's place as a whole: a running daemon keeps what it loaded.
  rm -rf "$DESTDIR$PREFIX/lib/.upscaled.new"
  install -d -m 755 "$DESTDIR$PREFIX/lib/.upscaled.new"
  cp -a lib/. "$DESTDIR$PREFIX/lib/.upscaled.new/"
  [ -n "$DESTDIR" ] || chown -R root:root "$PREFIX/lib/.upscaled.new"
  rm -rf "$DESTDIR$PREFIX/lib/upscaled"
  mv "$DESTDIR$PREFIX/lib/.upscaled.new" "$DESTDIR$PREFIX/lib/upscaled"
else
  say "lib/ holds no ONNX Runtime; the daemon will look for one on the system"
fi

for page in README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE docs/settings.md docs/worker.md; do
  install -D -m 644 "$page" "$DESTDIR$PREFIX/share/doc/upscaled/$(basename "$page")"
done

# A drop-in is a person's to put in (README.md): it opens a port.
sed "s|/usr/local/|$PREFIX/|g" systemd/upscaled-http.conf >"$DESTDIR$PREFIX/share/doc/upscaled/upscaled-http.conf"

units=$DESTDIR/etc/systemd/system
install -d -m 755 "$units"
# The worker's unit is a template: an instance a port, none of them started here.
for name in upscaled.service upscaled-worker@.service; do
  sed "s|/usr/local/|$PREFIX/|g" "systemd/$name" >"$units/$name.new"
  chmod 644 "$units/$name.new"
  mv -f "$units/$name.new" "$units/$name"
done

if [ -n "$DESTDIR" ]; then
  say "staged in $DESTDIR"
  exit 0
fi

getent group upscaled >/dev/null || groupadd --system upscaled
getent passwd upscaled >/dev/null ||
  useradd --system --gid upscaled --home-dir /var/lib/upscaled --no-create-home --shell /usr/sbin/nologin upscaled
# The group may drop files in and take results out: add people with "adduser NAME upscaled".
install -d -o upscaled -g upscaled -m 2775 /var/lib/upscaled /var/lib/upscaled/{input,output,logs}

if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  systemctl enable upscaled.service
  systemctl restart upscaled.service
  say "the service runs; drop videos into /var/lib/upscaled/input, watch it with: journalctl -fu upscaled"
else
  say "installed; there is no running systemd here, start it by hand: upscaled daemon --root /var/lib/upscaled"
fi
