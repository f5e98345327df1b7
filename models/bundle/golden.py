"""Golden vectors: raw windows and what features and models must answer on every machine.

``python -m models.bundle.golden FOLDER`` computes them for an unpacked bundle and exits 0, or 1 with the reason.

Features and inputs are held to a thousandth of what would show (relative 1e-6 and 1e-4): processors round differently.
Models are asked with the stored inputs, so that a rounding beside a tree's threshold is not taken for another model,
and held to 1e-5.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from models.bundle.contents import GOLDEN
from models.bundle.errors import BundleError, GoldenMismatch
from models.bundle.loaded import LoadedBundle
from models.detection.detector import detect
from models.failure.classifier import classify
from models.features.context import Context
from models.features.windows import Window
from models.prognosis.life import predict_life
from models.records import FloatArray
from models.scoring import prepare

MAX_WINDOWS = 256
FEATURE_TOLERANCE = 1e-6
INPUT_TOLERANCE = 1e-4
MODEL_TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class _Channel:
    times: bytes
    values: bytes
    good: bytes
    waveforms: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True)
class _Window:
    asset_id: str
    start_ns: int
    end_ns: int
    good_share: float
    channels: tuple[_Channel, ...]


@dataclass(frozen=True, kw_only=True)
class _Golden:
    windows: tuple[_Window, ...]
    features: bytes
    inputs: bytes
    detector_output: bytes
    probabilities: bytes
    life_s: bytes


def make_golden(bundle: LoadedBundle, windows: Sequence[Window]) -> bytes:
    """Return the golden vectors of *bundle* for *windows*, which should hold healthy, failing and holed ones.

    Args:
        bundle: As trained; see ``LoadedBundle.of_parts``.
        windows: 1 to 256, by end for each asset.

    Raises:
        GoldenMismatch: If there is none or too many.
    """
    if not 1 <= len(windows) <= MAX_WINDOWS:
        raise GoldenMismatch(f"golden vectors need 1 to {MAX_WINDOWS} windows, not {len(windows)}; no bundle is made")
    prepared = prepare(bundle.specification, bundle.baseline, Context(bundle.specification), windows)
    probabilities, life_s = classify(bundle, prepared.inputs), predict_life(bundle, prepared.inputs)
    return msgspec.msgpack.encode(
        _Golden(
            windows=tuple(_packed(window) for window in windows),
            features=prepared.features.tobytes(),
            inputs=prepared.inputs.tobytes(),
            detector_output=detect(bundle, prepared.inputs).tobytes(),
            probabilities=b"" if probabilities is None else probabilities.tobytes(),
            life_s=b"" if life_s is None else life_s.tobytes(),
        )
    )


def run_golden(folder: Path) -> None:
    """Compute the golden vectors of the bundle unpacked in *folder* here.

    Raises:
        BundleError: `GoldenMismatch` if an answer differs or there are no golden vectors, or as ``LoadedBundle.load``.
    """
    bundle = LoadedBundle.load(folder)
    try:
        golden = msgspec.msgpack.decode((folder / GOLDEN).read_bytes(), type=_Golden)
        windows = [_unpacked(window) for window in golden.windows]
        check_golden(bundle, golden, windows)
    except (OSError, msgspec.DecodeError, ValueError, IndexError) as error:
        raise GoldenMismatch(
            f"{_name(bundle)}: golden vectors cannot be read ({error}); the bundle is refused, the live one stays"
        ) from error


def check_golden(bundle: LoadedBundle, golden: _Golden, windows: Sequence[Window]) -> None:
    """Hold what *bundle* answers for *windows* against *golden*.

    Raises:
        GoldenMismatch: With the first answer that differs.
        ValueError: If the arrays do not fit together.
    """
    if not windows:
        raise ValueError("no window")
    prepared = prepare(bundle.specification, bundle.baseline, Context(bundle.specification), windows)
    wanted_inputs = np.frombuffer(golden.inputs, np.float32).reshape(prepared.inputs.shape)
    probabilities, life_s = classify(bundle, wanted_inputs), predict_life(bundle, wanted_inputs)
    # What a formula of large terms leaves near 0 is rounding; a deviation scale says how much counts.
    noise = np.nan_to_num(np.array(bundle.baseline.class_scale), nan=1.0)
    _compare(bundle, "features", prepared.features, golden.features, FEATURE_TOLERANCE, noise)
    _compare(bundle, "inputs", np.asarray(prepared.inputs, np.float64), _doubles(golden.inputs), INPUT_TOLERANCE)
    _compare(bundle, "detector", detect(bundle, wanted_inputs), golden.detector_output, MODEL_TOLERANCE)
    _compare(bundle, "classifier", _or_empty(probabilities), golden.probabilities, MODEL_TOLERANCE)
    _compare(bundle, "life", _or_empty(life_s), golden.life_s, MODEL_TOLERANCE)


def main(arguments: Sequence[str]) -> int:
    """Check the bundle in the folder that *arguments* name, and say so."""
    if len(arguments) != 1:
        print("usage: python -m models.bundle.golden FOLDER", file=sys.stderr)  # noqa: T201 - a program prints
        return 2
    try:
        run_golden(Path(arguments[0]))
    except BundleError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201 - a program prints
        return 1
    return 0


def _compare(
    bundle: LoadedBundle,
    what: str,
    answer: FloatArray,
    wanted: bytes,
    tolerance: float,
    noise: FloatArray | float = 1.0,
) -> None:
    expected = np.frombuffer(wanted, np.float64)
    if expected.size != answer.size:
        raise GoldenMismatch(
            f"{_name(bundle)}: {what} has {answer.size} numbers, golden has {expected.size}; "
            "the bundle is refused, the live one stays"
        )
    expected = expected.reshape(answer.shape)
    both = np.isnan(expected) & np.isnan(answer)
    near = np.abs(answer - expected) <= tolerance * np.maximum(np.abs(expected), noise)
    if not (both | near).all():
        place = tuple(int(index) for index in np.argwhere(~(both | near))[0])
        raise GoldenMismatch(
            f"{_name(bundle)}: {what} at {place} is {answer[place]:.9g} here, {expected[place]:.9g} where it was made; "
            "the bundle is refused, the live one stays"
        )


def _packed(window: Window) -> _Window:
    return _Window(
        asset_id=window.asset_id,
        start_ns=window.start_ns,
        end_ns=window.end_ns,
        good_share=window.good_share,
        channels=tuple(
            _Channel(
                times=times.tobytes(),
                values=values.tobytes(),
                good=good.tobytes(),
                waveforms=tuple(samples.tobytes() for samples in waveforms),
            )
            for times, values, good, waveforms in zip(
                window.times, window.values, window.good, window.waveforms, strict=True
            )
        ),
    )


def _unpacked(window: _Window) -> Window:
    return Window(
        asset_id=window.asset_id,
        start_ns=window.start_ns,
        end_ns=window.end_ns,
        good_share=window.good_share,
        times=tuple(np.frombuffer(channel.times, np.int64) for channel in window.channels),
        values=tuple(np.frombuffer(channel.values, np.float64) for channel in window.channels),
        good=tuple(np.frombuffer(channel.good, np.bool_) for channel in window.channels),
        waveforms=tuple(
            tuple(np.frombuffer(samples, np.float32) for samples in channel.waveforms) for channel in window.channels
        ),
    )


def _doubles(singles: bytes) -> bytes:
    return np.frombuffer(singles, np.float32).astype(np.float64).tobytes()


def _or_empty(numbers: FloatArray | None) -> FloatArray:
    return np.empty(0) if numbers is None else numbers


def _name(bundle: LoadedBundle) -> str:
    return f"{bundle.manifest.asset_class} version {bundle.manifest.version}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
