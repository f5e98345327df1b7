"""Golden vectors: what features and models must answer, and decide, on every machine.

``python -m models.bundle.golden FOLDER`` computes them for an unpacked bundle and exits 0, or 1 with the reason.

They hold raw windows with all that becomes of them, and further rows that models are asked with as they are: training
rows, rows on the splits of the trees and on the float32 to either side, rows with little or nothing known.

Features and inputs are held to a thousandth of what would show (relative 1e-6 and 1e-4): processors round differently.
Models are asked with the stored inputs, so that a rounding beside a tree's threshold is not taken for another model,
and held to 1e-5. No decision may change; where an answer lies so near to a threshold that this tolerance itself would
decide, none was noted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from models.bundle.contents import GOLDEN
from models.bundle.decisions import horizons, named_modes, zones
from models.bundle.errors import BundleError, GoldenMismatch
from models.bundle.loaded import LoadedBundle
from models.bundle.packed_windows import PackedWindows, pack_windows, unpack_windows
from models.bundle.scored import Scored, score_prepared
from models.failure.modes import foretold
from models.features.history import Histories
from models.features.names import feature_names, input_names, sequence_names
from models.features.windows import Windows
from models.records import UNDECODABLE, BoolArray, Float32Array, FloatArray, Int64Array
from models.scoring import Prepared, prepare

MAX_WINDOWS = 256
MAX_FURTHER = 1024
MAX_BYTES = 64 * 2**20
FEATURE_TOLERANCE = 1e-6
INPUT_TOLERANCE = 1e-4
MODEL_TOLERANCE = 1e-5
_TOO_CLOSE = -9


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """Rows as models are given them, and what they answered."""

    inputs: bytes
    sequences: bytes
    windows_known: bytes
    whole: bytes
    detector_output: bytes
    probabilities: bytes
    life_s: bytes
    decisions: bytes


@dataclass(frozen=True, kw_only=True)
class _Golden:
    windows: PackedWindows
    features: bytes
    own: _Asked
    further: _Asked


def make_golden(bundle: LoadedBundle, windows: Windows, further: Prepared | None = None) -> bytes:
    """Return the golden vectors of *bundle*.

    Args:
        bundle: As trained; see ``LoadedBundle.of_parts``.
        windows: Raw ones, 1 to 256, by end for each asset: healthy, failing and holed ones.
        further: Rows that the models are asked with as they are, 1,024 at most; see ``models.export.golden_rows``.

    Raises:
        GoldenMismatch: If there are too few or too many. No bundle is made.
    """
    if not 1 <= len(windows) <= MAX_WINDOWS or (further is not None and len(further) > MAX_FURTHER):
        raise GoldenMismatch(
            f"golden vectors need 1 to {MAX_WINDOWS} windows, not {len(windows)}, and {MAX_FURTHER} further rows at "
            "most; no bundle is made"
        )
    prepared = prepare(bundle.specification, bundle.baseline, Histories(bundle.specification), windows)
    golden = _Golden(
        windows=pack_windows(windows),
        features=prepared.features.tobytes(),
        own=_asked(bundle, prepared),
        further=_asked(bundle, prepared.take(slice(0, 0)) if further is None else further),
    )
    data = msgspec.msgpack.encode(golden)
    if len(data) > MAX_BYTES:
        raise GoldenMismatch(f"golden vectors of {len(data)} bytes are more than {MAX_BYTES}; no bundle is made")
    return data


def golden_windows(data: bytes, *, channels: int) -> Windows:
    """Return the raw windows in golden vectors *data* of a bundle of so many *channels*.

    Raises:
        ValueError: If the data do not decode, or the arrays do not fit together.
    """
    return unpack_windows(msgspec.msgpack.decode(data, type=_Golden).windows, channels=channels)


def run_golden(folder: Path) -> None:
    """Compute the golden vectors of the bundle unpacked in *folder* here.

    Raises:
        BundleError: `GoldenMismatch` if an answer differs or there are no golden vectors, or as ``LoadedBundle.load``.
    """
    bundle = LoadedBundle.load(folder)
    try:
        check_golden(bundle, _read(folder / GOLDEN))
    except (*UNDECODABLE, OSError, ValueError, IndexError) as error:
        raise GoldenMismatch(
            f"{_name(bundle)}: golden vectors cannot be read ({error}); the bundle is refused, the live one stays"
        ) from error


def check_golden(bundle: LoadedBundle, data: bytes) -> None:
    """Hold what *bundle* answers against the golden vectors in *data*.

    Raises:
        GoldenMismatch: With the first answer that differs, or decision that changed.
        ValueError: If the arrays do not fit together.
    """
    golden = msgspec.msgpack.decode(data, type=_Golden)
    windows = unpack_windows(golden.windows, channels=len(bundle.specification.channels))
    if not 1 <= len(windows) <= MAX_WINDOWS:
        raise ValueError(f"{len(windows)} windows")
    prepared = prepare(bundle.specification, bundle.baseline, Histories(bundle.specification), windows)
    # What a formula of large terms leaves near 0 is rounding; a deviation scale says how much counts.
    noise = np.nanmax(np.nan_to_num(bundle.baseline.scales, nan=1.0), axis=0)
    features = _doubles(golden.features).reshape(prepared.features.shape)
    _compare(bundle, "features", prepared.features, features, FEATURE_TOLERANCE, noise)
    own = _prepared(bundle, golden.own)
    if len(own) != len(windows):
        raise ValueError(f"inputs of {len(own)} rows to {len(windows)} windows")
    _compare(bundle, "inputs", _wide(prepared.inputs), _wide(own.inputs), INPUT_TOLERANCE)
    if prepared.sequences is not None and own.sequences is not None:
        _compare(bundle, "sequences", _wide(prepared.sequences), _wide(own.sequences), INPUT_TOLERANCE)
    for what, answer, wanted in (
        ("windows known", prepared.windows_known, own.windows_known),
        ("whole", prepared.whole, own.whole),
    ):
        _compare(bundle, what, answer.astype(np.float64), wanted.astype(np.float64), 0.0)
    _check_answers(bundle, own, golden.own, "")
    _check_answers(bundle, _prepared(bundle, golden.further), golden.further, "further ")


def main(arguments: Sequence[str]) -> int:
    """Check the bundle in the folder that *arguments* name, and say so."""
    if len(arguments) != 1:
        print("usage: python -m models.bundle.golden FOLDER", file=sys.stderr)  # noqa: T201 - a program prints
        return 2
    try:
        run_golden(Path(arguments[0]))
    except BundleError as error:
        # On one line, by which a gateway knows it from what else a process prints; the runtime's own reasons have many.
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201 - a program prints
        return 1
    return 0


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    return data


def _asked(bundle: LoadedBundle, prepared: Prepared) -> _Asked:
    scored = score_prepared(bundle, prepared)
    return _Asked(
        inputs=prepared.inputs.astype(np.float32).tobytes(),
        sequences=b"" if prepared.sequences is None else prepared.sequences.astype(np.float32).tobytes(),
        windows_known=prepared.windows_known.astype(np.int64).tobytes(),
        whole=prepared.whole.astype(np.uint8).tobytes(),
        detector_output=scored.detector_output.astype(np.float64).tobytes(),
        probabilities=_stored(scored.probabilities),
        life_s=_stored(None if scored.life is None else scored.life.life_s),
        decisions=_decided(bundle, scored).tobytes(),
    )


def _prepared(bundle: LoadedBundle, asked: _Asked) -> Prepared:
    """Return the rows of *asked* as models take them; the raw features, which none looks at, are not known."""
    spec = bundle.specification
    width, own = len(input_names(spec)), len(feature_names(spec))
    inputs: Float32Array = np.frombuffer(asked.inputs, np.float32).reshape(-1, width)
    count = len(inputs)
    if count > MAX_FURTHER:
        raise ValueError(f"{count} rows are more than {MAX_FURTHER}")
    sequences = None
    if spec.history.sequence_windows:
        shape = (count, len(sequence_names(spec)), spec.history.sequence_windows)
        sequences = np.frombuffer(asked.sequences, np.float32).reshape(shape)
    return Prepared(
        features=np.full((count, own), np.nan),
        deviations=inputs[:, :own],
        inputs=inputs,
        sequences=sequences,
        windows_known=np.frombuffer(asked.windows_known, np.int64).reshape(count),
        whole=np.frombuffer(asked.whole, np.uint8).reshape(count) != 0,
    )


def _check_answers(bundle: LoadedBundle, prepared: Prepared, asked: _Asked, which: str) -> None:
    scored = score_prepared(bundle, prepared)
    life_s = None if scored.life is None else scored.life.life_s
    for what, answer, wanted in (
        ("detector", scored.detector_output, asked.detector_output),
        ("classifier", scored.probabilities, asked.probabilities),
        ("life", life_s, asked.life_s),
    ):
        numbers = np.empty(0) if answer is None else answer
        expected = _doubles(wanted)
        if expected.size != numbers.size:
            raise _mismatch(bundle, f"{which}{what} has {numbers.size} numbers here, {expected.size} where it was made")
        _compare(bundle, f"{which}{what}", numbers, expected.reshape(numbers.shape), MODEL_TOLERANCE)
    decided = _decided(bundle, scored)
    wanted_decisions = np.frombuffer(asked.decisions, np.int64).reshape(decided.shape)
    clear = (decided != _TOO_CLOSE) & (wanted_decisions != _TOO_CLOSE)
    if (changed := clear & (decided != wanted_decisions)).any():
        place = tuple(int(index) for index in np.argwhere(changed)[0])
        raise _mismatch(
            bundle,
            f"{which}decision at {place} is {decided[place]} here, {wanted_decisions[place]} where it was made",
        )


def _decided(bundle: LoadedBundle, scored: Scored) -> Int64Array:
    """Return the decisions on each row, shape ``(n, d)``, -9 where too close: zone, modes, horizons outlived."""
    limits, modes = bundle.manifest.thresholds, bundle.manifest.failure_modes
    columns = [_clear(lambda output: zones(output, limits)[:, None], scored.detector_output)]
    if scored.probabilities is not None:
        columns.append(_clear(lambda told: named_modes(told, modes, limits)[:, None], scored.probabilities))
        if (failure := bundle.failure) is not None:
            columns.append(_clear(lambda told: foretold(failure, told).astype(np.int64), scored.probabilities))
    if scored.life is not None:
        columns.append(_clear(horizons, scored.life.life_s))
    return np.concatenate(columns, axis=1)


def _clear(decide: Callable[[FloatArray], Int64Array], answer: FloatArray) -> Int64Array:
    """Return what is decided by *answer* ``(n,)`` or ``(n, k)``, -9 where one within the tolerance says otherwise."""
    reach = 2.0 * MODEL_TOLERANCE * np.maximum(np.abs(answer), 1.0)
    decided = decide(answer)
    clear = decide(answer - reach) == decided
    for column in range(answer.shape[1] if answer.ndim > 1 else 1):
        own = (slice(None), column)[: answer.ndim]
        other = answer - reach  # all less but one, which is more: so that two nearly equal ones change places
        other[own] += 2.0 * reach[own]
        clear &= decide(other) == decided
    return np.where(clear, decided, _TOO_CLOSE)


def _compare(
    bundle: LoadedBundle,
    what: str,
    answer: FloatArray,
    expected: FloatArray,
    tolerance: float,
    noise: FloatArray | float = 1.0,
) -> None:
    if expected.shape != answer.shape:
        raise _mismatch(bundle, f"{what} is of shape {answer.shape} here, {expected.shape} where it was made")
    both: BoolArray = np.isnan(expected) & np.isnan(answer)
    near: BoolArray = np.abs(answer - expected) <= tolerance * np.maximum(np.abs(expected), noise)
    if not (both | near).all():
        place = tuple(int(index) for index in np.argwhere(~(both | near))[0])
        raise _mismatch(
            bundle, f"{what} at {place} is {answer[place]:.9g} here, {expected[place]:.9g} where it was made"
        )


def _wide(values: Float32Array) -> FloatArray:
    return values.astype(np.float64)


def _doubles(data: bytes) -> FloatArray:
    return np.frombuffer(data, np.float64)


def _stored(numbers: FloatArray | None) -> bytes:
    return b"" if numbers is None else numbers.astype(np.float64).tobytes()


def _mismatch(bundle: LoadedBundle, why: str) -> GoldenMismatch:
    return GoldenMismatch(f"{_name(bundle)}: {why}; the bundle is refused, the live one stays")


def _name(bundle: LoadedBundle) -> str:
    return f"{bundle.manifest.asset_class} version {bundle.manifest.version}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
