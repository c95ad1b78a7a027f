"""What happens to every request: its body is limited, and its status counted. Plain ASGI middleware."""

from typing import Any

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from beacon_lit.serving.errors import ApiError
from beacon_lit.serving.metrics import Metrics


class LimitedBodies:
    """Middleware that ends requests whose bodies have more than `limit` bytes, whether or not they say so."""

    def __init__(self, app: Any, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        message = f"the request has too many bytes; allowed: {self.limit}"
        sizes = [value for name, value in scope["headers"] if name == b"content-length"]
        if any(size.isdigit() and int(size) > self.limit for size in sizes):
            error = ApiError(413, message, "request_too_large")
            return await JSONResponse(error.body, error.status)(scope, receive, send)
        read = 0

        async def counted() -> Any:
            nonlocal read
            part = await receive()
            read += len(part.get("body", b""))
            if read > self.limit:
                raise HTTPException(413, message)
            return part

        await self.app(scope, counted, send)


class Counted:
    """Middleware that counts requests by route and status."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status = 499  # no answer was sent

        async def noted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "none")  # not the path, which clients choose
            self.metrics.count("requests_total", route=route, status=status)
