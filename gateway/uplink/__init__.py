"""The uplink: segments go to the cloud, answered by ledger, until it holds each of them once."""

from gateway.uplink.client import CloudClient
from gateway.uplink.condition import UplinkCondition
from gateway.uplink.delivery import deliver
from gateway.uplink.pacing import Pacer, Priority

__all__ = ["CloudClient", "Pacer", "Priority", "UplinkCondition", "deliver"]
