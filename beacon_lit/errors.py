"""Describe an error by its own message, followed by its causes."""

from hydra.errors import InstantiationException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException


def own_error(error: BaseException) -> BaseException:
    """Return the error of a constructor that Hydra called, in place of Hydra's error; other errors stay the same."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def sentence(error: BaseException) -> str:
    """Return the message of an error, followed by the causes that the message does not include already."""
    own = own_error(error)
    said, cause = _message(own), own.__cause__
    while cause is not None:
        if str(cause) not in said:
            said += f" (cause: {type(cause).__name__}: {cause})"
        cause = cause.__cause__
    return said


def _message(error: BaseException) -> str:
    """Return the message of an error; OmegaConf's is followed by lines about its own types, which are left out."""
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} has no value; allowed: {error.full_key}=VALUE"
    return str(error).split("\n", 1)[0] if isinstance(error, OmegaConfBaseException) else str(error)
