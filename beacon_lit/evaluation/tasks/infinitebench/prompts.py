"""Prompts of the subsets, in our own words, after the benchmark's prompts for base models."""

import re
from collections.abc import Mapping
from typing import Any

_OPTIONS = "A. {options[0]}\nB. {options[1]}\nC. {options[2]}\nD. {options[3]}"

PROMPTS: Mapping[str, str] = {
    "passkey": (
        "One piece of important information is hidden in the irrelevant text below. Look for it and remember it: you "
        "will be asked about it.\n\n{context}\n\n{input}\n\nThe pass key is"
    ),
    "number_string": (
        "One piece of important information is hidden in the irrelevant text below. Look for it: you will be asked "
        "about it.\n\n{context}\n\n{input}\n\nThe digits are"
    ),
    "kv_retrieval": "Find the given key in the JSON object below and tell its value.\n\n{context}\n\n{input}",
    "longbook_sum_eng": "Write a summary of this book.\n\n{context}\n\nSummary:",
    "longbook_choice_eng": (
        f"Here is a book, and a question about it.\n\n{{context}}\n\nQuestion: {{input}}\n{_OPTIONS}\n\n"
        "The letter of the right answer is"
    ),
    "longbook_qa_eng": (
        "Here is a book, and a question about it. Answer in as few words as you can.\n\n{context}\n\n"
        "Question: {input}\nAnswer:"
    ),
    "longbook_qa_chn": "请读完下面这本书，再回答关于它的问题。\n\n{context}\n\n问题：{input}\n答案：",  # noqa: RUF001
    "longdialogue_qa_eng": (
        'In the script below the name of a character is replaced by "$$MASK$$" in one place. Guess who that is.\n\n'
        "{context}\n\nThe name in the place of $$MASK$$ is probably"
    ),
    "math_find": "What is the {wanted} in this list?\n\n{context}\n\n{input}",
    "math_calc": (
        "Work out the values of an expression, one after each number.\n\n"
        "Expression: 2 + 5 + 1\nValues: [2, 7, 8]\n\nExpression: 9 - 4 + 3 - 6\nValues: [9, 5, 8, 2]\n\n"
        "Expression: {context}\nValues:"
    ),
    "code_run": (
        "The Python code below has a function named {function}.\n\n{context}\n\n"
        "Work out the exact value of {call}. The value of {call} is"
    ),
    "code_debug": (
        "In the Python code below, one single function or method was changed on purpose so that it fails.\n\n"
        f"{{context}}\n\nWhich one is it?\n{_OPTIONS}\n\nThe right option is:"
    ),
}


def write_prompt(subset: str, row: Mapping[str, Any], where: str) -> str:
    """Write the prompt of a row.

    Raises:
        ValueError: the row lacks what the prompt of this subset needs; the error begins with `where`.
    """
    return PROMPTS[subset].format(**row, **_PARTS.get(subset, lambda row, where: {})(row, where))


def _wanted(row: Mapping[str, Any], where: str) -> dict[str, str]:
    if not (found := re.search(r"\bthe (.+?) of\b", row["input"], re.IGNORECASE)):
        raise ValueError(
            f"{where}: input must name what is wanted, as in 'The largest number of', not {row['input']!r}"
        )
    return {"wanted": found[1].lower()}


def _called(row: Mapping[str, Any], where: str) -> dict[str, str]:
    if not (found := re.search(r"(func_\d+)\(-?\d+\)", row["input"])):
        raise ValueError(f"{where}: input must have a call such as func_1(2), not {row['input']!r}")
    return {"call": found[0], "function": found[1]}


_PARTS = {"math_find": _wanted, "code_run": _called}
