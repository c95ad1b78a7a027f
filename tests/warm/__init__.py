"""Python processes that start in milliseconds: they are forked from one process that has imported everything.

`warm_python()` is the path of an executable that runs scripts and modules as `sys.executable` does. What is about the
interpreter's own start (`-c` and other options, environment variables that libraries read while they are imported)
needs `sys.executable`.
"""

import fcntl
import multiprocessing
import os
import shlex
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ADDRESS = "WARM_PYTHON"
ROOT = Path(__file__).parents[2]


@cache
def warm_python() -> str:
    """Return the path of the executable. The process that others are forked from starts, unless it runs already.

    All processes of pytest-xdist share it. It ends when the last of them has ended, and removes its folder.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    folder = Path(tempfile.gettempdir(), f"warm-{run}")
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "alive").exists():
            os.mkfifo(folder / "alive")
        os.open(folder / "alive", os.O_RDWR)  # left open until this process ends
        if not (folder / "socket").exists():
            start(folder)
    os.environ[ADDRESS] = str(folder / "socket")  # inherited by commands, and by the processes that these start
    multiprocessing.set_executable(str(folder / "python"))  # of the server that workers are forked from
    return str(folder / "python")


def start(folder: Path) -> None:
    """Start the process that others are forked from, and write the executable."""
    executable = folder / "python"  # of this interpreter: what PATH has may be a script that looks for one
    words = shlex.join([sys.executable, "-I", "-S", str(Path(__file__).with_name("client.py"))])
    executable.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    executable.chmod(0o755)
    command = [sys.executable, "-m", "tests.warm.server", str(folder / "socket")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["OMP_WAIT_POLICY"] = "PASSIVE"  # a process with more threads than cores does not keep them busy
    with (folder / "alive").open() as alive:  # ends when no process has it open for writing
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=alive, stdout=subprocess.PIPE)
    assert server.stdout is not None and server.stdout.readline() == b"ready\n"
