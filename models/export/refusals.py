"""Estimators that have no faithful ONNX form, by name and with what to take instead."""

from __future__ import annotations

from models.export.graph import ExportError

# Tried with scikit-learn 1.9, skl2onnx 1.20, onnx 1.23: what each does when it is converted all the same.
_NOT_CONVERTIBLE = {
    "HistGradientBoostingClassifier": "its converter fails at every operator set; train a LightGBM booster",
    "HistGradientBoostingRegressor": "its converter fails at every operator set; train a LightGBM booster",
    "EllipticEnvelope": "it has no converter; take T² and Q of a PCA",
}
_BY_MEMBER = {
    "LGBMClassifier": "hand over its booster_",
    "LGBMRegressor": "hand over its booster_",
    "MLPRegressor": "hand over its weights as models.export.components.Autoencoder",
    "PCA": "hand over its directions as models.export.components.PrincipalComponents",
    "Pipeline": "scale in float64 before the model, and hand over the estimator alone",
}
_EXPORTED = frozenset({"Booster", "IsolationForest"})


def check_exportable(estimator: object) -> None:
    """Check that *estimator* is of a kind whose exported graph answers as it does.

    Raises:
        ExportError: With its kind, why, and what to take instead.
    """
    kinds = [kind.__name__ for kind in type(estimator).__mro__]
    if kinds[0] in _EXPORTED:
        return
    reasons = [reason for kind in kinds if (reason := (_NOT_CONVERTIBLE | _BY_MEMBER).get(kind))]
    why = reasons[0] if reasons else f"only {', '.join(sorted(_EXPORTED))} are exported"
    raise ExportError(f"{kinds[0]} has no faithful ONNX form: {why}; nothing is exported")
