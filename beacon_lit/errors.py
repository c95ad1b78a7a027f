"""Describe an error by its own message, followed by its causes."""

from hydra.errors import InstantiationException


def own_error(error: BaseException) -> BaseException:
    """Return the error of a constructor that Hydra called, in place of Hydra's error; other errors stay the same."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def sentence(error: BaseException) -> str:
    """Return the message of an error, followed by the causes that the message does not include already."""
    own = own_error(error)
    said, cause = str(own), own.__cause__
    while cause is not None:
        if str(cause) not in said:
            said += f" (cause: {type(cause).__name__}: {cause})"
        cause = cause.__cause__
    return said
