"""The examples of README.md and docs/serving.md run as printed."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.demo import smollm2
from beacon_lit.serving import errors
from tests.configs import ROOT
from tests.serving.servers import KEY, serving, text

README, PAGE = (path.read_text() for path in (ROOT / "README.md", ROOT / "docs" / "serving.md"))


def examples(page: str) -> list[str]:
    """The Python of a page, but for conversations with a prompt."""
    return [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if not code.startswith(">>>")]


def test_a_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = [code for page in (README, PAGE) for code in examples(page) if "OpenAI(" in code]
    assert len(found) == 2 and len(found[0].splitlines()) <= 10
    (tmp_path / "book.txt").write_text(text(100))
    monkeypatch.chdir(tmp_path)
    with serving(tmp_path / "kept") as server:
        said = []
        for code in found:
            exec(code.replace("http://127.0.0.1:8000", server.url), {"KEY": KEY})
            said.append(capsys.readouterr().out)
        counts, _, answer = said[1].partition("\n")
        assert counts.startswith("{'tokens': ") and answer and answer in said[0]


def test_the_plain_backbone() -> None:
    config = BeaconConfig(window=256, eval_ratio=8, sink=4, overlap=64, placement="interleave")
    lm, tokenizer = BeaconLM.from_pretrained(smollm2(), config).eval(), AutoTokenizer.from_pretrained(smollm2())
    question = " The quick brown"
    names: dict[str, Any] = {
        "lm": lm, "tokenizer": tokenizer, "BACKBONE": smollm2(),
        "document_ids": tokenizer(text(600), return_tensors="pt")["input_ids"],
        "question_ids": tokenizer(question, return_tensors="pt")["input_ids"],
    }  # fmt: skip
    code, pipe = (code for code in examples(PAGE) if "to_transformers" in code)
    exec(code, names)
    ours = lm.generate(names["question_ids"], cache=names["cache"], max_new_tokens=20)
    assert torch.equal(names["answer"], ours)
    exec(pipe.replace('pipe("Who is it about?"', f"said = pipe({question!r}"), names)
    new = ours[0, names["question_ids"].shape[1] :]
    assert len(set(new.tolist())) > 3
    assert names["said"][0]["generated_text"] == tokenizer.decode(new, skip_special_tokens=True)


def test_the_page_names_every_code() -> None:
    source = "".join(file.read_text() for file in Path(errors.__file__).parent.glob("*.py"))
    codes = set(re.findall(r'"(\w+_(?:found|exceeded|key|large|full|memory)|stopping)"', source))
    assert len(codes) >= 9 and not [code for code in codes if f"`{code}`" not in PAGE]
