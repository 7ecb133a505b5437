"""The settings of connections and of the end of the service; ``Settings`` inherits them."""

from functools import partial

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings

from service.settings.texts import setting

_connections = partial(setting, "connections")


class ConnectionSettings(BaseSettings):
    """What connections may cost, and how they end."""

    max_connections: PositiveInt = _connections(
        4096,
        "Maximum number of connections, a fuse far above normal use. Beyond it a new one is answered with 503 and "
        "closed. At most the open files that the system allows, less 256.",
        "If more clients are connected at a time, such as listeners to events.",
        "connections",
    )
    min_read_rate: NonNegativeFloat = _connections(
        4096.0,
        "Slowest rate at which a client may read responses, measured over ten seconds. A slower connection is closed. "
        "0: none is.",
        "If clients have very slow links.",
        "bytes/s",
    )
    max_unread_bytes: PositiveInt = _connections(
        134_217_728,
        "Maximum memory for responses that clients have not read yet. Beyond it the slowest readers' connections are "
        "closed.",
        "If many clients read large responses at a time.",
        "bytes",
    )
    max_arriving_bytes: PositiveInt = _connections(
        134_217_728,
        "Maximum memory for bodies over 64 KiB of which a part has arrived. Beyond it: 503.",
        "If many clients send uploads at a time.",
        "bytes",
    )
    drain_delay_s: NonNegativeFloat = _connections(
        1.0,
        "Time after SIGTERM for which new connections are still accepted, while /health/ready is 503 and responses end "
        "their connections. After SIGINT (Ctrl+C): none.",
        "Behind a load balancer: more than the time between two of its health checks.",
        "s",
    )
    drain_s: PositiveFloat = _connections(
        20.0,
        "Time that accepted requests get to finish after that.",
        "Keep the sum of both below the time after which your supervisor kills the process.",
        "s",
    )
