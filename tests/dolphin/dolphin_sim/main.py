"""The command line, and the life of the simulator from its ready line to the last browser's end.

`World` holds the parts together and is what the admin acts on. One JSON line on stdout says that everything
listens. The end comes by SIGTERM, SIGINT or, where asked for, the end of stdin; then no browser is left.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile

from .admin import Admin
from .app import App
from .cloud import Cloud
from .faults import Book
from .journal import Journal
from .local_api import LocalApi
from .wire import Listener

PORTS_TRIED = 100
BROWSERS = ("chromium", "google-chrome-stable", "google-chrome", "chromium-browser")


def found_chromium():
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class World:
    def __init__(self, options, data):
        self.options = options
        self.data = data
        self.journal = Journal()
        self.book = Book(options.seed)
        chromium = options.chromium or found_chromium()
        self.app = App(options.seed, data, chromium, self.journal.time_ms)
        self.local = LocalApi(self.app, self.book, self.journal)
        self.cloud = Cloud(self.app, self.book, self.journal)
        self.api = Listener(self.local.handle)
        self.api6 = None
        self.cloud_listener = Listener(self.cloud.handle)
        self.admin = Listener(Admin(self).handle)

    async def up(self):
        await self.api_up(self.options.port, self.options.next_free_port)
        await self.cloud_listener.up(self.options.cloud_port)
        await self.admin.up(self.options.admin_port)

    async def api_up(self, port, next_free):
        """The app's port; where it is busy the app silently takes the next free one (§1)."""
        for tried in range(port, port + (PORTS_TRIED if next_free and port else 1)):
            try:
                await self.api.up(tried)
                break
            except OSError as reason:
                refused = reason
        else:
            raise SystemExit(f"error: port {port} cannot be taken: {refused}")
        await self.api6_up()

    async def api6_up(self):
        mode = self.options.ipv6_localhost
        if mode == "none":
            return

        async def hang(request, connection):
            await connection.gone(600)
            return True

        self.api6 = self.api6 or Listener(hang if mode == "hang" else self.local.handle, "::1")
        await self.api6.up(self.api.port)
        if mode == "only":
            await self.api.down()

    async def api_down(self):
        await self.api.down()
        if self.api6 is not None:
            await self.api6.down()

    def is_up(self):
        return self.api.server is not None or self.api6 is not None and self.api6.server is not None

    async def act(self, wanted):
        """What POST /app asks for."""
        action = wanted["action"]
        if action in ("down", "restart"):
            await self.api_down()
            await self.app.down(wanted["orphans"])
        if action in ("up", "restart") and not self.is_up():
            if wanted["move_port"]:
                old = self.api.port
                await self.api.down(hold=False)
                if self.api6 is not None:
                    await self.api6.down(hold=False)
                await self.api_up(old + 1 if old < 65_000 else 30_000, next_free=True)
            else:
                await self.api_up(self.api.port, next_free=False)
        renewed = wanted["reset_session_token"]
        if renewed or renewed is None and action in ("up", "restart"):
            self.app.new_session_token()
        if wanted["signed_in"] is not None:
            self.app.auth = "ok" if wanted["signed_in"] else "signed_out"

    async def cut(self, wipe_data):
        """Ends every call and every browser, and serves again as an app just started."""
        await self.api_down()
        await self.app.down("kill")
        self.app.begin_anew()
        await self.api_up(self.api.port, next_free=False)
        if wipe_data:
            shutil.rmtree(os.path.join(self.data, "browser_profiles"), ignore_errors=True)

    def shown(self):
        return {"up": self.is_up(), "api": f"http://127.0.0.1:{self.api.port}",
                "cloud": f"http://127.0.0.1:{self.cloud_listener.port}",
                "admin": f"http://127.0.0.1:{self.admin.port}", "pid": os.getpid(), "seed": self.options.seed}

    async def end(self):
        listeners = [self.api, self.cloud_listener, self.admin] + ([self.api6] if self.api6 else [])
        for listener in listeners:
            await listener.down(hold=False)
        await self.app.end_all()


def options_of(words):
    def port(word):
        value = int(word)
        if not 0 <= value <= 65535:
            raise argparse.ArgumentTypeError("must be a port from 0 to 65535")
        return value

    parser = argparse.ArgumentParser(description="A simulator of Dolphin Anty. It listens on loopback alone.")
    parser.add_argument("--port", type=port, default=0, help="of the Local API (0 = any)")
    parser.add_argument("--next-free-port", action="store_true", help="take the next free port where --port is busy")
    parser.add_argument("--cloud-port", type=port, default=0)
    parser.add_argument("--admin-port", type=port, default=0)
    parser.add_argument("--seed", type=int, default=1, help="of UUIDs, tokens and chances")
    parser.add_argument("--chromium", help="its path (found in PATH where not given, as chromium or as Chrome)")
    parser.add_argument("--data", help="folder for the profiles' data (a temporary one where not given)")
    parser.add_argument("--until-stdin-ends", action="store_true", help="end when stdin ends")
    parser.add_argument("--ipv6-localhost", choices=("none", "both", "only", "hang"), default="none",
                        help="what is on ::1: nothing, the API too, the API instead of 127.0.0.1, or silence")
    return parser.parse_args(words)


async def wait_for_end(until_stdin_ends):
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)

    def stdin_readable():
        if not os.read(0, 4096):
            loop.remove_reader(0)
            over.set()

    if until_stdin_ends:
        try:
            loop.add_reader(0, stdin_readable)
        except PermissionError:
            # A plain file or /dev/null cannot be waited for: it has ended as soon as it is read.
            over.set()
    await over.wait()


async def serve(options, data):
    world = World(options, data)
    try:
        await world.up()
        shown = world.shown()
        print(json.dumps({key: shown[key] for key in ("api", "cloud", "admin", "pid")}), flush=True)
        await wait_for_end(options.until_stdin_ends)
    finally:
        await world.end()


def main(words):
    options = options_of(words)
    with contextlib.ExitStack() as stack:
        data = options.data
        if data is None:
            data = stack.enter_context(tempfile.TemporaryDirectory(prefix="dolphin-sim-", ignore_cleanup_errors=True))
        asyncio.run(serve(options, os.path.abspath(data)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
