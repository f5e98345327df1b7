"""The words a technician reads: which machine, why, how sure, what to do, by when."""

from __future__ import annotations

from datetime import datetime

from models.records import Basis, ChannelShare

UNCLASSIFIED = "unclassified"
NAMED_CHANNELS = 3


def reason_text(
    *,
    asset_id: str,
    failure_mode: str,
    confidence: float,
    evidence_start: datetime,
    windows: int,
    top_channels: tuple[ChannelShare, ...],
    data_trust: float,
) -> str:
    """Return why the advisory stands, in two to four sentences without line breaks."""
    parts = [
        f"{asset_id}: {_suspicion(failure_mode, confidence)}, since {_moment(evidence_start)} ({windows} windows)."
    ]
    if top_channels:
        parts.append("; ".join(_channel(share) for share in top_channels[:NAMED_CHANNELS]) + ".")
    parts.append(f"{data_trust:.0%} of the values behind this were good.")
    return " ".join(parts)


def action_text(
    *,
    action: str,
    act_by: datetime | None,
    life_p10_s: float | None,
    life_p50_s: float | None,
    basis: Basis | None = None,
) -> str:
    """Return what to do and by when; without a prognosis the date is left to people, and that is said."""
    if act_by is None or life_p10_s is None or life_p50_s is None:
        why = "not enough of this machine's history is known for a life estimate" if basis else "no life estimate yet"
        return f"{action} {why[0].upper()}{why[1:]}: plan it for the next stop."
    return (
        f"{action} Do it by {_moment(act_by)}: nine of ten such machines run {_duration(life_p10_s)} more, "
        f"half of them {_duration(life_p50_s)}{_RESTS_ON.get(basis, '')}."
    )


_RESTS_ON: dict[Basis | None, str] = {
    Basis.WHOLE_HISTORY: " (judged by its whole life)",
    Basis.CUT_HISTORY: " (judged by its last windows: its earlier life is not known here)",
}


def _suspicion(failure_mode: str, confidence: float) -> str:
    if failure_mode == UNCLASSIFIED:
        return "behaves unlike itself, the cause is not clear yet"
    return f"signs of {failure_mode.replace('_', ' ')} ({confidence:.0%} sure)"


def _channel(share: ChannelShare) -> str:
    unit = f" {share.unit}" if share.unit else ""
    return (
        f"{share.channel} makes up {share.share:.0%} of the deviation ({share.feature} is {share.now:.3g}{unit}, "
        f"normally {share.normal_low:.3g} to {share.normal_high:.3g}{unit})"
    )


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _duration(seconds: float) -> str:
    hours = max(seconds, 0.0) / 3600
    if hours < 1:
        return "less than an hour"
    return f"{hours:.0f} h" if hours < 96 else f"{hours / 24:.0f} days"
