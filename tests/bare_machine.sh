#!/usr/bin/env bash
# Runs deploy/demo.sh from a clean clone on a bare Debian 12 in a chroot: proof that nothing but the README's
# command is needed. Needs root, debootstrap and a Debian mirror that apt here is configured for.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$(mktemp -d)
cleanup() {
  for mount in dev/shm dev proc; do umount -l "$root/$mount" 2>/dev/null || true; done
  rm -rf "$root"
}
trap cleanup EXIT

debootstrap --variant=minbase bookworm "$root" >/dev/null
cp -r /etc/apt/sources.list* "$root/etc/apt/" 2>/dev/null || true
cp -r /etc/apt/apt.conf.d "$root/etc/apt/"
cp /etc/resolv.conf "$root/etc/resolv.conf"
if [ -d /etc/ssl/certs ]; then mkdir -p "$root/etc/ssl" && cp -rL /etc/ssl/certs "$root/etc/ssl/"; fi
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
git clone --quiet --no-hardlinks . "$root/tessera"
time chroot "$root" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
  LANG=C.UTF-8 ${SSL_CERT_FILE:+SSL_CERT_FILE=$SSL_CERT_FILE} /tessera/deploy/demo.sh
