"""A process that the simulator started, from its start until its whole group is gone.

Every browser is the leader of a session of its own, so its helpers can be found and ended with it. The exit is
learned from a pidfd, not by asking again and again. Members of the group are held by pidfds taken before the
leader is reaped: a signal can never hit a process that merely has the number of an old one.
"""

import asyncio
import contextlib
import os
import signal
import subprocess

GROUP_ENDS_WITHIN_SECONDS = 2.0


def stat_of(pid):
    """(state, process group, start time in ticks) by /proc, or None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return words[0].decode(), int(words[2]), int(words[19])


def group_members(group):
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != group:
            stat = stat_of(name)
            if stat is not None and stat[1] == group and stat[0] != "Z":
                with contextlib.suppress(OSError):
                    found.append(os.pidfd_open(int(name)))
    return found


class Process:
    """`exited` is set when the leader has ended and was reaped, `gone` when its group is empty too."""

    def __init__(self, command, **options):
        self.popen = subprocess.Popen(command, start_new_session=True, **options)
        self.pid = self.popen.pid
        stat = stat_of(self.pid)
        self.start_ticks = stat[2] if stat else 0
        self.exited = asyncio.Event()
        self.gone = asyncio.Event()
        self.pidfd = os.pidfd_open(self.pid)
        self.rest = None
        asyncio.get_running_loop().add_reader(self.pidfd, self.ended)

    def ended(self):
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.pidfd)
        os.close(self.pidfd)
        members = group_members(self.pid)
        self.popen.wait()
        self.exited.set()
        self.rest = loop.create_task(self.clear_group(members))

    async def clear_group(self, members):
        """Gives the leader's helpers a moment to write what they hold, then ends them."""
        loop = asyncio.get_running_loop()
        for pidfd in members:
            over = asyncio.Event()
            loop.add_reader(pidfd, over.set)
            try:
                async with asyncio.timeout(GROUP_ENDS_WITHIN_SECONDS):
                    await over.wait()
            except TimeoutError:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                await over.wait()
            loop.remove_reader(pidfd)
            os.close(pidfd)
        self.gone.set()

    def alive(self):
        return not self.exited.is_set()

    def send(self, number):
        """Signals the leader, which is not reaped as long as `exited` is not set."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def send_all(self, number):
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def gone_within(self, seconds):
        try:
            async with asyncio.timeout(seconds):
                await self.gone.wait()
        except TimeoutError:
            return False
        return True
