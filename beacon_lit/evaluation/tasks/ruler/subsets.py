"""The 13 subsets of RULER, with the numbers of its own configuration."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from beacon_lit.evaluation.task import Subject
from beacon_lit.evaluation.tasks.ruler.counting import CommonWords, FrequentWords
from beacon_lit.evaluation.tasks.ruler.essays import MADE_UP, read_sentences
from beacon_lit.evaluation.tasks.ruler.grading import NEW_TOKENS
from beacon_lit.evaluation.tasks.ruler.needles import Needles
from beacon_lit.evaluation.tasks.ruler.questions import MadeUpQuestions, read_hotpotqa, read_squad
from beacon_lit.evaluation.tasks.ruler.sample import Make, RulerSubset
from beacon_lit.evaluation.tasks.ruler.tracing import CHAIN, variables
from beacon_lit.evaluation.tasks.ruler.words import NOISE


@dataclass(frozen=True)
class Material:
    """What samples are made from.

    Attributes:
        essays: sentences.
        squad, hotpotqa: make samples of questions.
        sources: where these three come from.
    """

    essays: Sequence[str]
    squad: Make
    hotpotqa: Make
    sources: Sequence[str]

    @classmethod
    def read(
        cls, essays: str, squad: str | None, hotpotqa: str | None, subject: Subject, data_root: str | None, seed: int
    ) -> "Material":
        """Read the material that the settings of `Ruler` name."""
        return cls(
            essays=read_sentences(essays, subject, data_root, seed),
            squad=read_squad(squad) if squad else MadeUpQuestions(hops=1),
            hotpotqa=read_hotpotqa(hotpotqa) if hotpotqa else MadeUpQuestions(hops=2),
            sources=(essays, squad or MADE_UP, hotpotqa or MADE_UP),
        )


def _needles(source: str, **numbers: str | int) -> Callable[[int, Material], RulerSubset]:
    """Return a maker of subsets with needles in "noise", in "essays" or among other "needles"."""

    def make(length: int, material: Material) -> RulerSubset:
        haystack = {"noise": NOISE, "essays": material.essays, "needles": ()}[source]
        in_essays = source == "essays"
        made = Needles(haystack, in_lines=not in_essays, **numbers)  # type: ignore[arg-type]
        return RulerSubset(made, NEW_TOKENS["niah"], least=1, source=material.sources[0] if in_essays else MADE_UP)

    return make


def _questions(make: Make, source: str) -> RulerSubset:
    return RulerSubset(make, NEW_TOKENS["qa"], any_answer=True, source=source)


SUBSETS: dict[str, Callable[[int, Material], RulerSubset]] = {
    "niah_single_1": _needles("noise"),
    "niah_single_2": _needles("essays"),
    "niah_single_3": _needles("essays", values="uuids"),
    "niah_multikey_1": _needles("essays", told=4),
    "niah_multikey_2": _needles("needles"),
    "niah_multikey_3": _needles("needles", keys="uuids", values="uuids"),
    "niah_multivalue": _needles("essays", per_key=4),
    "niah_multiquery": _needles("essays", told=4, asked=4),
    "vt": lambda length, material: RulerSubset(variables, NEW_TOKENS["vt"], least=CHAIN),
    "cwe": lambda length, material: RulerSubset(CommonWords(length), NEW_TOKENS["cwe"]),
    "fwe": lambda length, material: RulerSubset(FrequentWords(length), NEW_TOKENS["fwe"], least=100),
    "qa_1": lambda length, material: _questions(material.squad, material.sources[1]),
    "qa_2": lambda length, material: _questions(material.hotpotqa, material.sources[2]),
}
