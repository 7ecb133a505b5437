import pytest

from benchmarks.bursts import in_turn, quartiles, ratios, summary


def test_the_order_alternates_and_the_first_round_does_not_count() -> None:
    order: list[str] = []

    def measure(name: str) -> int:
        order.append(name)
        return len(order)

    figures = in_turn({"a": lambda: measure("a"), "b": lambda: measure("b")}, rounds=2)
    assert "".join(order) == "baabba"
    assert figures == {"a": [3, 6], "b": [4, 5]}


def test_ratios_are_of_the_same_round() -> None:
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2, 3]
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_a_summary_is_the_median_with_its_quartiles() -> None:
    assert summary([1.0, 1.1, 1.2, 1.3, 9.0]) == "1.200 (1.100 to 1.300)"
    assert summary([1234.5], 1) == "1,234.5 (1,234.5 to 1,234.5)"
    assert quartiles([3.0, 1.0, 2.0]) == (1.5, 2, 2.5)
