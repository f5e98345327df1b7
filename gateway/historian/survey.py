"""How an InfluxDB stands as a gateway's historian, asked with the gateway's own token: nothing is changed."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.config import HistorianConfig
from gateway.errors import HistorianError
from gateway.historian.api import InfluxApi
from gateway.historian.writing import read_token


@dataclass(frozen=True, kw_only=True)
class HistorianStatus:
    """What was found; ``trouble`` is empty when the gateway can write and be read.

    Attributes:
        server: Its address.
        version: Of the server, empty when it does not answer.
        bucket: Into which the gateway writes.
        retention_days: How long the bucket keeps values, 0 for ever; None when it was not found.
        configured_days: How long it should.
        newest_ns: Source time of the newest observation in the bucket, or None when it has none.
        trouble: What is wrong, and what to do.
    """

    server: str
    version: str
    bucket: str
    retention_days: float | None
    configured_days: float
    newest_ns: int | None
    trouble: str


async def survey(config: HistorianConfig) -> HistorianStatus:
    """Ask the server of *config* how it stands."""
    version, kept_days, newest_ns, trouble = "", None, None, ""
    try:
        async with InfluxApi(config.influxdb_url, read_token(config)) as api:
            version = str((await api.call("GET", "/health")).get("version", ""))
            kept_days = await _retention_days(config, api)
            newest_ns = await _newest(config, api)
    except HistorianError as error:
        trouble = str(error)
    if not trouble and kept_days is None:
        trouble = (
            f"no bucket {config.influxdb_bucket!r} that the token sees; `wearsight-gateway historian setup` makes it"
        )
    elif not trouble and kept_days != config.retention_days:
        trouble = (
            f"the bucket keeps {_days(kept_days)}, the configuration says {_days(config.retention_days)}; "
            "`wearsight-gateway historian setup` changes it"
        )
    return HistorianStatus(
        server=config.influxdb_url,
        version=version,
        bucket=config.influxdb_bucket,
        retention_days=kept_days,
        configured_days=config.retention_days,
        newest_ns=newest_ns,
        trouble=trouble,
    )


async def _retention_days(config: HistorianConfig, api: InfluxApi) -> float | None:
    found = (await api.call("GET", "/api/v2/buckets", query={"name": config.influxdb_bucket})).get("buckets") or []
    rules = [rule for bucket in found for rule in bucket.get("retentionRules") or []]
    return sum(int(rule["everySeconds"]) for rule in rules) / 86400 if found else None


async def _newest(config: HistorianConfig, api: InfluxApi) -> int | None:
    query = {"db": config.influxdb_bucket, "epoch": "ns", "q": 'SELECT last("status") FROM "observation"'}
    for result in (await api.call("POST", "/query", query=query)).get("results") or []:
        for series in result.get("series") or []:
            return int(series["values"][0][0])
    return None


def _days(days: float | None) -> str:
    return f"{days:g} days" if days else "for ever"
