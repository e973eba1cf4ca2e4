"""`soscope features`: the encoder's own output, whatever the patches come from and wherever it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from soscope.errors import ConfigError, DataError
from soscope.prepare.encoders import Color
from soscope.tools.features import extract_features, run
from soscope.tools.patches import ImagePatches, PatchFiles, patch_files

WIDTH = 75
"""The smallest input Inception-v3 takes."""


class Stopping(Color):
    """Colour statistics that count the patches they see, and are interrupted after some."""

    def __init__(self, after: int = 1000) -> None:
        super().__init__()
        self.after, self.seen = after, 0

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        if self.seen + len(patches) > self.after:
            raise KeyboardInterrupt
        self.seen += len(patches)
        return super().__call__(patches)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: an image, the centres of its 3 x 4 patches in both kinds of columns, and each patch as a file."""
    folder = tmp_path_factory.mktemp("slide")
    pixels = np.random.default_rng(0).integers(0, 255, (3 * WIDTH, 4 * WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "slide.png")
    row, col = np.divmod(np.arange(12), 4)
    centres = pd.DataFrame({"imagerow": (row + 0.5) * WIDTH, "imagecol": (col + 0.5) * WIDTH, "x": -1.0, "y": -1.0})
    centres.to_csv(folder / "positions.csv", index=False)
    centres[["imagecol", "imagerow"]].set_axis(["px", "py"], axis=1).to_csv(folder / "named.tsv", sep="\t", index=False)
    centres[:4].to_csv(folder / "four.csv", index=False)
    centres.assign(imagecol=centres["imagecol"] + WIDTH).to_csv(folder / "outside.csv", index=False)
    (folder / "patches").mkdir()
    for i, (r, c) in enumerate(zip(row, col, strict=True)):
        patch = pixels[r * WIDTH : (r + 1) * WIDTH, c * WIDTH : (c + 1) * WIDTH]
        Image.fromarray(patch).save(folder / "patches" / f"Img_{i + 1}.png")
    (folder / "patches" / "notes.txt").write_text("no patch")
    (folder / "backwards.txt").write_text("\n".join(f"Img_{i}.png" for i in range(12, 0, -1)))
    return folder


def test_pixels_go_before_places_on_an_array(
    features: Callable, slide: Path, tmp_path: Path, soscope: Callable, capsys: pytest.CaptureFixture
) -> None:
    """As in ST's tables, whose x and y count spots."""
    centres = pd.read_csv(slide / "positions.csv")
    places = centres.assign(x=centres.index % 4, y=centres.index // 4)
    table = places.rename(columns={"imagecol": "pixel_x", "imagerow": "pixel_y"})
    table.to_csv(tmp_path / "st.tsv", sep="\t", index=False)
    expected = features(f"positions={slide}/positions.csv", out="expected.npy")
    np.testing.assert_array_equal(features(f"positions={tmp_path}/st.tsv"), expected)
    places[["x", "y"]].to_csv(tmp_path / "places.csv", index=False)
    words = [
        f"image_file={slide}/slide.png",
        f"positions={tmp_path}/places.csv",
        "encoder=color",
        f"out={tmp_path}/o.npy",
    ]
    assert soscope("features", *words) == 1
    assert "positions are 1 px apart, so they are hardly pixels" in capsys.readouterr().err


@pytest.fixture
def patches(slide: Path) -> ImagePatches:
    with Image.open(slide / "slide.png") as image:
        pixels = np.moveaxis(np.asarray(image), -1, 0)
    xy = pd.read_csv(slide / "positions.csv")[["imagecol", "imagerow"]].to_numpy()
    return ImagePatches(pixels, xy, WIDTH, WIDTH)


@pytest.fixture
def features(soscope: Callable, slide: Path, tmp_path: Path) -> Iterator[Callable]:
    """Run the command on the slide, with the encoder that needs no weights."""

    def run(*words: str, out: str = "features.npy") -> np.ndarray:
        image = [] if any(w.startswith("patches=") for w in words) else [f"image_file={slide}/slide.png"]
        given = [*image, "encoder=color", "progress=false", f"input_px={WIDTH}", "batch_size=5", *words]
        assert soscope("features", *given, f"out={tmp_path}/{out}") == 0
        return np.load(tmp_path / out)

    return run


def test_inception_features_are_torchvisions_own(soscope: Callable, slide: Path, tmp_path: Path) -> None:
    from torchvision.models import inception_v3

    torch.manual_seed(0)
    model = inception_v3(weights=None, init_weights=False, transform_input=False)
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_var.fill_(
                1 / 6
            )  # torch's first weights lose that much variance a layer, and nothing would be left
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    words = [f"image_file={slide}/slide.png", f"positions={slide}/four.csv", f"weights={tmp_path}/weights.pt"]
    assert soscope("features", *words, f"input_px={WIDTH}", "batch_size=3", f"out={tmp_path}/features.npy") == 0
    model.fc = torch.nn.Identity()
    files = [slide / "patches" / f"Img_{i + 1}.png" for i in range(4)]
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(f))).permute(2, 0, 1) / 255 for f in files])
    with torch.inference_mode():
        expected = model.eval()(pixels * 2 - 1).numpy()
    found = np.load(tmp_path / "features.npy")
    assert found.shape == (4, 2048)
    assert found.dtype == np.float32
    spread = expected.std(0).max()
    assert spread > 0.1 * abs(expected).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * spread)


def test_image_and_folder_of_the_same_patches_agree(features: Callable, slide: Path) -> None:
    cut = features(f"positions={slide}/positions.csv", out="cut.npy")
    np.testing.assert_array_equal(features(f"positions={slide}/named.tsv", "columns=[px,py]", out="named.npy"), cut)
    whole = features(f"patches={slide}/patches", out="whole.npy")
    np.testing.assert_allclose(whole, cut, atol=1e-4)
    backwards = features(f"patches={slide}/patches", f"names={slide}/backwards.txt", out="backwards.npy")
    np.testing.assert_array_equal(backwards, whole[::-1])
    with Image.open(slide / "patches" / "Img_2.png") as image:
        second = np.asarray(image) / 255
    np.testing.assert_allclose(whole[1, :3], second.mean((0, 1)), atol=1e-5)


def test_columns_and_arrays_of_the_published_program(features: Callable, slide: Path, tmp_path: Path) -> None:
    """Positions as its NB demo names them, and patches as its own script for image features reads them."""
    cut = features(f"positions={slide}/positions.csv", out="cut.npy")
    table = pd.read_csv(slide / "positions.csv")[["imagerow", "imagecol"]].set_axis(["image_row", "image_col"], axis=1)
    table.to_csv(tmp_path / "reordered_position.csv", index=False)
    np.testing.assert_array_equal(features(f"positions={tmp_path}/reordered_position.csv", out="named.npy"), cut)
    whole = features(f"patches={slide}/patches", out="whole.npy")
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    for file in (slide / "patches").glob("*.png"):
        with Image.open(file) as image:
            np.save(arrays / f"{file.stem}.npy", np.asarray(image))
    np.testing.assert_array_equal(features(f"patches={arrays}", out="arrays.npy"), whole)
    np.save(arrays / "Img_3.npy", np.zeros((5, 5, 3)))
    with pytest.raises(DataError, match="Img_3.npy': found shape .5, 5, 3. of float64, expected a patch"):
        PatchFiles(patch_files(arrays), WIDTH, progress=False)


def test_width_of_a_patch_in_either_unit_and_by_default(features: Callable, slide: Path) -> None:
    given = f"positions={slide}/positions.csv"
    np.testing.assert_array_equal(features(given, "patch_px=75", out="px.npy"), features(given, out="default.npy"))
    half = features(given, "patch_um=15", "um_per_px=0.4", out="half.npy")
    np.testing.assert_array_equal(half, features(given, "patch_px=37.5", out="half_px.npy"))
    assert not np.array_equal(half, features(given, out="default.npy"))


def test_patch_files_of_any_shape_are_resized_as_a_whole(tmp_path: Path) -> None:
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[:, 20:] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    patch = PatchFiles([tmp_path / "wide.png"], 10, progress=False)[0:1][0]
    assert patch.shape == (3, 10, 10)
    np.testing.assert_allclose(patch[:, :, :5], 0, atol=1e-6)
    np.testing.assert_allclose(patch[:, :, 5:], 200 / 255, atol=1e-6)


def test_what_was_stopped_goes_on_to_the_same_file(patches: ImagePatches, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole.npy", tmp_path / "stopped.npy"
    extract_features(patches, Stopping(), whole, batch_size=5, progress=False)
    with pytest.raises(KeyboardInterrupt):
        extract_features(patches, Stopping(after=5), stopped, batch_size=5, progress=False)
    assert not stopped.exists()
    assert json.loads((tmp_path / "stopped.npy.json").read_text())["done"] == 5
    rest = Stopping()
    extract_features(patches, rest, stopped, batch_size=5, progress=False)
    assert rest.seen == 12 - 5
    assert stopped.read_bytes() == whole.read_bytes()
    assert sorted(f.name for f in tmp_path.glob("stopped*")) == ["stopped.npy", "stopped.npy.json"]
    again = Stopping()
    np.testing.assert_array_equal(extract_features(patches, again, stopped, progress=False), np.load(whole))
    assert again.seen == 0


def test_rows_that_are_gone_are_encoded_again(patches: ImagePatches, tmp_path: Path) -> None:
    out = tmp_path / "features.npy"
    with pytest.raises(KeyboardInterrupt):
        extract_features(patches, Stopping(after=5), out, batch_size=5, progress=False)
    (tmp_path / "features.npy.partial").unlink()
    anew = Stopping()
    extract_features(patches, anew, out, batch_size=5, progress=False)
    assert anew.seen == 12
    out.unlink()
    anew = Stopping()
    extract_features(patches, anew, out, batch_size=5, progress=False)
    assert anew.seen == 12


def test_stopped_between_the_last_row_and_the_name(patches: ImagePatches, tmp_path: Path) -> None:
    out = tmp_path / "features.npy"
    values = np.array(extract_features(patches, Stopping(), out, progress=False))
    out.rename(tmp_path / "features.npy.partial")
    last = Stopping()
    np.testing.assert_array_equal(extract_features(patches, last, out, progress=False), values)
    assert last.seen == 0


def test_another_input_under_the_name_is_refused_unless_it_may_replace(patches: ImagePatches, tmp_path: Path) -> None:
    out = tmp_path / "features.npy"
    extract_features(patches, Stopping(), out, progress=False)
    moved = ImagePatches(np.zeros((3, 300, 300), np.uint8), patches.xy_px, 60, WIDTH)
    with pytest.raises(DataError, match=r"image .* there.*patch_px 75 there, 60 here.*overwrite=true"):
        extract_features(moved, Stopping(), out, progress=False)
    with pytest.raises(KeyboardInterrupt):
        extract_features(moved, Stopping(after=5), out, batch_size=5, overwrite=True, progress=False)
    rest = Stopping()
    found = extract_features(moved, rest, out, batch_size=5, overwrite=True, progress=False)
    assert rest.seen == 7
    assert not found.any()
    stranger = tmp_path / "stranger.npy"
    np.save(stranger, found)
    with pytest.raises(DataError, match=r"stranger\.npy' is there already"):
        extract_features(patches, Stopping(), stranger, progress=False)


def test_command_says_how_to_go_on(
    features: Callable, soscope: Callable, slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: Color, patches: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Color, "__call__", interrupt)
        words = ["encoder=color", f"image_file={slide}/slide.png", f"positions={slide}/positions.csv"]
        assert soscope("features", *words, f"out={tmp_path}/features.npy") == 130
    assert not (tmp_path / "features.npy").exists()
    with pytest.raises(ConfigError, match=r"ends in \.npy"):
        extract_features(PatchFiles(patch_files(slide / "patches"), 8, False), Color(), tmp_path / "features.csv")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["image_file={0}/slide.png", "positions={0}/outside.csv"],
            ["outside.csv", "3 of 12 spots lie outside", "300 x"],
        ),
        (["image_file={0}/slide.png", "positions={0}/positions.csv", "columns=[a,b]"], ["no column a, b", "imagerow"]),
        (["image_file={0}/slide.png"], ["needs positions=FILE"]),
        (["image_file={0}/none.png", "positions={0}/positions.csv"], ["none.png' is not a file"]),
        (["image_file={0}/slide.png", "patches={0}/patches"], ["one of both"]),
        ([], ["one of both"]),
        (["patches={0}/patches", "patch_px=3"], ["patch_px=3", "goes with image_file=FILE"]),
        (["patches={0}/nowhere"], ["is not a folder"]),
        (["patches={0}/patches", "names={0}/named.tsv"], ["13 of 13 files are not in", "px"]),
        (["image_file={0}/slide.png", "positions={0}/positions.csv", "patch_px=3", "patch_um=3"], ["not both"]),
        (["image_file={0}/slide.png", "positions={0}/positions.csv", "patch_um=3"], ["go together"]),
        (["image_file={0}/slide.png", "positions={0}/positions.csv", "patch_px=0"], ["above 0"]),
        (["patches={0}/patches", "encoder=none"], ["makes no features"]),
        (["patches={0}/patches", "encoder=vgg"], ["encoder='vgg' is unknown", "inception_v3"]),
        (["patches={0}/patches", "encoder=inception_v3", "weights=x.pt"], ["weights='x.pt' is not a file"]),
        (["patches={0}/patches", "input_px=0"], ["input_px=0"]),
        (["patches={0}/patches", "batch_size=0"], ["batch_size=0"]),
    ],
)
def test_settings_that_cannot_work(
    words: list[str], says: list[str], compose: Callable, slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = compose("encoder=color", "progress=false", name="features")
    cfg.merge_with_dotlist([w.format(slide) for w in words])
    with pytest.raises((ConfigError, DataError)) as refusal:
        run(cfg)
    for part in says:
        assert part in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_a_damaged_patch_is_named_before_any_is_encoded(
    refused: Callable, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("patches")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "1.png")
    (folder / "2.png").write_bytes((folder / "1.png").read_bytes()[:40])
    refused(["features", f"patches={folder}", "encoder=color"], ["2.png' cannot be read as an image"])
    refused(["features", f"patches={folder}", "batchsize=8"], ["Did you mean 'batch_size'?"])
