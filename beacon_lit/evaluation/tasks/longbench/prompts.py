"""Prompts of LongBench v1: our own wording (prompts.json), or the official ones from their file."""

import json
from collections.abc import Mapping
from pathlib import Path

OWN = "own"
_OWN_FILE = Path(__file__).with_name("prompts.json")


def read_prompts(file: str | None) -> tuple[str, Mapping[str, str]]:
    """Read prompts with the places {context} and {input}.

    Args:
        file: LongBench's `config/dataset2prompt.json`, or another object of subset -> prompt; None = our own prompts.

    Returns:
        The name of the prompts in records, and the prompts by subset.

    Raises:
        ValueError: the file cannot be read, or is not an object of strings.
    """
    try:
        prompts = json.loads(Path(file or _OWN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"prompts_file={file!r} cannot be read: {error}") from error
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str) for prompt in prompts.values()):
        raise ValueError(
            f"prompts_file={file!r} is not allowed; allowed: a JSON object of subset -> prompt, both strings"
        )
    return Path(file).name if file else OWN, prompts


def write_prompt(prompts: Mapping[str, str], source: str, subset: str, context: str, question: str) -> str:
    """Fill in the prompt of a subset.

    Args:
        prompts, source: the prompts and their name, from `read_prompts`.
        subset: name of the subset.
        context, question: the text, and the question about it.

    Raises:
        ValueError: there is no prompt for this subset, or it has places other than {context} and {input}.
    """
    if subset not in prompts:
        raise ValueError(f"prompts_file={source} has no prompt for {subset}; allowed: {', '.join(prompts)}")
    try:
        return prompts[subset].format(context=context, input=question)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ValueError(
            f"prompts_file={source}: {error!r} in the prompt for {subset}; allowed: the places {{context}} and "
            "{input}, and other braces written twice"
        ) from error
