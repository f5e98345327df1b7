"""The gateway's memory of its streams: long windows, replay and local dashboards read from it."""

from gateway.historian.condition import HistorianCondition
from gateway.historian.deep import DeepHistory
from gateway.historian.embedded import EmbeddedHistorian
from gateway.historian.historian import Historian, keep_history
from gateway.historian.influx import InfluxHistorian

__all__ = [
    "DeepHistory",
    "EmbeddedHistorian",
    "Historian",
    "HistorianCondition",
    "InfluxHistorian",
    "keep_history",
]
