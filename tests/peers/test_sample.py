"""The sample of tests that the second environment runs leaves out no pair of parameters."""

from __future__ import annotations

from itertools import combinations, product

from installed import choose_pairs


def test_every_pair_is_in_the_sample() -> None:
    cases = [dict(zip("abcd", values, strict=True)) for values in product(range(4), range(2), range(5), range(3))]
    chosen = choose_pairs(cases)
    pairs = [{(one, case[one], other, case[other]) for one, other in combinations("abcd", 2)} for case in cases]
    assert set().union(*(pairs[place] for place in chosen)) == set().union(*pairs)
    assert 4 * 5 <= len(chosen) < len(cases) / 4 and chosen == sorted(set(chosen))


def test_every_value_of_a_parameter_alone_is_in_the_sample() -> None:
    assert choose_pairs([{"a": value} for value in "xyz"]) == [0, 1, 2]
