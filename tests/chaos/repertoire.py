"""All acts of the chaos, in the order in which they are played."""

from __future__ import annotations

from typing import Final

from tests.chaos.acts import Act
from tests.chaos.kills import KILLS, KILLS_CONTROL
from tests.chaos.power import CUTS, CUTS_CONTROL

ACTS: Final[tuple[Act, ...]] = (CUTS, CUTS_CONTROL, KILLS, KILLS_CONTROL)
