"""The settings of a service behind a proxy."""

import re
from functools import partial
from ipaddress import ip_network
from urllib.parse import urlsplit

from pydantic import PositiveFloat, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

from service.settings.texts import setting

#: A path without a trailing slash: empty, or segments of characters that need no escaping in a URL.
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_PUBLIC_URL = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?" + _PATH.pattern)

_proxies = partial(setting, "proxies")


class ProxySettings(BaseSettings):
    """What a service behind a proxy must know."""

    public_url: str = _proxies(
        "",
        "URL under which clients reach the service, such as https://example.org/pictures. Used in links, redirects and "
        "the page's commands. Empty: scheme and Host of each request.",
        "If the service is behind a proxy.",
    )
    root_path: str = _proxies(
        "",
        "Path under which a proxy serves the service, such as /pictures. The proxy may remove it from requests or not. "
        "Empty: the path of GENSERVE_PUBLIC_URL.",
        "If a proxy serves several hosts, so that GENSERVE_PUBLIC_URL cannot be set.",
        validate_default=True,
    )
    forwarded_allow_ips: str = _proxies(
        "",
        "Proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted: addresses and networks, separated by commas; "
        "* trusts every sender. Empty: none.",
        "If the service is behind a proxy. Use * only where nothing but the proxy can connect.",
    )
    keep_alive_s: PositiveFloat = _proxies(
        75.0,
        "Time that an idle connection stays open.",
        "Keep it above the proxy's own time (60 s in most): a proxy does not resend a POST when the service closes the "
        "connection first.",
        "s",
    )

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, url: str) -> str:
        if url and not _PUBLIC_URL.fullmatch(url.rstrip("/")):
            raise ValueError(f"expected a URL such as https://example.org or https://example.org/pictures, not {url!r}")
        return url.rstrip("/")

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, path: str, info: ValidationInfo) -> str:
        public = urlsplit(info.data.get("public_url", ""))
        path = path.rstrip("/")
        if not _PATH.fullmatch(path):
            raise ValueError(f"expected a path such as /pictures, not {path!r}")
        if path and public.netloc and path != public.path:
            raise ValueError(f"{path!r} is not the path of GENSERVE_PUBLIC_URL, which is {public.path!r}")
        return path or public.path

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _check_proxies(cls, proxies: str) -> str:
        if proxies not in ("", "*"):
            for proxy in proxies.split(","):
                ip_network(proxy.strip())  # raises ValueError with a clear message
        return proxies
