# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A network link that a test can cut: a port on the loopback that leads to another one."""

from __future__ import annotations

import contextlib
import socket
import threading

_BLOCK = 65536


class Link:
    """``port`` leads to ``target`` for as long as the link is whole.

    ``budget``, set at any time: once so many bytes came back from the target, the connections end, or with ``stalls``
    the one that it happened on stays open and silent.
    """

    def __init__(self, target: int) -> None:
        self.budget: int | None = None
        self.stalls = False
        self.cuts = 0
        self._target = target
        self._lock = threading.Lock()
        self._pairs: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.mend()

    def mend(self) -> None:
        """Let connections through."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """End every connection and let no new one through."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.drop()

    def drop(self) -> None:
        """End every connection; new ones are let through."""
        self.cuts += 1
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for one in pairs:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _address = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            with self._lock:
                self._pairs |= {near, far}
            threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(_BLOCK):
                if counted and self.budget is not None:
                    self.budget -= len(block)
                    if self.budget < 0:
                        self.budget = None
                        if not self.stalls:
                            self.drop()
                            return
                        self.cuts += 1
                        while source.recv(_BLOCK):
                            continue
                        return
                target.sendall(block)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
