"""Browsers as processes of their own: how a stub and a real Chromium are started, closed and killed.

A `Browser` is one launch: pid, CDP port, UUID, data dir. It ends for good with `gone`. Both kinds end when the
simulator's pipe to them closes, however the simulator ended. Chromium is held by its debugging pipe, beside the
port that clients use: so it can be asked to close even when it was started without automation and has no port.
What a start means for the profile is the app's knowledge, not this module's.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys

from .gate import Gate
from .process import Process

LAUNCH_SECONDS = 60.0
CLOSE_SECONDS = 5.0
TERM_SECONDS = 3.0
STUB = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stub.py")
CHROMIUM_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--password-store=basic", "--disable-breakpad",
)


class LaunchFailed(Exception):
    pass


class Order:
    """What is to be launched."""

    def __init__(self, profile_id, kind, data_dir, uuid, automation, tabs):
        self.profile_id = profile_id
        self.kind = kind
        self.data_dir = data_dir
        self.uuid = uuid
        self.automation = automation
        self.tabs = tabs
        self.run_id = None
        self.proxy_port = None
        self.closed_port = False
        self.peer = None
        self.socket = None

    def needs_gate(self):
        return bool(self.peer or self.socket or self.closed_port and self.kind == "chromium")


class Browser:
    def __init__(self, order, process, control):
        self.order = order
        self.process = process
        self.control = control
        self.port = None
        self.uuid = order.uuid
        self.gate = None
        self.more_pages = []

    @property
    def pid(self):
        return self.process.pid

    def alive(self):
        return self.process.alive()

    def shown(self):
        return {"profile": self.order.profile_id, "pid": self.pid, "start_ticks": self.process.start_ticks,
                "kind": self.order.kind, "run_id": self.order.run_id, "automation": self.order.automation,
                "port": self.port, "uuid": self.uuid, "data_dir": self.order.data_dir}

    async def open_port(self):
        """Opens a port that was closed by the order."""
        if self.alive():
            if self.gate is not None:
                await self.gate.forward()
            else:
                self.control.say(b"open\n")

    async def close(self):
        """Asks, then SIGTERM, then SIGKILL; returns when the whole group is gone."""
        if self.alive():
            await self.control.close()
        if not await self.process.gone_within(CLOSE_SECONDS):
            self.process.send(signal.SIGTERM)
            if not await self.process.gone_within(TERM_SECONDS):
                await self.kill()
        await self.ended()

    async def kill(self):
        self.process.send_all(signal.SIGKILL)
        await self.ended()

    def freeze(self, frozen):
        self.process.send_all(signal.SIGSTOP if frozen else signal.SIGCONT)

    async def ended(self):
        """Waits for the end of the process, however it comes, and lets go of what belonged to it."""
        await self.process.gone.wait()
        self.control.drop()
        if self.gate is not None:
            await self.gate.close()


class StubControl:
    def __init__(self, stdin):
        self.stdin = stdin

    def say(self, word):
        with contextlib.suppress(OSError, ValueError):
            os.write(self.stdin.fileno(), word)

    async def close(self):
        self.say(b"close\n")

    def drop(self):
        with contextlib.suppress(OSError):
            self.stdin.close()


class PipeControl:
    """CDP over Chromium's debugging pipe: messages that end with a NUL."""

    def __init__(self, reads, writes, pages_file):
        self.reads = reads
        self.writes = writes
        self.pages_file = pages_file
        self.inbox = b""
        self.waiting = {}
        self.made = 0
        os.set_blocking(reads, False)
        os.set_blocking(writes, False)
        asyncio.get_running_loop().add_reader(reads, self.readable)

    def readable(self):
        try:
            data = os.read(self.reads, 65536)
        except BlockingIOError:
            return
        if not data:
            self.drop()
            return
        *messages, self.inbox = (self.inbox + data).split(b"\0")
        for message in messages:
            value = json.loads(message)
            waiting = self.waiting.pop(value.get("id"), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(value.get("result", {}))

    def call(self, method, **params):
        self.made += 1
        waiting = asyncio.get_running_loop().create_future()
        if self.reads is None:
            waiting.set_result({})
            return waiting
        self.waiting[self.made] = waiting
        with contextlib.suppress(OSError):
            os.write(self.writes, json.dumps({"id": self.made, "method": method, "params": params}).encode() + b"\0")
        return waiting

    async def close(self):
        """Keeps the open pages for a later restore, then asks the browser to close."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                targets = (await self.call("Target.getTargets")).get("targetInfos", [])
                with open(self.pages_file, "w") as file:
                    json.dump([target["url"] for target in targets if target["type"] == "page"], file)
        self.call("Browser.close")

    def drop(self):
        if self.reads is not None:
            asyncio.get_running_loop().remove_reader(self.reads)
            os.close(self.reads)
            os.close(self.writes)
            self.reads = None
        for waiting in self.waiting.values():
            if not waiting.done():
                waiting.set_result({})
        self.waiting = {}


async def launch(order, chromium):
    """Starts what `order` says; returns when the browser is up. Raises LaunchFailed."""
    os.makedirs(order.data_dir, exist_ok=True)
    browser = launch_stub(order) if order.kind == "stub" else launch_chromium(order, chromium)
    try:
        async with asyncio.timeout(LAUNCH_SECONDS):
            if order.kind == "stub":
                await stub_ready(browser)
            else:
                await chromium_ready(browser)
            if order.automation and order.needs_gate():
                await put_behind_gate(browser)
    except (TimeoutError, LaunchFailed) as reason:
        await browser.kill()
        raise LaunchFailed(str(reason) or "the browser was not up in time") from None
    except asyncio.CancelledError:
        await browser.kill()
        raise
    return browser


def log_file(order):
    return os.path.join(order.data_dir, "..", "browser.log")


def launch_stub(order):
    command = [sys.executable, "-I", "-S", "-B", STUB, f"--user-data-dir={order.data_dir}",
               f"--browser-uuid={order.uuid}"]
    if order.automation:
        command.append("--remote-debugging-port=0")
    else:
        command.append("--no-automation")
    if order.closed_port:
        command.append("--closed")
    if order.proxy_port is not None:
        command.append("--dead-proxy")
    if order.tabs == "restored":
        command.append("--restore")
    if order.tabs != "none":
        command.append("--tabs=about:blank")
    with open(log_file(order), "wb") as log:
        process = Process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0)
    return Browser(order, process, StubControl(process.popen.stdin))


async def stub_ready(browser):
    stdout = browser.process.popen.stdout
    readable = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(stdout.fileno(), readable.set)
    try:
        await readable.wait()
        line = os.read(stdout.fileno(), 64)
    finally:
        loop.remove_reader(stdout.fileno())
        stdout.close()
    if not line:
        raise LaunchFailed("the stub browser ended before it was ready")
    browser.port = int(line) if browser.order.automation else None


def launch_chromium(order, chromium):
    if chromium is None:
        raise LaunchFailed("there is no Chromium here; name one by --chromium")
    pages_file = os.path.join(order.data_dir, "..", "pages.json")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(order.data_dir, "DevToolsActivePort"))
    command = [chromium, *CHROMIUM_FLAGS, f"--user-data-dir={order.data_dir}", "--remote-debugging-pipe"]
    if order.automation:
        command.append("--remote-debugging-port=0")
    if order.proxy_port is not None:
        # Without the bypass rule Chromium goes to loopback addresses without the proxy.
        command += [f"--proxy-server=http://127.0.0.1:{order.proxy_port}", "--proxy-bypass-list=<-loopback>"]
    pages = [] if order.tabs == "none" else kept_pages(pages_file, order.tabs)
    command.append(pages[0] if pages else "--no-startup-window")
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()

    def as_three_and_four():
        reads, writes = fcntl.fcntl(theirs_in, fcntl.F_DUPFD, 10), fcntl.fcntl(theirs_out, fcntl.F_DUPFD, 10)
        os.dup2(reads, 3)
        os.dup2(writes, 4)

    try:
        with open(log_file(order), "wb") as log:
            process = Process(command, preexec_fn=as_three_and_four, pass_fds=(3, 4), stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=log)
    except OSError as reason:
        os.close(ours_in)
        os.close(ours_out)
        raise LaunchFailed(f"{chromium} cannot be started: {reason}") from None
    finally:
        os.close(theirs_in)
        os.close(theirs_out)
    browser = Browser(order, process, PipeControl(ours_in, ours_out, pages_file))
    browser.more_pages = pages[1:]
    return browser


def kept_pages(pages_file, tabs):
    """The pages to open, at least one."""
    if tabs == "restored":
        with contextlib.suppress(OSError, ValueError), open(pages_file) as file:
            return json.load(file) or ["about:blank"]
    return ["about:blank"]


async def chromium_ready(browser):
    if not await browser.control.call("Browser.getVersion") or not browser.alive():
        raise LaunchFailed("Chromium ended before it was ready; see browser.log beside its data dir")
    for page in browser.more_pages:
        # A headless Chromium takes one address on its command line.
        await browser.control.call("Target.createTarget", url=page)
    if not browser.order.automation:
        return
    file_name = os.path.join(browser.order.data_dir, "DevToolsActivePort")
    while browser.alive():
        with contextlib.suppress(OSError, ValueError):
            with open(file_name) as file:
                port, path = file.read().split("\n")
            browser.port, browser.uuid = int(port), path.rpartition("/")[2]
            return
        await asyncio.sleep(0.01)
    raise LaunchFailed("Chromium ended before its port was known")


async def put_behind_gate(browser):
    """The port that is handed out becomes one of ours, in front of the browser's own."""
    browser.gate = Gate(browser.port, browser.uuid)
    browser.port = browser.gate.port
    if browser.order.peer:
        await browser.gate.spoil(browser.order.peer)
    elif browser.order.socket:
        await browser.gate.spoil_socket(browser.order.socket)
