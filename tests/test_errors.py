"""An error is described by its own sentence, and then by its causes."""

import json

import pytest
from hydra.errors import InstantiationException

from beacon_lit.cli.messages import short_errors
from beacon_lit.errors import own_error, sentence


def raised(message: str, of_constructor: bool = False) -> Exception:
    """An error with a cause, in Hydra's error around a constructor's error if asked for."""
    try:
        try:
            try:
                json.loads("{")
            except ValueError as error:
                raise ValueError(message) from error
        except ValueError as error:
            if of_constructor:
                raise InstantiationException("Error in call to target 'x'") from error
            raise
    except Exception as error:
        return error
    raise AssertionError


@pytest.mark.parametrize("of_constructor", [False, True])
def test_the_own_sentence_comes_before_the_cause(of_constructor: bool) -> None:
    error = raised("path=a.json is not JSON", of_constructor)
    assert isinstance(own_error(error), ValueError)
    assert sentence(error).startswith("path=a.json is not JSON (cause: JSONDecodeError: Expecting property name")
    with pytest.raises(SystemExit, match=r"^error: path=a.json is not JSON \(cause: "), short_errors():
        raise error


def test_a_cause_that_the_sentence_has_is_not_repeated() -> None:
    cause = str(raised("").__cause__)
    assert sentence(raised(f"path=a.json: {cause}")) == f"path=a.json: {cause}"
    assert sentence(ValueError("alone")) == "alone"
