"""LongBench v1's prompts: our own wording (prompts.json), or the official ones from their file."""

import json
from collections.abc import Mapping
from pathlib import Path

OWN = "own"
_OWN_FILE = Path(__file__).with_name("prompts.json")


def read_prompts(file: str | None) -> tuple[str, Mapping[str, str]]:
    """What to call the prompts in records, and the prompts by subset, with the places {context} and {input}.

    Args:
        file: such as LongBench's `config/dataset2prompt.json`, an object of subset -> prompt; None = our own.

    Raises:
        ValueError: the file cannot be read, or is no object of strings.
    """
    try:
        prompts = json.loads(Path(file or _OWN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"prompts_file={file!r} cannot be read: {error}") from error
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str) for prompt in prompts.values()):
        raise ValueError(f"prompts_file={file!r} must be a JSON object of subset -> prompt, both strings")
    return Path(file).name if file else OWN, prompts


def write_prompt(prompts: Mapping[str, str], source: str, subset: str, context: str, question: str) -> str:
    """A subset's prompt about a text. `source`: what the prompts are called.

    Raises:
        ValueError: there is none for this subset, or it has a place of another name than {context} and {input}.
    """
    if subset not in prompts:
        raise ValueError(f"prompts_file: {source} has no prompt for {subset}; it has {', '.join(prompts)}")
    try:
        return prompts[subset].format(context=context, input=question)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ValueError(
            f"prompts_file: the prompt for {subset} in {source} must have no places but {{context}} and {{input}}, and "
            f"other braces twice: {error!r}"
        ) from error
