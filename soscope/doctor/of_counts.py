"""Checks of the tables: spots and features that carry nothing, or what belongs to others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from soscope.doctor.examined import Examined
from soscope.doctor.findings import Severity, check

Seen = Iterator[tuple[Severity, str, str]]
SERIOUS, WARNING, NOTE = Severity
MANY_EMPTY = 0.1
OUTLYING = 5.0
"""Median absolute deviations (scaled to a standard deviation) of log totals from their median."""
SEEN_ENOUGH = 50
"""Total from which two identical rows or columns of counts are no coincidence."""
CEILING, AT_CEILING = 20, 0.2
"""A maximum from which a feature may be clipped, and the share of spots at it that says so."""
RELATED, SURELY = 0.05, 4.0
"""Moran's I, and its standard deviations over shuffled spots, that neighbours have to reach."""


@check("empty spots", "counts")
def empty_spots(section: Examined) -> Seen:
    """Spots without a single count."""
    empty = section.totals == 0
    if empty.any():
        severity = SERIOUS if empty.mean() >= MANY_EMPTY else WARNING
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
        columns = sparse.csc_matrix(table.X)
        largest = columns.max(axis=0).toarray().ravel()
        zero = int((largest == 0).sum())
        if zero:
            yield NOTE, f"{modality}: {zero:,} of {table.n_vars:,} features have no count; they are never chosen", ""
        column_of = np.repeat(np.arange(table.n_vars), np.diff(columns.indptr))
        at_top = np.bincount(column_of, columns.data == largest[column_of], minlength=table.n_vars) / table.n_obs
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
        for kind, matrix, names in (
            ("spots", sparse.csr_matrix(table.X), table.obs_names),
            ("features", sparse.csr_matrix(sparse.csc_matrix(table.X).T), table.var_names),
        ):
            same = identical_rows(matrix)
            if same:
                severity = SERIOUS if kind == "spots" and len(same) > MANY_EMPTY * table.n_obs else WARNING
                first = f"'{names[same[0][0]]}' and '{names[same[0][1]]}'"
                yield (
                    severity,
                    f"{modality}: {len(same):,} {kind} repeat another's counts (first: {first})",
                    f"Drop repeated {kind}.",
                )


def identical_rows(matrix: sparse.csr_matrix) -> list[tuple[int, int]]:
    """Return rows that equal an earlier one, with that one; rows with few counts are left out."""
    matrix.sort_indices()
    first: dict[bytes, int] = {}
    same = []
    for i in np.flatnonzero(np.asarray(abs(matrix).sum(1)).ravel() >= SEEN_ENOUGH):
        part = slice(matrix.indptr[i], matrix.indptr[i + 1])
        key = matrix.indices[part].tobytes() + matrix.data[part].tobytes()
        if key in first:
            same.append((first[key], int(i)))
        first.setdefault(key, int(i))
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
