"""The inputs of a model's rows: what each is conditioned on, preallocated with one slot per row.

Whole numbers are in arrays on the host, as everything that a tick looks up; numbers such as a prompt's embedding are
on the model's device.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.contract.pipeline import Conditioning
from service.engine.rows import Adapter, Conditions, RowSpec
from service.sampling.step import Inputs

Slots = npt.NDArray[np.int64]


class Input(NamedTuple):
    """One input, float32 of ``shape`` without the batch.

    ``negative``: guidance leads away from another value of it; otherwise from the row's own. A row may lack what is
    ``optional``, and a call in which all rows lack it is made without it.
    """

    shape: tuple[int, ...]
    negative: bool = False
    optional: bool = False


#: The input of models with classes, the only one of int64: ``RowSpec.label`` and ``RowSpec.negative_label``.
LABEL = "label"
NEGATIVE_LABEL = "negative label"
CLASSES: Mapping[str, Input] = {LABEL: Input((), negative=True)}
_NONE = Conditions({})


def declared_by(conditioning: Conditioning) -> dict[str, Input]:
    """The inputs of a model's rows: those that prompts give, and the others, of which drawings may be missing."""
    text = {name: Input(shape, negative=True) for name, shape in conditioning.text.items()}
    others = {
        name: Input(shape, negative=name == LABEL, optional=name.startswith("hint"))
        for name, shape in conditioning.inputs.items()
    }
    return text | others


def check_conditions(declared: Mapping[str, Input], spec: RowSpec) -> None:
    """Raise ValueError, naming the input, where ``spec`` lacks one or has another, or one of another shape."""
    given = spec.conditions or _NONE
    tensors = {name: each for name, each in declared.items() if name != LABEL}
    _check(tensors, given.inputs, {name for name, each in tensors.items() if not each.optional})
    negative = {name: each for name, each in tensors.items() if each.negative}
    _check(negative, given.negative, set(negative) if spec.weight > 1 else set())


def _check(declared: Mapping[str, Input], given: Inputs, required: set[str]) -> None:
    for name in sorted(required - given.keys()):
        raise ValueError(f"{name}: this input is missing")
    for name, tensor in given.items():
        if name not in declared:
            raise ValueError(f"{name}: the model has no such input, only {', '.join(declared) or 'none'}")
        if tensor.shape != declared[name].shape or tensor.dtype != torch.float32:
            raise ValueError(f"{name}: {tensor.dtype} of {tuple(tensor.shape)}, not float32 of {declared[name].shape}")


def bytes_per_row(declared: Mapping[str, Input]) -> int:
    """Device bytes of one row's inputs."""
    return sum(
        4 * math.prod(each.shape) * (2 if each.negative else 1) for name, each in declared.items() if name != LABEL
    )


class InputTable:
    """The inputs of ``rows`` slots, as the model has ``declared`` them; ``adapts``: whether rows may have a LoRA."""

    def __init__(
        self, declared: Mapping[str, Input], rows: int, device: torch.device, null_label: int, *, adapts: bool
    ) -> None:
        self._label = np.zeros(rows, dtype=np.int64)
        self._negative_label = np.zeros(rows, dtype=np.int64)
        self._null_label = null_label
        self._has_label = LABEL in declared
        tensors = {name: each for name, each in declared.items() if name != LABEL}
        self._tensors = {name: torch.zeros((rows, *each.shape), device=device) for name, each in tensors.items()}
        self._negative = {
            name: torch.zeros((rows, *each.shape), device=device) for name, each in tensors.items() if each.negative
        }
        #: The steps in which an optional input acts, (rows, 2): the first, and one after the last; 0, 0 without it.
        self._windows = {name: np.zeros((rows, 2), dtype=np.int64) for name, each in tensors.items() if each.optional}
        #: Whether rows have more than a class.
        self.conditioned = adapts or bool(tensors)
        self._adapters: list[Adapter | None] = [None] * rows
        self._adapted = np.zeros(rows, dtype=np.bool_)

    def note(self, slots: Slots, specs: Sequence[RowSpec]) -> None:
        """Copy what the host needs of rows that get these slots."""
        self._label[slots] = [spec.label for spec in specs]
        if not self.conditioned:
            return
        conditions = [spec.conditions for spec in specs]
        self._adapted[slots] = [each is not None and each.adapter is not None for each in conditions]
        for slot, each in zip(slots.tolist(), conditions, strict=True):
            if each is not None:
                self._adapters[slot] = each.adapter
        for name, windows in self._windows.items():
            windows[slots] = [_window(name, each) for each in conditions]

    def note_negative(self, slots: Slots, specs: Sequence[RowSpec]) -> None:
        """As ``note``, of what guidance leads away from."""
        labels = [spec.negative_label for spec in specs]
        self._negative_label[slots] = [self._null_label if label is None else label for label in labels]

    def fill(self, slot: int, given: Conditions) -> None:
        """Copy the tensors of a row that begins to its slot on the device."""
        for name, tensor in given.inputs.items():
            self._tensors[name][slot].copy_(tensor)
        for name, tensor in given.negative.items():
            self._negative[name][slot].copy_(tensor)

    def columns(self, slots: Slots, step: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        """The host's part of the inputs of ``slots``; ``step`` is the step of every slot of the table.

        ``label``; and by optional input, "no" and its name: the places in ``slots`` of the rows without it.
        """
        columns = {LABEL: torch.from_numpy(self._label[slots])} if self._has_label else {}
        if not self.conditioned:
            return columns
        for name, windows in self._windows.items():
            (first, last), now = windows[slots].T, step[slots]
            columns[f"no {name}"] = torch.from_numpy(np.flatnonzero((now < first) | (now >= last)))
        return columns

    def add_negative_columns(self, columns: dict[str, Tensor], slots: Slots) -> None:
        """Add to ``columns`` what guidance leads the rows in ``slots`` away from."""
        if self._has_label:
            columns[NEGATIVE_LABEL] = torch.from_numpy(self._negative_label[slots])

    def gather(self, index: Tensor, sent: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs (rows, ...) of the slots in ``index``; ``sent`` are their columns, on the device."""
        inputs = {LABEL: sent[LABEL]} if self._has_label else {}
        if not self.conditioned:
            return inputs
        for name, tensor in self._tensors.items():
            absent = sent.get(f"no {name}")
            if absent is None or not len(absent):
                inputs[name] = tensor[index]
            elif len(absent) < len(index):  # what an earlier row left in the slot must not act
                inputs[name] = tensor[index].index_fill_(0, absent, 0.0)
        return inputs

    def gather_negative(self, index: Tensor, guided: Tensor, sent: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs (guided, ...) that guidance leads away from, of the ``guided`` places of ``index``."""
        negative = {LABEL: sent[NEGATIVE_LABEL]} if self._has_label else {}
        for name, tensor in self._negative.items():
            negative[name] = tensor[index[guided]]
        return negative

    def adapters(self, slots: Slots) -> Sequence[Adapter | None]:
        """The LoRA of each row, () if none has one."""
        adapted = self._adapted[slots]
        if not np.count_nonzero(adapted):
            return ()
        return [self._adapters[slot] if has else None for slot, has in zip(slots.tolist(), adapted, strict=True)]


def _window(name: str, conditions: Conditions | None) -> tuple[int, int]:
    if conditions is None or name not in conditions.inputs:
        return 0, 0
    return conditions.windows.get(name, (0, np.iinfo(np.int64).max))
