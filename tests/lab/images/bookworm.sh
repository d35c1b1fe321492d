# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=bash disable=SC2034
# Read by tests/lab/build-image.sh.
#
# MariaDB 10.11 of Debian 12
suite=bookworm from=bookworm
server=(mariadb-server mariadb-client)
made=mysql/db.frm
changes=()
