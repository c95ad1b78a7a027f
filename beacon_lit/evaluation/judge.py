"""Grades answers with a language model behind an endpoint for OpenAI's chat completions."""

import os
import re
from dataclasses import dataclass
from time import sleep
from typing import Any

import httpx

from beacon_lit.evaluation.task import Record

_PROMPT = """\
You grade an answer against a reference. The answer's wording, length and language do not matter, its facts do.

Question: {question}
Reference: {reference}
Answer to grade: {answer}

The scale is 1 to 10:
1: has nothing to do with the reference, or there is no answer
3: touches on the reference's subject, but its facts are wrong or missing
5: has part of the reference's facts, and lacks or contradicts others
7: has the reference's main facts, with a small error or omission
10: has all of the reference's facts and contradicts none

Reply with one line and nothing else: Score: N, where N is an integer from 1 to 10."""
_SCORE = re.compile(r"score\W*(\d+)\b(?!\.\d)", re.IGNORECASE)
_ALONE = re.compile(r"\W*(\d+)\W*(?:/ ?10\W*)?")
_TEMPORARY = (408, 429)  # statuses after which another attempt may succeed, as after those of at least 500


@dataclass(frozen=True)
class Judge:
    """Grades answers from 1 to 10, as needles in a haystack are graded in the literature.

    Args:
        url: the endpoint without `/chat/completions`, such as "http://localhost:8000/v1"; None = no judge.
        model: the model's name at the endpoint.
        api_key: name of the environment variable that holds the key; if it is not set, no key is sent.
        timeout: maximum seconds of one attempt.
        retries: maximum number of further attempts after an error or a reply without a score.
        pause: seconds before the first further attempt; doubled before each next one.

    Raises:
        ValueError: a url that is not http or https, a url without a model, or a number out of range.
    """

    url: str | None = None
    model: str | None = None
    api_key: str = "OPENAI_API_KEY"
    timeout: float = 60
    retries: int = 4
    pause: float = 1

    def __post_init__(self) -> None:
        if self.url is not None and not _is_address(self.url):
            raise ValueError(f"judge.url={self.url!r} is not allowed; allowed: http://... or https://..., or null")
        if self.url is not None and not self.model:
            raise ValueError(
                f"judge.model={self.model!r} is not allowed with judge.url={self.url}; allowed: the name of a model"
            )
        if self.timeout <= 0:
            raise ValueError(f"judge.timeout={self.timeout} is not allowed; allowed: seconds above 0")
        for name, value in (("retries", self.retries), ("pause", self.pause)):
            if value < 0:
                raise ValueError(f"judge.{name}={value} is not allowed; allowed: 0 or more")

    def grade(self, question: str, reference: str, answer: str) -> Record:
        """Grade an answer; errors of the endpoint are recorded, not raised.

        Args:
            question: what was asked.
            reference: the text that has the answer.
            answer: what the model said.

        Returns:
            "judge" (1 to 10, or None without a grade) and "judge_error" (the reason, else None); {} without a url.
        """
        if self.url is None:
            return {}
        prompt = _PROMPT.format(question=question, reference=reference, answer=answer.strip() or "(nothing)")
        reason = ""
        for attempt in range(self.retries + 1):
            if attempt:
                sleep(self.pause * 2 ** (attempt - 1))
            try:
                return {"judge": _score(self._ask(prompt)), "judge_error": None}
            except httpx.HTTPStatusError as error:
                status = error.response.status_code
                reason = f"HTTP {status}: {error.response.text[:200]}"
                if status < 500 and status not in _TEMPORARY:
                    break
            except (httpx.HTTPError, ValueError) as error:
                reason = f"{type(error).__name__}: {error}"
        return {"judge": None, "judge_error": reason}

    def _ask(self, prompt: str) -> str:
        """Return the endpoint's reply. Raises httpx.HTTPError, or ValueError if the reply is not a chat completion."""
        key = os.environ.get(self.api_key)
        response = httpx.post(
            f"{str(self.url).rstrip('/')}/chat/completions",
            json={"model": self.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0},
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=self.timeout,
        )
        response.raise_for_status()
        reply: Any = response.json()
        try:
            return str(reply["choices"][0]["message"]["content"])
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"not a chat completion: {str(reply)[:200]}") from error


NO_JUDGE = Judge()


def _is_address(url: str) -> bool:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return address.scheme in ("http", "https") and bool(address.host)


def _score(reply: str) -> int:
    found = _SCORE.search(reply) or _ALONE.fullmatch(reply)
    if found is None or not 1 <= int(found[1]) <= 10:
        raise ValueError(f"no score from 1 to 10 in {reply[:200]!r}")
    return int(found[1])
