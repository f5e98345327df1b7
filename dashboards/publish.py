"""Put the boards on a Grafana, through grafana-api; a second run changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from grafana_api.grafana_api import GrafanaClientError, GrafanaException
from grafana_api.grafana_face import GrafanaFace

from dashboards.boards import BOARDS

FOLDER_UID, FOLDER_TITLE = "wearsight", "Wearsight"
_GIVEN_BY_GRAFANA = {"id", "version"}


class PublishError(RuntimeError):
    """Boards could not be published; the message says which, why, and what was done before."""


class GrafanaConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Grafana is; ``token_file`` holds a service account's token with the right to edit dashboards."""

    url: str
    token_file: str
    timeout_s: float = 10.0


@dataclass(frozen=True, kw_only=True)
class Published:
    """One board and what was done with it: ``created``, ``updated`` or ``unchanged``."""

    uid: str
    outcome: str


def load_config(path: Path) -> GrafanaConfig:
    """Return the checked configuration in *path*, with an absolute token file.

    Raises:
        PublishError: If it cannot be read, has unknown keys, or its address is no HTTP address.
    """
    try:
        config = msgspec.toml.decode(path.read_bytes(), type=GrafanaConfig)
    except (OSError, msgspec.DecodeError) as error:
        raise PublishError(f"{path}: {error}; nothing is published") from error
    if urlsplit(config.url).scheme not in {"http", "https"} or not urlsplit(config.url).hostname:
        raise PublishError(f"{path}: url {config.url!r} is not an http(s) address; nothing is published")
    return msgspec.structs.replace(config, token_file=str(path.resolve().parent / config.token_file))


def publish(config: GrafanaConfig, *, dry_run: bool = False) -> list[Published]:
    """Publish every board into the folder ``Wearsight`` and return what was done.

    Raises:
        PublishError: If Grafana refuses or does not answer.
    """
    grafana = _connect(config)
    done: list[Published] = []
    try:
        _folder(grafana, dry_run=dry_run)
        for board in BOARDS.values():
            done.append(_board(grafana, board(), dry_run=dry_run))  # noqa: PERF401 - told of in the error below
    except (GrafanaException, OSError) as error:
        told = ", ".join(f"{p.uid} {p.outcome}" for p in done) or "nothing"
        raise PublishError(f"{config.url}: {error}; published before that: {told}") from error
    return done


def _connect(config: GrafanaConfig) -> GrafanaFace:
    address = urlsplit(config.url)
    prefix = address.path.strip("/")
    try:
        token = Path(config.token_file).read_text().strip()
    except OSError as error:
        raise PublishError(f"token_file {config.token_file}: {error.strerror}; nothing is published") from error
    return GrafanaFace(
        auth=token,
        host=address.hostname,
        port=address.port,
        protocol=address.scheme,
        url_path_prefix=f"{prefix}/" if prefix else "",
        timeout=config.timeout_s,
    )


def _folder(grafana: GrafanaFace, *, dry_run: bool) -> None:
    if _found(lambda: grafana.folder.get_folder(FOLDER_UID)) is None and not dry_run:
        grafana.folder.create_folder(FOLDER_TITLE, FOLDER_UID)


def _board(grafana: GrafanaFace, board: dict[str, Any], *, dry_run: bool) -> Published:
    uid = board["uid"]
    there = _found(lambda: grafana.dashboard.get_dashboard(uid))
    if there is not None and _same(there["dashboard"], board):
        return Published(uid=uid, outcome="unchanged")
    if not dry_run:
        body = {"dashboard": board, "folderUid": FOLDER_UID, "overwrite": True, "message": "published by wearsight"}
        grafana.dashboard.update_dashboard(body)
    return Published(uid=uid, outcome="updated" if there is not None else "created")


def _found(ask: Any) -> Any:
    """Return Grafana's answer, None if it knows no such thing."""
    try:
        return ask()
    except GrafanaClientError as error:
        if error.status_code == 404:
            return None
        raise


def _same(there: dict[str, Any], board: dict[str, Any]) -> bool:
    return {key: value for key, value in there.items() if key not in _GIVEN_BY_GRAFANA} == board
