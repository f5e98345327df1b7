"""Reading the lake: what the ledger says is held, as the observations they were."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from sqlalchemy import or_, select

from cloud_service.ingest.ledger import StoredRange
from cloud_service.lake.files import OBSERVATIONS, range_path
from cloud_service.store import LedgerRow, Store
from models.records import Observations, Stream, to_ns

_COLUMNS = ["asset_id", "channel", "source_time", "value", "status", "samples"]


class Lake:
    """The folder of Parquet files together with the ledger that says which of them count."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = folder
        self._store = store

    def ranges(self) -> list[StoredRange]:
        """Return every stored range, by gateway, epoch and seq."""
        columns = (
            LedgerRow.gateway_id,
            LedgerRow.epoch,
            LedgerRow.first_seq,
            LedgerRow.last_seq,
            LedgerRow.digest,
            LedgerRow.observations,
            LedgerRow.results,
            LedgerRow.newest_time,
        )
        query = select(*columns).order_by(*columns[:3])
        with self._store.reading() as session:
            return [StoredRange(**row) for row in session.execute(query).mappings()]

    def digest(self) -> str:
        """Return the SHA-256 over all stored ranges and their segments' digests: what a model was trained on."""
        lines = (f"{r.gateway_id} {r.epoch} {r.first_seq} {r.last_seq} {r.digest}\n" for r in self.ranges())
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def observations(
        self,
        asset_ids: Sequence[str],
        channels: Sequence[str] | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> Observations:
        """Return the observations of *asset_ids* by stream, then source time, then arrival.

        Args:
            asset_ids: Assets to read.
            channels: Channels to read; None reads all.
            start: First source time, inclusive.
            end: Last source time, exclusive.
        """
        files = self._files(start, end)
        if not files:
            return Observations.empty()
        condition = ds.field("asset_id").isin(list(asset_ids))
        if channels is not None:
            condition &= ds.field("channel").isin(list(channels))
        if start is not None:
            condition &= ds.field("source_time") >= to_ns(start)
        if end is not None:
            condition &= ds.field("source_time") < to_ns(end)
        table = ds.dataset(files, format="parquet").to_table(columns=_COLUMNS, filter=condition)
        return _in_order(observations_of(table))

    def _files(self, start: datetime | None, end: datetime | None) -> list[str]:
        """Return the files of observations that may reach into the time from *start* to *end*, in order."""
        row = LedgerRow
        query = select(row.gateway_id, row.epoch, row.first_seq, row.last_seq).where(row.observations > 0)
        if start is not None:
            query = query.where(row.newest_time >= start)
        if end is not None:
            query = query.where(or_(row.oldest_time.is_(None), row.oldest_time < end))  # None: of an earlier version
        with self._store.reading() as session:
            found = session.execute(query.order_by(row.gateway_id, row.epoch, row.first_seq)).all()
        return [
            str(range_path(self.folder, OBSERVATIONS, gateway_id, epoch, (first, last)))
            for gateway_id, epoch, first, last in found
        ]


def observations_of(table: pa.Table) -> Observations:
    """Return the rows of *table*, which has the columns of a file of observations, in their order."""
    if not table.num_rows:
        return Observations.empty()
    assets = pc.dictionary_encode(table["asset_id"].cast(pa.string())).combine_chunks()
    channels = pc.dictionary_encode(table["channel"].cast(pa.string())).combine_chunks()
    asset_names, channel_names = assets.dictionary.to_pylist(), channels.dictionary.to_pylist()
    pairs = assets.indices.to_numpy().astype(np.int64) * len(channel_names) + channels.indices.to_numpy()
    used, stream = np.unique(pairs, return_inverse=True)
    names = [divmod(int(pair), len(channel_names)) for pair in used]
    samples = table["samples"].combine_chunks()
    return Observations(
        streams=tuple(Stream(asset_names[asset], channel_names[channel]) for asset, channel in names),
        stream=stream.astype(np.uint32),
        source_time=table["source_time"].to_numpy(),
        value=table["value"].to_numpy(),
        status=table["status"].to_numpy(),
        sample_count=samples.value_lengths().fill_null(0).to_numpy().astype(np.uint32),
        samples=samples.flatten().to_numpy().astype(np.float32, copy=False),
    )


def _in_order(observations: Observations) -> Observations:
    """Return *observations* by stream name, then source time; rows of one time stay as they came."""
    if not len(observations):
        return observations
    by_name = sorted(range(len(observations.streams)), key=observations.streams.__getitem__)
    rank = np.empty(len(by_name), np.uint32)
    rank[by_name] = np.arange(len(by_name), dtype=np.uint32)
    stream = rank[observations.stream]
    streams = tuple(observations.streams[place] for place in by_name)
    return replace(observations, streams=streams, stream=stream).take(np.lexsort((observations.source_time, stream)))
