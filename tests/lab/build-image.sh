#!/usr/bin/env bash
# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# usage: build-image.sh KIND IMAGE:TAG LABEL=VALUE...
#
# Builds a Debian host with systemd, a database server and sshd, as an administrator would find it after
# "apt-get install" of the server. Called by tests/lab/containers.py, which holds the lock and caches. KIND is a
# file of tests/lab/images. DEBIAN_MIRROR names another mirror than the one this machine's apt uses.
set -euo pipefail

kind=$1 image=$2
shift 2
cd "$(dirname "$0")"
# shellcheck source=tests/lab/images/bookworm.sh
. "images/$kind.sh"
mirror=${DEBIAN_MIRROR:-}
if [ -z "$mirror" ]; then
    # The mirror that works for apt here works for debootstrap too; otherwise debootstrap's own default.
    mirror=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk '$1 == "Debian" && $2 ~ /\/debian\/?$/ { print $2; exit }' || true)
fi
mirror=${mirror:-http://deb.debian.org/debian}

root=$(mktemp -d "${TMPDIR:-/var/tmp}/replica-host.XXXXXX")
trap 'umount "$root/proc" 2>/dev/null || true; rm -rf --one-file-system "$root"' EXIT
chmod 755 "$root" # it becomes the root directory of every account in there

packages=systemd,systemd-sysv,dbus,python3,python3-pymysql,zstd,lz4,xz-utils,sudo,openssh-server,iproute2,iptables,procps,ca-certificates
# The bare system of a suite is made once a week and serves every kind.
bases=$PWD/../../.cache/bases
base=$bases/$suite-$(date -u +%G-%V)-$(sha256sum <<<"$packages" | cut -c -12).tar
if [ ! -e "$base" ]; then
    mkdir -p "$bases"
    rm -f "$bases/$suite"-*
    debootstrap --variant=minbase --include="$packages" "$suite" "$root" "$mirror"
    tar -C "$root" --one-file-system -cf "$base.partial" .
    mv "$base.partial" "$base"
else
    tar -C "$root" --numeric-owner -xpf "$base"
fi

# No package may start a service while it is unpacked.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
cp /etc/resolv.conf "$root/etc/resolv.conf"
for file in /etc/apt/apt.conf.d/*proxy*; do
    [ ! -e "$file" ] || cp "$file" "$root/etc/apt/apt.conf.d/"
done
mount -t proc proc "$root/proc"
in_root() { DEBIAN_FRONTEND=noninteractive LC_ALL=C chroot "$root" "$@"; }
if [ "$from" != "$suite" ]; then
    printf 'deb %s %s main\n' "$mirror" "$from" "$mirror" "$suite" >"$root/etc/apt/sources.list"
    printf 'Package: *\nPin: release n=%s\nPin-Priority: 50\n' "$from" >"$root/etc/apt/preferences.d/$from"
fi
# A mirror that was frozen some weeks ago is as good as any: the signatures are still checked.
in_root apt-get -q -o Acquire::Check-Valid-Until=false update
in_root apt-get install -q -y --no-install-recommends -t "$from" "${server[@]}"
rm -f "$root/usr/sbin/policy-rc.d"
test -e "$root/var/lib/mysql/$made" # or the data directory was not made

# An ordinary administrator account, as fleets have it: login without rights, root by sudo.
chroot "$root" useradd --create-home --shell /bin/bash ops
echo 'ops ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/ops"
chmod 440 "$root/etc/sudoers.d/ops"

# What does not belong into a template: identity, package caches, units that make no sense in a container.
: >"$root/etc/machine-id"
rm -f "$root/var/lib/mysql/auto.cnf"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root/etc/resolv.conf"
rm -f "$root"/etc/apt/apt.conf.d/*proxy*
chroot "$root" systemctl mask -q systemd-udevd.service getty.target systemd-logind.service apt-daily.timer \
    apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer 2>/dev/null || true
umount "$root/proc"

for label in "$@"; do
    changes+=(--change "LABEL $label")
done
tar -C "$root" --one-file-system -c . | podman import "${changes[@]}" - "$image"
