"""The uplink: segments go to the cloud, answered by ledger, until it holds each of them once."""

from gateway.uplink.client import CloudClient
from gateway.uplink.delivery import UplinkCondition, deliver

__all__ = ["CloudClient", "UplinkCondition", "deliver"]
