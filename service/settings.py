"""Every knob of the service, as an environment variable GENSERVE_<NAME>, with its default and its reason."""

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    DirectoryPath,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

#: A path without its last slash: empty, or segments of characters that stand for themselves in a URL.
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_PUBLIC_URL = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?" + _PATH.pattern)


class Settings(BaseSettings):
    """Read once, at start, by `__main__`; handed down from there."""

    model_config = SettingsConfigDict(env_prefix="GENSERVE_", extra="ignore", frozen=True, allow_inf_nan=False)

    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on. Loopback unless asked: the service has no authentication of its own.",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one.")
    admin_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="TCP port of the commands that load, reload, roll back and unload models, on loopback whatever the "
        "host is; 0 takes a free one. None: there is none, and only SIGHUP reloads.",
    )
    public_url: str = Field(
        default="",
        description="URL that clients reach the service under, such as https://example.org/pictures, for commands, "
        "redirects and the page. Empty: the scheme and the Host of each request.",
    )
    root_path: str = Field(
        default="",
        validate_default=True,
        description="Path that a proxy serves the service under, such as /pictures, whether the proxy removes it from "
        "requests or not. Empty: that of the public URL.",
    )
    forwarded_allow_ips: str = Field(
        default="",
        description="Proxies, as addresses and networks with commas between them, whose X-Forwarded-For and "
        "X-Forwarded-Proto are believed; * for any sender, which is safe only where nothing else can connect. "
        "Empty: none.",
    )
    keep_alive_s: PositiveFloat = Field(
        default=75.0,
        description="Seconds that a connection stays open between two requests. Proxies keep theirs for 60 s and do "
        "not send a POST again when one is closed under it, so it has to be longer than a proxy's own time.",
    )
    weights_dir: DirectoryPath = Field(
        default=Path("weights"), description="Folder of the models, one folder with a manifest.json each."
    )
    watch_s: NonNegativeFloat = Field(
        default=0.0,
        description="Seconds between two looks for manifests that are new or were replaced, which are then loaded; 0: "
        "models change only when told to.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where models compute; auto takes the GPU where torch finds one."
    )
    engine_threads: int = Field(
        default=0,
        ge=0,
        le=256,
        description="Threads that compute on the CPU, with one torch thread each; 0 means one for every core, "
        "or as many as a container's quota is worth. "
        "A GPU is always owned by one thread.",
    )
    table_rows: PositiveInt = Field(
        default=256,
        le=4096,
        description="Pictures of one model under way at a time. Many more than one tick computes, so that short jobs "
        "join while long ones run.",
    )
    max_bucket: PositiveInt = Field(
        default=64,
        le=1024,
        description="Most rows in one network call. Warm-up measures smaller ones too, and chooses for each model.",
    )
    deterministic: bool = Field(
        default=False,
        description="Compute every network call at max_bucket rows, so that a seed gives the same bytes whatever else "
        "is computed with it. A lone request then takes as long as a full call: choose max_bucket with care, 8 say.",
    )
    tick_budget_ms: PositiveFloat = Field(
        default=25.0,
        description="Longest network call: what a model's rows, and another model's on the same device, wait for. A "
        "model so slow that small calls cost much more a row takes longer ones while it is alone.",
    )
    max_queue_ms: PositiveFloat = Field(
        default=30_000.0,
        description="Predicted device time that a model may have accepted and not finished; beyond it: 503.",
    )
    max_request_ms: PositiveFloat | None = Field(
        default=None,
        description="Predicted device time that one request may take; beyond it: 422. None: half of max_queue_ms, so "
        "that others find room beside any request. One picture with a model's defaults is never refused for it.",
    )
    max_lag_ms: PositiveFloat = Field(
        default=50.0,
        description="Longest turn of the event loop. Where turns were longer for half a second, more requests come "
        "than can be read: 503 at once, until turns are short again.",
    )
    client_share: PositiveFloat = Field(
        default=0.5,
        le=1.0,
        description="Part of that which one client, told by its address, may have; beyond it: 429. Behind a proxy all "
        "clients share its address: set GENSERVE_FORWARDED_ALLOW_IPS there, or 1.",
    )
    request_timeout_s: PositiveFloat = Field(
        default=60.0, description="Longest wait for an answer; then 504, and the request's work is dropped."
    )
    drain_s: PositiveFloat = Field(
        default=20.0, description="After SIGTERM, how long accepted requests may take to finish."
    )
    job_timeout_s: PositiveFloat = Field(
        default=600.0,
        description="The same for a job, and for an answer as events: neither waits on a silent connection.",
    )
    job_keep_s: PositiveFloat = Field(
        default=600.0, description="For how long a job that ended is kept, and the answer to an Idempotency-Key."
    )
    max_jobs: PositiveInt = Field(
        default=1000, description="Most jobs, and most answers to Idempotency-Keys; those that ended first go first."
    )
    job_bytes: PositiveInt = Field(
        default=67_108_864, description="Most memory for jobs that ended, and as much again for answers to keys."
    )
    max_images: PositiveInt = Field(default=64, le=1024, description="Most pictures in one request.")
    max_steps: PositiveInt = Field(default=1000, description="Most solver steps for one picture.")
    max_megapixels: PositiveFloat = Field(
        default=4.0, description="Most pixels in one answer, in millions, after enlarging."
    )
    max_body_bytes: PositiveInt = Field(
        default=65_536, description="Largest request body, beside the pictures that are uploaded in it."
    )
    max_image_bytes: PositiveInt = Field(
        default=5_000_000,
        description="Largest file of one uploaded picture; enough for max_image_megapixels of noise as a PNG.",
    )
    max_image_megapixels: PositiveFloat = Field(
        default=1.05,
        le=256.0,
        description="Most pixels of one uploaded picture, in millions, by its header. The default takes 1024 x 1024.",
    )
    decoders: PositiveInt = Field(
        default=2,
        le=64,
        description="Processes that decode uploaded pictures, each started at its first one, and threads that read "
        "large bodies. A process takes 15 MB, and up to 192 MiB + 64 bytes for each pixel allowed while it decodes.",
    )
    decode_queue: int = Field(
        default=16,
        ge=0,
        le=1024,
        description="Uploaded pictures and large bodies that may wait for one of the decoders; beyond it: 503.",
    )
    decode_cpu_s: PositiveFloat = Field(
        default=2.0, description="Most processor time for decoding one uploaded picture, in seconds; then 400."
    )
    max_waiting_bytes: PositiveInt = Field(
        default=268_435_456,
        description="Most bytes of uploads and latents that all accepted requests together may hold until they are "
        "computed; beyond it: 503. An upload is dropped as soon as it is decoded.",
    )
    body_timeout_s: PositiveFloat = Field(
        default=10.0, description="Longest time that a request's body may take to arrive; then 408."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe message that is logged."
    )
    access_log: bool = Field(
        default=True,
        description="Whether each request has its line in the log; those for health and metrics do at log level debug.",
    )
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z._-]{1,64}$")] = Field(
        default="unknown", description="Which commit runs, for genserve_build_info; image builds set it."
    )

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, url: str) -> str:
        if url and not _PUBLIC_URL.fullmatch(url.rstrip("/")):
            raise ValueError(f"a URL such as https://example.org or https://example.org/pictures, not {url!r}")
        return url.rstrip("/")

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, path: str, info: ValidationInfo) -> str:
        public = urlsplit(info.data.get("public_url", ""))
        path = path.rstrip("/")
        if not _PATH.fullmatch(path):
            raise ValueError(f"a path such as /pictures, not {path!r}")
        if path and public.netloc and path != public.path:
            raise ValueError(f"{path!r} is not the path of GENSERVE_PUBLIC_URL, which is {public.path!r}")
        return path or public.path

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _check_proxies(cls, proxies: str) -> str:
        if proxies not in ("", "*"):
            for proxy in proxies.split(","):
                ip_network(proxy.strip())  # raises ValueError, which names what is wrong
        return proxies

    @property
    def request_limit_ms(self) -> float:
        """Predicted device time that one request may take."""
        return self.max_queue_ms / 2 if self.max_request_ms is None else self.max_request_ms

    def buckets(self) -> tuple[int, ...]:
        """Numbers of rows that network calls are measured at, and on a GPU or when deterministic computed at."""
        if self.deterministic:
            return (self.max_bucket,)
        powers = {1 << power for power in range(self.max_bucket.bit_length())}
        return tuple(sorted({*powers, self.max_bucket}))
