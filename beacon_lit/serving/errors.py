"""Errors that a client gets, in OpenAI's schema."""

from typing import Any


class ApiError(Exception):
    """An error with an HTTP status.

    Args:
        status: the HTTP status.
        message: what is wrong, and what is allowed.
        code: OpenAI's short name of the error, such as "model_not_found".
        param: the field of the request that is wrong.
    """

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    @property
    def body(self) -> dict[str, Any]:
        """The response as JSON."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def kind(self) -> str:
        """OpenAI's type of the error."""
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"
