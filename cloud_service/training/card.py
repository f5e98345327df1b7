"""The model card: what a bundle is for, what it learnt from, how good it is, and where it does not work."""

from __future__ import annotations

from collections.abc import Sequence

from cloud_service.training.compression import Compression
from models.bundle.manifest import Manifest
from models.evaluation.gate import Decision
from models.export.parity import Parity


def model_card(
    manifest: Manifest,
    decision: Decision,
    parity: Sequence[Parity],
    missing: Sequence[str] = (),
    notes: Sequence[str] = (),
    compressions: Sequence[Compression] = (),
) -> str:
    """Return the card as Markdown; *missing* says what data from before failures had not come, *notes* what else."""
    lineage = manifest.lineage
    modes = ", ".join(mode for mode in manifest.failure_modes if mode != "normal")
    figures = "\n".join(f"| {name} | {value:.4g} |" for name, value in sorted(manifest.metrics.items()))
    proofs = "\n".join(f"- {one.model}: {one.rows} rows, off by {one.largest_difference:.1e} at most" for one in parity)
    told_life = any(name.startswith("life_") for name in manifest.metrics)
    limits = "".join(f"- {note}.\n" for note in notes)
    reasons = "\n".join(f"- {reason}" for reason in decision.reasons)
    return f"""# {manifest.asset_class}, version {manifest.version}

Tells of assets of class `{manifest.asset_class}` whether they run as they used to (several detectors together)\
{f", which failure mode they show ({modes}; gradient boosting, calibrated)" if modes else ""}\
{", and how long they may run on (conformally calibrated)" if told_life else ""}.

Channels: {", ".join(channel.name for channel in manifest.channels)}.

## Learnt from

{lineage.observations} observations of {len(lineage.trained_on_assets)} assets \
({", ".join(lineage.trained_on_assets)}), trained {lineage.trained_at:%Y-%m-%d %H:%M} UTC with software \
{lineage.software_version}. Data digest `{lineage.lake_digest[:16]}`.
{_missing_data(missing)}
## Held-out figures

On assets it has not learnt from: {", ".join(lineage.held_out_assets) or "none"}.

| figure | value |
|---|---|
{figures}

## Release

{"May be released" if decision.released else "Not released"}:

{reasons}

The ONNX graphs answered as their trainers:

{proofs}
{_compressions(compressions)}
## Where it does not work

- On assets or channels other than these, and on failure modes it has not learnt: they are flagged, not named.
- On an asset without a baseline it compares with the class as a whole, and sees less.
- Life is told up to the cap of its training; a healthy asset's life is "at least that".
- Without a known start of a machine's life, its remaining life is judged by its last windows alone, and less well.
{limits}"""


def _compressions(compressions: Sequence[Compression]) -> str:
    if not compressions:
        return ""
    reports = "\n".join(report.markdown(times=False) for report in compressions)
    return f"\n## Smaller forms of the models\n\n{reports}\n"


def _missing_data(missing: Sequence[str]) -> str:
    if not missing:
        return ""
    lines = "\n".join(f"- {one}" for one in missing)
    return f"\nOf the time before failures, gateways had kept data back that had not come:\n\n{lines}\n"
