"""`python -m tests.warm.server ADDRESS`: import what commands need once, then fork a process for each request.

A request is what tests/warm/client.py was started with. Its connection lives as long as the process: it carries signals
to the process and the exit status back, and closing it kills the process.
"""

import atexit
import fcntl
import gc
import json
import multiprocessing
import os
import runpy
import select
import shutil
import signal
import socket
import sys
import threading
import weakref
from importlib import import_module
from pkgutil import walk_packages
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

gc.disable()  # until all is imported (collect_seldom); hence the late imports
# ruff: noqa: E402
os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
import deepspeed.ops.triton_ops
import functorch.compile  # noqa: F401
import peft  # noqa: F401
import torch._inductor.compile_fx
import torch.distributed.launcher.api
import torch.distributed.tensor
import torch.utils.tensorboard  # noqa: F401
import transformers.optimization
import transformers.trainer_pt_utils  # noqa: F401
from torch.distributed.elastic.rendezvous import dynamic_rendezvous

import beacon_lit
from beacon_lit.cli import threads
from tests.configs import composed
from tests.quick import collect_seldom, compose_once, leave_figures_blank, parse_once, share_among_runs

for module in walk_packages(beacon_lit.__path__, "beacon_lit."):
    if not module.name.endswith(("harness", "vllm.connector", "flash_decoding")):  # need what is not installed here
        import_module(module.name)
# Collectives through shared memory, which no strategy uses: DeepSpeed compiles them for a minute where they may be had.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
# torchrun asks inspect for the name of a calling function, which looks at every imported module for each frame.
dynamic_rendezvous.get_method_name = lambda depth=2: sys._getframe(depth).f_code.co_name
parse_once()
compose_once()
leave_figures_blank()
share_among_runs()
composed("train", "model=tiny", "ratio=[2,4]", "trainer.max_steps=1")  # Hydra's parser learns its grammar as it reads


def forked(address: str) -> SimpleNamespace:
    """Fork a process for each request; return the request, in its process alone.

    When standard input ends, remove the folder of the address and end.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen()
        collect_seldom()
        for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
            finalizer.atexit = False  # taking PyTorch's operators away, one by one, takes longest of all at the end
        print("ready", flush=True)
        while True:
            if 0 in select.select([0, listener], [], [])[0]:
                shutil.rmtree(os.path.dirname(address))
                sys.exit()
            connection, _ = listener.accept()
            if not os.fork():
                listener.close()
                return kept(connection)
            connection.close()
            reap()


def reap() -> None:
    """Forget processes that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass


def kept(connection: socket.socket) -> SimpleNamespace:
    """Fork once more: the child returns the request, the parent passes signals and the exit status on."""
    message, files, *_ = socket.recv_fds(connection, 1 << 20, 99)
    process = os.fork()
    if not process:
        connection.close()
        os.setsid()
        request = SimpleNamespace(**json.loads(message))
        apart = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 512) for file in files]  # from the numbers that they get
        for number, file in zip(request.files, apart, strict=True):
            os.dup2(file, number)
            os.close(file)
        for file in set(files) - set(request.files):
            os.close(file)
        return request
    for file in files:
        os.close(file)
    ended = os.pidfd_open(process)
    while ended not in select.select([connection, ended], [], [])[0]:
        if number := connection.recv(16):
            os.kill(process, int(number))
        else:
            os.kill(process, signal.SIGKILL)
            break
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    try:
        connection.send(str(code).encode())
    finally:
        os._exit(0)


def enter(request: SimpleNamespace) -> None:
    """Become the process of a request: what Python sets up before it runs a script or module."""
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    sys.path[1:1] = filter(None, request.environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, "rww"[number], 1, closefd=False) for number in range(3))
    sys.executable = os.path.join(os.path.dirname(request.environment["WARM_PYTHON"]), "python")
    multiprocessing.set_executable(sys.executable)
    threads._GIVEN = frozenset(os.environ)  # as if the module had been imported here


def run(arguments: list[str]) -> None:
    """Run `python ARGUMENTS`: `-c CODE ...`, `-m MODULE ...` or `SCRIPT ...`."""
    if arguments[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *arguments[2:]], ""
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(arguments[1], "<string>", "exec"), main.__dict__)
    elif arguments[0] == "-m":
        sys.argv, sys.path[0] = arguments[1:], os.getcwd()
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = arguments, os.path.dirname(os.path.abspath(arguments[0]))
        runpy.run_path(arguments[0], run_name="__main__")


def finish(arguments: list[str]) -> NoReturn:
    """Run `python ARGUMENTS` and end as Python does, but without freeing objects, which would copy their memory."""
    code: Any = 0
    try:
        run(arguments)
    except SystemExit as end:
        code = end.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


if __name__ == "__main__":
    asked = forked(sys.argv[1])
    enter(asked)
    finish(asked.arguments)
