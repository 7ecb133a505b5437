"""The engine's fixtures: what manages models is tested on the same ones."""

from tests.service.engine.conftest import diffusion, diffusion_with, one_shot, registry, running

__all__ = ["diffusion", "diffusion_with", "one_shot", "registry", "running"]
