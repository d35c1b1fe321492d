# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints the statements that make a thousand tables, in every engine and under odd names.

usage: tables.py mariadb|mysql source|replica

On the replica they are placed all over the host and some are encrypted; the source has the same ones in its data
directory, and the rows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

ROOT = "/srv/scattered"
DIRECTORIES = (f"{ROOT}/tables #1", f"{ROOT}/new\nline")
# Behind a symbolic link on the replica.
LINKED = "linked"
DATABASES = ("many", "a b", "#odd '\"`\\/", "ünï 数", "new\nline", LINKED)
NAMES = ("plain", 't #1 "q" \'x`y', "new\nline", "täb 数", "a/b;c", "UPPER.lower")
ENGINES = ("InnoDB", "MyISAM", "CSV", "ARCHIVE")
NUMBER = 1000


def quoted(name: str) -> str:
    """Return an identifier as SQL takes it."""
    return "`" + name.replace("`", "``") + "`"


class Family:
    """What the two families write differently."""

    encrypted = "ENCRYPTION = 'Y'"
    other_directory = f"{ROOT}/tables ünï"
    engines: tuple[str, ...] = ENGINES
    # Engines whose files may lie elsewhere, each by a symbolic link.
    linking: tuple[str, ...] = ()
    before: tuple[str, ...] = (
        f"CREATE TABLESPACE outside ADD DATAFILE '{DIRECTORIES[0]}/gen eral.ibd' ENCRYPTION = 'Y'",
        f"CREATE UNDO TABLESPACE more ADD DATAFILE '{ROOT}/undo more/more.ibu'",
    )
    accounts = "TABLESPACE outside ENCRYPTION = 'Y'"


class MariaDB(Family):
    """MariaDB's words."""

    encrypted = "ENCRYPTED = YES ENCRYPTION_KEY_ID = 2"
    other_directory = f"{ROOT}/index ünï"
    engines = (*ENGINES, "Aria")
    linking = ("MyISAM", "Aria")
    before = ()
    accounts = f"DATA DIRECTORY = '{DIRECTORIES[0]}' ENCRYPTED = YES"


def tables(family: Family) -> Iterator[tuple[str, str, str, str]]:
    """Yield (database, name, engine, what only the replica adds) of every table but the special ones."""
    for database in DATABASES:
        for number, name in enumerate(NAMES):
            away = f"DATA DIRECTORY = '{DIRECTORIES[number % 2]}'" if database != LINKED else ""
            yield database, name, "InnoDB", f"{away} {family.encrypted if number == 3 else ''}"
    yield LINKED, "second", "MyISAM", ""
    for number in range(len(DATABASES) * len(NAMES) + 1, NUMBER - 5):
        engine = family.engines[number % len(family.engines)]
        away = ""
        if number % 7 == 0 and engine == "InnoDB":
            away = f"DATA DIRECTORY = '{(*DIRECTORIES, family.other_directory)[number % 3]}'"
            away += f" {family.encrypted}" if number % 2 else ""
        elif number % 7 == 0 and engine in family.linking:
            away = f"DATA DIRECTORY = '{DIRECTORIES[number % 2]}' INDEX DIRECTORY = '{family.other_directory}'"
        yield "many", f"t{number:04}", engine, away


def create(database: str, name: str, engine: str, more: str = "") -> str:
    """Return the statement for one table; CSV and ARCHIVE have no keys."""
    key = "" if engine in ("CSV", "ARCHIVE") else ", PRIMARY KEY (id)"
    columns = f"id INT NOT NULL, body VARCHAR(60) NOT NULL{key}"
    return f"CREATE TABLE IF NOT EXISTS {quoted(database)}.{quoted(name)} ({columns}) ENGINE = {engine} {more}"


def partitioned(name: str, engine: str, places: tuple[str, str]) -> str:
    """Return the statement for a table in two partitions, each at its own place."""
    return (
        create("many", name, engine)
        + " PARTITION BY RANGE (id) (PARTITION low VALUES LESS THAN (100) {}, PARTITION `p #1`"
        " VALUES LESS THAN MAXVALUE {})".format(*places)
    )


def statements(family: Family, *, replica: bool) -> Iterator[str]:
    """Yield all of them in order."""
    special = []
    if replica:
        yield "SET SESSION sql_log_bin = 0"
    for database in DATABASES:
        yield f"CREATE DATABASE IF NOT EXISTS {quoted(database)}"
    if replica:
        yield from family.before
        yield "CREATE DATABASE lab"
        yield f"CREATE TABLE lab.accounts (id INT PRIMARY KEY, balance BIGINT NOT NULL) {family.accounts}"
        yield (
            "CREATE TABLE lab.notes (id BIGINT PRIMARY KEY AUTO_INCREMENT, body MEDIUMBLOB)"
            f" DATA DIRECTORY = '{DIRECTORIES[1]}' {family.encrypted}"
        )
    away = tuple(f"DATA DIRECTORY = '{place}'" if replica else "" for place in DIRECTORIES)
    for engine in ("InnoDB", *family.linking):
        special.append(f"parts {engine}")
        yield partitioned(special[-1], engine, (away[0], away[1]))
    for database, name, engine, more in tables(family):
        yield create(database, name, engine, more if replica else "")
        if not replica:
            words = f"{database}.{name}".replace("\\", "\\\\").replace("'", "''")
            yield f"INSERT INTO {quoted(database)}.{quoted(name)} VALUES (1, '{words}'), (2, 'x'), (300, 'ünï')"
    yield create("many", "union one", "MyISAM")
    yield create("many", "merged", "MERGE", "UNION = (many.`union one`) INSERT_METHOD = LAST")
    if not replica:
        for name in (*special, "merged"):
            yield f"INSERT INTO many.{quoted(name)} VALUES (1, 'a'), (2, 'b'), (300, 'c')"


def main() -> None:
    """Print them."""
    family, side = sys.argv[1:]
    for statement in statements(MariaDB() if family == "mariadb" else Family(), replica=side == "replica"):
        sys.stdout.buffer.write((statement + ";\n").encode())


if __name__ == "__main__":
    main()
