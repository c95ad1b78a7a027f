"""Python processes that start in milliseconds: they are forked from one process that has imported everything.

`warm_python()` is the path of an executable that runs scripts and modules as `sys.executable` does. What is about the
interpreter's own start (`-c` and other options, environment variables that libraries read while they are imported)
needs `sys.executable`.
"""

import atexit
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
    """Start the process that others are forked from, which ends with this one; return the path of the executable."""
    folder = tempfile.TemporaryDirectory(prefix="warm-")
    address = os.path.join(folder.name, "socket")
    command = [sys.executable, "-m", "tests.warm.server", address]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["OMP_WAIT_POLICY"] = "PASSIVE"  # a process with more threads than cores does not keep them busy
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(folder.cleanup)
    atexit.register(server.communicate)  # closes its input, and waits
    assert server.stdout is not None and server.stdout.readline() == b"ready\n"
    os.environ[ADDRESS] = address  # inherited by commands, and by the processes that these start
    executable = Path(folder.name, "python")  # of this interpreter: what PATH has may be a script that looks for one
    words = shlex.join([sys.executable, "-I", "-S", str(Path(__file__).with_name("client.py"))])
    executable.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    executable.chmod(0o755)
    return str(executable)
