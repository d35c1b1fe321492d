# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The login options that every server module shares."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of ansible.mysql, under the same names."""

    DOCUMENTATION = r"""
options:
  login_user:
    description: User to log in as. Without it the one of O(config_file), else the operating system's user.
    type: str
  login_password:
    description: Password of O(login_user).
    type: str
  login_host:
    description: Host that the server runs on. Ignored when O(login_unix_socket) is set.
    type: str
    default: localhost
  login_port:
    description: TCP port of the server. Ignored when O(login_unix_socket) is set.
    type: int
    default: 3306
  login_unix_socket:
    description: Path of the server's Unix socket.
    type: str
  config_file:
    description:
      - Option file whose C([client]) group gives user and password.
      - It is used when it exists, must not hold C(!include) lines, and loses against explicit options.
    type: path
    default: ~/.my.cnf
  connect_timeout:
    description: Seconds to wait for the connection.
    type: int
    default: 30
  ca_cert:
    description: File with the certificate authority that the server's certificate is checked against.
    type: path
    aliases: [ssl_ca]
  client_cert:
    description: File with the client's certificate.
    type: path
    aliases: [ssl_cert]
  client_key:
    description: File with the client's key.
    type: path
    aliases: [ssl_key]
  check_hostname:
    description: Whether the server's certificate must name O(login_host).
    type: bool
requirements:
  - PyMySQL >= 1.0.2 on the replica
"""
