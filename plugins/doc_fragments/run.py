# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the modules that work on one backup run."""

from __future__ import annotations


class ModuleDocFragment:
    """Where ledger and spool are, and which set is worked on."""

    DOCUMENTATION = r"""
options:
  state_dir:
    description:
      - Directory of lock and ledger on the replica; mode 0700. It is created when its parent exists.
      - Several servers on one host need one each.
    type: path
    default: /var/lib/mysql-replica-backup
  spool_dir:
    description: Work space for archives on the replica.
    type: path
    default: /var/backups/mysql-replica
  host:
    description: Name of the replica in the backup's path, usually C(inventory_hostname).
    type: str
    required: true
  backup_id:
    description: Name of the set, UTC time as C(YYYYMMDDTHHMMSSZ).
    type: str
    required: true
"""
