"""What may stand between a run and its PostgreSQL: a wire that goes dead, and a pooler that hands sessions around."""

from __future__ import annotations

import os
import secrets
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

KNOWN = ("server_version", "client_encoding", "server_encoding", "standard_conforming_strings", "DateStyle", "TimeZone")


class _Listener:
    """Accepts on loopback; each client gets a thread with `serve`."""

    def __init__(self, url: str) -> None:
        self.target = url
        self._socket = socket.create_server(("127.0.0.1", 0))
        given = conninfo_to_dict(url)
        port = self._socket.getsockname()[1]
        self.url = f"postgresql://{given['user']}@127.0.0.1:{port}/{given['dbname']}?sslmode=disable&gssencmode=disable"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                self._open.append(client)
                threading.Thread(target=self._guarded, args=(client,), daemon=True).start()

    def _guarded(self, client: socket.socket) -> None:
        with suppress(OSError, EOFError, psycopg.Error):
            self.serve(client)
        client.close()

    def serve(self, client: socket.socket) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._socket.close()
        for item in self._open:
            item.close()


class Wire(_Listener):
    """Passes bytes to the server. `cut` leaves all that is open open, but nothing passes any more; later ones may."""

    def __init__(self, url: str) -> None:
        self._dead: set[int] = set()
        self._pairs: list[int] = []
        self.taking = True
        super().__init__(url)

    def cut(self, *, for_good: bool = False) -> None:
        self._dead |= set(self._pairs)
        self.taking = not for_good

    def serve(self, client: socket.socket) -> None:
        given = conninfo_to_dict(self.target)
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{given['host']}/.s.PGSQL.{given['port']}")
        self._open.append(server)
        self._pairs.append(id(client))
        if not self.taking:
            self._dead.add(id(client))
        back = threading.Thread(target=self._pass, args=(server, client, id(client)), daemon=True)
        back.start()
        self._pass(client, server, id(client))
        back.join()

    def _pass(self, source: socket.socket, sink: socket.socket, pair: int) -> None:
        with suppress(OSError):
            while chunk := source.recv(65536):
                if pair in self._dead:
                    threading.Event().wait()
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_RDWR)


class Pooler(_Listener):
    """`size` sessions of the server for any number of clients, for as long as a `mode` (session, transaction or statement)
    lasts; the one used last goes out first, or with `in_turn` the one used first."""

    def __init__(self, url: str, mode: str, size: int, *, in_turn: bool = False) -> None:
        self._mode, self._in_turn = mode, in_turn
        self._sessions = [psycopg.connect(url, autocommit=True, prepare_threshold=None) for _ in range(size)]
        self._free = list(self._sessions)
        self._change = threading.Condition()
        super().__init__(url)

    def serve(self, client: socket.socket) -> None:
        stream = client.makefile("rb")
        self._greet(client, stream)
        session: psycopg.Connection[Any] | None = None
        try:
            while True:
                request = _request(stream)
                if not request:
                    return
                session = session or self._take()
                status = _relay(session, request, client)
                if self._mode == "statement" and status != b"I":
                    client.sendall(_message(b"E", b"SFATAL\0C08P01\0Mtransaction blocks not allowed\0\0"))
                    return
                if self._mode != "session" and status == b"I":
                    session = self._give(session)
        finally:
            if session is not None:
                session.execute("ROLLBACK")
                self._give(session)

    def _greet(self, client: socket.socket, stream: Any) -> None:
        while True:
            (length,) = struct.unpack("!i", _read(stream, 4))
            (code,) = struct.unpack("!i", _read(stream, length - 4)[:4])
            if code == 196608:
                break
            client.sendall(b"N")
        greeting = _message(b"R", struct.pack("!i", 0))
        for name in KNOWN:
            value = self._sessions[0].info.parameter_status(name) or ""
            greeting += _message(b"S", f"{name}\0{value}\0".encode())
        keys = struct.pack("!ii", secrets.randbelow(2**31), secrets.randbelow(2**31))
        client.sendall(greeting + _message(b"K", keys) + _message(b"Z", b"I"))

    def _take(self) -> psycopg.Connection[Any]:
        with self._change:
            self._change.wait_for(lambda: self._free)
            return self._free.pop(0 if self._in_turn else -1)

    def _give(self, session: psycopg.Connection[Any]) -> None:
        with self._change:
            self._free.append(session)
            self._change.notify()

    def close(self) -> None:
        super().close()
        for session in self._sessions:
            session.close()


def _read(stream: Any, count: int) -> bytes:
    data: bytes = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _message(kind: bytes, payload: bytes) -> bytes:
    return kind + struct.pack("!i", len(payload) + 4) + payload


def _next(read: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    head = read(5)
    body = read(struct.unpack("!i", head[1:])[0] - 4)
    return head[:1], head + body


def _request(stream: Any) -> bytes:
    """Messages up to the one after which the server answers; empty when the client says goodbye."""
    found = b""
    while True:
        kind, message = _next(lambda count: _read(stream, count))
        if kind == b"X":
            return b""
        found += message
        if kind in (b"Q", b"S"):
            return found


def _relay(session: psycopg.Connection[Any], request: bytes, client: socket.socket) -> bytes:
    """Puts a request to the server and hands its answer back; the transaction's state after it."""
    server = socket.socket(fileno=os.dup(session.fileno()))
    with server:
        server.setblocking(True)
        server.sendall(request)
        stream = server.makefile("rb", buffering=0)
        while True:
            kind, message = _next(lambda count: _exactly(stream, count))
            client.sendall(message)
            if kind == b"Z":
                return message[-1:]


def _exactly(stream: Any, count: int) -> bytes:
    found = b""
    while len(found) < count:
        chunk = stream.read(count - len(found))
        if not chunk:
            raise EOFError
        found += chunk
    return found
