"""Schemas of JSON answers."""

from typing import Literal

from pydantic import BaseModel, Field

from service.api.http.problem import Problem
from service.api.request.schemas import Params
from service.api.response.measures import Code, Path


class Timings(BaseModel):
    """Duration of each stage, in milliseconds."""

    queue_ms: float
    compute_ms: float
    encode_ms: float
    total_ms: float = Field(description="From the request's arrival until the pictures were encoded.")
    ms_per_step: float | None = Field(description="compute_ms per step; null for a model without steps.")


class Picture(BaseModel):
    """One picture of an answer."""

    index: int
    seed: int | None = Field(description="Reproduces this picture alone; null for a frame between two seeds.")
    class_label: str | None
    b64_json: str = Field(description="The file, base64.")
    mime: Literal["image/png"]
    width: int
    height: int


class PicturesAnswer(BaseModel):
    """The JSON form of an answer."""

    id: str = Field(description="The X-Request-Id.")
    object: Literal["generation", "interpolation", "encoding", "latent-map"]
    created: int = Field(description="Seconds since 1970, UTC.")
    model: str
    model_version: str
    images: list[Picture]
    params: Params = Field(description="The body with all defaults filled in: sent again, it gives the same pictures.")
    warnings: list[str] = Field(description="Changes to the input that were not asked for, such as resampling.")
    metadata: dict[str, str]
    timings: Timings
    reproduce: str = Field(description="A curl command that reproduces the pictures.")
    path: Path | None = Field(default=None, description="Only of an interpolation.")
    codes: list[Code] | None = Field(default=None, description="Only of an encoding.")


class InspectAnswer(BaseModel):
    """The parameters in a PNG, and commands that reproduce it."""

    model: str
    model_version: str
    path: str
    params: Params
    served_version: str | None = Field(
        description="The version that is served now; another version gives other pictures."
    )
    curl: str = Field(description="A command that reproduces the picture.")
    python: str = Field(description="The same in Python, with its standard library only.")


class JobUrls(BaseModel):
    """The URLs of a job."""

    self: str
    result: str
    events: str
    cancel: str


class JobStatus(BaseModel):
    """State and progress of a job."""

    id: str
    status: Literal["queued", "running", "succeeded", "failed", "canceled"]
    model: str
    created: int = Field(description="Seconds since 1970, UTC.")
    progress: float = Field(description="Fraction that is done, 0 to 1.")
    step: int = Field(description="Steps taken, averaged over its pictures.")
    steps: int = Field(description="Steps of each picture; 0 for a model without steps.")
    queue_position: int = Field(
        description="Pictures of other requests before its next one; 0 when it is next or running."
    )
    eta_ms: float | None = Field(description="Estimated milliseconds until it is done, from recent throughput.")
    params: Params = Field(description="As in the JSON answer.")
    error: Problem | None = Field(description="The error of a failed or canceled job.")
    urls: JobUrls


class JobList(BaseModel):
    """The jobs of one client."""

    jobs: list[JobStatus]
