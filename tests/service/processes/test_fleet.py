"""Which versions are refused when a process that loads them dies, hangs or says no."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from service.contract.manifest import Manifest
from service.models.folders import Unusable
from service.processes.control import PARTS, Costs, Loaded, Version, decode_for_engine, encode
from service.processes.control import Load as LoadMessage
from service.processes.fleet import _load_all
from service.processes.members import EngineDied
from service.settings import Settings
from tests.service.artefacts import write_one_shot

NAMES = ("a", "b", "c")


@dataclass
class Member:
    """A process that dies with the version ``fatal``, refuses ``bad`` and loads all others."""

    fatal: str = ""
    bad: str = ""
    usable: bool = True
    loaded: list[str] = field(default_factory=list)

    async def load(self, version: Version) -> Loaded:
        name = version.parsed().name
        if name == self.fatal:
            self.usable = False
        await asyncio.sleep(0)
        if not self.usable:
            raise EngineDied("engine-0")
        if name == self.bad:
            raise Unusable(f"{name} is bad")
        self.loaded.append(name)
        return Loaded(version.number, Costs({1: 2.0}))


@pytest.fixture
def versions(tmp_path: Path) -> list[Version]:
    manifests: list[Manifest] = [write_one_shot(tmp_path, name) for name in NAMES]
    return [
        Version(number, 2 * number, str(tmp_path / manifest.name), manifest.model_dump_json())
        for number, manifest in enumerate(manifests)
    ]


async def load_all(member: Member, versions: list[Version], at_a_time: int) -> tuple[bool, dict[str, str]]:
    refused: dict[str, str] = {}

    def refuse(version: Version, reason: str) -> None:
        refused[version.parsed().name] = reason

    alive = await _load_all(member, versions, at_a_time, refuse, Settings())  # type: ignore[arg-type]
    return alive, refused


async def test_a_version_that_is_refused_leaves_the_others(versions: list[Version]) -> None:
    member = Member(bad="b")
    assert await load_all(member, versions, 3) == (True, {"b": "b is bad"})
    assert [version.parsed().name for version in versions] == ["a", "c"]
    assert [version.costs for version in versions] == [Costs({1: 2.0})] * 2


async def test_of_several_versions_none_is_blamed_for_a_death(versions: list[Version]) -> None:
    alive, refused = await load_all(Member(fatal="b"), versions, 3)
    assert not alive
    assert refused == {}
    assert len(versions) == 3


async def test_a_version_that_was_loaded_alone_is_blamed(versions: list[Version]) -> None:
    alive, refused = await load_all(Member(fatal="b"), versions, 1)
    assert not alive
    assert list(refused) == ["b"]
    assert refused["b"].endswith("the engine process died while it loaded this version")
    assert [version.parsed().name for version in versions] == ["a", "c"]


async def test_the_first_prices_are_kept(versions: list[Version]) -> None:
    for version in versions:
        version.costs = Costs({1: 9.0})
    await load_all(Member(), versions, 3)
    assert [version.costs for version in versions] == [Costs({1: 9.0})] * 3


def test_versions_survive_the_control_channel(versions: list[Version]) -> None:
    version = versions[2]
    version.costs = Costs({1: 0.5, 64: 9.0}, {2: 1.0})
    received = decode_for_engine(encode(LoadMessage(version)))
    assert isinstance(received, LoadMessage)
    assert received.version == version
    assert received.version.parsed() == version.parsed()
    assert len({each.lane + part for each in versions for part in range(PARTS)}) == 3 * PARTS
