"""The settings of who may use the service."""

import re
from functools import partial
from ipaddress import ip_address
from pathlib import Path

from pydantic import PositiveInt, field_validator
from pydantic_settings import BaseSettings

from service.settings.texts import setting

_access = partial(setting, "access")

_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")
_HOST = re.compile(r"[a-z0-9.-]+|\[[0-9a-f:.]+\]")


class AccessSettings(BaseSettings):
    """Who may use the service."""

    api_keys_file: Path | None = _access(
        None,
        "File of API keys; with it, requests need one of them. `genserve key new NAME` makes a key and its line. Read "
        "again on SIGHUP and on `genserve reload`. Unset: everyone who can connect may use the service.",
        "To serve other machines, or to give clients their own shares.",
    )
    allow_anonymous: bool = _access(
        False,
        "Start without GENSERVE_API_KEYS_FILE on an address that other machines can reach.",
        "If something else decides who connects: a proxy with accounts, or a container's port published on loopback.",
    )
    allowed_hosts: str = _access(
        "",
        "Names that the header Host may have, separated by commas; * is any. IP addresses, localhost and the host of "
        "GENSERVE_PUBLIC_URL are always allowed. Empty: no other name if GENSERVE_HOST is loopback, else any. It keeps "
        "out web pages whose name is made to lead to this machine (DNS rebinding).",
        "If a proxy on this machine keeps the Host of its clients, or to close a service on a network.",
    )
    cors_origins: str = _access(
        "",
        "Origins whose web pages may use the service, such as https://example.org, separated by commas; * is any. "
        "Empty: only the service's own pages.",
        "If a web page on another host shall generate pictures.",
    )
    client_streams: PositiveInt = _access(
        64,
        "Maximum number of event streams of jobs that one client, an API key or an IP address, follows in an API "
        "process. Beyond it: 429.",
        "If one address stands for many users.",
        "streams",
    )

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, hosts: str) -> str:
        return _checked(hosts, _HOST, "a name such as example.org, without a port")

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: str) -> str:
        return _checked(origins, _ORIGIN, "an origin such as https://example.org, without a path")


def _checked(text: str, pattern: re.Pattern[str], expected: str) -> str:
    found = listed(text)
    for each in found:
        if each != "*" and not pattern.fullmatch(each):
            raise ValueError(f"expected {expected}, or *, not {each!r}")
    return ",".join(found)


def listed(text: str) -> list[str]:
    """The entries of a list that is separated by commas, in lower case."""
    return [each.strip().lower() for each in text.split(",") if each.strip()]


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to that address to listen on."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
