"""Tables whose rows are read or computed when they are taken: the same numbers as in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from scipy import sparse

from soscope.errors import DataError
from soscope.rows import StoredRows, averaged, blocks, evenly_spaced, joined, rows_of, side_by_side


@pytest.fixture
def values(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(50, 3)).astype(np.float16)


@pytest.mark.parametrize(
    "chosen",
    [slice(None), slice(3, 40, 7), np.array([7, 2, 49, 2]), np.arange(50) % 4 == 1, np.zeros(0, dtype=np.int64)],
)
def test_stored_rows_are_those_of_the_array(chosen: np.ndarray | slice, values: np.ndarray, tmp_path: Path) -> None:
    stored = StoredRows(zarr.create_array(tmp_path / "v.zarr", data=values, chunks=(8, 3)))
    assert stored.shape == (50, 3)
    found = stored[chosen]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values[chosen].astype(np.float32))


def test_only_large_features_stay_on_disk(values: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = zarr.create_array(tmp_path / "v.zarr", data=values)
    assert isinstance(rows_of(array, 1.0), np.ndarray)
    monkeypatch.setattr("soscope.rows.IN_MEMORY", 149)
    kept, left = rows_of(array, 1.0), rows_of(array, 1e-9)
    assert isinstance(kept, StoredRows)
    assert isinstance(kept.array, np.ndarray)
    assert isinstance(left, StoredRows)
    assert isinstance(left.array, zarr.Array)
    np.testing.assert_array_equal(kept[np.array([3, 1])], left[np.array([3, 1])])


def test_a_damaged_store_is_one_clear_error(values: np.ndarray, tmp_path: Path) -> None:
    stored = StoredRows(zarr.create_array(tmp_path / "v.zarr", data=values, chunks=(8, 3)))
    for chunk in (tmp_path / "v.zarr" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"not what was written")
    with pytest.raises(DataError, match="cannot be read.*Prepare again"):
        stored[np.array([1])]


def test_computed_rows_are_what_they_stand_for(values: np.ndarray, rng: np.random.Generator) -> None:
    weight = sparse.csr_matrix(rng.random((50, 50)) * (rng.random((50, 50)) < 0.2) + np.eye(50))
    expected = weight.toarray() @ values / weight.toarray().sum(1, keepdims=True)
    chosen = np.array([40, 3, 3])
    np.testing.assert_allclose(averaged(values, weight, chosen), expected[chosen], rtol=1e-5)
    whole = joined([values, values[:9]], [np.array([5, 1]), np.array([8, 0, 2])])
    np.testing.assert_array_equal(whole[:], values[[5, 1, 8, 0, 2]])
    np.testing.assert_array_equal(whole[np.array([4, 0])], values[[2, 5]])
    np.testing.assert_array_equal(side_by_side([values, whole[np.zeros(50, int)]])[:][:, 3:], values[[5] * 50])
    np.testing.assert_array_equal(np.concatenate(list(blocks(whole, 7))), whole[:])
    assert len(list(blocks(whole, 7))) == 3
    assert evenly_spaced(100, 10, 300).tolist() == list(range(0, 100, 4))
