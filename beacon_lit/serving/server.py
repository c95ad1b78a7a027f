"""Serve the application over HTTP, and stop in time."""

import asyncio
import socket
from typing import Any

import uvicorn

from beacon_lit.serving.worker import Worker

_MARGIN = 10  # seconds in which responses can end with an error


class Server(uvicorn.Server):
    """Serves until the process is interrupted or terminated.

    Args:
        app: the application.
        worker: runs its model.
        host, port: the address.
        graceful_seconds: that running requests have when the server stops. Those still running then end with status
            503, or with an error as the last event of a stream, before connections are closed.
    """

    def __init__(self, app: Any, worker: Worker, host: str, port: int, graceful_seconds: float) -> None:
        self.worker, self.graceful_seconds = worker, graceful_seconds
        latest = int(graceful_seconds) + _MARGIN
        super().__init__(
            uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=latest)
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: no new connections, the time for running requests, and the application's own end."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self.graceful_seconds, loop.run_in_executor, None, self.worker.close)
        await super().shutdown(sockets)
        timer.cancel()
