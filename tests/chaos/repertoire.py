"""All acts of the chaos, in the order in which they are played."""

from __future__ import annotations

from typing import Final

from tests.chaos.acts import Act
from tests.chaos.clocks import CLOCKS, CLOCKS_CONTROL
from tests.chaos.damage import DAMAGES, DAMAGES_CONTROL
from tests.chaos.faults import FAULTS, FAULTS_CONTROL
from tests.chaos.gateways import GATEWAYS
from tests.chaos.kills import KILLS, KILLS_CONTROL, LIMITS
from tests.chaos.power import CUTS, CUTS_CONTROL, FLUSHES
from tests.chaos.uplink import CLOUD_KILLS, CLOUD_KILLS_CONTROL, LOST_ANSWERS, OUTAGE

_DISK = (CUTS, CUTS_CONTROL, FLUSHES, FAULTS, FAULTS_CONTROL, DAMAGES, DAMAGES_CONTROL, CLOCKS, CLOCKS_CONTROL)
_PROCESSES = (KILLS, KILLS_CONTROL, LIMITS, GATEWAYS)
_UPLINK = (OUTAGE, LOST_ANSWERS, CLOUD_KILLS, CLOUD_KILLS_CONTROL)
ACTS: Final[tuple[Act, ...]] = (*_DISK, *_PROCESSES, *_UPLINK)
