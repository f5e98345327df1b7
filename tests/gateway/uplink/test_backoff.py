"""How long the uplink waits after a failure."""

from __future__ import annotations

from gateway.uplink.backoff import Backoff


def test_waits_are_drawn_from_zero_to_a_doubling_limit() -> None:
    """Over many gateways each wait lies anywhere between nothing and its limit, which grows up to the longest."""
    waits = [[backoff.wait_s() for _ in range(6)] for backoff in (Backoff(1.0, 8.0) for _ in range(300))]
    for limit, drawn in zip((1.0, 2.0, 4.0, 8.0, 8.0, 8.0), zip(*waits, strict=True), strict=True):
        assert 0.0 <= min(drawn) < 0.2 * limit
        assert 0.8 * limit < max(drawn) <= limit


def test_a_success_begins_anew() -> None:
    """The limit is the first one again."""
    backoff = Backoff(1.0, 64.0)
    for _ in range(10):
        backoff.wait_s()
    backoff.reset()
    assert backoff.wait_s() <= 1.0


def test_what_the_cloud_asks_for_is_kept() -> None:
    """Nobody comes back before that, and not all at that moment."""
    backoff = Backoff(1.0, 8.0)
    waits = {backoff.wait_s(asked_s=10.0) for _ in range(20)}
    assert min(waits) >= 10.0
    assert len(waits) > 1
