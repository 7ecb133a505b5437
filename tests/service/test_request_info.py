"""One ``RequestInfo`` for each request, and its callback for a closed connection."""

from typing import Any

from service.request_info import Disconnect, info_of


def test_only_the_last_callback_is_called_and_only_once() -> None:
    disconnect, calls = Disconnect(), list[str]()
    disconnect.on_disconnect(lambda: calls.append("first"))
    disconnect.on_disconnect(lambda: calls.append("second"))
    disconnect.notify()
    disconnect.notify()
    assert (calls, disconnect.closed) == (["second"], True)


def test_a_late_callback_is_called_at_once() -> None:
    disconnect, calls = Disconnect(), list[str]()
    disconnect.notify()
    disconnect.on_disconnect(lambda: calls.append("late"))
    assert calls == ["late"]


def test_a_cleared_callback_is_not_called() -> None:
    disconnect, calls = Disconnect(), list[str]()
    disconnect.on_disconnect(lambda: calls.append("done"))
    disconnect.clear()
    disconnect.notify()
    assert calls == []


def test_a_request_has_one_info_behind_any_server() -> None:
    scope: dict[str, Any] = {}
    assert info_of(scope) is info_of(scope)
    assert not info_of(scope).disconnect.closed
