"""Scales and strays that instruments can tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cloud_service.training.accuracy import least_strays, with_accuracy
from models.features.baseline import Baseline
from models.features.names import input_names
from models.features.specification import FeatureSpecification, History
from models.records import Channel


def test_scales_are_no_finer_than_instruments() -> None:
    """Half a percent of the reading, for a channel's mean and for what its mean does in time."""
    spec = FeatureSpecification(
        asset_class="pump",
        channels=(Channel(name="flow", unit="l/min", low=0.0, high=100.0),),
        window_s=1.0,
        step_s=1.0,
        late_s=0.0,
        statistics=("mean",),
        history=History(rolling=(5,), statistics=("mean", "std"), cycles=True),
    )
    baseline = Baseline(centre={}, class_centre=((40.0,),), class_scale=((0.01,),))
    rated = with_accuracy(spec, baseline, np.full((10, 1), 40.0), 0.005)

    assert rated.class_scale == ((0.2,),)
    assert with_accuracy(spec, baseline, np.array([[38.0], [42.0]]), 0.005).class_scale == ((0.5,),)
    assert least_strays(spec, rated, 0.005).tolist() == [1.0, 1.0, 1.0, 0.0]
    mute = replace(rated, class_centre=((np.nan,),), class_scale=((np.nan,),))
    assert least_strays(spec, mute, 0.005).tolist() == [0.0] * 4
    assert len(input_names(spec)) == 4
