"""What models learn from, and the same windows as a gateway sees them that came late."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_service.training.lesson import stretches
from models.features.names import input_names
from tests.cloud_service.training.wearing import worn_lesson


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=6),
    st.integers(1, 12),
    st.integers(0, 30),
    st.integers(0, 2**32 - 1),
)
def test_stretches_fall_within_lives_and_are_no_longer_than_asked(
    lengths: list[int], shortest: int, more: int, seed: int
) -> None:
    """Every life begins a stretch; no stretch is longer than the longest, and only at the ends of a life shorter."""
    life = np.repeat(np.arange(len(lengths)), lengths)
    stretch = stretches(life, np.random.default_rng(seed), shortest=shortest, longest=shortest + more)

    assert (np.diff(stretch) >= 0).all()
    assert (np.diff(stretch)[np.diff(life) > 0] == 1).all()
    for number in range(len(lengths)):
        sizes = np.unique(stretch[life == number], return_counts=True)[1]
        assert sizes.max() <= shortest + more
        assert (sizes[1:-1] >= shortest).all()


def test_stretches_of_no_length_are_refused() -> None:
    """A stretch has a window at least."""
    with pytest.raises(ValueError, match="1 or more"):
        stretches(np.zeros(5, np.int64), np.random.default_rng(1), shortest=0, longest=3)


def test_a_cut_lesson_has_the_same_windows_with_shorter_memories() -> None:
    """Labels and features stay; what is known of a life begins anew, and is no longer whole."""
    lesson = worn_lesson(4)
    cut = lesson.cut(1, shortest=5, longest=9)
    own = len(lesson.prepared.features[0])

    assert cut.life_h is lesson.life_h
    assert np.array_equal(cut.prepared.deviations, lesson.prepared.inputs[:, :own])
    assert cut.prepared.windows_known.max() <= 9
    assert lesson.prepared.windows_known.max() > 9
    assert not cut.prepared.whole.any()
    assert lesson.prepared.whole.all()


def test_a_cut_history_is_that_of_an_asset_that_began_there() -> None:
    """The inputs of a stretch are those of a life of which nothing is known before it."""
    lesson = worn_lesson(3)
    cut = lesson.cut(2, shortest=6, longest=12)
    cycles = input_names(lesson.spec).index("cycles")
    begins = np.flatnonzero(cut.prepared.windows_known == 1)

    assert np.array_equal(cut.prepared.inputs[:, cycles], cut.prepared.windows_known.astype(np.float32))
    assert len(begins) > 3
    for names, values in zip(input_names(lesson.spec), cut.prepared.inputs[begins].T, strict=True):
        if names.endswith(":life_mean"):
            now = input_names(lesson.spec).index(names.removesuffix(":life_mean"))
            assert values == pytest.approx(cut.prepared.inputs[begins, now], abs=1e-5)


def test_the_same_seed_cuts_alike_and_another_otherwise() -> None:
    """Cuts repeat by their seed."""
    lesson = worn_lesson(4, sequences=False)
    known = [lesson.cut(seed, shortest=5, longest=9).prepared.windows_known for seed in (1, 1, 2)]

    assert np.array_equal(known[0], known[1])
    assert not np.array_equal(known[0], known[2])
