"""Every setting of the service: an environment variable GENSERVE_<NAME> with a default, a unit and a description.

`python -m service --help` and the tables in docs/OPERATIONS.md are generated from these descriptions.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    DirectoryPath,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import SettingsConfigDict

from service.settings.access import AccessSettings
from service.settings.connections import ConnectionSettings
from service.settings.proxies import ProxySettings
from service.settings.texts import GROUPS, SettingText, setting, shown, variable

#: Its work is shared with the others through a file of so many slots (service/admission/shared.py).
MOST_API_SERVERS = 64

#: What GENSERVE_STORE may be.
STORE = r"^(memory|sqlite:///[^?#]+|rediss?://[^#\s]+)$"

_serving, _models, _engine, _limits, _jobs, _uploads, _logs = (
    partial(setting, group) for group in GROUPS if group not in ("connections", "access", "proxies")
)


class Settings(AccessSettings, ProxySettings, ConnectionSettings):
    """Read once at start by `__main__` and passed on from there."""

    model_config = SettingsConfigDict(env_prefix="GENSERVE_", extra="ignore", frozen=True, allow_inf_nan=False)

    host: str = _serving(
        "127.0.0.1",
        "Address to listen on.",
        "To serve other machines: 0.0.0.0, with GENSERVE_API_KEYS_FILE, and behind a proxy with TLS.",
    )
    port: int = _serving(
        8000, "TCP port to listen on; 0 takes a free one.", "If another service has the port.", ge=0, le=65535
    )
    admin_port: int | None = _serving(
        None,
        "TCP port for the commands that load, reload, roll back and unload models, always on loopback; 0 takes a free "
        "one. Unset: no such port, and only SIGHUP reloads models.",
        "To change models while the service runs: 8001, for example.",
        ge=0,
        le=65535,
    )
    api_servers: int | Literal["auto"] = _serving(
        1,
        "Processes that answer requests; they share the port. auto: one for every four cores.",
        "If small pictures keep one process busy and cores are idle.",
        "processes",
    )
    request_timeout_s: PositiveFloat = _serving(
        60.0,
        "Longest time to answer a request. Then the answer is 504, and the request's work is dropped.",
        "If clients give up earlier, or slow models need longer.",
        "s",
    )
    max_lag_ms: PositiveFloat = _serving(
        50.0,
        "Longest turn of the event loop. If all turns of half a second were longer, new requests get 503 before they "
        "are read, until turns are short again.",
        "Raise it if a slow machine should accept more requests and answer them later.",
        "ms",
    )
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z._-]{1,64}$")] = _serving(
        "unknown", "Commit that runs, for the metric genserve_build_info.", "Image builds set it."
    )

    weights_dir: DirectoryPath = _models(
        Path("weights"),
        "Folder of the models: one sub-folder with a manifest.json for each model.",
        "If the models are elsewhere.",
    )
    watch_s: NonNegativeFloat = _models(
        0.0,
        "Time between two scans of the weights folder for new or replaced manifests, which are then loaded. 0: models "
        "change only on command.",
        "To have exports served without a command: 5, for example.",
        "s",
    )
    signing_keys: str = _models(
        "",
        "Public keys of minisign: files, or the last lines of such files, separated by commas. Then a manifest whose "
        "signature, manifest.json.minisig, is not by one of them is refused. Read again at each change of a model.",
        "To serve only models that you signed: docs/OPERATIONS.md, Signed models.",
    )
    require_signature: bool = _models(
        False,
        "Also refuse models without a signature, and folders in diffusers' format, which cannot have one.",
        "If others can write to the weights folder; needs GENSERVE_SIGNING_KEYS.",
    )

    device: Literal["auto", "cpu", "cuda"] = _engine(
        "auto", "Where models run; auto takes the GPU if torch finds one.", "To keep the service off the GPU: cpu."
    )
    precision: Literal["float32", "bfloat16", "auto"] = _engine(
        "float32",
        "What the networks of models with several steps compute in. bfloat16 gives more pictures per second, and "
        "slightly different ones for the same seed; the device needs instructions for it (AVX-512 BF16 or AMX; a GPU "
        "from Ampere on). auto: bfloat16 where the device has them, else float32. Models of one step ignore it, and so "
        "do folders in diffusers' format: they state theirs.",
        "If throughput matters more than the last grey level: auto. If several machines must give a seed the same "
        "picture: one of the others.",
    )
    engine: Literal["processes", "inline"] = _engine(
        "processes",
        "processes: engines run in processes of their own, beside those that answer requests, and are replaced when "
        "they die or hang. inline: one process does everything.",
        "To serve from a notebook or on a single small core: inline.",
    )
    engines: int = _engine(
        0,
        "Engine processes that share the work. 0: one for each GPU, or one for the CPU.",
        "To test with several engines on a CPU: 2, with GENSERVE_ENGINE_THREADS=1.",
        "processes",
        ge=0,
        le=16,
    )
    spare_engine: bool = _engine(
        True,
        "Keep one more engine process that has loaded all models and takes over at once when an engine dies. Without "
        "it the next one loads them first. On GPUs there is none: their memory holds one copy.",
        "If memory is scarce: false.",
    )
    engine_timeout_s: PositiveFloat | None = _engine(
        None,
        "Longest time that an engine may give no sign of life; then it is killed and replaced. Unset: ten times its "
        "longest forward pass so far, at least 5 s.",
        "If single forward passes take longer.",
        "s",
    )
    load_timeout_s: PositiveFloat = _engine(
        120.0,
        "Longest time to load, warm and check one version of a model. A version that takes longer is refused.",
        "If large models load from a slow disk.",
        "s",
    )
    engine_threads: int = _engine(
        0,
        "Threads that compute on the CPU, each with one torch thread. 0: one for each core, or as many as a "
        "container's CPU quota allows. A GPU always has one.",
        "If other processes need some of the cores.",
        "threads",
        ge=0,
        le=256,
    )
    table_rows: PositiveInt = _engine(
        256,
        "Pictures of one model in progress at a time: many more than one forward pass computes, so that short requests "
        "join while long ones run.",
        "Lower it if large models fill the memory.",
        "rows",
        le=4096,
    )
    max_bucket: PositiveInt = _engine(
        64,
        "Largest batch of one forward pass. Warm-up measures smaller ones too, and chooses for each model.",
        "Lower it if the device runs out of memory, or if deterministic requests take too long.",
        "rows",
        le=1024,
    )
    deterministic: bool = _engine(
        False,
        "Compute every forward pass at GENSERVE_MAX_BUCKET rows, so that a seed gives the same bytes under any load. "
        "A single request then takes as long as a full batch.",
        "If bytes must be reproducible; set GENSERVE_MAX_BUCKET too, to 8 for example.",
    )
    tick_budget_ms: PositiveFloat = _engine(
        25.0,
        "Longest forward pass, which other rows and other models wait for. A model for which small batches cost much "
        "more per row may take longer while it is the only one in use.",
        "Lower it for shorter waits between models, raise it for more pictures per second.",
        "ms",
    )

    max_queue_ms: PositiveFloat = _limits(
        30_000.0,
        "Maximum predicted device time of a model's accepted, unfinished work. Beyond it: 503.",
        "Lower it to reject sooner and to answer accepted requests sooner.",
        "ms",
    )
    max_request_ms: PositiveFloat | None = _limits(
        None,
        "Maximum predicted device time of one request. Beyond it: 422. Unset: half of GENSERVE_MAX_QUEUE_MS, so that "
        "other requests always fit in. One picture with a model's defaults is always accepted; if it takes longer, the "
        "log has a warning.",
        "Raise it for batch work, lower it for interactive use.",
        "ms",
    )
    client_share: PositiveFloat = _limits(
        0.5,
        "Fraction of GENSERVE_MAX_QUEUE_MS, and of GENSERVE_MAX_JOBS in progress, that one client may use: an API key, "
        "or an IP address. Beyond it: 429.",
        "Set 1 behind a proxy that is not in GENSERVE_FORWARDED_ALLOW_IPS: all its clients share one address.",
        "fraction",
        le=1.0,
    )
    max_images: PositiveInt = _limits(
        64,
        "Maximum number of pictures in one request.",
        "If clients need larger or smaller batches.",
        "pictures",
        le=1024,
    )
    max_steps: PositiveInt = _limits(
        1000, "Maximum number of solver steps for one picture.", "To bound the cost of a picture.", "steps"
    )
    max_megapixels: PositiveFloat = _limits(
        4.0,
        "Maximum number of pixels in one response, in millions, after scaling.",
        "If clients need larger grids.",
        "megapixels",
    )
    max_body_bytes: PositiveInt = _limits(
        65_536,
        "Maximum size of a request body without its uploaded pictures.",
        "If clients send large latents.",
        "bytes",
    )
    body_timeout_s: PositiveFloat = _limits(
        10.0, "Longest time for a request body to arrive. Then the answer is 408.", "If clients have slow links.", "s"
    )

    store: Annotated[str, StringConstraints(pattern=STORE)] = _jobs(
        "memory",
        "Where jobs and the answers to Idempotency-Keys are kept: memory; sqlite:///jobs.db, a file that several "
        "processes of one machine share (a path from the root has four slashes: sqlite:////var/lib/genserve/jobs.db); "
        "or redis://:PASSWORD@HOST:6379/0, a server that several machines share (rediss: with TLS). With a file or a "
        "server, jobs that a stop or a crash interrupts are computed again.",
        "If an accepted job must survive a restart, or the service runs on several machines. A file must be on a local "
        "disk.",
    )
    job_timeout_s: PositiveFloat = _jobs(
        600.0,
        "Longest time for a job or a stream of events, in place of GENSERVE_REQUEST_TIMEOUT_S: no silent connection "
        "waits for these.",
        "If jobs need longer.",
        "s",
    )
    job_keep_s: PositiveFloat = _jobs(
        600.0,
        "Time for which an ended job, or the answer to an Idempotency-Key, is kept.",
        "If clients fetch results later.",
        "s",
    )
    max_jobs: PositiveInt = _jobs(
        1000,
        "Maximum number of kept jobs, and of answers to Idempotency-Keys. If there are more, the client "
        "that has most loses those that ended first.",
        "If many clients use jobs.",
        "jobs",
    )
    job_bytes: PositiveInt = _jobs(
        67_108_864,
        "Maximum space for ended jobs, and as much again for answers to Idempotency-Keys.",
        "If results are large.",
        "bytes",
    )

    max_image_bytes: PositiveInt = _uploads(
        5_000_000,
        "Maximum file size of one uploaded picture. The default holds GENSERVE_MAX_IMAGE_MEGAPIXELS of noise as a PNG.",
        "Raise it together with GENSERVE_MAX_IMAGE_MEGAPIXELS.",
        "bytes",
    )
    max_image_megapixels: PositiveFloat = _uploads(
        1.05,
        "Maximum number of pixels of one uploaded picture, in millions. The default accepts 1024 x 1024.",
        "If clients send photos as they are.",
        "megapixels",
        le=256.0,
    )
    max_waiting_bytes: PositiveInt = _uploads(
        268_435_456,
        "Maximum memory for uploads and latents of all accepted requests. An upload counts until it is decoded. "
        "Beyond it: 503.",
        "If many uploads wait at a time.",
        "bytes",
    )
    decoders: PositiveInt = _uploads(
        2,
        "Processes that decode uploaded pictures, started on first use, and threads that read large bodies. A process "
        "needs 15 MB, and while it decodes up to 192 MiB + 64 bytes per allowed pixel.",
        "If uploads wait while cores are idle.",
        "processes",
        le=64,
    )
    decode_queue: int = _uploads(
        16,
        "Maximum number of uploads and large bodies that wait for a decoder. Beyond it: 503.",
        "If uploads come in bursts.",
        "uploads",
        ge=0,
        le=1024,
    )
    decode_cpu_s: PositiveFloat = _uploads(
        2.0,
        "Maximum processor time for decoding one uploaded picture. Beyond it: 400.",
        "If the machine is slow or larger pictures are allowed.",
        "s",
    )

    log_level: Literal["debug", "info", "warning", "error"] = _logs(
        "info", "Least severe level that is logged.", "Set debug to log requests for health and metrics too."
    )
    log_format: Literal["auto", "json", "text"] = _logs(
        "auto",
        "json: one JSON object per line. text: short lines for people, with the time of day. auto: text if standard "
        "error is a terminal, else json.",
        "If a program reads the terminal: json.",
    )
    access_log: bool = _logs(
        True, "Log a line for each request, at level info.", "Set false if a proxy logs the requests."
    )

    @field_validator("api_servers")
    @classmethod
    def _check_api_servers(cls, servers: int | str) -> int | str:
        if servers != "auto" and not 1 <= int(servers) <= MOST_API_SERVERS:
            raise ValueError(f"expected auto or a number from 1 to {MOST_API_SERVERS}, not {servers}")
        return servers

    @property
    def store_path(self) -> Path | None:
        """The file of the store; None for memory and Redis."""
        path = self.store.removeprefix("sqlite:///")
        return None if path == self.store else Path(path)

    @property
    def processes(self) -> int:
        """The API processes that share limits; the supervisor tells them what "auto" is."""
        return 1 if self.engine == "inline" or self.api_servers == "auto" else self.api_servers

    @property
    def request_limit_ms(self) -> float:
        """Limit of one request's predicted device time, in milliseconds."""
        return self.max_queue_ms / 2 if self.max_request_ms is None else self.max_request_ms

    def buckets(self) -> tuple[int, ...]:
        """Batch sizes that warm-up measures. On a GPU, or if ``deterministic``, only these sizes are computed."""
        if self.deterministic:
            return (self.max_bucket,)
        powers = {1 << power for power in range(self.max_bucket.bit_length())}
        return tuple(sorted({*powers, self.max_bucket}))

    @classmethod
    def texts(cls) -> Sequence[SettingText]:
        """The texts of all settings, group by group."""
        return sorted(map(_text, cls.model_fields.items()), key=lambda text: GROUPS.index(text.group))


def _text(setting: tuple[str, FieldInfo]) -> SettingText:
    name, field = setting
    assert isinstance(field.json_schema_extra, dict)
    group, unit, change = (str(field.json_schema_extra[key]) for key in ("group", "unit", "change"))
    return SettingText(group, variable(name), shown(field.default), unit, str(field.description), change)
