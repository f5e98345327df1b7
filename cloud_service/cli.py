"""``wearsight-cloud``: set the cloud service up, run it, and look after fleet and models."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click
import msgspec
import structlog

from cloud_service.command import EXIT_FOUND, Cloud, as_json, print_json, tell, time_of, told_plainly, with_cloud
from cloud_service.config import SAMPLE, Address, load_config, read_access_token
from cloud_service.evaluate.command import evaluate
from cloud_service.fleet import gateways, maintenance
from cloud_service.ingest.cli import ledger
from cloud_service.pki import Pki, write_public
from cloud_service.registry.registry import BundleStatus
from cloud_service.requests.cli import request_data
from cloud_service.store import Store


@click.group()
@click.version_option(package_name="wearsight")
def main() -> None:
    """Gather what gateways send, train models for the whole fleet, and put better ones back."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--server-name",
    "server_names",
    multiple=True,
    default=("localhost", "127.0.0.1"),
    show_default=True,
    help="DNS name or address under which gateways reach the service; may be given several times.",
)
@as_json
def init(folder: Path, server_names: tuple[str, ...], *, as_json: bool) -> None:
    """Make FOLDER a cloud service: configuration, certificate authority, signing key, database."""
    with told_plainly(as_json=as_json):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "cloud.toml"
        if not path.exists():
            write_public(path, SAMPLE.encode())
        config = load_config(path)
        Pki(config.storage.pki).create(server_names)
        Store(config.storage.database).close()
        tell(
            {"config": path, "server_names": server_names},
            f"{path} is ready; gateways reach it as {', '.join(server_names)}",
            as_json=as_json,
        )


@main.command("check-config")
@click.option("--config", "config_path", type=click.Path(path_type=Path), default=Path("cloud.toml"), show_default=True)
def check_config(config_path: Path) -> None:
    """Check the configuration; touch neither the network nor the database."""
    with told_plainly():
        config = load_config(config_path)
        if config.web.access_token_file is not None:
            read_access_token(config.web.access_token_file)
        click.echo(f"{config_path} can be used")


@main.command()
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path),
    help="Written, as JSON with both addresses, once both listeners answer.",
)
@with_cloud
def serve(cloud: Cloud, ready_file: Path | None) -> None:
    """Take segments in, and serve the inbox, until a signal ends it; one JSON line says when it is ready."""
    from cloud_service.server import serve as serve_until_signal  # noqa: PLC0415 - the other commands start faster

    def ready(ingest: Address, web: Address) -> None:
        line = msgspec.json.encode({"ready": True, "ingest": "{}:{}".format(*ingest), "web": "{}:{}".format(*web)})
        click.echo(line.decode())
        sys.stdout.flush()
        if ready_file is not None:
            write_public(ready_file, line + b"\n")

    asyncio.run(serve_until_signal(cloud.config, cloud.store, ready))


@main.command()
@click.argument("gateway_id")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Where its files go; [default: pki folder]"
)
@as_json
@with_cloud
def enroll(cloud: Cloud, gateway_id: str, out: Path | None, *, as_json: bool) -> None:
    """Give GATEWAY_ID an identity: gateway.pem, gateway.key, ca.pem and bundle-signing.pub. An older one is out."""
    folder = out or cloud.pki.folder / "gateways" / gateway_id
    identity = cloud.pki.issue_gateway_certificate(gateway_id, folder)
    with cloud.store.writing() as session:
        gateways.enroll(session, identity)
    told = {"gateway_id": gateway_id, "folder": folder, "certificate_sha256": identity.certificate_sha256}
    tell(told, f"{gateway_id} is enrolled; bring {folder} to it", as_json=as_json)


@main.command()
@click.argument("gateway_id")
@as_json
@with_cloud
def revoke(cloud: Cloud, gateway_id: str, *, as_json: bool) -> None:
    """Keep GATEWAY_ID out from now on; what it sent stays."""
    with cloud.store.writing() as session:
        gateways.revoke(session, gateway_id)
    tell({"gateway_id": gateway_id, "revoked": True}, f"{gateway_id} is revoked", as_json=as_json)


@main.command()
@click.option("--asset-class", required=True)
@click.option("--wait-for-data", is_flag=True, help="Wait until what gateways kept back from before failures has come.")
@click.option("--recurrent-unit", is_flag=True, help="Train one for remaining life, too (extra `sequence`; minutes).")
@as_json
@with_cloud
def train(cloud: Cloud, asset_class: str, *, wait_for_data: bool, recurrent_unit: bool, as_json: bool) -> None:
    """Train a class on all that is in the lake and register the outcome; exit code 3 when the gate refuses it."""
    from cloud_service.releases import train_and_register  # noqa: PLC0415 - the other commands start faster

    trained = train_and_register(
        asset_class,
        store=cloud.store,
        lake=cloud.lake,
        registry=cloud.registry,
        pki=cloud.pki,
        progress=lambda stage, share: click.echo(f"{asset_class}: {stage} {share:.0%}", err=True),
        wait_for_data=wait_for_data,
        recurrent_unit=recurrent_unit,
    )
    figures = ", ".join(f"{name} {value:.3g}" for name, value in sorted(trained.held_out.items()))
    sentence = f"{asset_class} version {trained.version} is {trained.status}: {figures}. {'; '.join(trained.reasons)}"
    if trained.missing:
        sentence += f" Raw data from before failures had not come: {'; '.join(trained.missing)}."
    tell(trained, sentence, as_json=as_json)
    if not trained.released:
        sys.exit(EXIT_FOUND)


@main.command()
@click.option("--asset-class", help="Class to roll out; its newest released version unless --version is given.")
@click.option("--version", type=int)
@click.option("--archive", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Roll out this file.")
@click.option("--inventory", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--watch-windows", type=int, help="Windows the new models must have scored on a gateway.")
@click.option("--watch-timeout-s", type=int, help="Seconds to wait for them.")
@as_json
@with_cloud
def rollout(
    cloud: Cloud,
    *,
    asset_class: str | None,
    version: int | None,
    archive: Path | None,
    inventory: Path,
    watch_windows: int | None,
    watch_timeout_s: int | None,
    as_json: bool,
) -> None:
    """Bring a version to the gateways of an inventory, the canary first; exit code 3 when not all keep it."""
    from cloud_service.releases import archive_to_roll_out, roll_out_version  # noqa: PLC0415 - as above

    if (asset_class is None) == (archive is None):
        raise click.UsageError("give either --asset-class or --archive")
    watch = {"windows": watch_windows, "timeout_s": watch_timeout_s}
    report = roll_out_version(
        registry=cloud.registry,
        archive=archive or archive_to_roll_out(cloud.registry, str(asset_class), version),
        inventory=inventory,
        private_data_dir=cloud.config.storage.folder / "rollouts",
        watch_options={name: value for name, value in watch.items() if value is not None},
        tell=lambda line: click.echo(line, err=True),
    )
    hosts = [
        {"host": host, "outcome": o.status.value, "reason": o.reason, "seconds": o.seconds}
        for host, o in report.hosts.items()
    ]
    told = {
        "asset_class": report.asset_class,
        "version": report.version,
        "succeeded": report.succeeded,
        "hosts": hosts,
    }
    tell(told, "\n".join(f"{h['host']}: {h['outcome']} {h['reason']}".rstrip() for h in hosts), as_json=as_json)
    if not report.succeeded:
        sys.exit(EXIT_FOUND)


@main.command()
@click.option("--asset-class", required=True)
@click.option("--version", type=int, required=True)
@click.option("--reason", default="released by hand", show_default=True)
@as_json
@with_cloud
def release(cloud: Cloud, asset_class: str, version: int, reason: str, *, as_json: bool) -> None:
    """Let a candidate be rolled out."""
    moved = cloud.registry.move(asset_class, version, BundleStatus.RELEASED, reason)
    tell(moved, f"{asset_class} version {moved.version} is {moved.status}", as_json=as_json)


@main.command()
@as_json
@with_cloud
def bundles(cloud: Cloud, *, as_json: bool) -> None:
    """List every version of every asset class's models."""
    found = cloud.registry.versions()
    if as_json:
        print_json(found)
        return
    for bundle in found:
        metrics = ", ".join(f"{name} {value:.3g}" for name, value in sorted(bundle.metrics.items()))
        click.echo(f"{bundle.asset_class} v{bundle.version:06d} {bundle.status:9} {metrics} {bundle.reason}".rstrip())


@main.group("maintenance")
def maintenance_group() -> None:
    """Write down what maintenance found; training learns from it."""


@maintenance_group.command("add")
@click.argument("asset_id")
@click.option("--failed-at", required=True, help="Time with zone, e.g. 2026-03-02T14:30:00Z.")
@click.option("--failure-mode", "--mode", "failure_mode", required=True)
@click.option("--in-service-again", help="When it ran again, repaired.")
@click.option("--note", default="")
@as_json
@with_cloud
def maintenance_add(
    cloud: Cloud,
    asset_id: str,
    *,
    failed_at: str,
    failure_mode: str,
    in_service_again: str | None,
    note: str,
    as_json: bool,
) -> None:
    """Store one failure of ASSET_ID."""
    record = maintenance.MaintenanceRecord(
        asset_id=asset_id,
        failed_at=time_of(failed_at, "--failed-at"),
        failure_mode=failure_mode,
        in_service_again=time_of(in_service_again, "--in-service-again") if in_service_again else None,
        note=note,
    )
    _add_records(cloud, [record], as_json=as_json)


@maintenance_group.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@as_json
@with_cloud
def maintenance_import(cloud: Cloud, file: Path, *, as_json: bool) -> None:
    """Store the failures in FILE: CSV with asset_id, failed_at, failure_mode and, if known, in_service_again, note."""
    _add_records(cloud, maintenance.read_records(file), as_json=as_json)


def _add_records(cloud: Cloud, records: list[maintenance.MaintenanceRecord], *, as_json: bool) -> None:
    with cloud.store.writing() as session:
        for record in records:
            maintenance.add_record(session, record)
    tell({"stored": len(records)}, f"{len(records)} maintenance records stored", as_json=as_json)


main.add_command(evaluate)
main.add_command(ledger)
main.add_command(request_data)
