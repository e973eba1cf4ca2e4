"""Each of ten planted faults is found, a sound section passes; simulated and real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from faults import (
    POSITIONS,
    copied,
    duplicated_features,
    empty_spots,
    flip,
    flip_st,
    fractional,
    image_of_another,
    image_of_another_st,
    lowres_for_hires,
    lowres_for_hires_alone,
    mostly_blank,
    shift_barcodes,
    shift_rows_st,
    transpose,
    write_sound,
    wrong_platform,
)
from PIL import Image
from test_read_st import write_st

from soscope import contract
from soscope.read import DemoReader


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sound(tmp_path_factory.mktemp("doctor") / "liver")


FAULTS = [
    (flip, [], "orientation and place", "mirrored left to right within the image"),
    (transpose, [], "orientation and place", "transposed (x and y exchanged) within the image"),
    (lowres_for_hires, [], "scale factors", "tissue_hires_scalef 0.5 "),
    (lowres_for_hires_alone, [], "orientation and place", "scaled by about 3.3"),
    (wrong_platform, ["platform=dbit"], "refused by prepare", "platform=visium"),
    (shift_barcodes, [], "barcodes and positions", "match both by barcode"),
    (image_of_another, [], "image and profiles", "image=none"),
    (empty_spots, [], "empty spots", "in_tissue"),
    (fractional, [], "refused by prepare", "values are fractional"),
    (duplicated_features, [], "reading", "1 feature ids occur more than once"),
    (mostly_blank, [], "blank patches", "image=none"),
]


@pytest.fixture(scope="module")
def other_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image of another simulated section, on a slide of its own."""
    file = tmp_path_factory.mktemp("other") / "other.png"
    Image.fromarray(
        np.moveaxis(contract.image_of(DemoReader(rows=20, columns=16, n_features=2, seed=5).read(None).sdata), 0, -1)
    ).save(file)
    return file


@pytest.fixture
def doctor(soscope: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """Run the command; returns exit status, what it printed and its last line of complaint."""

    def run(*words: str) -> tuple[int, str, str]:
        status = soscope("doctor", "trainer.progress=false", f"hydra.run.dir={tmp_path / 'out'}", *words)
        said = capsys.readouterr()
        return status, " ".join(said.out.split()), said.err

    return run


def test_sound_section_passes_and_is_drawn(sound: Path, doctor: Callable, tmp_path: Path) -> None:
    status, out, err = doctor("data=visium", f"data.path='{sound}'")
    assert status == 0, out
    assert "nothing serious" in out
    assert "serious " not in out.replace("nothing serious", "")
    assert not err
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["doctor-liver.png"]
    with Image.open(tmp_path / "out" / "doctor-liver.png") as picture:
        assert min(picture.size) > 500


@pytest.mark.parametrize(("plant", "words", "about", "says"), FAULTS, ids=lambda v: getattr(v, "__name__", None))
def test_planted_faults_are_serious(
    plant: Callable,
    words: list[str],
    about: str,
    says: str,
    sound: Path,
    other_image: Path,
    doctor: Callable,
    tmp_path: Path,
) -> None:
    folder = copied(sound, tmp_path / "liver")
    plant(folder, other_image)
    status, out, err = doctor("data=visium", f"data.path='{folder}'", *words)
    assert status == 1
    assert f"serious {about}: " in out
    assert says in out
    assert "training would be meaningless" in err
    assert about in err


def test_sections_are_looked_at_one_by_one(sound: Path, doctor: Callable, tmp_path: Path) -> None:
    bad = copied(sound, tmp_path / "kidney")
    empty_spots(bad, bad)
    status, out, err = doctor("data=visium", f"data.path=['{bad}','{sound}']")
    assert status == 1
    assert "Serious findings in 1 of 2 sections: section 'kidney': empty spots." in err
    n = pd.read_csv(sound / POSITIONS).shape[0]
    assert f"{-(-n // 5)} of {n} spots (20." in out
    assert (tmp_path / "out" / "doctor-liver.png").is_file()


def test_section_without_an_image_says_what_was_not_looked_at(doctor: Callable, tmp_path: Path) -> None:
    words = ["data=st", f"data.path='{write_st(tmp_path / 'C9')}'", "data.options.image_file=null", "platform=st"]
    status, out, _ = doctor(*words, "image=none")
    assert status == 0
    assert "note image and profiles: not looked at: the section has no image" in out
    assert "note barcodes and positions: not looked at: 30 spots with values are too few" in out
    status, out, _ = doctor(*words)
    assert status == 1
    assert "serious image: the section has no image" in out


def test_settings_are_refused_before_anything_is_read(refused: Callable) -> None:
    refused(["doctor", "data=visium", "platform=visium"], ["data.path=FOLDER"])
    refused(["doctor", "run=somewhere"], ["takes no run=DIR"])


REAL = {
    "visium_mouse_muscle_2dpi": ["data=visium", "platform=visium"],
    "grid50_human_breast": ["data=visium", "platform=dbit"],
    "st_her2_breast/C2": ["data=st", "platform=st"],
    "st_her2_breast/C3": ["data=st", "platform=st"],
    "st_her2_breast/C4": ["data=st", "platform=st"],
    "slide_dna_liver_x5": [
        *("data=soscope", "platform=slide_dna", "image=none"),
        *("model=gaussian", "model.modalities.rna.representation=values"),
    ],
}


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("section", REAL)
def test_nothing_serious_on_real_sections(section: str, doctor: Callable, data: Path) -> None:
    status, out, _ = doctor(*REAL[section], f"data.path={data / section}")
    assert status == 0, out
    assert "nothing serious" in out


MUSCLE = ("visium", "visium_mouse_muscle_2dpi", "grid50_human_breast/spatial/tissue_lowres_image.png")
BREAST = ("st", "st_her2_breast/C2", "st_her2_breast/C3/he.jpg")


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "plant", "about", "says"),
    [
        (MUSCLE, flip, "orientation and place", "mirrored left to right within the image"),
        (MUSCLE, transpose, "orientation and place", "transposed (x and y exchanged) within the image"),
        (MUSCLE, lowres_for_hires, "scale factors", "tissue_hires_scalef 0.0900576 "),
        (MUSCLE, lowres_for_hires_alone, "orientation and place", "scaled by about 3.3"),
        (MUSCLE, shift_barcodes, "barcodes and positions", "match both by barcode"),
        (MUSCLE, image_of_another, "image and profiles", "image=none"),
        (MUSCLE, mostly_blank, "blank patches", "image=none"),
        (BREAST, flip_st, "orientation and place", "mirrored top to bottom within the image"),
        (BREAST, shift_rows_st, "image and profiles", "do not follow this image"),
        (BREAST, image_of_another_st, "spots on tissue", "another image, scale or orientation"),
    ],
)
def test_faults_planted_in_real_sections(
    section: tuple[str, str, str], plant: Callable, about: str, says: str, doctor: Callable, data: Path, tmp_path: Path
) -> None:
    reader, name, other = section
    folder = copied(data / name, tmp_path / "faulty")
    plant(folder, data / other)
    status, out, _ = doctor(f"data={reader}", f"platform={reader}", f"data.path='{folder}'")
    assert status == 1
    assert f"serious {about}: " in out
    assert says in out
