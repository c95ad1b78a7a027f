"""Carry a job's events from the worker's thread to the event loop."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Started:
    """The request is valid, and is being worked on.

    Attributes:
        prompt: tokens to have been read when all is read.
        known: how many of them were read for earlier requests.
    """

    prompt: int
    known: int


@dataclass(frozen=True)
class Progress:
    """So many tokens have been read."""

    read: int


@dataclass(frozen=True)
class Delta:
    """More text of the answer."""

    text: str


@dataclass(frozen=True)
class Ended:
    """The job is done.

    Attributes:
        reason: why an answer ended: "stop" or "length".
        tokens: tokens of the answer.
        result: what another job made.
    """

    reason: str = "stop"
    tokens: int = 0
    result: Any = None


@dataclass(frozen=True)
class Failed:
    """The job is over without a result."""

    error: Exception


Event = Started | Progress | Delta | Ended | Failed
Emit = Callable[[Event], None]


@dataclass(eq=False)
class Inbox:
    """Events of one job, in order. Made in the event loop; `put` may be called by any thread."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    events: "asyncio.Queue[Event]" = field(default_factory=asyncio.Queue)

    def put(self, event: Event) -> None:
        """Add an event; without effect once the loop is closed."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)
