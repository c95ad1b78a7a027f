"""Run `python SCRIPT ...` and `python -m MODULE ...` in a process that tests/warm/server.py forks; see there."""

import contextlib
import json
import os
import signal
import socket
import sys
from itertools import dropwhile

# Modules that need the id which this process was started with.
SELF = ["submitit.local._local"]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


def inherited() -> list[int]:
    """Return the numbers of the files that this process was started with."""
    found = []
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # the folder itself, which has been closed
            os.fstat(number)
            found.append(number)
    return found


def main(address: str) -> None:
    """Ask for a process with this one's arguments, folder, environment and files; pass signals on; end as it does."""
    files = inherited()
    arguments = list(dropwhile(("-u", "-B").__contains__, sys.argv[1:]))
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    connection.connect(address)
    request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ), "files": files}
    socket.send_fds(connection, [json.dumps(request).encode()], files)
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: connection.send(str(number).encode()))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    code = int(connection.recv(16) or 1)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    sys.exit(code)


if sys.argv[1:2] == ["-m"] and sys.argv[2:3] == SELF:
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
main(os.environ["WARM_PYTHON"])
