import pytest

from trainer.objectives.text import TextObjective
from trainer.run.loop import TrainingRun


@pytest.fixture(scope="session")
def text_objective(text_run: TrainingRun) -> TextObjective:
    assert isinstance(text_run.objective, TextObjective)
    return text_run.objective
