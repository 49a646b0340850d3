"""A TCP relay between a client and a server on this machine that can refuse, delay or swallow what passes."""

from __future__ import annotations

import socket
import threading
import time

from .processes import free_port

CHUNK_BYTES = 65_536


class Relay:
    """Listens on ``port`` and passes everything on to ``127.0.0.1:target_port`` until told otherwise."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._delay_s = 0.0
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()

    def __enter__(self) -> Relay:
        self.allow()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()

    def allow(self) -> None:
        """Passes everything on at once."""
        self._delay_s = 0.0
        with self._lock:
            if self._listener is not None:
                return
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            listener.listen(128)
            self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def slow(self, delay_s: float) -> None:
        """Holds back every piece in both directions for ``delay_s``."""
        self.allow()
        self._delay_s = delay_s

    def refuse(self) -> None:
        """Cuts all connections and refuses new ones."""
        with self._lock:
            listener, self._listener = self._listener, None
            connections, self._open = self._open, set()
        if listener is not None:
            # A thread that waits in accept() is only woken by this.
            try:
                listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            listener.close()
        for connection in connections:
            self._close(connection)

    @staticmethod
    def _close(connection: socket.socket) -> None:
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        connection.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target_port), timeout=5.0)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            with self._lock:
                is_current = self._listener is listener
                if is_current:
                    self._open |= {client, server}
            if not is_current:
                self._close(client)
                self._close(server)
                return
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while piece := source.recv(CHUNK_BYTES):
                if self._delay_s > 0.0:
                    time.sleep(self._delay_s)
                target.sendall(piece)
        except OSError:
            pass
        for connection in (source, target):
            with self._lock:
                self._open.discard(connection)
            self._close(connection)
