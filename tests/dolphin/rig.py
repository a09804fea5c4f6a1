"""What the simulator's own tests stand on: a simulator as a child, HTTP by hand, and a small CDP client.

Imported by the tests beside it alone. `Sim` starts the program as an operator would and reads its ready line. The
raw calls show exactly what came over the wire; the CDP client speaks WebSocket with standard sockets. Every wait
has a bound and names what it waited for.
"""

import base64
import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse

from dolphin_sim.main import found_chromium

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "simulator.py")
TOKEN = "sim-api-token"
WAIT_SECONDS = 20
CHROMIUM = found_chromium()
needs_chromium = unittest.skipIf(CHROMIUM is None, "no Chromium and no Chrome in PATH")


def has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


def wait_until(what, holds, seconds=WAIT_SECONDS):
    """Asks until `holds()` is true; returns what it gave."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        value = holds()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s: {what}")


def alive(pid):
    """Whether a process lives, zombies not counted."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def stopped(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


def command_line(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().replace(b"\0", b" ").decode()


def processes_naming(text):
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if text in command_line(name) and alive(name):
                found.append(int(name))
    return found


class Reply:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self):
        return json.loads(self.body)


def call(base, path, body=None, method=None, headers=None, timeout=WAIT_SECONDS):
    """One HTTP call on a connection of its own."""
    parts = urllib.parse.urlsplit(base)
    headers = dict(headers or {})
    if body is not None and not isinstance(body, (bytes, str)):
        body = json.dumps(body)
        headers.setdefault("content-type", "application/json")
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
        answer = connection.getresponse()
        return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def port_of(base):
    return urllib.parse.urlsplit(base).port


def accepts(port, host="127.0.0.1"):
    with contextlib.suppress(OSError), socket.create_connection((host, port), 2):
        return True
    return False


def raw_call(base, path, most_bytes=1 << 20, timeout=3.0):
    """All bytes of an answer until the peer ends, falls silent for `timeout`, or `most_bytes` came; and how it ended:
    "closed", "reset", "silent" or "full"."""
    with socket.create_connection(("127.0.0.1", port_of(base)), timeout) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        got = bytearray()
        try:
            while len(got) < most_bytes:
                part = sock.recv(65536)
                if not part:
                    return bytes(got), "closed"
                got += part
        except ConnectionResetError:
            return bytes(got), "reset"
        except TimeoutError:
            return bytes(got), "silent"
        return bytes(got), "full"


class Sim:
    """A simulator that runs as a child, with a data folder of its own."""

    def __init__(self, *options):
        self.folder = tempfile.TemporaryDirectory(prefix="dolphin-sim-test-", ignore_cleanup_errors=True)
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, "--until-stdin-ends", "--data", self.folder.name, *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(WAIT_SECONDS)
            raise AssertionError("the simulator ended before it was ready")
        self.ready = json.loads(line)
        self.api, self.cloud, self.admin = self.ready["api"], self.ready["cloud"], self.ready["admin"]

    def end(self):
        self.process.stdin.close()
        status = self.process.wait(WAIT_SECONDS)
        self.process.stdout.close()
        self.folder.cleanup()
        return status

    # The admin.

    def ask(self, path, body=None, method=None):
        reply = call(self.admin, path, body, method)
        if reply.status != 200:
            raise AssertionError(f"{path}: {reply.status} {reply.body.decode()}")
        return reply.json

    def profile(self, profile_id=101, **values):
        self.ask("/profiles", [{"id": profile_id, **values}])
        return profile_id

    def fault(self, name, on="start", profile=None, nth=1, times=1, **params):
        return self.ask("/faults", {"call": on, "fault": name, "profile": profile, "nth": nth, "times": times,
                                    "params": params})["id"]

    def choices(self, fault, param):
        return {one["name"]: one for one in self.ask("/faults/names")}[fault]["params"][param]["one_of"]

    def app(self, **wanted):
        shown = self.ask("/app", wanted)
        self.api = shown["api"]
        return shown

    def reset(self, data="keep"):
        self.api = self.ask("/reset", {"data": data})["api"]

    def state(self):
        return self.ask("/state")

    def pids(self, profile_id=101):
        return [one["pid"] for one in self.state()["browsers"] if one["profile"] == profile_id]

    # The Local API.

    def start(self, profile_id=101, automation=True, **options):
        query = "?automation=1" if automation else ""
        return call(self.api, f"/v1.0/browser_profiles/{profile_id}/start{query}", **options)

    def stop(self, profile_id=101, query="", **options):
        return call(self.api, f"/v1.0/browser_profiles/{profile_id}/stop{query}", **options)

    def running(self):
        return call(self.api, "/v1.0/browser_profiles/running").json

    def login(self, token=TOKEN):
        return call(self.api, "/v1.0/auth/login-with-token", {"token": token})


class SimCase(unittest.TestCase):
    """Tests that share one simulator, which is reset before each."""

    @classmethod
    def setUpClass(cls):
        cls.sim = Sim("--seed", "7")
        cls.addClassCleanup(cls.sim.end)

    def setUp(self):
        self.sim.reset("wipe")
        self.sim.ask("/profiles", method="DELETE")
        self.sim.app(plan="paid", tokens=[TOKEN], cloud_rpm=500, cloud_numbers="int", max_parallel_starts=0)

    def started(self, profile_id=101, **options):
        """Starts a profile and returns its port and WebSocket path."""
        reply = self.sim.start(profile_id, **options)
        self.assertEqual(reply.status, 200, reply.body)
        return reply.json["automation"]["port"], reply.json["automation"]["wsEndpoint"]

    def assert_duplicate(self, reply):
        self.assertEqual(reply.status, 500, reply.body)
        self.assertEqual(reply.json["errorObject"]["code"], "E_BROWSER_RUN_DUPLICATE")
        self.assertIn("already running", reply.json["error"])

    def assert_ebusy(self, reply):
        self.assertEqual(reply.status, 500)
        self.assertIn("EBUSY: resource busy or locked", reply.json["error"])
        self.assertIn("Cookies", reply.json["error"])

    def assert_stopped(self, reply):
        self.assertEqual((reply.status, reply.json), (200, {"success": True}))


class Calls:
    """Calls made at once, each in a thread; `replies` holds their replies or errors when the block is left."""

    def __init__(self, *calls):
        self.calls = calls
        self.replies = []

    def __enter__(self):
        self.replies = [None] * len(self.calls)
        self.threads = [threading.Thread(target=self.one, args=(at,)) for at in range(len(self.calls))]
        for thread in self.threads:
            thread.start()
        return self

    def one(self, at):
        try:
            self.replies[at] = self.calls[at]()
        except OSError as reason:
            self.replies[at] = reason

    def __exit__(self, *reason):
        for thread in self.threads:
            thread.join(30)


def version(port):
    return call(f"http://127.0.0.1:{port}", "/json/version").json


class Cdp:
    """A CDP connection: calls by number, events are kept in `events`."""

    def __init__(self, port, path, host="127.0.0.1"):
        self.sock = socket.create_connection((host, port), WAIT_SECONDS)
        self.inbox = b""
        self.number = 0
        self.events = []
        key = base64.b64encode(os.urandom(16)).decode()
        self.sock.sendall((f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
                           f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
                           "Sec-WebSocket-Version: 13\r\n\r\n").encode())
        while b"\r\n\r\n" not in self.inbox:
            self.fill()
        head, _, self.inbox = self.inbox.partition(b"\r\n\r\n")
        self.status = int(head.split(b" ")[1])
        if self.status != 101:
            self.close()
            raise ConnectionRefusedError(f"the upgrade was answered with {self.status}")

    def __enter__(self):
        return self

    def __exit__(self, *reason):
        self.close()

    def close(self):
        self.sock.close()

    def fill(self):
        part = self.sock.recv(65536)
        if not part:
            raise ConnectionError("the browser closed the connection")
        self.inbox += part

    def take(self, length):
        while len(self.inbox) < length:
            self.fill()
        taken, self.inbox = self.inbox[:length], self.inbox[length:]
        return taken

    def message(self):
        head = self.take(2)
        length = head[1] & 127
        if length > 125:
            length = int.from_bytes(self.take(2 if length == 126 else 8), "big")
        payload = self.take(length)
        if head[0] & 15 == 8:
            raise ConnectionError("the browser closed the WebSocket")
        return json.loads(payload)

    def call(self, method, session=None, **params):
        """The result, or the error as a RuntimeError."""
        self.number += 1
        wanted = {"id": self.number, "method": method, "params": params}
        if session is not None:
            wanted["sessionId"] = session
        text = json.dumps(wanted).encode()
        length = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2, "big")
        # A mask of zeros is a mask, and leaves the text readable.
        self.sock.sendall(b"\x81" + length + b"\0\0\0\0" + text)
        while True:
            answer = self.message()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(answer["error"]["message"])
                return answer["result"]
            self.events.append(answer)

    def pages(self):
        return [one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page"]

    def page_session(self):
        """A session of the first page, made where there is none."""
        pages = self.pages()
        target = pages[0]["targetId"] if pages else self.call("Target.createTarget", url="about:blank")["targetId"]
        return self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
