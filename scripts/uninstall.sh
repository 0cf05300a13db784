#!/usr/bin/env bash
# Takes back what scripts/install.sh did. Films, settings and logs in /var/lib/upscaled and the
# user stay; PURGE=1 removes them too.
set -euo pipefail

PREFIX=${PREFIX:-/usr/local}
DESTDIR=${DESTDIR:-}
PURGE=${PURGE:-}
say() { printf 'uninstall: %s\n' "$*"; }
die() { printf 'uninstall: %s\n' "$*" >&2; exit 1; }

if [ -z "$DESTDIR" ] && [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || die "this needs root and there is no sudo; as root, run: scripts/uninstall.sh"
  exec sudo PREFIX="$PREFIX" PURGE="$PURGE" "${BASH_SOURCE[0]}"
fi

if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then
  systemctl disable --now upscaled.service 2>/dev/null || true
  # Instances that run, and those that would at the next start.
  systemctl stop 'upscaled-worker@*.service' 2>/dev/null || true
  systemctl disable 'upscaled-worker@.service' 2>/dev/null || true
fi
rm -f "$DESTDIR/etc/systemd/system/upscaled.service" "$DESTDIR/etc/systemd/system/upscaled-worker@.service"
rm -f "$DESTDIR/etc/systemd/system/upscaled.service.d/http.conf"
rmdir "$DESTDIR/etc/systemd/system/upscaled.service.d" 2>/dev/null || true
rm -f "$DESTDIR$PREFIX/bin/upscaled"
rm -rf "$DESTDIR$PREFIX/lib/upscaled" "$DESTDIR$PREFIX/share/doc/upscaled"
[ -n "$DESTDIR" ] && exit 0
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi

rm -rf /run/upscaled /var/cache/upscaled
if [ "$PURGE" = 1 ]; then
  rm -rf /var/lib/upscaled
  if getent passwd upscaled >/dev/null; then userdel upscaled; fi
  if getent group upscaled >/dev/null; then groupdel upscaled; fi
  say "removed, with all of /var/lib/upscaled and the user upscaled"
else
  say "removed; /var/lib/upscaled and the user upscaled stay (PURGE=1 make uninstall removes them too)"
fi
