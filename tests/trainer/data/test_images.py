import pytest
import torch

from trainer.data import Remark, printable, to_unit_range


def test_bytes_become_the_unit_range() -> None:
    levels = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1, 1)
    assert to_unit_range(levels).flatten().tolist() == pytest.approx([-1.0, -0.6, 1.0], abs=1e-6)
    assert levels.flatten().tolist() == [0, 51, 255]


def test_a_remark_counts_all_files_and_names_the_first() -> None:
    assert str(Remark("files lost", ("a", "b"))) == "files lost (2): a, b"
    assert str(Remark("files lost", tuple(map(str, range(1007))))) == "files lost (1,007): 0, 1, 2, 3, 4 and 1,002 more"


def test_any_name_fits_on_a_line() -> None:
    assert printable("caf\N{LATIN SMALL LETTER E WITH ACUTE}  \N{SNOWMAN}.png") == "caf\xe9  \N{SNOWMAN}.png"
    assert printable("\udce9\n\x1b[31m") == "\ufffd\ufffd\ufffd[31m"
