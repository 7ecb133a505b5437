"""The models of the engine's own tests."""

from tests.service.engine.conftest import registry

__all__ = ["registry"]
