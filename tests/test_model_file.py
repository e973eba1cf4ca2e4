"""Encoder and model files: plain, strict, and clear about what does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from soscope.errors import ModelFileError
from soscope.model_file import Description, load_module, save_module

ABOUT = Description("encoder", {"rna": ["Acta1", "Myh4", "Mb"]}, {"rna": "nb"}, {"n_latent": 4})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_module(nn.Linear(3, 4), ABOUT, tmp_path / "encoder.pt")
    return tmp_path / "encoder.pt"


def test_holds_tensors_and_plain_metadata_only(file: Path) -> None:
    content = torch.load(file, weights_only=True)
    assert content["features"] == {"rna": ["Acta1", "Myh4", "Mb"]}
    assert content["format_version"] == 1
    fresh = nn.Linear(3, 4)
    load_module(fresh, ABOUT, file)
    torch.testing.assert_close(fresh.weight, content["state"]["weight"])


@pytest.mark.parametrize(
    ("about", "says"),
    [
        (replace(ABOUT, features={"rna": ["Acta1", "Myh1", "Mb"]}), "feature 1 of 'rna' is 'Myh4' in the file, 'Myh1'"),
        (
            replace(ABOUT, features={"rna": ["Acta1", "Myh4"]}),
            "3 features in the file, 2 in this run.*only in the file: 'Mb'",
        ),
        (replace(ABOUT, features={"protein": ["CD3"]}), "modality 'protein' is None in the file"),
        (replace(ABOUT, sizes={"n_latent": 8}), "sizes 'n_latent' is 4 in the file, 8"),
        (replace(ABOUT, likelihoods={"rna": "poisson"}), "likelihoods 'rna' is nb in the file, poisson"),
        (replace(ABOUT, kind="model"), "holds a encoder, expected a model"),
    ],
)
def test_says_what_does_not_fit(file: Path, about: Description, says: str) -> None:
    with pytest.raises(ModelFileError, match=says):
        load_module(nn.Linear(3, 4), about, file)


def test_names_the_tensor_whose_shape_differs(file: Path) -> None:
    with pytest.raises(ModelFileError, match=r"tensor 'bias' is \(4,\) in the file, \(5,\) in this run"):
        load_module(nn.Linear(3, 5), ABOUT, file)
    with pytest.raises(ModelFileError, match="tensor 'bias' is .* in the file, absent"):
        load_module(nn.Linear(3, 4, bias=False), ABOUT, file)


def test_missing_damaged_and_foreign_files(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="does not exist"):
        load_module(nn.Linear(3, 4), ABOUT, tmp_path / "no.pt")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelFileError, match="cannot be read"):
        load_module(nn.Linear(3, 4), ABOUT, file)
    torch.save({"format_version": 99}, file)
    with pytest.raises(ModelFileError, match="format 99"):
        load_module(nn.Linear(3, 4), ABOUT, file)


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "sprung").touch, ())

    torch.save({"format_version": 1, "state": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ModelFileError, match="cannot be read"):
        load_module(nn.Linear(3, 4), ABOUT, tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()
