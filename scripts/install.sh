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

# Each version of the libraries has a folder of its own, and `current` leads to the newest: a daemon goes on with the
# folder that it began with, whose job processes load from it until the daemon is started anew.
libraries=$DESTDIR$PREFIX/lib/upscaled
version=
if [ -e lib/libonnxruntime.so ]; then
  version=$( (cd lib && find . -type f -printf '%P %s\n' | LC_ALL=C sort && cat .wheel-sha256 gpu/.wheels-sha256 2>/dev/null || true) | sha256sum | cut -c 1-12)
  version=$(basename "$(readlink -f lib/libonnxruntime.so)" | sed 's/^libonnxruntime\.so\.//')-$version
  install -d -m 755 "$libraries"
  if [ ! -d "$libraries/$version" ]; then
    rm -rf "$libraries/.new"
    install -d -m 755 "$libraries/.new"
    cp -a lib/. "$libraries/.new/"
    [ -n "$DESTDIR" ] || chown -R root:root "$libraries/.new"
    # Half of a copy never has the name of a whole one, after a power cut neither.
    sync -f "$libraries/.new"
    mv "$libraries/.new" "$libraries/$version"
  fi
  ln -sfn "$version" "$libraries/.current.new"
  mv -fT "$libraries/.current.new" "$libraries/current"
else
  say "lib/ holds no ONNX Runtime; the daemon will look for one on the system"
fi

# Whether a process has a folder of libraries open (the daemon and its workers do) or a library in it loaded.
in_use() {
  find /proc/[0-9]*/fd -maxdepth 1 \( -lname "$1" -o -lname "$1/*" \) 2>/dev/null | grep -q . ||
    grep -qsF "$1/" /proc/[0-9]*/maps
}

# Removes what was installed before this version, and what lay in lib/upscaled itself before there were folders.
remove_old_libraries() {
  [ -n "$version" ] || return 0
  local old
  for old in "$libraries"/*; do
    case $(basename "$old") in current | "$version") continue ;; esac
    if in_use "$old"; then
      say "$old is still in use; the next installation removes it"
    else
      rm -rf "$old"
    fi
  done
  rm -f "$libraries/.wheel-sha256"
}

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
# The group may drop files in and take results out: add people with "adduser NAME upscaled". What lies in the root itself
# (settings, records, locks) is the service's; queue.txt may be edited by the group all the same, in place.
install -d -o upscaled -g upscaled -m 2755 /var/lib/upscaled /var/lib/upscaled/logs
install -d -o upscaled -g upscaled -m 2775 /var/lib/upscaled/{input,output}

if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  systemctl enable upscaled.service
  systemctl restart upscaled.service
  # Not before the daemon has been started anew: until then job processes load from the old folder.
  remove_old_libraries
  say "the service runs; drop videos into /var/lib/upscaled/input, watch it with: journalctl -fu upscaled"
else
  if ! pgrep -x upscaled >/dev/null; then remove_old_libraries; fi
  say "installed; there is no running systemd here, start it by hand: upscaled daemon --root /var/lib/upscaled"
fi
