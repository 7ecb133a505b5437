"""`genserve key new`."""

import re

import pytest

from service.access.keys import KeyRing, parse_keys
from service.cli import main


def test_the_line_goes_to_the_file_and_the_key_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "new", "alice", "--scopes", "generate,metrics", "--rate", "0.5"]) == 0
    printed = capsys.readouterr()
    found = re.search(r"gsk_\S+", printed.err)
    assert found
    assert found[0] not in printed.out
    (key,) = parse_keys(printed.out.encode())
    assert (key.name, key.scopes, key.rate_ms_per_s) == ("alice", ("generate", "metrics"), 0.5)
    assert KeyRing([key]).find(found[0])


@pytest.mark.parametrize(
    "arguments",
    [["a b"], ["a", "--scopes", "all"], ["a", "--scopes", ""], ["a", "--rate", "0"], ["a", "--rate", "nan"]],
)
def test_what_is_no_key_is_an_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "new", *arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "gsk_" not in printed.err
    assert printed.err.startswith("error: this makes no key: ")
