"""HTTP/1.1 by hand: requests, answers, and listeners that can vanish and come back.

Owns the sockets of all three services. An answer is bytes plus, when a fault says so, a peer that spoils them on
the way out (`peers`), which is why no HTTP library is used: a reset, a half head or one byte a second must be
exact. Heads, bodies and idle connections are bounded. A handler is never cancelled because its caller went away
(the real app launches on, reference 6 and 8.18); it is cancelled when the whole listener goes down.
"""

import asyncio
import contextlib
import json
import socket
import struct
import urllib.parse

MOST_HEAD_BYTES = 64 * 1024
MOST_BODY_BYTES = 4 * 1024 * 1024
MOST_CONNECTIONS = 1024
IDLE_SECONDS = 60.0

REASONS = {
    200: "OK", 201: "Created", 204: "No Content", 302: "Found", 400: "Bad Request", 401: "Unauthorized",
    402: "Payment Required", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 409: "Conflict",
    411: "Length Required", 413: "Content Too Large", 422: "Unprocessable Entity", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 499: "Client Closed Request", 500: "Internal Server Error",
    501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
}


class BadRequest(Exception):
    """The request cannot be read as HTTP."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status
        self.text = text


class Request:
    def __init__(self, method, target, headers, body):
        parts = urllib.parse.urlsplit(target)
        self.method = method
        self.target = target
        self.path = parts.path
        self.query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        self.headers = headers
        self.body = body

    def bearer(self):
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None

    def wants_close(self):
        return "close" in self.headers.get("connection", "").lower()


class Answer:
    """What is to be sent. `peer` is the bad peer that sends it, or None for an honest one."""

    def __init__(self, status, body=b"", content_type="application/json; charset=utf-8", headers=()):
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = list(headers)
        self.peer = None

    @classmethod
    def of(cls, status, value, headers=()):
        return cls(status, json.dumps(value, separators=(",", ":")).encode(), headers=headers)

    @classmethod
    def html(cls, status, title):
        page = f"<!DOCTYPE html><html><head><title>{title}</title></head><body><pre>{title}</pre></body></html>"
        return cls(status, page.encode(), "text/html; charset=utf-8")

    def head_lines(self):
        """The head without content-length and connection."""
        lines = [f"HTTP/1.1 {self.status} {REASONS.get(self.status, 'Unknown')}"]
        if self.content_type is not None:
            lines.append(f"content-type: {self.content_type}")
        lines += [f"{name}: {value}" for name, value in self.headers]
        return lines

    def head(self, length, close=False):
        lines = self.head_lines()
        if length is not None:
            lines.append(f"content-length: {length}")
        lines.append("connection: close" if close else "connection: keep-alive")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def bytes(self, close=False):
        return self.head(len(self.body), close) + self.body


async def read_request(reader):
    """The next request of a connection, or None when the caller has closed it."""
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), IDLE_SECONDS)
    except (asyncio.IncompleteReadError, asyncio.TimeoutError, ConnectionError):
        return None
    except asyncio.LimitOverrunError:
        raise BadRequest(431, f"the head is longer than {MOST_HEAD_BYTES} bytes") from None
    lines = head[:-4].decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise BadRequest(400, "the request line is not METHOD TARGET HTTP/1.x")
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise BadRequest(400, "a header line has no colon")
        headers[name.strip().lower()] = value.strip()
    if "transfer-encoding" in headers:
        raise BadRequest(411, "a body needs a content-length")
    length = headers.get("content-length", "0")
    if not length.isdigit():
        raise BadRequest(400, "content-length is not a number")
    if int(length) > MOST_BODY_BYTES:
        raise BadRequest(413, f"the body is longer than {MOST_BODY_BYTES} bytes")
    try:
        body = await asyncio.wait_for(reader.readexactly(int(length)), IDLE_SECONDS)
    except (asyncio.IncompleteReadError, asyncio.TimeoutError, ConnectionError):
        return None
    return Request(words[0], words[1], headers, body)


class Connection:
    """One accepted connection, with the two ways of ending it."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    def close(self):
        self.writer.close()

    def reset(self):
        """Ends it by RST instead of FIN."""
        linger = struct.pack("ii", 1, 0)
        with contextlib.suppress(OSError):
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def gone(self, for_seconds):
        """Returns when the caller has closed its side, at the latest after `for_seconds`."""
        with contextlib.suppress(asyncio.TimeoutError, ConnectionError):
            async with asyncio.timeout(for_seconds):
                while await self.reader.read(65536):
                    pass


def bind(host, port):
    """A bound socket that does not listen: it holds the port while connections to it are refused."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    bound.setblocking(False)
    return bound


class Listener:
    """A service on one address. `down` refuses connections and keeps the port; `up` serves again."""

    def __init__(self, handle, host="127.0.0.1"):
        self.handle = handle
        self.host = host
        self.port = None
        self.connections = {}
        self.server = None
        self.held = None

    async def up(self, port):
        """Serves on `port` (0 = any). An OSError says that it is taken."""
        if self.held is not None and self.port != port:
            self.release()
        bound, self.held = self.held or bind(self.host, port), None
        self.server = await asyncio.start_server(self.accept, sock=bound, limit=MOST_HEAD_BYTES, backlog=256)
        self.port = bound.getsockname()[1]

    async def down(self, hold=True):
        """Ends every connection by a reset, cancels the handlers, and refuses new connections."""
        if self.server is not None:
            self.server.close()
            self.server = None
            tasks = list(self.connections)
            for task in tasks:
                self.connections[task].reset()
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if hold:
                self.held = bind(self.host, self.port)
        if not hold:
            self.release()

    def release(self):
        if self.held is not None:
            self.held.close()
            self.held = None

    async def accept(self, reader, writer):
        connection = Connection(reader, writer)
        if len(self.connections) >= MOST_CONNECTIONS:
            connection.reset()
            return
        task = asyncio.current_task()
        self.connections[task] = connection
        try:
            await self.serve(connection)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            del self.connections[task]
            writer.close()

    async def serve(self, connection):
        while True:
            try:
                request = await read_request(connection.reader)
            except BadRequest as bad:
                await connection.send(Answer.of(bad.status, {"error": bad.text}).bytes(close=True))
                return
            if request is None or await self.handle(request, connection) or request.wants_close():
                return
