"""Checks of the tables: spots and features that carry nothing, or what belongs to others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b

import numpy as np
from scipy import sparse

from soscope.doctor.examined import Examined
from soscope.doctor.findings import NOTE, SERIOUS, WARNING, Seen, check
from soscope.matrices import Matrix

MANY_EMPTY, RARELY_EMPTY = 0.1, 20
"""Share of spots without a count that is too many, and the median total of the others from which it is no chance."""
OUTLYING = 5.0
"""Median absolute deviations (scaled to a standard deviation) of log totals from their median."""
SEEN_ENOUGH = 50
"""Total from which two identical rows or columns of counts are no coincidence."""
ENTRIES = 2**22
"""Entries of a table that are looked at together."""
CEILING, AT_CEILING = 20, 0.2
"""A maximum from which a feature may be clipped, and the share of spots at it that says so."""
RELATED, SURELY = 0.05, 4.0
"""Moran's I, and its standard deviations over shuffled spots, that neighbours have to reach."""


@check("empty spots", "counts")
def empty_spots(section: Examined) -> Seen:
    """Spots without a single count; where counts are few anyway, as in bins of 2 um, many are no fault."""
    empty = section.totals == 0
    if empty.any():
        typical = float(np.median(section.totals[~empty])) if not empty.all() else np.inf
        severity = SERIOUS if empty.mean() >= MANY_EMPTY and typical >= RARELY_EMPTY else WARNING
        seen = f"{empty.sum():,} of {len(empty):,} spots ({empty.mean():.1%}) have no count (first: '{_first(section, empty)}')"
        yield (
            severity,
            seen,
            "Leave them out of the matrix or set in_tissue (selected) to 0; or rows of the matrix were lost.",
        )


@check("library sizes", "counts")
def library_outliers(section: Examined) -> Seen:
    """Totals far from the others'."""
    logs = np.log1p(section.totals[section.totals > 0])
    spread = 1.4826 * np.median(abs(logs - np.median(logs))) if len(logs) else 0.0
    if spread > 0:
        away = (abs(np.log1p(section.totals) - np.median(logs)) > OUTLYING * spread) & (section.totals > 0)
        if away.any():
            seen = (
                f"totals of {away.sum():,} of {len(away):,} spots are more than {OUTLYING:g} median absolute deviations from the "
                f"median of {np.expm1(np.median(logs)):,.0f} (first: '{_first(section, away)}', {section.totals[away][0]:,.0f})"
            )
            yield NOTE, seen, "Look at them in the overlay; edges and folds are often so. Leave out what is damaged."


@check("features", "counts")
def features_without_information(section: Examined) -> Seen:
    """Features that are zero everywhere, or stand at a ceiling in many spots."""
    for modality, table in section.tables.items():
        largest, at_top = maxima(table.X)
        zero = int((largest == 0).sum())
        if zero:
            yield NOTE, f"{modality}: {zero:,} of {table.n_vars:,} features have no count; they are never chosen", ""
        clipped = (largest >= CEILING) & (at_top >= AT_CEILING)
        if clipped.any():
            first = int(np.flatnonzero(clipped)[0])
            seen = (
                f"{modality}: {clipped.sum():,} features stand at their maximum in {AT_CEILING:.0%} of spots or more (first: "
                f"'{table.var_names[first]}', {largest[first]:g})"
            )
            yield WARNING, seen, "They are saturated or clipped: name others with data.features='[...]'."


@check("copies", "counts")
def copies(section: Examined) -> Seen:
    """Spots, or features, with the very same counts."""
    for modality, table in section.tables.items():
        matrix = sparse.csr_matrix(table.X)
        columns = (sparse.csr_matrix(block.T) for _, block in column_blocks(matrix))
        for kind, same, names in (
            ("spots", identical_rows([matrix]), table.obs_names),
            ("features", identical_rows(columns), table.var_names),
        ):
            if same:
                severity = SERIOUS if kind == "spots" and len(same) > MANY_EMPTY * table.n_obs else WARNING
                first = f"'{names[same[0][0]]}' and '{names[same[0][1]]}'"
                yield (
                    severity,
                    f"{modality}: {len(same):,} {kind} repeat another's counts (first: {first})",
                    f"Drop repeated {kind}.",
                )


def maxima(x: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest count of every feature, and the share of spots that have it, ``(n_features,)`` each."""
    largest, at_top = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for part, block in column_blocks(sparse.csr_matrix(x)):
        filled = np.diff(block.indptr) > 0
        top = np.zeros(block.shape[1], dtype=block.dtype)
        top[filled] = np.maximum.reduceat(block.data, block.indptr[:-1][filled]) if filled.any() else 0
        largest[part] = np.maximum(top, 0)
        column = np.repeat(np.arange(block.shape[1]), np.diff(block.indptr))
        at_top[part] = np.bincount(column, block.data == top[column], minlength=block.shape[1]) / block.shape[0]
    return largest, at_top


def column_blocks(matrix: sparse.csr_matrix) -> Iterator[tuple[slice, sparse.csc_matrix]]:
    """Go through a matrix by some columns after the other, so that never all of it is held twice."""
    step = max(1, int(matrix.shape[1] * ENTRIES / max(matrix.nnz, 1)))
    for start in range(0, matrix.shape[1], step):
        part = slice(start, min(start + step, matrix.shape[1]))
        yield part, sparse.csc_matrix(matrix[:, part])


def identical_rows(blocks: Iterable[sparse.csr_matrix]) -> list[tuple[int, int]]:
    """Return rows that equal an earlier one, with that one; rows with few counts are left out.

    Rows of all ``blocks`` are numbered one after the other. They are told apart by hashes of 16 bytes.
    """
    first: dict[bytes, int] = {}
    same, before = [], 0
    for matrix in blocks:
        matrix.sort_indices()
        for i in np.flatnonzero(np.asarray(matrix.sum(1)).ravel() >= SEEN_ENOUGH):
            part = slice(matrix.indptr[i], matrix.indptr[i + 1])
            key = blake2b(matrix.indices[part], digest_size=16)
            key.update(matrix.data[part])
            number = before + int(i)
            earlier = first.setdefault(key.digest(), number)
            if earlier != number:
                same.append((earlier, number))
        before += matrix.shape[0]
    return same


@check("barcodes and positions", "spots")
def neighbours_are_alike(section: Examined) -> Seen:
    """Moran's I of log totals and leading components: nothing in common between neighbours means shuffled barcodes."""
    found = section.association
    best = float(found.morans_i.max(initial=0.0))
    sure = max(RELATED, SURELY * found.autocorrelation_by_chance)
    seen = f"Moran's I of log totals and leading components is {best:.2f} at most"
    if best < sure:
        fix = "Counts and positions are in different orders: match both by barcode, from one run of one section."
        yield SERIOUS, f"{seen}, {sure:.2f} expected at least: neighbouring spots have nothing in common", fix
    else:
        yield NOTE, seen, ""


def _first(section: Examined, flagged: np.ndarray) -> str:
    return str(section.table.obs_names[int(np.flatnonzero(flagged)[0])])
