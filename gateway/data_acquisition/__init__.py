"""Data acquisition: from OPC UA servers to batches of observations that wait until they are durable."""

from gateway.data_acquisition.batch import AcquisitionCounters, Batch
from gateway.data_acquisition.certificate import ensure_application_certificate
from gateway.data_acquisition.source import OpcuaSource, open_sources

__all__ = ["AcquisitionCounters", "Batch", "OpcuaSource", "ensure_application_certificate", "open_sources"]
