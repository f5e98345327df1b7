"""What a specification learns from data, once."""

from __future__ import annotations

from models.features.regimes import fit_regimes
from models.features.residuals import fit_residuals
from models.features.specification import FeatureSpecification
from models.records import FloatArray


def fit_specification(spec: FeatureSpecification, features: FloatArray, seed: int) -> FeatureSpecification:
    """Return *spec* with its regimes and residuals fitted; ``residuals.with_physics`` then computes what is new.

    What is fitted already is kept: a later training of a class passes the specification of the live release, so that
    what gateways remember of their machines stays valid.

    Args:
        spec: Regimes without centres and residuals without coefficients are fitted.
        features: Of healthy windows of training assets, as `extract` gives them with *spec*, shape ``(n, f)``.
        seed: Of the draws in which clusters are looked for.
    """
    return fit_residuals(fit_regimes(spec, features, seed), features)
