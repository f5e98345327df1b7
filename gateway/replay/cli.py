"""The command ``wearsight-gateway replay``."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import fields
from importlib.metadata import version as installed_version
from pathlib import Path

import click

from gateway.bundles.slots import BundleSlots
from gateway.command import EXIT_FOUND
from gateway.condition_monitoring.blocks import Blocks
from gateway.config import GatewayConfig
from gateway.errors import BundleRefused, ConfigError, GatewayError
from gateway.historian import InfluxHistorian
from gateway.journal_commands.export import whole_file
from gateway.journal_commands.journal_argument import JournalTarget, journal_command
from gateway.journal_commands.places import stretch_between, stretch_options
from gateway.journal_commands.reading import Stretch
from gateway.journal_commands.sinks import JsonLinesSink
from gateway.journal_commands.view import JournalView
from gateway.progress import progress_bar
from gateway.replay.history import Written, task_of, write_again
from gateway.replay.monitoring import Emit, Replayed, replay
from gateway.replay.telling import of_replayed, of_written
from models.bundle.errors import BundleError
from models.records import Results

PLACE_FILE = "replay-historian.json"


@click.command("replay")
@stretch_options
@click.option(
    "--into",
    type=click.Choice(["results", "historian"]),
    default="results",
    show_default=True,
    help="Through condition monitoring, storing nothing; or into InfluxDB.",
)
@click.option(
    "--bundle",
    "bundle_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Monitor with this bundle, not with the live ones.",
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write what comes out as JSON lines."
)
@journal_command
def replay_command(
    target: JournalTarget,
    start: str | None,
    end: str | None,
    into: str,
    bundle_file: Path | None,
    output: Path | None,
) -> None:
    """Take pages of the journal once more.

    From any position, while the gateway may run. Into results: runs the live bundles, or --bundle, over them, and
    compares the zones with those in the journal. Nothing is stored. Into historian: writes the pages to InfluxDB
    again, which changes no point that is there; cut off, the same command goes on where it was.

    A SEQ is included; a TIME is source time, in UTC where it names no offset. Exit code 3 when pages cannot be
    read, or points are refused.
    """
    if into == "historian" and (bundle_file is not None or output is not None):
        raise click.UsageError("--bundle and --output go with --into results")
    config, stretch = target.needs_config(), stretch_between(start, end)
    with JournalView(target.state_dir) as view:
        if into == "historian":
            _into_historian(target, view, config, stretch)
        else:
            _into_results(target, view, config, stretch, bundle_file, output)


def _into_results(
    target: JournalTarget,
    view: JournalView,
    config: GatewayConfig,
    stretch: Stretch,
    bundle_file: Path | None,
    output: Path | None,
) -> None:
    with ExitStack() as stack:
        blocks = _blocks(config, bundle_file, stack)
        emit = _emit(output, stack)
        tell = stack.enter_context(progress_bar("replaying"))
        found = replay(view, stretch, blocks, emit, tell)
    versions = {asset_class: active.version for asset_class, active in blocks.active().items()}
    data = {"bundles": versions, "warnings": blocks.warnings, **_data(found)}
    target.tell(data, of_replayed(found, versions, tuple(blocks.warnings.values())))
    if found.lost:
        sys.exit(EXIT_FOUND)


def _data(found: Replayed) -> dict[str, object]:
    return {one.name: getattr(found, one.name) for one in fields(found)}


def _emit(output: Path | None, stack: ExitStack) -> Emit:
    if output is None:
        return lambda _seq, _results: None
    sink = JsonLinesSink(stack.enter_context(whole_file(output)))

    def emit(seq: int, results: Results) -> None:
        for one in fields(Results):
            sink.records(seq, one.name, getattr(results, one.name))

    return emit


def _blocks(config: GatewayConfig, bundle_file: Path | None, stack: ExitStack) -> Blocks:
    """Return new blocks over the live bundles, or over the one in *bundle_file*, checked as an install checks it."""
    assets = {asset.asset_id: asset.asset_class for asset in config.asset}
    key_file = config.bundles.trusted_key_file if config.bundles is not None else None
    key = key_file.read_bytes() if key_file is not None and key_file.is_file() else None
    if bundle_file is None:
        slots = BundleSlots(config.state_dir / "bundles", key, software_version=installed_version("wearsight"))
        return Blocks(
            gateway_id=config.gateway_id, assets=assets, slots=slots, in_service_since=config.in_service_since
        )
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wearsight-replay-")))
    slots = BundleSlots(folder, key, software_version=installed_version("wearsight"))
    try:
        asset_class = slots.install(bundle_file).asset_class
    except (BundleError, BundleRefused) as error:
        raise GatewayError(f"{bundle_file}: refused ({type(error).__name__}): {error}") from error
    chosen = {asset_id: of for asset_id, of in assets.items() if of == asset_class}
    if not chosen:
        raise ConfigError(f"{bundle_file}: is for {asset_class}, of which this gateway has no asset")
    return Blocks(gateway_id=config.gateway_id, assets=chosen, slots=slots, in_service_since=config.in_service_since)


def _into_historian(target: JournalTarget, view: JournalView, config: GatewayConfig, stretch: Stretch) -> None:
    if config.historian is None:
        raise ConfigError(
            f"{target.config_file}: has no [historian]; without InfluxDB the journal itself is the history"
        )
    place_file = target.state_dir / PLACE_FILE

    async def write() -> Written:
        assert config.historian is not None
        historian = InfluxHistorian(config.historian)
        try:
            with progress_bar("writing") as tell:
                task = task_of(view, stretch, config.historian)
                return await write_again(view, task, historian, place_file, tell, _tell_trouble)
        finally:
            await historian.close()

    try:
        written = asyncio.run(write())
    except KeyboardInterrupt:
        click.echo("ended; the same command goes on where it was", err=True)
        sys.exit(1)
    target.tell(written, of_written(written))
    if written.lost or written.refused:
        sys.exit(EXIT_FOUND)


def _tell_trouble(text: str) -> None:
    click.echo(f"\nInfluxDB: {text}; tried again" if text else "\nInfluxDB takes pages again", err=True)
