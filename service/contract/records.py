"""The records that manifests consist of, and files that are named by their hash."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, PositiveInt, StringConstraints, model_validator

#: The index of a folder in diffusers' format. Its manifest is made from it in memory; see service.models.diffusers.
DIFFUSERS_FILE = "model_index.json"

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """Immutable, and strict: other fields are errors, and so are values of another type."""

    # NaN is not valid JSON, and a loss or score of NaN means a broken model.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class HashedFile(Record):
    """A file named after the first eight characters of its SHA-256; `size` in bytes."""

    file: str
    size: PositiveInt
    sha256: Sha256

    @model_validator(mode="after")
    def _named_by_its_hash(self) -> Self:
        if f"-{self.sha256[:8]}." not in self.file and self.file != DIFFUSERS_FILE:
            raise ValueError(f"file {self.file} is not named by its sha256 {self.sha256[:8]}...")
        return self
