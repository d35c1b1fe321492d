# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lost relay logs: say, or run, what makes a replica read them again from its source."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mysql_replica_reposition
short_description: Set a replica that lost its relay logs on its way again
description:
  - A replica whose relay logs are lost, cut short or named after another host cannot start its applier (MySQL error
    1872, MariaDB error 1201). How far the applier got is still known, in C(relay-log.info) or its table, and the source
    can be read again from there.
  - This module finds, for every channel, whether that is so, derives the coordinates, asks the source whether it is
    the right server and still has what comes after them, and returns the exact statements for this server.
    C(CHANGE MASTER TO) alone does not heal; C(RESET SLAVE) has to come before it, and takes the coordinates with it.
  - With O(execute=true) it runs the statements and waits until the channel replicates. The files of the
    repositories, in which the password of the replication user may stand, are saved before. Delay and GTID mode stay.
  - Channels by GTID (MySQL auto-positioning, MariaDB C(slave_pos)) stay so.
  - Nothing is guessed. A source that no longer has the binary log, another server under the same name, an applier
    that never ran, and the gaps of an interrupted multi-threaded applier are refused, with the alternatives; all
    channels are looked at before the first is touched.
  - A server that is down is read from its files (all generations of C(relay-log.info), C(master.info), the files of the
    workers). Where tables hold its place, O(start) starts it without replication to ask it, and stops it again.
    With O(execute=true) the server is started, without replication until it is healed.
  - A MariaDB server with named connections does not even start without their relay logs. It is started once with
    C(relay_log_recovery), which throws them away at the start and goes on from what was executed.
version_added: 0.1.0
author:
  - mysql_ops contributors (@mysql-ops)
options:
  execute:
    description: Run the statements; otherwise they are returned only.
    type: bool
    default: false
  channels:
    description: Names of the channels (connections) to look at; all of them by default. The default one is C("").
    type: list
    elements: str
  source_login_user:
    description:
      - Account on the sources, whose host and port are those of the channels.
      - It needs REPLICATION CLIENT (MariaDB 10.5 and newer, BINLOG MONITOR) and REPLICATION SLAVE.
      - Without it the sources are not asked, and nothing is run.
    type: str
  source_login_password:
    description: Its password.
    type: str
  source_ca_cert:
    description: File of the certificate authority for TLS to the sources.
    type: path
  manifest:
    description:
      - File C(manifest.json) of the backup that this server was restored from. The coordinates are taken from there
        instead of from the server.
    type: path
  force:
    description: Also channels whose relay logs look well.
    type: bool
    default: false
  trust_coordinates:
    description:
      - Also coordinates that are in doubt. Wrong ones apply transactions twice, or leave some out.
      - In doubt is the C(relay-log.info) of a server that was not stopped cleanly, and a O(manifest) that says another
        place than the server does.
    type: bool
    default: false
  offline:
    description:
      - Whether a server is read from its files. V(auto) does so when nobody answers at the login and no process works
        on the data directory.
      - V(always) tries no login before the server is started, and leaves one alone that a systemd socket would start at
        the first connection. V(never) fails when nobody answers.
    type: str
    choices: [auto, always, never]
    default: auto
  start:
    description:
      - Start a server that is down and whose place is in tables. It is started without replication, asked, and stopped
        again. O(execute=true) starts it in any case.
    type: bool
    default: false
  service_manager:
    description: Who starts a server that is down. V(none) and V(mysqld_safe) start it by its command line.
    type: str
    choices: [auto, systemd, sysvinit, mysqld_safe, none]
    default: auto
  service_name:
    description:
      - For a server that is down. The unit (V(mariadb), V(mysql@second)), the script in C(/etc/init.d), or the command
        line, beginning with C(/), that starts it.
      - By default the unit or script that is installed, provided that none of O(server_binary), O(defaults_file) and
        O(defaults_group_suffix) is given.
    type: str
  server_binary:
    description: For a server that is down, its program. By default that of the service, else that in the usual places.
    type: path
  defaults_file:
    description: For a server that is down, the only option file that it reads, as with its option C(--defaults-file).
    type: path
  defaults_group_suffix:
    description: For a server that is down, what is appended to the groups in its option files.
    type: str
  datadir:
    description: For a server that is down, its data directory. By default what its option files say.
    type: path
  start_timeout:
    description: Seconds within which a server that is started has to answer.
    type: int
    default: 600
  shutdown_timeout:
    description: Seconds within which a server that was started has to stop again.
    type: int
    default: 1800
  state_dir:
    description: Directory of the lock, and of the copies of the repositories' files.
    type: path
    default: /var/lib/mysql-replica-backup
extends_documentation_fragment:
  - mysql_ops.replica_backup.login
attributes:
  check_mode:
    support: full
    description: Returns the statements and runs none.
  diff_mode:
    support: none
    description: There is no text to compare.
  platform:
    description: Platforms the module works on.
    platforms: posix
    support: full
requirements:
  - PyMySQL on the managed node
  - On the replica REPLICATION CLIENT (REPLICA MONITOR) and, to run the statements, REPLICATION_SLAVE_ADMIN and RELOAD
    (MariaDB 10.5 and newer, REPLICATION SLAVE ADMIN and RELOAD; older servers, SUPER and RELOAD)
seealso:
  - module: mysql_ops.replica_backup.mysql_replica_info
"""

EXAMPLES = r"""
- name: What would heal this replica?
  mysql_ops.replica_backup.mysql_replica_reposition:
    login_unix_socket: /run/mysqld/mysqld.sock
    source_login_user: monitor
    source_login_password: "{{ vaulted_monitor_password }}"

- name: A server that is down, its place in tables
  mysql_ops.replica_backup.mysql_replica_reposition:
    login_unix_socket: /run/mysqld/mysqld.sock
    source_login_user: monitor
    source_login_password: "{{ vaulted_monitor_password }}"
    start: true

- name: Heal it
  mysql_ops.replica_backup.mysql_replica_reposition:
    login_unix_socket: /run/mysqld/mysqld.sock
    source_login_user: monitor
    source_login_password: "{{ vaulted_monitor_password }}"
    execute: true
"""

RETURN = r"""
server:
  description: V(running), V(down) (also after it was started and stopped again), or V(started) by this module.
  returned: success
  type: str
  sample: running
start_options:
  description: What is added to the command line of the one start of a server that is down.
  returned: when a server that is down has lost relay logs
  type: list
  elements: str
  sample: [--skip-slave_start, --relay-log_recovery=On]
channels:
  description: Every channel that was looked at.
  returned: always, once the place of the replica is known
  type: list
  elements: dict
  contains:
    name:
      description: The channel, C("") for the default one.
      type: str
    needed:
      description: Whether its relay logs are lost.
      type: bool
    why:
      description: What was found.
      type: str
    source_log_file:
      description: Binary log of the source in which the applier stood.
      type: str
    source_log_pos:
      description: Position in it.
      type: int
    gtid:
      description: How the channel finds its place by GTID, empty when by file and position.
      type: str
    origin:
      description: Where the coordinates were read.
      type: str
    source_has_it:
      description:
        - Whether the source still has what comes next; null when it was not asked.
        - By GTID also null while the server is down, as its GTIDs are in a table.
      type: bool
    source_answer:
      description: What the source said.
      type: str
    source_keeps:
      description: How long the source will have the binary log; null when it was not asked.
      type: dict
      contains:
        log:
          description: The oldest binary log that counts.
          type: str
        seconds:
          description: It is not purged by age before so many seconds; null when nothing is purged by age.
          type: int
        last_written:
          description: When it was last written, in UTC by the source's clock; empty while it is written to.
          type: str
        bytes_left:
          description: What the source may write before a limit of the total size purges it; null without a limit.
          type: int
        text:
          description: All of it, and what it is based on.
          type: str
    statements:
      description: What heals, in this server's words, in this order, in one session.
      type: list
      elements: str
    refused:
      description: Why it must not be done; empty otherwise.
      type: str
    alternatives:
      description: What can be done instead.
      type: list
      elements: str
  sample:
    - name: ""
      needed: true
      why: /var/lib/mysql/db2-relay-bin.000007 is not there
      source_log_file: binlog.000042
      source_log_pos: 1416
      gtid: ""
      origin: the running server (TABLE repository)
      source_has_it: true
      source_answer: it has binlog.000042:1416 and what follows (8192 bytes in 3 logs)
      source_keeps:
        log: binlog.000042
        seconds: 2591000
        last_written: '2026-01-01T00:00:00.000000Z'
        bytes_left:
        text: >-
          3 binary logs, binlog.000041 to binlog.000043. binlog.000042 is kept for 2592000 s after its last write,
          which was 2026-01-01T00:00:00Z (the first event of the log after it): at least 2591000 s more. PURGE BINARY
          LOGS by hand may come at any time; a log that a connected replica still reads is kept
      statements:
        - STOP REPLICA IO_THREAD FOR CHANNEL '';
        - STOP REPLICA SQL_THREAD FOR CHANNEL '';
        - RESET REPLICA FOR CHANNEL '';
        - CHANGE REPLICATION SOURCE TO SOURCE_LOG_FILE = 'binlog.000042', SOURCE_LOG_POS = 1416 FOR CHANNEL '';
        - START REPLICA SQL_THREAD FOR CHANNEL '';
        - START REPLICA IO_THREAD FOR CHANNEL '';
      refused: ""
      alternatives: []
saved:
  description: Copies of the repositories' files, made before the statements ran.
  returned: when statements were run
  type: list
  elements: str
  sample: [/var/lib/mysql-replica-backup/reposition-20260101T000000Z/master.info]
replicating:
  description: The channels after that, as M(mysql_ops.replica_backup.mysql_replica_info) returns them.
  returned: when statements were run
  type: list
  elements: dict
  sample: [{"name": "", "io": "Yes", "applier": "Yes"}]
"""

import os
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _ledger, _reposition
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import manifest
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._module import (
    login_argument_spec,
    login_from_params,
    run,
    service_argument_spec,
    state_argument_spec,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import journal


def _channels_of(path: str) -> tuple[t.Mapping[str, t.Any], ...]:
    head, records = manifest.read(path)
    close = getattr(records, "close", None)
    if close is not None:
        close()
    return tuple(head["channels"])


def _if_down(params: t.Mapping[str, t.Any], *, may_start: bool) -> _reposition.IfDown | None:
    if params["offline"] == "never":
        return None
    return _reposition.IfDown(
        hints=Hints(
            service_name=params["service_name"] or "",
            datadir=params["datadir"] or "",
            defaults_file=params["defaults_file"] or "",
            defaults_group_suffix=params["defaults_group_suffix"] or "",
            server_binary=params["server_binary"] or "",
        ),
        service_manager=params["service_manager"],
        service_name=params["service_name"],
        state_dir=params["state_dir"],
        start=params["start"] and may_start,
        ask_login=params["offline"] == "auto",
        start_timeout=params["start_timeout"],
        shutdown_timeout=params["shutdown_timeout"],
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **login_argument_spec(),
            **state_argument_spec(),
            "execute": {"type": "bool", "default": False},
            "channels": {"type": "list", "elements": "str"},
            "source_login_user": {"type": "str"},
            "source_login_password": {"type": "str", "no_log": True},
            "source_ca_cert": {"type": "path"},
            "manifest": {"type": "path"},
            "force": {"type": "bool", "default": False},
            "trust_coordinates": {"type": "bool", "default": False},
            "offline": {"type": "str", "choices": ["auto", "always", "never"], "default": "auto"},
            "start": {"type": "bool", "default": False},
            **service_argument_spec(),
            "server_binary": {"type": "path"},
            "defaults_file": {"type": "path"},
            "defaults_group_suffix": {"type": "str"},
            "datadir": {"type": "path"},
            "start_timeout": {"type": "int", "default": 600},
            "shutdown_timeout": {"type": "int", "default": 1800},
        },
        required_together=[("source_login_user", "source_login_password")],
        supports_check_mode=True,
    )
    params = module.params

    def work() -> dict[str, t.Any]:
        source = None
        if params["source_login_user"] is not None:
            source = Login(
                user=params["source_login_user"],
                password=params["source_login_password"],
                config_file=None,
                connect_timeout=params["connect_timeout"],
                ca_cert=params["source_ca_cert"],
            )
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        request = _reposition.Request(
            login=login_from_params(params),
            names=None if params["channels"] is None else tuple(params["channels"]),
            source_login=source,
            manifest_channels=None if params["manifest"] is None else _channels_of(params["manifest"]),
            force=params["force"],
            trust=params["trust_coordinates"],
            if_down=_if_down(params, may_start=not module.check_mode),
            save_to=os.path.join(params["state_dir"], f"reposition-{moment}"),
        )
        apply = params["execute"] and not module.check_mode
        if not apply and not (params["start"] and not module.check_mode):
            return _reposition.reposition(request, apply=False)
        _ledger.prepare_state_dir(params["state_dir"])
        # A backup or a recovery must not meet a replica whose channels are being reset.
        with _ledger.locked(params["state_dir"], who="mysql_replica_reposition"):
            # Nobody has looked yet at what a restore brought up.
            journal.refuse_unfinished(params["state_dir"])
            return _reposition.reposition(request, apply=apply)

    run(module, work)


if __name__ == "__main__":
    main()
