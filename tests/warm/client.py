"""Run `python SCRIPT ...` and `python -m MODULE ...` in a process that tests/warm/server.py forks; see there."""

import json
import os
import signal
import socket
import sys

# Modules that need the id which this process was started with.
SELF = ["submitit.local._local"]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


def main(address: str) -> None:
    """Ask for a process with this one's arguments, folder, environment and files; pass signals on; end as it does."""
    arguments = [word for word in sys.argv[1:2] if word != "-u"] + sys.argv[2:]
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    connection.connect(address)
    request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
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
