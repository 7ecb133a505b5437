import re
from http import HTTPStatus

import pytest

from service import change_errors, errors
from service.change_errors import ChangeError
from service.errors import (
    BodyTooLarge,
    ComputeFailed,
    FieldProblem,
    InvalidField,
    NotAcceptable,
    Overloaded,
    ServiceError,
    ShareExceeded,
    TooLate,
    UnknownModel,
)

pytestmark = pytest.mark.usefixtures("no_jitter")


def kinds() -> list[type[ServiceError]]:
    found = ServiceError.__subclasses__()
    for kind in found:
        found += kind.__subclasses__()
    return found


def test_codes_are_unique_and_all_are_known_to_the_metrics() -> None:
    codes = [ServiceError.code, *(kind.code for kind in kinds())]
    assert len(set(codes)) == len(codes) > 5
    assert set(ServiceError.codes()) == set(codes)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)


def test_every_kind_has_its_own_code_and_an_error_status() -> None:
    for kind in kinds():
        assert "code" in vars(kind)
        assert 400 <= HTTPStatus(kind.status) < 600
        assert kind.__doc__


def test_the_tree_at_the_top_is_the_tree() -> None:
    for module, members in ((errors, kinds()), (change_errors, ChangeError.__subclasses__())):
        assert module.__doc__
        drawn = dict(re.findall(r"[|`]-- (\w+) +(\d{3}) ", module.__doc__))
        assert drawn == {kind.__name__: str(kind.status) for kind in members}


def test_every_change_that_is_not_made_has_its_own_code_and_an_error_status() -> None:
    changes = ChangeError.__subclasses__()
    assert len({kind.code for kind in changes}) == len(changes) > 5
    for kind in changes:
        assert {"code", "status"} <= vars(kind).keys()
        assert 400 <= HTTPStatus(kind.status) < 600


@pytest.mark.parametrize(
    ("name", "known", "sentence"),
    [
        ("nope", ["vae", "ddpm"], "There is no model 'nope'. The models are: ddpm, vae."),
        ("vea", ["vae", "ddpm"], "There is no model 'vea'. The models are: ddpm, vae. Did you mean vae?"),
        ("vae", [], "There is no model 'vae'. The models are: none."),
        ("a\nb", ["vae"], r"There is no model 'a\nb'. The models are: vae."),
        ("x" * 100, ["vae"], f"There is no model '{'x' * 64}'. The models are: vae."),
    ],
)
def test_an_unknown_model_names_the_known_ones(name: str, known: list[str], sentence: str) -> None:
    assert str(UnknownModel(name, known)) == sentence


def test_a_field_says_what_is_allowed() -> None:
    failure = InvalidField([FieldProblem("#/n", "too many", "up to 4"), FieldProblem("#/to/seed", "too small")])
    assert str(failure) == failure.detail == "n: too many. Allowed: up to 4. to/seed: too small."
    assert [problem.pointer for problem in failure.problems] == ["#/n", "#/to/seed"]
    assert str(InvalidField([FieldProblem("#", "no object")])) == "body: no object."
    assert InvalidField.of("n", "too many", "up to 4").problems == (FieldProblem("#/n", "too many", "up to 4"),)


def test_the_others_say_what_to_do() -> None:
    assert "image/png, image/gif" in str(NotAcceptable(["image/png", "image/gif"]))
    assert "65536 bytes" in str(BodyTooLarge(65536))
    busy = "The model is busy: about"
    assert (
        str(Overloaded(28.04, 30.0, 3)) == f"{busy} 28 s of work are queued, and the limit is 30 s. Try again in 3 s."
    )
    late = TooLate(840.0, 1.5, 30)
    assert str(late) == f"{busy} 14 minutes of work are queued and your deadline is 1.5 s. Try again in 30 s."
    assert (late.detail, late.retry_after_s) == (str(late), 30)
    share = "About 14.5 s of your work are queued, and the limit for one client is 15 s. Try again in 3 s."
    assert str(ShareExceeded(14.5, 15.0, 3)) == share
    assert ComputeFailed("no").retry_after_s is None
    assert ComputeFailed("no").problems == ()
