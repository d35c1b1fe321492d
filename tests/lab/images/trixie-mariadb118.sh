# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=bash disable=SC2034
# Read by tests/lab/build-image.sh.
#
# MariaDB 11.8 of Debian 13
suite=trixie from=trixie
server=(mariadb-server mariadb-client)
made=mysql/db.frm
# Read by systemd 256 and newer: without it they do not boot where the kernel still has cgroup v1.
changes=(--change "ENV SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1")
