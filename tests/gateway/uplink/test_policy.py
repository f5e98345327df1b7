"""Which streams stay here, and how a budget is spent."""

from __future__ import annotations

from pathlib import Path

from gateway.config import (
    AcquisitionConfig,
    AssetClassConfig,
    AssetConfig,
    GatewayConfig,
    UplinkConfig,
    Upload,
)
from gateway.uplink.policy import Budget, Policies
from models.records import Stream

MIB = 2.0**20


def configured(upload: Upload = Upload.EVERYTHING, **channels: Upload) -> GatewayConfig:
    """Return a configuration with one pump, whose *channels* have policies of their own."""
    file = Path("/tls/file")
    return GatewayConfig(
        gateway_id="gw-1",
        state_dir=Path("/state"),
        acquisition=AcquisitionConfig(),
        asset=(AssetConfig(asset_id="pump-01", asset_class="pump", server="s", path="P"),),
        asset_class={"pump": AssetClassConfig(channel_upload=channels)},
        uplink=UplinkConfig(
            cloud_url="https://cloud", ca_file=file, certificate_file=file, key_file=file, upload=upload
        ),
    )


SPEED, WAVEFORM, FLOW = (Stream("pump-01", name) for name in ("speed", "waveform", "flow"))


def test_each_channel_has_its_policy() -> None:
    """Features and events keep raw values back, a budget asks first, and another asset follows the general rule."""
    config = configured(waveform=Upload.EVENTS, speed=Upload.FEATURES, flow=Upload.BUDGET)
    policies = Policies(lambda: config)
    streams = {SPEED, WAVEFORM, FLOW, Stream("other", "speed")}
    assert policies.kept_back(streams) == {SPEED, WAVEFORM}
    assert policies.budgeted(streams) == {FLOW}
    assert not policies.everything


def test_everything_is_the_default() -> None:
    """Nobody need look into a segment then."""
    assert Policies(configured).everything
    assert not Policies(lambda: configured(Upload.BUDGET)).everything
    assert not Policies(lambda: configured(flow=Upload.EVENTS)).everything


def test_a_budget_is_spent_and_fills_up_over_the_day() -> None:
    """What is spent comes back by running time, never more than a day's worth."""
    now = 0.0
    budget = Budget(24 * MIB, clock=lambda: now)
    assert budget.spend(int(24 * MIB))
    assert not budget.spend(1)
    now += 3600.0
    assert budget.spend(int(MIB))
    assert not budget.spend(1)
    now += 10 * 86_400.0
    assert budget.left == 24 * MIB


def test_a_restart_gives_no_new_budget() -> None:
    """What was left is what there is; more than a smaller new budget is cut."""
    assert Budget(10.0, left=3.0, clock=lambda: 0.0).left == 3.0
    assert Budget(10.0, left=30.0, clock=lambda: 0.0).left == 10.0
