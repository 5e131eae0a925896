"""Frames of docs/protocol.md over a stream socket."""
import mmap
import os
import select
import socket
import struct

import flatbuffers

from myriad_client import protocol_generated as p

PROTOCOL = 1
MAX_FRAME_BYTES = 64 << 20
IDENTIFIER = b"MYRS"
TABLES = {number: getattr(p, name) for name, number in vars(p.Body).items() if not name.startswith("_") and number != p.Body.NONE}


class Closed(Exception):
    """The other side is gone."""


class Refused(Exception):
    """Myriad does not take this client; the text says why."""


def frame(b: flatbuffers.Builder, kind: int, body: int) -> bytes:
    """The finished message around `body`, with its length before it."""
    p.MessageStart(b)
    p.MessageAddBodyType(b, kind)
    p.MessageAddBody(b, body)
    b.Finish(p.MessageEnd(b), IDENTIFIER)
    data = bytes(b.Output())
    return struct.pack("<I", len(data)) + data


def failure(text: str) -> bytes:
    b = flatbuffers.Builder(256)
    said = b.CreateString(text)
    p.FailureStart(b)
    p.FailureAddText(b, said)
    return frame(b, p.Body.Failure, p.FailureEnd(b))


def notice_cuts(sock: socket.socket) -> None:
    """A peer whose host is gone without a word is gone after 40 s, whether something was sent or not."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 40_000)):
        if hasattr(socket, option):  # Linux has all of them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


class Connection:
    def __init__(self, sock: socket.socket):
        self.sock = sock
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            notice_cuts(sock)
        self.buffer = bytearray()
        self.passed: list[int] = []  # descriptors that came

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise Closed(str(error)) from None

    def _fill(self, size: int) -> None:
        while len(self.buffer) < size:
            try:
                if self.sock.family == socket.AF_UNIX:
                    data, fds, _, _ = socket.recv_fds(self.sock, 1 << 16, 4)
                    self.passed += fds
                else:
                    data = self.sock.recv(1 << 16)
            except OSError as error:
                raise Closed(str(error)) from None
            if not data:
                raise Closed("Myriad has closed the connection")
            self.buffer += data

    def receive_bytes(self) -> bytes:
        self._fill(4)
        (size,) = struct.unpack_from("<I", self.buffer)
        if size > MAX_FRAME_BYTES:
            raise Closed(f"a message of {size} bytes")
        self._fill(4 + size)
        data = bytes(self.buffer[4:4 + size])
        del self.buffer[:4 + size]
        return data

    def has_more(self) -> bool:
        """Whether something of a next message is here."""
        return bool(self.buffer) or bool(select.select([self.sock], [], [], 0)[0])

    def receive(self) -> tuple[int, object]:
        """The next message: its p.Body, and the table."""
        return parse(self.receive_bytes())

    def memory(self, size: int) -> mmap.mmap:
        """The shared memory that came with the Welcome."""
        fd = self.passed.pop()
        try:
            return mmap.mmap(fd, size)
        finally:
            os.close(fd)


def parse(data: bytes) -> tuple[int, object]:
    message = p.Message.GetRootAs(data)
    kind = message.BodyType()
    if kind not in TABLES:
        raise Closed("a message that this version does not know: update the client")
    table = TABLES[kind]()
    body = message.Body()
    table.Init(body.Bytes, body.Pos)
    if kind == p.Body.Refused:
        raise Refused(f"[{text(table.Code())}] {text(table.Text())}")
    return kind, table


def host_and_port(address: str) -> tuple[str, int]:
    """Of "HOST:PORT" or "[IPv6]:PORT"."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise ValueError(f"{address!r} is no address: want HOST:PORT, [IPv6]:PORT, or a path with a slash")
    return host.removeprefix("[").removesuffix("]"), int(port)


def text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def is_started() -> bool:
    """Whether Myriad started this process."""
    return "MYRIAD_SIMULATOR_FD" in os.environ


def session_socket() -> socket.socket | None:
    """The connection that Myriad made before it started this process."""
    return socket.socket(fileno=int(os.environ["MYRIAD_SIMULATOR_FD"])) if is_started() else None


def options() -> dict[str, float]:
    """What the config says in env_config, where Myriad started this process."""
    lines = os.environ.get("MYRIAD_SIMULATOR_OPTIONS", "").splitlines()
    return {name: float(value) for name, _, value in (line.partition("=") for line in lines)}
