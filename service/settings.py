"""Every knob of the service, as an environment variable GENSERVE_<NAME>, with its default and its reason."""

import os
from pathlib import Path
from typing import Literal

from pydantic import DirectoryPath, Field, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Read once, at start, by `__main__`; handed down from there."""

    model_config = SettingsConfigDict(env_prefix="GENSERVE_", extra="ignore", frozen=True, allow_inf_nan=False)

    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on. Loopback unless asked: the service has no authentication of its own.",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one.")
    weights_dir: DirectoryPath = Field(
        default=Path("weights"), description="Folder of the models, one folder with a manifest.json each."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where models compute; auto takes the GPU where torch finds one."
    )
    engine_threads: int = Field(
        default=0,
        ge=0,
        le=256,
        description="Threads that compute on the CPU, with one torch thread each; 0 means one for every core. "
        "A GPU is always owned by one thread.",
    )
    table_rows: PositiveInt = Field(
        default=256,
        le=4096,
        description="Pictures of one model under way at a time. Many more than one tick computes, so that short jobs "
        "join while long ones run.",
    )
    max_bucket: PositiveInt = Field(
        default=16,
        le=1024,
        description="Most rows in one network call. 16 suits a CPU; raise it on a GPU. Warm-up may choose less.",
    )
    tick_budget_ms: PositiveFloat = Field(
        default=25.0,
        description="Longest call of one model while another model's rows wait for the same device.",
    )
    max_queue_ms: PositiveFloat = Field(
        default=30_000.0,
        description="Predicted device time that a model may have accepted and not finished; beyond it: 503.",
    )
    request_timeout_s: PositiveFloat = Field(
        default=60.0, description="Longest wait for an answer; then 504, and the request's work is dropped."
    )
    drain_s: PositiveFloat = Field(
        default=20.0, description="After SIGTERM, how long accepted requests may take to finish."
    )
    max_images: PositiveInt = Field(default=64, le=1024, description="Most pictures in one request.")
    max_steps: PositiveInt = Field(default=1000, description="Most solver steps for one picture.")
    max_megapixels: PositiveFloat = Field(
        default=4.0, description="Most pixels in one answer, in millions, after enlarging."
    )
    max_body_bytes: PositiveInt = Field(default=65_536, description="Largest request body.")
    body_timeout_s: PositiveFloat = Field(
        default=10.0, description="Longest time that a request's body may take to arrive; then 408."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe message that is logged."
    )

    def cpu_threads(self) -> int:
        """Engine threads on a CPU."""
        return self.engine_threads or len(os.sched_getaffinity(0))
