"""Who is told that a client has gone."""

from typing import Any

from service.extensions import Disconnect, disconnect_of


def test_whoever_works_for_a_client_is_told_once() -> None:
    disconnect, told = Disconnect(), list[str]()
    disconnect.then(lambda: told.append("first"))
    disconnect.then(lambda: told.append("second"))
    disconnect.happen()
    disconnect.happen()
    assert (told, disconnect.gone) == (["second"], True)


def test_one_that_asks_after_it_is_told_at_once() -> None:
    disconnect, told = Disconnect(), list[str]()
    disconnect.happen()
    disconnect.then(lambda: told.append("late"))
    assert told == ["late"]


def test_one_that_is_done_is_not_told() -> None:
    disconnect, told = Disconnect(), list[str]()
    disconnect.then(lambda: told.append("done"))
    disconnect.forget()
    disconnect.happen()
    assert told == []


def test_a_request_has_one_behind_any_server() -> None:
    scope: dict[str, Any] = {}
    assert disconnect_of(scope) is disconnect_of(scope)
    assert not disconnect_of(scope).gone
