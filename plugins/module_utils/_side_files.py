# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Key, certificate and other side files that a server reads besides its data and option files."""

from __future__ import annotations

import json
import os
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs

# ssl_ca, admin_ssl_cert, mysqlx_ssl_key, caching_sha2_password_private_key_path, sha256_password_public_key_path ...
_TLS_FILE = re.compile(r"(?:.*_)?ssl_(?:ca|cert|key|crl)\Z|.*_(?:private|public)_key_path\Z")
_TLS_DIRECTORY = re.compile(r"(?:.*_)?ssl_(?:capath|crlpath)\Z")
# Without these the server cannot read its own tablespaces and logs.
_ENCRYPTION_FILES = (
    "keyring_file_data",
    "keyring_encrypted_file_data",
    "file_key_management_filename",
    "file_key_management_filekey",
)
_REMOTE_KEYS = re.compile(r"(?:keyring_(?:hashicorp|okv|aws|vault|oci)|hashicorp_key_management|aws_key_management)_.*")
_COMPONENT = re.compile(r"component_keyring_\w+\.cnf")
_SYSTEM_STORES = ("/etc/ssl/certs", "/etc/pki", "/usr/share/ca-certificates")
_SIDE_FILES = (
    "init_file",
    "ft_stopword_file",
    "validate_password.dictionary_file",
    "validate_password_dictionary_file",
)


@dataclass(frozen=True)
class SideFile:
    """``needed``: encrypted data cannot be read without it."""

    kind: str
    path: str
    needed: bool
    why: str


@dataclass(frozen=True)
class SideFiles:
    files: tuple[SideFile, ...]
    directories: tuple[SideFile, ...]
    warnings: tuple[str, ...]


def _components(datadir: str, variables: t.Mapping[str, str], exe: str) -> tuple[list[SideFile], list[str]]:
    """MySQL's keyring components: manifests beside the binary and in the datadir, configurations there and by plugins.

    Source: MySQL 8.0 manual 8.4.4.2, "Keyring Component Installation".
    """
    files: list[SideFile] = []
    warnings: list[str] = []
    for directory in filter(None, (os.path.dirname(exe), datadir)):
        manifest = os.path.join(directory, "mysqld.my")
        if fs.is_file(manifest):
            files.append(SideFile("keys", manifest, False, "component manifest"))
    for directory in (variables.get("plugin_dir", ""), datadir):
        for name in _configurations(directory):
            config = os.path.join(directory, name)
            files.append(SideFile("keys", config, True, name))
            try:
                content = json.loads(fs.read_text(config))
                path, local = content.get("path"), content.get("read_local_config")
            except (ValueError, AttributeError, OSError) as error:
                warnings.append(f"{config} cannot be understood ({error}); a key file that it names is not known")
                continue
            if path:
                files.append(SideFile("keys", fs.absolute(str(path), datadir), True, config))
            elif not local:
                warnings.append(f"{config} names no key file: keys held by another system are not in the backup")
    return files, warnings


def _configurations(directory: str) -> list[str]:
    if not directory or not fs.is_directory(directory):
        return []
    return [name for name in fs.names(directory) if _COMPONENT.fullmatch(name)]


def of_the_system(path: str) -> bool:
    """Whether a directory of certificates belongs to the operating system, which has them on any host."""
    return any(fs.below(fs.real(path), store) is not None for store in _SYSTEM_STORES)


def side_files(datadir: str, variables: t.Mapping[str, str], exe: str = "") -> SideFiles:
    """All of them with absolute paths, inside the data directory or not, existing or not."""
    files: list[SideFile] = []
    directories: list[SideFile] = []
    warnings: list[str] = []
    for name, value in sorted(variables.items()):
        if not value or value == "None":
            continue
        if _TLS_FILE.match(name):
            files.append(SideFile("keys", fs.absolute(value, datadir), False, name))
        elif _TLS_DIRECTORY.match(name):
            for part in value.split(":"):
                path = fs.absolute(part, datadir)
                if of_the_system(path):
                    warnings.append(f"{name} is {path}, a store of the operating system: not in the backup")
                else:
                    directories.append(SideFile("keys", path, False, name))
        elif name in _ENCRYPTION_FILES:
            scheme, sep, rest = value.partition(":")
            if name.endswith("filekey"):
                # A pass phrase itself, unless it says FILE:/path.
                if not (sep and scheme.upper() == "FILE"):
                    continue
                value = rest
            files.append(SideFile("keys", fs.absolute(value, datadir), True, name))
        elif name in _SIDE_FILES and not value.startswith("("):
            files.append(SideFile("config", fs.absolute(value, datadir), False, name))
        elif _REMOTE_KEYS.match(name):
            warnings.append(f"{name} is set: keys held by another system are not in the backup")
    component_files, component_warnings = _components(datadir, variables, exe)
    return SideFiles((*files, *component_files), tuple(directories), (*warnings, *component_warnings))
