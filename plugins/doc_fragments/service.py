# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the modules that have to know what stops and starts the server."""

from __future__ import annotations


class ModuleDocFragment:
    """The service manager, as the user may name it."""

    DOCUMENTATION = r"""
options:
  service_manager:
    description: How the server is stopped and started; V(auto) finds it from the running process.
    type: str
    choices: [auto, systemd, sysvinit, mysqld_safe, none]
    default: auto
  service_name:
    description: Name of the unit or script, or the start command of C(mysqld_safe). Found when not given.
    type: str
"""
