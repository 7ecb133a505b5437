"""All reasons why an operator's change of a model fails, as one tree:

    ChangeError
    |-- NotForPages           403  a web page sent the request
    |-- UnknownFolder         404  no folder of that name has a manifest
    |-- NotServed             409  the model cannot be unloaded: it is not served
    |-- AlreadyServed         409  the model cannot be loaded: it is served already; reload it
    |-- ChangeUnderWay        409  another change of the same model is in progress
    |-- NoSuchVersion         409  that earlier version is not kept
    |-- ModelUnusable         422  the folder's files cannot be served; the previous version stays in use
    |-- KeysUnusable          422  the file of API keys is not valid; the previous keys stay in use
    |-- WeightsUnreadable     500  the weights folder cannot be listed
    `-- Starting              503  the models are still being loaded at start

A class has the HTTP status and a code for programs; an instance has a sentence for people.
"""

from collections.abc import Iterable


class ChangeError(Exception):
    """A change of a model that failed; ``str()`` says why. The model that was served before still is."""

    status = 500
    code = "internal"


class NotForPages(ChangeError):
    """A web page sent the request; only programs outside of browsers may."""

    status, code = 403, "not-for-pages"


class UnknownFolder(ChangeError):
    """No folder of that name has a manifest; the message lists those that have one."""

    status, code = 404, "unknown-model"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(
            f"No folder {name[:64]!r} has a manifest. Folders with one: {', '.join(sorted(known)) or 'none'}."
        )


class NotServed(ChangeError):
    """The model cannot be unloaded: it is not served."""

    status, code = 409, "not-served"


class AlreadyServed(ChangeError):
    """The model cannot be loaded: it is served already."""

    status, code = 409, "already-served"


class ChangeUnderWay(ChangeError):
    """Another change of the same model is in progress."""

    status, code = 409, "change-under-way"


class NoSuchVersion(ChangeError):
    """That earlier version is not kept; the message lists those that are."""

    status, code = 409, "no-such-version"


class ModelUnusable(ChangeError):
    """The folder's files cannot be served."""

    status, code = 422, "model-unusable"


class KeysUnusable(ChangeError):
    """The file of API keys cannot be read, or is not valid."""

    status, code = 422, "keys-unusable"


class WeightsUnreadable(ChangeError):
    """The weights folder cannot be listed."""

    status, code = 500, "weights-unreadable"


class Starting(ChangeError):
    """The models are still being loaded at start."""

    status, code = 503, "starting"
