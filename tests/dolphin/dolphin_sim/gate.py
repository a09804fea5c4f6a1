"""A port in front of a browser's CDP port, for the faults in which that port misbehaves (behaviour 14).

Bound and closed at first: connections are refused. `forward` opens it and passes bytes both ways; `spoil` opens it
as a bad HTTP peer instead, or as a bad WebSocket. A stub opens its own port late; the gate stands before Chromium,
which cannot.
"""

import asyncio
import contextlib

from . import faults, peers, sockets, wire


class Gate:
    def __init__(self, target, uuid):
        self.target = target
        self.uuid = uuid
        self.held = wire.bind("127.0.0.1", 0)
        self.port = self.held.getsockname()[1]
        self.server = None
        self.listener = None
        self.tasks = set()

    async def forward(self):
        if self.held is not None:
            held, self.held = self.held, None
            self.server = await asyncio.start_server(self.accept, sock=held, backlog=64)

    async def spoil_socket(self, kind):
        """HTTP is honest, the WebSocket is not."""
        async def handle(request, connection):
            key = request.headers.get("sec-websocket-key")
            if key is None:
                return await self.honest(connection)
            return await sockets.answer(kind, key, connection)

        await self.serve(handle)

    def version(self):
        return wire.Answer.of(200, {
            "Browser": "Chrome/156.0.0.0", "Protocol-Version": "1.3",
            "webSocketDebuggerUrl": f"ws://127.0.0.1:{self.port}/devtools/browser/{self.uuid}",
        })

    async def honest(self, connection):
        await connection.send(self.version().bytes())
        return False

    async def spoil(self, name):
        params = {key: faults.default_of(rule) for key, rule in faults.KINDS[name][3].items()}

        async def handle(request, connection):
            return await peers.send(name, connection, self.version(), params)

        await self.serve(handle)

    async def serve(self, handle):
        self.listener = wire.Listener(handle)
        self.held.close()
        self.held = None
        await self.listener.up(self.port)

    async def accept(self, reader, writer):
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        self.tasks.add(asyncio.current_task())
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.pass_on(reader, inner_writer))
                group.create_task(self.pass_on(inner_reader, writer))
        finally:
            writer.close()
            inner_writer.close()
            self.tasks.discard(asyncio.current_task())

    @staticmethod
    async def pass_on(reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def close(self):
        if self.held is not None:
            self.held.close()
            self.held = None
        if self.server is not None:
            self.server.close()
            self.server = None
        if self.listener is not None:
            await self.listener.down(hold=False)
            self.listener = None
        for task in list(self.tasks):
            task.cancel()
