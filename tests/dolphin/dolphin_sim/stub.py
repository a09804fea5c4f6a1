"""The stub browser: a small program that speaks as much of Chrome's remote debugging as a CDP library needs.

Run by `launch` as `python3 -I -S -B stub.py --user-data-dir=... --browser-uuid=...`, or with `--no-automation`,
when it opens no port at all. It writes its port to `DevToolsActivePort` as Chromium does, and to stdout when it
is ready. With `--closed` its port refuses connections until `open` comes on stdin. It ends at `Browser.close`, at
`close` on stdin, and when stdin ends, so that none outlives its simulator.
It has targets, sessions and a cookie jar kept in its data dir; it renders nothing. HTTP and WebSocket follow Chrome:
a Host that is no address and not localhost is refused, PUT alone opens a tab, a foreign UUID is 404.
"""

import base64
import hashlib
import os
import selectors
import socket
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import stub_cdp  # noqa: E402

MOST_MESSAGE_BYTES = 16 * 1024 * 1024
KEY_TAIL = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def frame(payload, opcode=1):
    length = len(payload)
    if length < 126:
        head = bytes([0x80 | opcode, length])
    elif length < 65536:
        head = bytes([0x80 | opcode, 126]) + length.to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, 127]) + length.to_bytes(8, "big")
    return head + payload


def unmasked(mask, data):
    if not data:
        return data
    keys = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(keys, "big")).to_bytes(len(data), "big")


class Peer:
    """One connection: HTTP until it is upgraded, then frames of one CDP client."""

    def __init__(self, program, sock):
        self.program = program
        self.sock = sock
        self.inbox = b""
        self.outbox = b""
        self.parts = b""
        self.client = None
        self.ending = False

    def readable(self):
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.drop()
            return
        self.inbox += data
        if len(self.inbox) > MOST_MESSAGE_BYTES:
            self.drop()
            return
        while self.client is None and b"\r\n\r\n" in self.inbox and not self.ending:
            head, _, self.inbox = self.inbox.partition(b"\r\n\r\n")
            self.request(head.decode("latin-1"))
        while self.client is not None and self.one_frame():
            pass
        self.flush()

    def request(self, head):
        lines = head.split("\r\n")
        method, _, rest = lines[0].partition(" ")
        target = rest.rpartition(" ")[0]
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        if headers.get("upgrade", "").lower() == "websocket":
            self.upgrade(target, headers)
            return
        status, body = self.program.http(method, target, headers)
        self.answer(status, body, close="close" in headers.get("connection", "").lower())

    def answer(self, status, body, close=False):
        self.outbox += (
            f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n"
            "Content-Type: application/json; charset=UTF-8\r\n\r\n"
        ).encode() + body
        self.ending = self.ending or close

    def upgrade(self, target, headers):
        if "origin" in headers:
            self.answer("403 Forbidden", b"Rejected an incoming WebSocket connection from an origin", close=True)
            return
        client = self.program.client_for(target, lambda text: self.push(frame(text)))
        if client is None:
            self.answer("404 Not Found", b"No such target id", close=True)
            return
        accept = base64.b64encode(hashlib.sha1(headers.get("sec-websocket-key", "").encode() + KEY_TAIL).digest())
        self.outbox += (
            b"HTTP/1.1 101 WebSocket Protocol Handshake\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        self.client = client

    def one_frame(self):
        """Takes one frame from the inbox; False when there is no whole one."""
        data = self.inbox
        if len(data) < 2:
            return False
        opcode, length, at = data[0] & 15, data[1] & 127, 2
        if length == 126:
            length, at = int.from_bytes(data[2:4], "big"), 4
        elif length == 127:
            length, at = int.from_bytes(data[2:10], "big"), 10
        if len(data) < at + 4 + length:
            return False
        if not data[1] & 128 or length > MOST_MESSAGE_BYTES:
            self.drop()
            return False
        payload = unmasked(data[at:at + 4], data[at + 4:at + 4 + length])
        self.inbox = data[at + 4 + length:]
        if opcode == 8:
            self.push(frame(payload[:2], 8))
            self.ending = True
            return False
        if opcode == 9:
            self.push(frame(payload, 10))
        elif opcode in (0, 1):
            self.parts += payload
            if data[0] & 128:
                message, self.parts = self.parts, b""
                self.client.message(message)
        return True

    def push(self, data):
        self.outbox += data
        self.flush()

    def flush(self):
        try:
            while self.outbox:
                sent = self.sock.send(self.outbox)
                self.outbox = self.outbox[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self.drop()
            return
        if self.ending and not self.outbox:
            self.drop()
        elif self.sock.fileno() >= 0:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.outbox else 0)
            self.program.selector.modify(self.sock, wanted, self)

    def drop(self):
        if self.sock.fileno() >= 0:
            self.program.selector.unregister(self.sock)
            self.sock.close()
        if self.client is not None:
            self.client.gone()
            self.client = None


class Program:
    def __init__(self, options):
        self.data_dir = options["user-data-dir"]
        self.uuid = options.get("browser-uuid", "0" * 8)
        tabs = [tab for tab in options.get("tabs", "").split(" ") if tab]
        self.browser = stub_cdp.Browser(self.uuid, self.data_dir, tabs, "restore" in options, "dead-proxy" in options)
        self.selector = selectors.DefaultSelector()
        os.makedirs(self.data_dir, exist_ok=True)
        self.listener = None
        self.port = 0
        if "no-automation" not in options:
            self.listener = socket.socket()
            self.listener.bind(("127.0.0.1", 0))
            self.port = self.listener.getsockname()[1]
        self.selector.register(0, selectors.EVENT_READ, None)
        # Bound and not listening refuses connections: the port is known and not open (behaviour 14).
        if self.listener is not None and "closed" not in options:
            self.open()
        temporary = os.path.join(self.data_dir, "DevToolsActivePort.new")
        with open(temporary, "w") as file:
            file.write(f"{self.port}\n/devtools/browser/{self.uuid}")
        os.rename(temporary, os.path.join(self.data_dir, "DevToolsActivePort"))
        os.write(1, f"{self.port}\n".encode())

    def open(self):
        self.listener.listen(64)
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ, self.listener)

    def http(self, method, target, headers):
        host = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
        if not (host in ("localhost", "") or host.strip("[]").replace(".", "").replace(":", "").isalnum()
                and host.strip("[]")[-1:].isdigit()):
            return "500 Internal Server Error", b"Host header is specified and is not an IP address or localhost."
        return self.browser.http(method, target, headers.get("host", f"127.0.0.1:{self.port}"))

    def client_for(self, target, send):
        return self.browser.client_for(target, send)

    def run(self):
        while not self.browser.closed:
            for key, mask in self.selector.select():
                if key.fd == 0:
                    word = os.read(0, 4096)
                    if word[:4] != b"open":
                        self.browser.keep()
                        return
                    self.open()
                elif key.data is self.listener:
                    sock, _ = self.listener.accept()
                    sock.setblocking(False)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self.selector.register(sock, selectors.EVENT_READ, Peer(self, sock))
                elif mask & selectors.EVENT_READ:
                    key.data.readable()
                else:
                    key.data.flush()
        self.browser.keep()


def options_of(words):
    found = {}
    for word in words:
        name, _, value = word.removeprefix("--").partition("=")
        found[name] = value
    return found


if __name__ == "__main__":
    Program(options_of(sys.argv[1:])).run()
