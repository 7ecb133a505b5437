"""What people read about the settings: their groups, names, defaults and meanings."""

from typing import Any, NamedTuple

from pydantic import Field

#: Groups of settings, in the order of `Settings`.
GROUPS = ("serving", "connections", "access", "models", "engine", "limits", "jobs", "uploads", "proxies", "logs")


class SettingText(NamedTuple):
    """What people read about one setting. ``unit`` may be empty; ``change`` says when to change the default."""

    group: str
    variable: str
    default: str
    unit: str
    meaning: str
    change: str


def setting(group: str, default: object, meaning: str, change: str, unit: str = "", **constraints: Any) -> Any:  # noqa: ANN401
    """A field of the settings with its texts; ``constraints`` are pydantic's."""
    texts: dict[str, Any] = {"group": group, "unit": unit, "change": change}
    return Field(default=default, description=meaning, json_schema_extra=texts, **constraints)


def variable(name: str) -> str:
    """The environment variable of the setting ``name``."""
    return f"GENSERVE_{name.upper()}"


def shown(default: object) -> str:
    """A default as people write it into the environment."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return f"{default:.10g}"
    return "unset" if default is None else str(default) or "empty"
