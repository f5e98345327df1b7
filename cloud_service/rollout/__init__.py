"""Rollout of released bundles to gateways: Ansible's playbook, driven and told from here."""

from cloud_service.errors import RolloutError
from cloud_service.rollout.report import HostOutcome, HostStatus, RolloutEvent, RolloutReport
from cloud_service.rollout.run import Watch, roll_out

__all__ = ["HostOutcome", "HostStatus", "RolloutError", "RolloutEvent", "RolloutReport", "Watch", "roll_out"]
