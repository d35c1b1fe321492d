# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one adapter between Ansible's module object and the typed code below it."""

from __future__ import annotations

import signal
import typing as t

from ansible.module_utils.basic import missing_required_lib

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import PYMYSQL_ERROR, Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import (
    ReplicaBackupError,
    os_error_text,
    recover_command,
)

if t.TYPE_CHECKING:  # pragma: no cover
    from ansible.module_utils.basic import AnsibleModule


def login_argument_spec() -> dict[str, t.Any]:
    """The login options of ansible.mysql, under the same names and defaults."""
    return {
        "login_user": {"type": "str"},
        "login_password": {"type": "str", "no_log": True},
        "login_host": {"type": "str", "default": "localhost"},
        "login_port": {"type": "int", "default": 3306},
        "login_unix_socket": {"type": "str"},
        "config_file": {"type": "path", "default": "~/.my.cnf"},
        "connect_timeout": {"type": "int", "default": 30},
        "ca_cert": {"type": "path", "aliases": ["ssl_ca"]},
        "client_cert": {"type": "path", "aliases": ["ssl_cert"]},
        "client_key": {"type": "path", "aliases": ["ssl_key"]},
        "check_hostname": {"type": "bool"},
    }


def login_from_params(params: t.Mapping[str, t.Any]) -> Login:
    return Login(
        user=params["login_user"],
        password=params["login_password"],
        host=params["login_host"],
        port=params["login_port"],
        unix_socket=params["login_unix_socket"],
        config_file=params["config_file"],
        connect_timeout=params["connect_timeout"],
        ca_cert=params["ca_cert"],
        client_cert=params["client_cert"],
        client_key=params["client_key"],
        check_hostname=params["check_hostname"],
    )


def run(module: AnsibleModule, work: t.Callable[[], dict[str, t.Any]], *, needs_pymysql: bool = True) -> None:
    """Call ``work`` and end the module with its result, or with the facts of the error that it raised."""
    if needs_pymysql and PYMYSQL_ERROR is not None:
        module.fail_json(msg=missing_required_lib("PyMySQL"), exception=PYMYSQL_ERROR)
    # A module that is told to end puts back what it has touched: the signal becomes an exception.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        result = work()
    except ReplicaBackupError as error:
        module.fail_json(**error.to_result())
    except OSError as error:
        # Nobody has said what it means for the server: the next command finds out, and puts back what is to be.
        module.fail_json(
            **ReplicaBackupError(
                "The operating system refused something that the backup needs",
                found=os_error_text(error),
                expected="disks that can be read and written",
                next_command=f"mend what is named above, then {recover_command(module.params.get('host'))}"
                " --limit HOST, which says what state the server is in and puts it back",
            ).to_result()
        )
    except _Ended as signalled:
        module.fail_json(msg=f"{signalled}. What it had begun was undone", ended_by_signal=signalled.number)
    # Ansible puts what was warned of into the result's ``warnings`` itself.
    for warning in result.pop("warnings", ()):
        module.warn(warning)
    module.exit_json(**result)


class _Ended(BaseException):
    """A signal told the module to end. No error: nothing between here and ``run`` may take it for one."""

    def __init__(self, number: int) -> None:
        super().__init__(f"The module was told to end by signal {number} ({signal.Signals(number).name})")
        self.number = number


def _end(number: int, _frame: t.Any) -> t.NoReturn:
    raise _Ended(number)


def state_argument_spec() -> dict[str, t.Any]:
    return {"state_dir": {"type": "path", "default": "/var/lib/mysql-replica-backup"}}


def run_argument_spec() -> dict[str, t.Any]:
    """Where ledger and spool are, and which set is worked on."""
    return {
        **state_argument_spec(),
        "spool_dir": {"type": "path", "default": "/var/backups/mysql-replica"},
        "host": {"type": "str", "required": True},
        "backup_id": {"type": "str", "required": True},
    }


def service_argument_spec() -> dict[str, t.Any]:
    return {
        "service_manager": {
            "type": "str",
            "choices": ["auto", "systemd", "sysvinit", "mysqld_safe", "none"],
            "default": "auto",
        },
        "service_name": {"type": "str"},
    }
