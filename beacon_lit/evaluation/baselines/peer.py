"""kvpress as a process of its own, which answers JSON lines with JSON lines."""

import json
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from subprocess import PIPE, Popen
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import torch

from beacon_lit.evaluation.task import Subject

SERVER = Path(__file__).with_name("kvpress_server.py")
_SHOWN = 5  # lines of a process that has failed


class Peer:
    """A process that answers for one subject. It starts when it is first asked, and ends with the context.

    Args:
        python: the interpreter of an environment with kvpress.
        subject: the model and its tokenizer, which pass through a temporary folder (TMPDIR).
    """

    def __init__(self, python: str, subject: Subject) -> None:
        self.python, self.subject = python, subject
        self._files = ExitStack()
        self._process: Popen[str] | None = None

    def __enter__(self) -> "Peer":
        self._errors = self._files.enter_context(TemporaryFile())
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._files.close()

    def ask(self, method: str, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Ask for answers, see `kvpress_server`.

        Raises:
            RuntimeError: the process has ended; with the last lines that it wrote.
        """
        if self.subject.lm.device.type == "cuda":
            torch.cuda.empty_cache()  # the process uses the same GPU
        if self._process is None:
            self._start()
        return self._send({"method": method, "requests": requests})

    def _start(self) -> None:
        """Start the process and wait until the model is loaded."""
        lm = self.subject.lm
        with TemporaryDirectory() as folder:
            lm.save_backbone(folder)
            self.subject.tokenizer.save_pretrained(folder)
            command = [self.python, str(SERVER), folder, str(lm.device), str(lm.dtype).removeprefix("torch.")]
            self._process = Popen(command, stdin=PIPE, stdout=PIPE, stderr=self._errors, text=True)
            self._send({"method": None, "requests": []})

    def _send(self, batch: dict[str, Any]) -> Any:
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):  # the process has ended, which reading finds out, too
            self._process.stdin.write(json.dumps(batch) + "\n")
            self._process.stdin.flush()
        if line := self._process.stdout.readline():
            return json.loads(line)
        code = self._process.wait()
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-_SHOWN:]
        raise RuntimeError("\n".join([f"the process of kvpress ({self.python}) has ended with code {code}:", *last]))
