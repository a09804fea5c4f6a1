"""Passes sockets to a command, as systemd does: a TCP socket and a unix socket, kept open while it is started again.

usage: parent.py ADDRESS UNIX_PATH COMMAND...
Reads orders, one a line: `start` (answers `started`), `stop` (SIGTERM; answers `ended CODE`), `wait` (answers
`ended CODE`). First it prints the port. At the end of its input the command is killed, if it still runs.
"""

import os
import signal
import socket
import subprocess
import sys

address, path, *command = sys.argv[1:]
tcp = socket.create_server((address, 0), backlog=1024)
unix = socket.socket(socket.AF_UNIX)
unix.bind(path)
unix.listen(128)
print(tcp.getsockname()[1], flush=True)


def passed():
    """In the child, before the command."""
    # Both may lie where the other has to go.
    high = [os.dup2(fd, 100 + n) for n, fd in enumerate((tcp.fileno(), unix.fileno()))]
    for n, fd in enumerate(high):
        os.dup2(fd, 3 + n, inheritable=True)
        os.close(fd)


# The shell says which process it is that gets them, then becomes the command.
shell = ["sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=2 exec "$@"', "sh", *command]
child = None
for order in sys.stdin:
    if order == "start\n":
        child = subprocess.Popen(shell, preexec_fn=passed, pass_fds=(3, 4), stdin=subprocess.DEVNULL)
        print("started", flush=True)
        continue
    if order == "stop\n":
        child.send_signal(signal.SIGTERM)
    print("ended", child.wait(), flush=True)
if child is not None and child.poll() is None:
    child.kill()
    child.wait()
