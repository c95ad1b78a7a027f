"""Routes: requests become jobs for the worker, and a job's events become the response."""

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from beacon_lit.serving.answer import Answer
from beacon_lit.serving.compress import Compress
from beacon_lit.serving.documents import Document, new_id, now
from beacon_lit.serving.errors import ApiError
from beacon_lit.serving.inbox import Delta, Ended, Event, Failed, Inbox, Progress, Started
from beacon_lit.serving.middleware import Counted, LimitedBodies
from beacon_lit.serving.prompts import chat_prompt, plain_prompt
from beacon_lit.serving.replies import Reply, file_body, listed, model_body, progress_body
from beacon_lit.serving.schemas import ChatRequest, CompletionRequest, Options
from beacon_lit.serving.service import Service
from beacon_lit.serving.worker import Job, Worker

_PAGE = Path(__file__).with_name("page.html")
_PAGE_HEADERS = {"Content-Security-Policy": "default-src 'self' 'unsafe-inline'; img-src data:; frame-ancestors 'none'"}
_POLL = 0.1  # seconds between two looks at whether the client is still there


def make_app(service: Service, worker: Worker, api_key: str, max_bytes: int) -> FastAPI:
    """Make the application.

    Args:
        service: the model, and what it has read.
        worker: runs the model; closed at shutdown.
        api_key: the key that clients must send.
        max_bytes: most bytes of a request.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(worker.close)
        await asyncio.to_thread(service.stop)

    service.metrics.gauges |= {
        "queued_requests": ("Requests that wait", lambda: worker.queued),
        "reading_requests": ("Requests that are being read", lambda: worker.reading),
        "rows": ("Answers that are being written", lambda: worker.rows),
    }
    app = FastAPI(title="beacon_lit", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(LimitedBodies, limit=max_bytes)
    app.add_middleware(Counted, metrics=service.metrics)
    app.include_router(_open_routes(service))
    guarded = APIRouter(prefix="/v1", dependencies=[Depends(_key_check(api_key))])
    _add_model_routes(guarded, service)
    _add_file_routes(guarded, service, worker)
    _add_answer_routes(guarded, service, worker)
    app.include_router(guarded)
    _handle_errors(app)
    app.state.service, app.state.worker = service, worker
    return app


def _open_routes(service: Service) -> APIRouter:
    """Routes that need no key."""
    routes = APIRouter()

    @routes.get("/")
    async def page() -> Response:
        return HTMLResponse(_PAGE.read_text(encoding="utf-8"), headers=_PAGE_HEADERS)

    @routes.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")

    return routes


def _add_model_routes(routes: APIRouter, service: Service) -> None:
    started = now()

    @routes.get("/models")
    async def models() -> dict[str, Any]:
        return listed([model_body(service.name, started)])

    @routes.get("/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        _check_model(service, name)
        return model_body(service.name, started)


def _add_file_routes(routes: APIRouter, service: Service, worker: Worker) -> None:
    documents = service.documents

    @routes.post("/files", response_model=None)
    async def upload(
        request: Request, file: UploadFile, purpose: str = Form("user_data"), stream: bool = Form(False)
    ) -> Response:
        content = await file.read()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ApiError(400, f"the file is not UTF-8 (byte {error.start}); allowed: text", param="file") from error
        if not text.strip():
            raise ApiError(400, "the file is empty; allowed: text", param="file")
        document = Document(new_id(), file.filename or "file", purpose, len(content), now(), 0, 0, 0, 0)
        inbox = Inbox()
        events = _events(request, service, worker, Compress(service, document, text, inbox.put), inbox)
        started = await anext(events)
        if stream:
            return _sent_events(_reading(events, started))
        async with aclosing(events):
            *_, ended = [event async for event in events]
        return JSONResponse(file_body(ended.result))

    @routes.get("/files")
    async def files() -> dict[str, Any]:
        return listed([file_body(document) for document in documents.all()])

    @routes.get("/files/{id}")
    async def file(id: str) -> dict[str, Any]:
        return file_body(documents.get(id))

    @routes.get("/files/{id}/content")
    async def content(id: str) -> Response:
        return PlainTextResponse(await asyncio.to_thread(documents.text, id))

    @routes.delete("/files/{id}")
    async def delete(id: str) -> dict[str, Any]:
        await asyncio.to_thread(documents.delete, id)
        return {"id": id, "object": "file", "deleted": True}


def _add_answer_routes(routes: APIRouter, service: Service, worker: Worker) -> None:
    @routes.post("/chat/completions", response_model=None)
    async def chat(request: Request, body: ChatRequest) -> Response:
        return await answer(request, body, lambda shared: chat_prompt(shared, body.messages), True)

    @routes.post("/completions", response_model=None)
    async def complete(request: Request, body: CompletionRequest) -> Response:
        return await answer(request, body, lambda shared: plain_prompt(shared, body.prompt), False)

    async def answer(request: Request, options: Options, compose: Callable[[Service], Any], chat: bool) -> Response:
        _check_model(service, options.model)
        inbox, reply = Inbox(), Reply(service.name, chat)
        job = Answer(service, compose, options, inbox.put)
        events = _events(request, service, worker, job, inbox)
        started = await anext(events)  # errors before the answer have a status of their own
        assert isinstance(started, Started)
        if options.stream:
            return _sent_events(_writing(events, reply, started, options.shows_usage))
        async with aclosing(events):
            *deltas, ended = [event async for event in events]
        text = "".join(event.text for event in deltas if isinstance(event, Delta))
        return JSONResponse(reply.whole(text, started, ended))


async def _events(
    request: Request, service: Service, worker: Worker, job: Job, inbox: Inbox
) -> AsyncGenerator[Any, None]:
    """Run a job and yield its events; stop the job when the client goes away.

    Raises:
        ApiError: the job failed, or the client has gone.
    """
    worker.submit(job)
    event: Event | None = None
    gone = asyncio.ensure_future(_gone(request))
    try:
        while not isinstance(event, Ended):
            getting = asyncio.ensure_future(inbox.events.get())
            try:
                await asyncio.wait({getting, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                getting.cancel()  # without effect if there is an event
            if gone.done():
                raise ApiError(499, "the client has gone")
            event = getting.result()
            if isinstance(event, Failed):
                raise event.error
            yield event
    finally:
        gone.cancel()
        if not isinstance(event, Ended | Failed):
            service.metrics.count("cancelled_total")
        worker.cancel(job)


async def _gone(request: Request) -> None:
    """Wait until the client has gone."""
    while not await request.is_disconnected():
        await asyncio.sleep(_POLL)


async def _writing(
    events: AsyncGenerator[Any, None], reply: Reply, started: Started, counted: bool
) -> AsyncGenerator[dict[str, Any], None]:
    """Turn an answer's events into pieces of a stream."""
    async with aclosing(events):
        for piece in reply.opening():
            yield piece
        async for event in events:
            if isinstance(event, Delta):
                yield reply.piece(event.text)
            elif isinstance(event, Ended):
                yield reply.closing(event)
                if counted:
                    yield reply.counted(started, event)


async def _reading(events: AsyncGenerator[Any, None], started: Started) -> AsyncGenerator[dict[str, Any], None]:
    """Turn an upload's events into pieces of a stream, the last of which is the file."""
    async with aclosing(events):
        yield progress_body(started.known, started.prompt)
        async for event in events:
            if isinstance(event, Progress):
                yield progress_body(event.read, started.prompt)
            elif isinstance(event, Ended):
                yield file_body(event.result)


def _sent_events(pieces: AsyncGenerator[dict[str, Any], None]) -> Response:
    """Answer with server-sent events."""

    async def sent() -> AsyncIterator[str]:
        async with aclosing(pieces):
            try:
                async for piece in pieces:
                    yield f"data: {json.dumps(piece)}\n\n"
                yield "data: [DONE]\n\n"
            except ApiError as error:  # too late for a status
                yield f"data: {json.dumps(error.body)}\n\n"

    return StreamingResponse(sent(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


def _check_model(service: Service, name: str) -> None:
    if name != service.name:
        raise ApiError(404, f"no model {name!r}; allowed: {service.name!r}", "model_not_found", "model")


def _key_check(api_key: str) -> Callable[[Request], Awaitable[None]]:
    async def check(request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secrets.compare_digest(given.strip().encode(), api_key.encode()):
            raise ApiError(
                401, "a wrong API key, or none; allowed: 'Authorization: Bearer KEY' with the server's key",
                "invalid_api_key",
            )  # fmt: skip

    return check


def _handle_errors(app: FastAPI) -> None:
    """Answer all errors in OpenAI's schema."""

    @app.exception_handler(ApiError)
    async def ours(request: Request, error: ApiError) -> Response:
        headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "5"}}
        return JSONResponse(error.body, error.status, headers.get(error.status))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        nearest = max(error.errors(), key=lambda one: len(one["loc"]))  # of the alternatives that a field has
        place = [str(part) for part in nearest["loc"] if part not in ("body", "query", "path")]
        message = f"{'.'.join(place) or 'the request'}: {nearest['msg'].removeprefix('Value error, ')}"
        return await ours(request, ApiError(400, message, param=".".join(place) or None))

    @app.exception_handler(HTTPException)
    async def of_the_framework(request: Request, error: HTTPException) -> Response:
        return await ours(request, ApiError(error.status_code, f"{error.detail}: {request.method} {request.url.path}"))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return await ours(request, ApiError(500, "internal error"))
