from itertools import permutations

import pytest

from beacon_lit.evaluation import Converse, Generate, Prompt, Reader, ScoreOptions, ScoreText, Subject, execute
from beacon_lit.evaluation import parse_mode as mode
from beacon_lit.evaluation.runner import evaluating
from tests.evaluation.fakes import byte_tokenizer, tiny_lm

IDS = list(range(60, 100))
REQUESTS = {
    "short": Generate(Prompt(IDS), 2),
    "long": Generate(Prompt(IDS[5:]), 4),
    "talk": Converse([IDS, IDS[:5]], 3),
    "text": ScoreText(IDS),
    "options": ScoreOptions(Prompt(IDS), [[5], [7, 8]]),
}
LENGTHS = {"short": [42], "long": [39], "talk": [51], "text": [40], "options": [40, 41]}


@pytest.fixture(scope="module")
def reader():
    return Reader(Subject(tiny_lm(400), byte_tokenizer()), mode(2))


def answers(reader, names):
    """What each request is answered, without the time that it took."""
    with evaluating(reader.subject.lm):
        found = execute(reader, [REQUESTS[name] for name in names])
    return [(answer.get("prediction"), answer["tokens_in"], answer.get("nll"), "turns" in answer) for answer in found]


@pytest.mark.parametrize("names", [*permutations(REQUESTS, 5)][::17])
def test_requests_of_all_kinds_are_answered_in_their_order(reader, names):
    alone = {name: answers(reader, [name])[0] for name in REQUESTS}
    assert len({str(answer) for answer in alone.values()}) == len(REQUESTS)
    assert answers(reader, names) == [alone[name] for name in names]


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_knows_the_tokens_of_its_texts(name):
    assert REQUESTS[name].lengths == LENGTHS[name]
