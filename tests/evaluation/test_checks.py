import pytest

from beacon_lit.evaluation.checks import (
    check_at_least,
    check_choice,
    check_depths,
    check_distinct,
    check_limits,
    check_names,
)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_at_least(2, a=2, b=1), "b=1 is not allowed; allowed: at least 2"),
        (lambda: check_limits(a=None, b=0), "b=0 is not allowed; allowed: at least 1, or null for no limit"),
        (lambda: check_distinct(a=["x"], b=["x", "x"]), r"b=\['x', 'x'\] is not allowed; allowed: one or more values,"),
        (lambda: check_distinct(1, a=[1], b=[1, 0]), r"b=\[1, 0\] is not allowed; .* values of at least 1, each once"),
        (lambda: check_distinct(a=[]), r"a=\[\] is not allowed"),
        (lambda: check_depths([0, 100, 101]), r"depths=\[0, 100, 101\] is not allowed; .* between 0 and 100"),
        (lambda: check_names("ab", a=["a"], b=["b", "c"]), r"b=\['c'\] is not allowed; allowed: a, b"),
        (lambda: check_choice("ab", a="a", b="c"), "b='c' is not allowed; allowed: a, b"),
    ],
)
def test_the_first_setting_that_is_not_allowed_is_named(check, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        check()


def test_allowed_settings_pass():
    check_at_least(0, a=0)
    check_limits(a=None, b=1)
    check_distinct(1, a=(1, 2))
    check_depths((0, 33.3, 100))
    check_names("abc", a=())
    check_choice("ab", a="b")
