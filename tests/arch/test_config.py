"""BeaconConfig: defaults, what is refused, and its forms on disk."""

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hydra.utils import instantiate
from hypothesis import given
from omegaconf import OmegaConf

from beacon_lit import BeaconConfig
from beacon_lit.arch.config import check_ratio
from beacon_lit.arch.ratios.adapt import Adapt
from beacon_lit.cli.command import conf_folder
from tests.arch.cases import beacons
from tests.arch.tiny import examples

BAD: list[tuple[dict[str, Any], str]] = [
    ({"window": 0}, "window=0"),
    ({"window": -8}, "window=-8"),
    ({"window": 8.0}, "window=8.0"),
    ({"window": "8"}, "window='8'"),
    ({"window": True, "ratios": 1}, "window=True"),
    ({"window": None}, "window=None"),
    ({"window": [8]}, r"window=\[8\]"),
    ({"ratios": ()}, r"ratios=\(\)"),
    ({"ratios": 3}, "ratios=3 .*divisors of window=8"),
    ({"ratios": (2, 16)}, "ratios=16 .*divisors of window=8"),
    ({"ratios": (2, 0)}, "ratios=0"),
    ({"ratios": -2}, "ratios=-2"),
    ({"ratios": (2, -2)}, "ratios=-2"),
    ({"ratios": 2.0}, "ratios=2.0"),
    ({"ratios": (2.0,)}, "ratios=2.0"),
    ({"ratios": (2.5,)}, "ratios=2.5"),
    ({"ratios": ("2",)}, "ratios='2'"),
    ({"ratios": "drop"}, "ratios='d"),
    ({"ratios": None}, "ratios=None"),
    ({"ratios": [[2]]}, r"ratios=\[2\]"),
    ({"ratios": True}, "ratios=True"),
    ({"ratios": (2, 2)}, r"ratios=\(2, 2\)"),
    ({"ratio_policy": "step-random"}, "ratio_policy='step-random'.*adapt-N, .*cycle, .*random, .*random-per-sequence"),
    ({"ratio_policy": "adapt-"}, "ratio_policy='adapt-'"),
    ({"ratio_policy": "adapt--1"}, "ratio_policy='adapt--1'"),
    ({"ratio_policy": None}, "ratio_policy=None"),
    ({"eval_ratio": 3}, "eval_ratio=3"),
    ({"eval_ratio": -1}, "eval_ratio=-1"),
    ({"eval_ratio": 2.0}, "eval_ratio=2.0"),
    ({"eval_ratio": "random"}, "eval_ratio='random'.*drop"),
    ({"sink": -1}, "sink=-1"),
    ({"sink": 8}, "sink=8 .*less than window=8"),
    ({"sink": 1.0}, "sink=1.0"),
    ({"overlap": -1}, "overlap=-1"),
    ({"overlap": 9}, "overlap=9"),
    ({"sink": 4, "overlap": 5}, "overlap=5 .*window - sink = 4"),
    ({"overlap": "1"}, "overlap='1'"),
    ({"placement": "prepend"}, "placement='prepend'.*append, .*interleave, .*step-expansion"),
    ({"params": ("q", "x")}, "params='x'.*q, k, v, o"),
    ({"params": ("q_proj",)}, "params='q_proj'"),
    ({"params": 3}, "params=3"),
    ({"params": "q", "placement": "select"}, "params='q'.*k and v.*placement='interleave'"),
    ({"embed_init": "pad"}, "embed_init='pad'.*eos or bos"),
    ({"unfinished": "open"}, "unfinished='open'.*raw, beacons"),
]


@pytest.mark.parametrize(("values", "message"), BAD, ids=lambda part: str(part) if isinstance(part, dict) else "")
def test_bad_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        BeaconConfig(**{"window": 8, "ratios": (2, 4), "placement": "interleave", **values})
    assert "allowed:" in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"sink": 7, "overlap": 1}, {"overlap": 8}, {"ratios": 1}, {"ratios": 8}, {"ratios": [1, 8]}, {"params": ()},
        {"ratio_policy": "adapt-0"}, {"eval_ratio": 0}, {"eval_ratio": "drop"}, {"eval_ratio": 8},
    ],
    ids=str,
)  # fmt: skip
def test_settings_at_the_edge_are_allowed(values: dict[str, Any]) -> None:
    BeaconConfig(**{"window": 8, "ratios": (2, 4), "placement": "interleave", **values})


def test_defaults() -> None:
    config = BeaconConfig()
    assert (config.window, config.ratios, config.ratio_policy) == (2048, (2, 4, 8), "random")
    assert (config.sink, config.overlap, config.eval_ratio) == (0, 0, None)
    assert (config.placement, config.params) == ("interleave", ("q", "k", "v"))
    assert (config.embed_init, config.unfinished) == ("eos", "raw")


def test_other_defaults_are_those_of_the_config_group() -> None:
    group = OmegaConf.merge(OmegaConf.load(conf_folder() / "beacon/select.yaml"), {"ratios": [2, 4, 8]})
    config = instantiate(group, sink=0, overlap=0, window=2048)  # of the backbone and of the length of texts
    assert config == BeaconConfig(placement="select")


@pytest.mark.parametrize(
    ("placement", "params"), [("select", ("k", "v")), ("interleave", ("q", "k", "v")), ("append", ("q", "k", "v"))]
)
def test_params_default_to_what_the_placement_needs(placement: str, params: tuple[str, ...]) -> None:
    assert BeaconConfig(placement=placement).params == params
    assert BeaconConfig(placement=placement, params=()).params == ()
    assert BeaconConfig(params=None, placement=placement) == BeaconConfig(placement=placement)


def test_settings_from_before_placements_mean_inserted_beacons() -> None:
    inserted = BeaconConfig(placement="interleave")
    old = {name: value for name, value in inserted.to_dict().items() if name != "placement"}
    assert BeaconConfig.from_dict(old) == inserted
    assert BeaconConfig.from_dict({"window": 8, "params": ["q"], "ratios": 2}).placement == "interleave"
    assert BeaconConfig.from_dict(BeaconConfig().to_dict()) == BeaconConfig()


def test_sequences_become_tuples_and_an_int_one_ratio() -> None:
    config = BeaconConfig(window=8, ratios=[2, 4], params=["q"], placement="interleave")
    assert config.ratios == (2, 4) and config.params == ("q",)
    assert BeaconConfig(window=8, ratios=4, placement="interleave").ratios == (4,)
    assert hash(config) == hash(BeaconConfig(window=8, ratios=(2, 4), params=("q",), placement="interleave"))
    with pytest.raises(FrozenInstanceError):
        config.window = 4


@examples(50)
@given(config=beacons())
def test_round_trip(config: BeaconConfig) -> None:
    assert BeaconConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(ValueError, match=r"beacon setting='windows'.*window"):
        BeaconConfig.from_dict({"windows": 8})


def test_adapt() -> None:
    assert BeaconConfig(ratio_policy="adapt-1024", placement="interleave").policy == Adapt(1024)
    assert BeaconConfig(ratio_policy="cycle", placement="interleave").policy != Adapt(1024)


PUBLISHED = {
    "beacon_window": 1024, "beacon_stride": 1024, "beacon_ratio": [2, 4, 8, 16, 32],
    "beacon_ratio_mix": "step-random", "beacon_param": ["q", "k", "v"], "beacon_sink_size": 1,
    "beacon_pos": "interleave", "beacon_attn": "full-coverage", "beacon_attend_prev": True, "beacon_embed_init": "bos",
}  # fmt: skip


def test_published_names() -> None:
    expected = BeaconConfig(window=1024, ratios=(2, 4, 8, 16, 32), sink=1, embed_init="bos", placement="interleave")
    assert BeaconConfig.from_published({**PUBLISHED, "vocab_size": 97}) == expected


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ({"beacon_ratio_mix": "instance-random"}, {"ratio_policy": "random-per-sequence"}),
        ({"beacon_ratio_mix": "sequence"}, {"ratio_policy": "cycle"}),
        ({"beacon_ratio_mix": "adapt-1024"}, {"ratio_policy": "adapt-1024"}),
        ({"beacon_pos": "append"}, {"placement": "append"}),
        ({"beacon_pos": "append", "beacon_attn": "step-expansion"}, {"placement": "step-expansion"}),
        ({"beacon_param": []}, {"params": ()}),
        ({"beacon_ratio": [0, 4]}, {"ratios": (4,)}),
        ({"beacon_ratio": 4}, {"ratios": (4,)}),
        ({"beacon_embed_init": None}, {"embed_init": "eos"}),
    ],
)
def test_published_variants(published: dict[str, Any], ours: dict[str, Any]) -> None:
    base = {"window": 1024, "ratios": (2, 4, 8, 16, 32), "sink": 1, "embed_init": "bos", "placement": "interleave"}
    assert BeaconConfig.from_published({**PUBLISHED, **published}) == BeaconConfig(**{**base, **ours})


def test_published_defaults_are_those_of_the_papers_code() -> None:
    assert BeaconConfig.from_published({}) == BeaconConfig(
        window=1024, ratios=(2, 4, 8, 16, 32), params=(), placement="interleave"
    )


@pytest.mark.parametrize(
    ("published", "message"),
    [
        ({"beacon_stride": 512}, "beacon_stride=512.*beacon_window=1024"),
        ({"beacon_attn": "segmentation"}, "segmentation.*interleave with full-coverage"),
        ({"beacon_attn": "step-expansion"}, "interleave.*step-expansion"),
        ({"beacon_attend_prev": False}, "beacon_attend_prev=False"),
        ({"beacon_ratio_mix": "mixed"}, "ratio_policy='mixed'"),
    ],
)
def test_published_settings_without_a_counterpart_are_refused(published: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BeaconConfig.from_published({**PUBLISHED, **published})


@pytest.mark.parametrize("ratio", [0, 1, 2, 4, 8, "drop"])
def test_ratios_that_a_call_may_ask_for(ratio: int | str) -> None:
    check_ratio(ratio, 8)


@pytest.mark.parametrize("ratio", [3, 16, -1, 2.0, True, "keep", None])
def test_ratios_that_a_call_may_not_ask_for(ratio: Any) -> None:
    with pytest.raises(ValueError, match=r"ratios=.*drop.*0 \(keep the window raw\), or a divisor of window=8"):
        check_ratio(ratio, 8)
