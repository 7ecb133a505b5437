"""A cache of resolved requests: a lookup costs a fraction of `resolve`, which every request would pay otherwise."""

from collections.abc import Hashable
from weakref import ref

from service.api.request.resolve import Resolved, resolve
from service.api.request.schemas import GenerateRequest
from service.engine.model import Model
from service.settings import Settings

#: The cache is emptied when it holds this many.
MOST_KEPT = 256

#: Fields that do not change what `resolve` returns.
_IGNORED = frozenset({"seed", "timeout_ms"})
#: Fields of any size: requests with one are not cached.
_LARGE = frozenset({"seeds", "latents", "image", "mask", "control_image", "point", "metadata"})
_LARGE |= {"prompt", "negative_prompt", "lora"}


class ResolvedCache:
    """Resolved requests by model, media type and all fields but seed and timeout_ms; for the event loop only."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept: dict[Hashable, Resolved] = {}

    def of(self, request: GenerateRequest, model: Model, media: str) -> Resolved:
        """``request`` resolved against ``model`` for a response of type ``media``. Raises as ``resolve``."""
        given = request.model_fields_set
        if not _LARGE.isdisjoint(given) or isinstance(request.class_label, list):
            return resolve(request, model, media, self._settings)
        # A weak reference: a model that was replaced is freed with its last request.
        key = ref(model), media, *[(name, getattr(request, name)) for name in given - _IGNORED]
        known = self._kept.get(key)
        if known is None:
            known = resolve(request, model, media, self._settings)
            if len(self._kept) == MOST_KEPT:
                self._kept.clear()
            self._kept[key] = known
        return known
