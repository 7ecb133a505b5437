"""Who is told that a client has gone."""

from typing import Any

from service.extensions import Departure, departure_of


def test_whoever_works_for_a_client_is_told_once() -> None:
    departure, told = Departure(), list[str]()
    departure.then(lambda: told.append("first"))
    departure.then(lambda: told.append("second"))
    departure.happen()
    departure.happen()
    assert (told, departure.gone) == (["second"], True)


def test_one_that_asks_after_it_is_told_at_once() -> None:
    departure, told = Departure(), list[str]()
    departure.happen()
    departure.then(lambda: told.append("late"))
    assert told == ["late"]


def test_one_that_is_done_is_not_told() -> None:
    departure, told = Departure(), list[str]()
    departure.then(lambda: told.append("done"))
    departure.forget()
    departure.happen()
    assert told == []


def test_a_request_has_one_behind_any_server() -> None:
    scope: dict[str, Any] = {}
    assert departure_of(scope) is departure_of(scope)
    assert not departure_of(scope).gone
