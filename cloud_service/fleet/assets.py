"""The fleet's assets and their advisories, as the gateways tell them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cloud_service.store import AdvisoryRevisionRow, AdvisoryRow, AssetRow
from models.records import OPEN_STATES, Advisory, AssetDescription, Results

log = structlog.get_logger()

_description_decoder = msgspec.msgpack.Decoder(AssetDescription)
_advisory_decoder = msgspec.msgpack.Decoder(Advisory)
REVISIONS_SHOWN = 50


@dataclass(frozen=True, kw_only=True)
class FleetAdvisory:
    """The newest revision of an advisory, and the gateway that raised it."""

    gateway_id: str
    advisory: Advisory


def take_over(session: Session, gateway_id: str, results: Iterable[Results]) -> None:
    """Enter what *results* of *gateway_id* say of assets and advisories; an older revision changes nothing."""
    for page in results:
        for description in page.assets:
            _describe(session, gateway_id, description)
        for advisory in page.advisories:
            _revise(session, gateway_id, advisory)


def assets(session: Session, asset_class: str | None = None) -> list[AssetDescription]:
    """Return the fleet's assets, of *asset_class* only when one is given, by id."""
    query = select(AssetRow.description).order_by(AssetRow.asset_id)
    if asset_class is not None:
        query = query.where(AssetRow.asset_class == asset_class)
    return [_description_decoder.decode(description) for description in session.scalars(query)]


def open_advisories(session: Session) -> list[FleetAdvisory]:
    """Return the advisories that are not returned, closed or out of service, newest first."""
    query = select(AdvisoryRow).where(AdvisoryRow.state.in_(sorted(OPEN_STATES)))
    rows = session.scalars(query.order_by(AdvisoryRow.updated_at.desc(), AdvisoryRow.advisory_id))
    return [FleetAdvisory(gateway_id=row.gateway_id, advisory=_advisory_decoder.decode(row.record)) for row in rows]


def all_advisories(session: Session) -> list[FleetAdvisory]:
    """Return the newest revision of every advisory, open or not, by asset."""
    rows = session.scalars(select(AdvisoryRow).order_by(AdvisoryRow.asset_id, AdvisoryRow.advisory_id))
    return [FleetAdvisory(gateway_id=row.gateway_id, advisory=_advisory_decoder.decode(row.record)) for row in rows]


def advisory_revisions(session: Session, advisory_id: str) -> Sequence[Advisory]:
    """Return the newest revisions of *advisory_id*, newest first, empty when there is no such advisory."""
    query = select(AdvisoryRevisionRow.record).where(AdvisoryRevisionRow.advisory_id == advisory_id)
    query = query.order_by(AdvisoryRevisionRow.revision.desc()).limit(REVISIONS_SHOWN)
    return [_advisory_decoder.decode(record) for record in session.scalars(query)]


def count_open_advisories(session: Session) -> int:
    """Return how many advisories are open."""
    query = select(func.count()).select_from(AdvisoryRow).where(AdvisoryRow.state.in_(sorted(OPEN_STATES)))
    return session.scalar(query) or 0


def _describe(session: Session, gateway_id: str, description: AssetDescription) -> None:
    row = session.get(AssetRow, description.asset_id)
    if row is None:
        row = AssetRow(asset_id=description.asset_id)
        session.add(row)
    elif row.gateway_id != gateway_id:
        log.info("asset moved", asset_id=row.asset_id, from_gateway=row.gateway_id, gateway_id=gateway_id)
    row.gateway_id = gateway_id
    row.asset_class = description.asset_class
    row.description = msgspec.msgpack.encode(description)


def _revise(session: Session, gateway_id: str, advisory: Advisory) -> None:
    row = session.get(AdvisoryRow, advisory.advisory_id)
    if row is not None and row.gateway_id != gateway_id:
        log.warning(
            "advisory of another gateway left as it is; the revision stays in the lake",
            advisory_id=advisory.advisory_id,
            owner=row.gateway_id,
            gateway_id=gateway_id,
        )
        return
    record = msgspec.msgpack.encode(advisory)
    if session.get(AdvisoryRevisionRow, (advisory.advisory_id, advisory.revision)) is None:
        revision = AdvisoryRevisionRow(advisory_id=advisory.advisory_id, revision=advisory.revision, record=record)
        session.add(revision)
    if row is None:
        row = AdvisoryRow(advisory_id=advisory.advisory_id, gateway_id=gateway_id, revision=-1)
        session.add(row)
    if advisory.revision > row.revision:
        row.revision, row.record = advisory.revision, record
        row.asset_id, row.state, row.updated_at = advisory.asset_id, advisory.state.value, advisory.updated_at
