"""``wearsight-gateway opcua import``: the tag list of another program becomes one of ours."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec
from asyncua.ua.uaerrors import UaError

from gateway.command import EXIT_FAULT, json_option
from gateway.commissioning.foreign import ForeignList, Imported, UnreadableList, to_rows
from gateway.commissioning.kepware import is_header, read_kepware
from gateway.commissioning.opc_publisher import read_opc_publisher
from gateway.commissioning.server_argument import Target, fail, session
from gateway.commissioning.telegraf import read_telegraf
from gateway.config import GatewayConfig
from gateway.config_file import load_config
from gateway.data_acquisition.certificate import application_uri
from gateway.data_acquisition.connection import Identity
from gateway.errors import ConfigError, GatewayError
from gateway.tag_list import BYTES_MOST, ROWS_MOST, TagRow, format_tags, read_tags, write_tags

FORMATS = ("auto", "opc-publisher", "telegraf", "kepware")


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--format", "form", type=click.Choice(FORMATS), default="auto", show_default=True)
@click.option("--server", required=True, help="Name of the [[server]] that has these tags.")
@click.option("--asset-id", default="", help="The machine of all tags; default: as the list groups them.")
@click.option("--asset-class", default="", help="Its class; needed where no [[asset]] says it.")
@click.option("--endpoint", default="", help="Take the nodes of this address alone, if the list has several.")
@click.option("--device", default="", help="Channel.Device of a Kepware export, which does not say it.")
@click.option(
    "--namespace", "told", multiple=True, metavar="INDEX=URI", help="What ns=INDEX means; may be given several times."
)
@click.option("--connect", is_flag=True, help="Ask the server what its namespace indexes mean now.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Add to this tag list.")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
@click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("gateway.toml"),
    show_default=True,
    help="The gateway's configuration; needed to connect.",
)
@json_option
def import_command(
    file: Path,
    *,
    form: str,
    server: str,
    asset_id: str,
    asset_class: str,
    endpoint: str,
    device: str,
    told: tuple[str, ...],
    output: Path | None,
    config_file: Path,
    connect: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take the tags of FILE: OPC Publisher's publishednodes.json, Telegraf's TOML, or a Kepware CSV export.

    Namespace indexes become URIs. What cannot be taken is listed with its reason. Without -o the tag list is printed.
    """
    try:
        foreign = _read(file, form, device)
        _one_server(foreign, endpoint)
        namespaces = {**foreign.namespaces, **_namespaces(told)}
        if connect:
            namespaces |= _asked(config_file, server, as_json=as_json)
        present = list(read_tags(output).values()) if output is not None and output.exists() else []
        imported = to_rows(
            foreign,
            server=server,
            endpoint=endpoint,
            asset_id=asset_id,
            asset_class=asset_class,
            namespaces=namespaces,
            present=[(row.asset_id, row.channel) for row in present],
        )
        if output is not None and imported.rows and not dry_run:
            write_tags(output, [*present, *imported.rows])
    except (UnreadableList, click.UsageError) as error:
        reason = f"{file}: {error}" if isinstance(error, UnreadableList) else error.format_message()
        if as_json:
            fail(ConfigError(reason), server, as_json=True)
        raise click.UsageError(reason) from error
    except (GatewayError, UaError, OSError) as error:
        fail(error, server, as_json=as_json)
    written = output if imported.rows and not dry_run else None
    _tell_data(imported, written) if as_json else _tell(imported, output, written)
    sys.exit(0 if imported.rows else EXIT_FAULT)


def _read(file: Path, form: str, device: str) -> ForeignList:
    """Return the list in *file*, which is of the format *form*.

    Raises:
        UnreadableList: If it is not, or is too large.
    """
    with file.open("rb") as opened:
        content = opened.read(BYTES_MOST + 1)
    if len(content) > BYTES_MOST:
        raise UnreadableList(f"larger than {BYTES_MOST >> 20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")  # as Windows programs write it
    match _format_of(text) if form == "auto" else form:
        case "kepware":
            if not device:
                raise UnreadableList(
                    "a Kepware export does not say of which device it is; give --device Channel.Device"
                )
            foreign = read_kepware(text, device)
        case "opc-publisher":
            foreign = read_opc_publisher(text)
        case _:
            foreign = read_telegraf(text)
    if len(foreign.entries) > ROWS_MOST:
        raise UnreadableList(f"has {len(foreign.entries):,} nodes; at most {ROWS_MOST:,}")
    return foreign


def _format_of(text: str) -> str:
    """Return which format *text* has, by what only that has."""
    if any(map(is_header, text.splitlines()[:20])):
        return "kepware"
    if '"EndpointUrl"' in text:
        return "opc-publisher"
    if "inputs.opcua" in text:
        return "telegraf"
    raise UnreadableList("none of the known formats; name one with --format, to see what is wrong with it")


def _one_server(foreign: ForeignList, endpoint: str) -> None:
    """Refuse a list of several servers, unless one is chosen."""
    endpoints = sorted({entry.endpoint for entry in foreign.entries if entry.endpoint})
    if endpoint and endpoint not in endpoints:
        raise UnreadableList(f"has no nodes of {endpoint}; it has some of {', '.join(endpoints) or 'no address'}")
    if not endpoint and len(endpoints) > 1:
        raise UnreadableList(f"has nodes of several servers, choose one with --endpoint: {', '.join(endpoints)}")


def _namespaces(told: Iterable[str]) -> dict[int, str]:
    namespaces: dict[int, str] = {}
    for one in told:
        index, _, uri = one.partition("=")
        if not index.isdecimal() or not uri:
            raise click.BadParameter(f"{one!r} is not INDEX=URI", param_hint="--namespace")
        namespaces[int(index)] = uri
    return namespaces


def _asked(config_file: Path, server: str, *, as_json: bool) -> dict[int, str]:
    """Return the namespaces of *server* as they are now."""
    config = load_config(config_file)
    target = _target(config, config_file, server, as_json=as_json)

    async def ask() -> dict[int, str]:
        async with session(target) as held:
            return dict(enumerate(held.space.namespaces))

    return asyncio.run(ask())


def _target(config: GatewayConfig, config_file: Path, server: str, *, as_json: bool) -> Target:
    found = next((one for one in config.server if one.name == server), None)
    if found is None:
        names = ", ".join(one.name for one in config.server) or "none"
        raise ConfigError(f"{config_file} has no server {server!r} (it has: {names})")
    identity = Identity(
        application_uri=application_uri(config.gateway_id), common_name=config.gateway_id, pki_dir=config.pki_dir
    )
    return Target(server=found, identity=identity, config=config, config_file=config_file, as_json=as_json)


def _tell_data(imported: Imported, written: Path | None) -> None:
    body = {
        "written": None if written is None else str(written),
        "rows": [_row_data(row) for row in imported.rows],
        "not_taken": imported.not_taken,
        "groups": imported.groups,
        "notes": imported.notes,
    }
    click.echo(msgspec.json.encode(body).decode())


def _row_data(row: TagRow) -> dict[str, Any]:
    """Return *row* as JSON can tell it: an end that the server tells is null."""
    return {
        key: None if value in {float("inf"), -float("inf")} else value
        for key, value in msgspec.structs.asdict(row).items()
    }


def _tell(imported: Imported, output: Path | None, written: Path | None) -> None:
    if output is None and imported.rows:
        click.echo(format_tags(imported.rows), nl=False)
    for one in imported.not_taken:
        click.echo(f"not taken: {one.where} {one.name}: {one.reason}", err=True)
    for note in imported.notes:
        click.echo(f"note: {note}", err=True)
    where = f"added to {written}" if written is not None else f"would be added to {output}" if output else "printed"
    click.echo(f"{len(imported.rows)} tags {where}, {len(imported.not_taken)} not taken", err=True)
    for line in _next_steps(imported, output):
        click.echo(line, err=True)


def _next_steps(imported: Imported, output: Path | None) -> list[str]:
    """Return what has to stand in the configuration for the rows to be taken."""
    if not imported.rows:
        return []
    lines = ["", "The configuration needs:", "", f'tags_file = "{(output or Path("tags.csv")).name}"']
    lines += [f"[asset_class.{name}]" for name in sorted({row.asset_class for row in imported.rows} - {""})]
    for name, keys in imported.groups.items():
        lines += [f"[acquisition.group.{_key(name)}]", *_toml(keys)]
    if any(not row.asset_class for row in imported.rows):
        lines += ["", "and an [[asset]] with asset_class for each machine; or import again with --asset-class"]
    return lines


def _key(name: str) -> str:
    return f'"{name}"' if "." in name else name


def _toml(keys: Mapping[str, Any]) -> list[str]:
    return [f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}" for key, value in keys.items()]
