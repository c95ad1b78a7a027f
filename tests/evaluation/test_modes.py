import pytest

from beacon_lit.evaluation import Mode, choose_modes, parse_mode
from tests.evaluation.fakes import FakeLM


def test_the_default_modes_are_those_of_the_model():
    modes = choose_modes(FakeLM())
    assert [mode.name for mode in modes] == ["dense", "window-only", "ratio 2", "ratio 4"]
    assert [mode.uses_beacons for mode in modes] == [False, False, True, True]


def test_modes_as_written_in_a_config():
    assert choose_modes(FakeLM(), [8, "dense"]) == (Mode("ratio 8", 8), Mode("dense"))


@pytest.mark.parametrize("value", [0, -2, 2.0, True, "raw", "adapt-", None])
def test_a_bad_mode_is_named(value):
    with pytest.raises(
        ValueError, match=r"modes=.* is not allowed; allowed: 'dense', 'window-only', a ratio .* or 'adapt-N'"
    ):
        parse_mode(value)


@pytest.mark.parametrize("values", [[], [2, 2]])
def test_a_bad_list_of_modes_is_named(values):
    with pytest.raises(ValueError, match=r"modes=.* allowed: one or more"):
        choose_modes(FakeLM(), values)
