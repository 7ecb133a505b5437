"""What requests for pictures mean, kept: those that differ in their seed alone mean the same."""

from collections.abc import Hashable
from weakref import ref

from service.api.request.resolve import Resolved, resolve
from service.api.request.schemas import GenerateRequest
from service.engine.model import Model
from service.settings import Settings

#: ResolvedCache that are kept at a time.
MOST_KEPT = 256

#: Fields that change nothing of what a request means: how its pictures are named, and for how long they are of use.
_INDIFFERENT = frozenset({"seed", "timeout_ms"})
#: Fields of any size, whose meaning is not kept.
_LARGE = frozenset({"seeds", "latents", "image", "mask", "point", "metadata"})


class ResolvedCache:
    """Requests against their models, under ``settings``; used on the event loop only.

    To work a meaning out takes several times as long as to look it up, and it is on every request's way.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept: dict[Hashable, Resolved] = {}

    def of(self, request: GenerateRequest, model: Model, media: str) -> Resolved:
        """``request`` resolved against ``model``, and fit for an answer of type ``media``.

        Raises as ``resolve``.
        """
        given = request.model_fields_set
        if not _LARGE.isdisjoint(given) or isinstance(request.class_label, list):
            return resolve(request, model, media, self._settings)
        # A model that is replaced must go with its last request, so it is only referred to.
        key = ref(model), media, *[(name, getattr(request, name)) for name in given - _INDIFFERENT]
        known = self._kept.get(key)
        if known is None:
            known = resolve(request, model, media, self._settings)
            if len(self._kept) == MOST_KEPT:
                self._kept.clear()
            self._kept[key] = known
        return known
