"""The commands ``wearsight-gateway adaptation …``."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime

import click

from gateway.adaptation.evidence import adaptation_of, windows_between
from gateway.adaptation.store import AdaptationStore, release_of
from gateway.config import GatewayConfig
from gateway.errors import ConfigError, ModelError
from gateway.journal_commands.journal_argument import JournalTarget, journal_command
from gateway.journal_commands.places import stretch_between, stretch_options, time_text
from gateway.journal_commands.view import JournalView
from gateway.pipeline import bundle_slots
from gateway.progress import progress_bar
from models.bundle.loaded import LoadedBundle
from models.detection.adaptation import Adaptation, AdaptationError
from models.features.names import feature_names
from models.features.specification import FeatureSpecification

_TOLD_FEATURES = 5


@click.group()
def adaptation() -> None:
    """Fit the live models to one machine, from windows that somebody knows to be healthy.

    A machine that has always run a little warmer than its class is not a fault. Within the bounds of its bundle a
    gateway moves the machine's own centre, and how much it may scatter. A running gateway follows within seconds; reset
    gives exactly the answers from before. An adaptation is for one release; under the next it counts no more.
    """


@adaptation.command("show")
@journal_command
def show_command(target: JournalTarget) -> None:
    """Say which machines the live models are fitted to, by whom, and from when."""
    config = target.needs_config()
    store = _store(config)
    rows = []
    for asset_class in sorted({asset.asset_class for asset in config.asset}):
        live = bundle_slots(config).live(asset_class)
        made = store.read(asset_class)
        counting = made.for_release(release_of(live)).of if live is not None else {}
        spec = live.specification if live is not None else None
        rows += [_told(one, spec, counts=one.asset_id in counting) for one in made.of.values()]
    text = "\n".join(_line(row) for row in rows) or "no machine has models fitted to it; see adaptation confirm --help"
    target.tell(rows, text)


@adaptation.command("confirm")
@click.argument("asset_id")
@stretch_options
@click.option("--by", "confirmed_by", help="Who says that the machine was healthy then. [default: the user's name]")
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@journal_command
def confirm_command(
    target: JournalTarget, asset_id: str, start: str | None, end: str | None, confirmed_by: str | None, *, dry_run: bool
) -> None:
    """Confirm that ASSET_ID was healthy, and fit the live models to it.

    The windows are made of what the journal holds from --from to --to. They are refused when they are too few, when
    they wander like the way into a fault, or are out of normal even around a centre of their own.
    """
    config = target.needs_config()
    asset_class, bundle = _bundle_of(config, asset_id)
    with JournalView(target.state_dir) as view, progress_bar("reading") as tell:
        try:
            windows = windows_between(view, bundle, asset_id, stretch_between(start, end), tell)
            made = adaptation_of(
                bundle,
                asset_id,
                windows,
                confirmed_by=_user() if confirmed_by is None else confirmed_by,
                confirmed_at=datetime.now(UTC),
            )
            if not dry_run:
                _store(config).change(asset_class, lambda before: before.with_(made))
        except AdaptationError as error:
            raise ModelError(str(error)) from error
    told = _told(made, bundle.specification, counts=True)
    target.tell({"adapted": not dry_run, **told}, f"{'would be: ' if dry_run else ''}{_line(told)}")


@adaptation.command("reset")
@click.argument("asset_id")
@journal_command
def reset_command(target: JournalTarget, asset_id: str) -> None:
    """Judge ASSET_ID again as its bundle says, as if its models had never been fitted to it."""
    config = target.needs_config()
    asset_class = _class_of(config, asset_id)
    store = _store(config)
    fitted = asset_id in store.read(asset_class).of
    if fitted:
        store.change(asset_class, lambda before: before.without(asset_id))
    data = {"asset_id": asset_id, "reset": fitted}
    target.tell(data, f"{asset_id}: {'judged as its bundle says' if fitted else 'nothing was fitted to it'}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:  # a container's user may have no name
        raise ConfigError("who confirms is not known here; say it with --by; nothing is adapted") from error


def _store(config: GatewayConfig) -> AdaptationStore:
    return AdaptationStore(config.state_dir / "adaptations")


def _class_of(config: GatewayConfig, asset_id: str) -> str:
    classes = {asset.asset_id: asset.asset_class for asset in config.asset}
    if asset_id not in classes:
        raise ConfigError(f"{asset_id} is no asset of this gateway; known: {', '.join(sorted(classes))}")
    return classes[asset_id]


def _bundle_of(config: GatewayConfig, asset_id: str) -> tuple[str, LoadedBundle]:
    asset_class = _class_of(config, asset_id)
    bundle = bundle_slots(config).live(asset_class)
    if bundle is None:
        raise ModelError(f"{asset_class} has no live bundle; install one first: wearsight-gateway bundle install")
    return asset_class, bundle


def _told(one: Adaptation, spec: FeatureSpecification | None, *, counts: bool) -> dict[str, object]:
    names = feature_names(spec) if spec is not None else ()
    moved = {
        name: max((row[place] for row in one.shift), key=abs)
        for place, name in enumerate(names)
        if all(len(row) == len(names) for row in one.shift)
    }
    furthest = sorted(moved, key=lambda name: -abs(moved[name]))[:_TOLD_FEATURES]
    return {
        "asset_id": one.asset_id,
        "asset_class": one.asset_class,
        "bundle_version": one.bundle_version,
        "counts": counts,
        "windows": one.windows,
        "first_end": time_text(one.first_end_ns),
        "last_end": time_text(one.last_end_ns),
        "factor": one.factor,
        "shift_scales": {name: moved[name] for name in furthest if moved[name]},
        "confirmed_by": one.confirmed_by,
        "confirmed_at": one.confirmed_at.isoformat(),
    }


def _line(told: dict[str, object]) -> str:
    shift = told["shift_scales"]
    moved = ", ".join(f"{name} by {scales:+.2g}" for name, scales in shift.items()) if isinstance(shift, dict) else ""
    return (
        f"{told['asset_id']} ({told['asset_class']} version {told['bundle_version']}"
        f"{'' if told['counts'] else ', counts no more'}): {told['windows']} windows up to {told['last_end']}, "
        f"confirmed by {told['confirmed_by']}; score divided by {told['factor']:.3g}; "
        f"centre moved, in scales: {moved or 'nowhere'}"
    )
