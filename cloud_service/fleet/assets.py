"""The fleet's assets and their advisories, as the gateways tell them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import msgspec
import structlog
from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from cloud_service.store import AdvisoryRevisionRow, AdvisoryRow, AssetRow
from models.records import OPEN_STATES, Advisory, AssetDescription, Results

log = structlog.get_logger()

_description_decoder = msgspec.msgpack.Decoder(AssetDescription)
_advisory_decoder = msgspec.msgpack.Decoder(Advisory)
REVISIONS_SHOWN = 50
_KEYS_AT_ONCE = 400  # what any database takes in one question
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class FleetAdvisory:
    """The newest revision of an advisory, and the gateway that raised it."""

    gateway_id: str
    advisory: Advisory


def take_over(session: Session, gateway_id: str, results: Iterable[Results]) -> None:
    """Enter what *results* of *gateway_id* say of assets and advisories; an older revision changes nothing.

    All rows are asked for together, however many there are: nobody else writes meanwhile.
    """
    pages = list(results)
    _describe(session, gateway_id, {one.asset_id: one for page in pages for one in page.assets})
    revisions: dict[tuple[str, int], Advisory] = {}
    for page in pages:
        for advisory in page.advisories:
            revisions.setdefault((advisory.advisory_id, advisory.revision), advisory)
    _revise(session, gateway_id, revisions)


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


def _describe(session: Session, gateway_id: str, descriptions: dict[str, AssetDescription]) -> None:
    known: dict[str, AssetRow] = {}
    for keys in _some(descriptions):
        known |= {row.asset_id: row for row in session.scalars(select(AssetRow).where(AssetRow.asset_id.in_(keys)))}
    for asset_id, description in descriptions.items():
        row = known.get(asset_id)
        if row is None:
            row = AssetRow(asset_id=asset_id)
            session.add(row)
        elif row.gateway_id != gateway_id:
            log.info("asset moved", asset_id=asset_id, from_gateway=row.gateway_id, gateway_id=gateway_id)
        row.gateway_id = gateway_id
        row.asset_class = description.asset_class
        row.description = msgspec.msgpack.encode(description)


def _revise(session: Session, gateway_id: str, revisions: dict[tuple[str, int], Advisory]) -> None:
    known: dict[str, AdvisoryRow] = {}
    for ids in _some({advisory_id for advisory_id, _ in revisions}):
        found = session.scalars(select(AdvisoryRow).where(AdvisoryRow.advisory_id.in_(ids)))
        known |= {row.advisory_id: row for row in found}
    there = _there(session, revisions)
    foreign = {advisory_id for advisory_id, row in known.items() if row.gateway_id != gateway_id}
    if foreign:
        log.warning(
            "advisories of another gateway left as they are; the revisions stay in the lake",
            advisories=len(foreign),
            advisory_id=min(foreign),
            gateway_id=gateway_id,
        )
    for (advisory_id, revision), advisory in revisions.items():
        if advisory_id in foreign:
            continue
        record = msgspec.msgpack.encode(advisory)
        if (advisory_id, revision) not in there:
            session.add(AdvisoryRevisionRow(advisory_id=advisory_id, revision=revision, record=record))
        row = known.get(advisory_id)
        if row is None:
            row = known[advisory_id] = AdvisoryRow(advisory_id=advisory_id, gateway_id=gateway_id, revision=-1)
            session.add(row)
        if revision > row.revision:
            row.revision, row.record = revision, record
            row.asset_id, row.state, row.updated_at = advisory.asset_id, advisory.state.value, advisory.updated_at


def _there(session: Session, revisions: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
    """Return which of *revisions* have a row."""
    key = (AdvisoryRevisionRow.advisory_id, AdvisoryRevisionRow.revision)
    found: set[tuple[str, int]] = set()
    for keys in _some(revisions):
        found |= {
            (advisory_id, number) for advisory_id, number in session.execute(select(*key).where(tuple_(*key).in_(keys)))
        }
    return found


def _some(keys: Iterable[T]) -> Iterator[Collection[T]]:
    """Yield *keys*, as many together as one question may name."""
    left = iter(keys)
    while some := list(islice(left, _KEYS_AT_ONCE)):
        yield some
