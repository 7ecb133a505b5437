"""What answers look like."""

from typing import Literal

from pydantic import BaseModel, Field

from service.api.http.problem import Problem
from service.api.request.schemas import Params
from service.api.response.measures import Code, Path


class Timings(BaseModel):
    """Where the time went, in milliseconds."""

    queue_ms: float
    compute_ms: float
    encode_ms: float
    total_ms: float = Field(description="From the request's arrival until the pictures were encoded.")
    ms_per_step: float | None = Field(description="Of computing; none where the model takes no steps.")


class Picture(BaseModel):
    """One picture of an answer."""

    index: int
    seed: int | None = Field(description="What makes this picture again alone; none for a frame between two seeds.")
    class_label: str | None
    b64_json: str = Field(description="The file, base64.")
    mime: Literal["image/png"]
    width: int
    height: int


class PicturesAnswer(BaseModel):
    """The JSON form of an answer."""

    id: str = Field(description="That of X-Request-Id.")
    object: Literal["generation", "interpolation", "encoding", "latent-map"]
    created: int = Field(description="Seconds since 1970, UTC.")
    model: str
    model_version: str
    images: list[Picture]
    params: Params = Field(description="The body with every default in: sent again, it makes the same pictures.")
    warnings: list[str] = Field(description="What was done to the request that it did not ask for.")
    metadata: dict[str, str]
    timings: Timings
    reproduce: str = Field(description="A curl command that makes the same pictures.")
    path: Path | None = Field(default=None, description="Of an interpolation.")
    codes: list[Code] | None = Field(default=None, description="Of an encoding.")


class InspectAnswer(BaseModel):
    """What a PNG says of itself, and how to make it again."""

    model: str
    model_version: str
    path: str
    params: Params
    served_version: str | None = Field(description="The version that is served here; with another, other pictures.")
    curl: str = Field(description="A command that makes the picture again.")
    python: str = Field(description="The same in Python, with its standard library only.")


class JobUrls(BaseModel):
    """Where to ask about a job."""

    self: str
    result: str
    events: str
    cancel: str


class JobStatus(BaseModel):
    """A job, as far as it is."""

    id: str
    status: Literal["queued", "running", "succeeded", "failed", "canceled"]
    model: str
    created: int = Field(description="Seconds since 1970, UTC.")
    progress: float = Field(description="The part that is done, 0 to 1.")
    step: int = Field(description="Steps that its pictures have taken, in the mean.")
    steps: int = Field(description="Steps that each of them takes; 0 where the model takes none.")
    queue_position: int = Field(description="Pictures of others that go before its next one; 0: it is next, or runs.")
    eta_ms: float | None = Field(description="Milliseconds until it is done, by how fast the model was of late.")
    params: Params = Field(description="As in the JSON answer.")
    error: Problem | None = Field(description="What a failed or canceled job ended with.")
    urls: JobUrls


class JobList(BaseModel):
    """The jobs of one client."""

    jobs: list[JobStatus]
