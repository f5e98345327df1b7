"""What a bundle says of itself: the part that is signed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from models.records import Channel

SCHEMA_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Limits the gateway acts on.

    Attributes:
        warning: Detector output from which a window is in zone warning; the state's score is output / warning.
        alarm: The same for zone alarm, not below ``warning``.
        minimum_good_share: Share of good observations, 0 to 1, below which a window's state is unknown.
        on_delay_windows: Windows in a row out of normal before an advisory is raised.
        off_delay_windows: Windows in a row in normal before it returns.
        minimum_confidence: Below it a failure mode is reported as ``unclassified``.
    """

    warning: float
    alarm: float
    minimum_good_share: float
    on_delay_windows: int
    off_delay_windows: int
    minimum_confidence: float


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Where a release comes from: what it was trained on, by what, and what was live then."""

    trained_at: datetime
    trained_on_assets: tuple[str, ...]
    held_out_assets: tuple[str, ...]
    observations: int
    lake_digest: str
    replaces_version: int | None
    software_version: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The signed part of a bundle.

    Attributes:
        schema_version: Version of this record's shape.
        asset_class: The class of assets the models are for.
        version: Grows with each release of the class; a gateway never goes back by install, only by rollback.
        channels: The channels the models need, with units and ranges.
        feature_hash: Digest of the feature specification in ``features.json`` as the code computes it.
        thresholds: Limits the gateway acts on.
        failure_modes: The classifier's classes in its order, ``normal`` first; empty when there is no classifier.
        actions: Recommended action by failure mode.
        files: SHA-256 by file name, for every file of the bundle but manifest and signature.
        opset: ONNX operator sets, by domain.
        minimum_gateway_version: Oldest gateway that can run it.
        not_after: From then on it is not installed any more.
        metrics: Held-out figures by name.
        lineage: Where it comes from.
    """

    schema_version: int
    asset_class: str
    version: int
    channels: tuple[Channel, ...]
    feature_hash: str
    thresholds: Thresholds
    failure_modes: tuple[str, ...]
    actions: dict[str, str]
    files: dict[str, str]
    opset: dict[str, int]
    minimum_gateway_version: str
    not_after: datetime
    metrics: dict[str, float]
    lineage: Lineage
