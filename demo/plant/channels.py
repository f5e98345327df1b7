"""The asset classes of the plant: their channels with units and ranges, and how often each is sampled."""

from __future__ import annotations

from typing import Final

from models.records import Channel

PLAIN_INTERVAL_S: Final = 600
WAVEFORM_INTERVAL_S: Final = 3600
WAVEFORM_SAMPLES: Final = 512
WAVEFORM_RATE_HZ: Final = 6400.0
WAVEFORM: Final = "vibration_waveform_m_s2"

_VIBRATION: Final = (
    Channel(name="vibration_rms_mm_s", unit="mm/s", low=0.0, high=25.0),
    Channel(name=WAVEFORM, unit="m/s²", low=-160.0, high=160.0, sample_rate_hz=WAVEFORM_RATE_HZ),
)

CHANNELS: Final[dict[str, tuple[Channel, ...]]] = {
    "centrifugal_pump": (
        Channel(name="speed_rpm", unit="rpm", low=0.0, high=3600.0),
        Channel(name="load_pct", unit="%", low=0.0, high=120.0),
        Channel(name="motor_current_a", unit="A", low=0.0, high=50.0),
        Channel(name="discharge_pressure_bar", unit="bar", low=0.0, high=10.0),
        Channel(name="flow_m3_h", unit="m³/h", low=0.0, high=150.0),
        Channel(name="bearing_temperature_c", unit="°C", low=-20.0, high=150.0),
        Channel(name="seal_temperature_c", unit="°C", low=-20.0, high=150.0),
        Channel(name="ambient_temperature_c", unit="°C", low=-20.0, high=60.0),
        *_VIBRATION,
    ),
    "spindle_drive": (
        Channel(name="speed_rpm", unit="rpm", low=0.0, high=12000.0),
        Channel(name="load_pct", unit="%", low=0.0, high=120.0),
        Channel(name="spindle_current_a", unit="A", low=0.0, high=80.0),
        Channel(name="torque_nm", unit="N·m", low=0.0, high=80.0),
        Channel(name="bearing_temperature_c", unit="°C", low=-20.0, high=150.0),
        Channel(name="coolant_temperature_c", unit="°C", low=-20.0, high=100.0),
        Channel(name="coolant_flow_l_min", unit="l/min", low=0.0, high=25.0),
        Channel(name="ambient_temperature_c", unit="°C", low=-20.0, high=60.0),
        *_VIBRATION,
    ),
}

FAILURE_MODES: Final[dict[str, tuple[str, ...]]] = {
    "centrifugal_pump": ("bearing_outer_race", "imbalance", "cavitation", "seal_leak"),
    "spindle_drive": ("bearing_outer_race", "imbalance", "cooling_loss", "tool_wear"),
}

UNECE_CODES: Final[dict[str, str]] = {
    # UNECE Recommendation 20; OPC UA's UnitId is the code's letters as bytes.
    "rpm": "RPM",
    "%": "P1",
    "A": "AMP",
    "bar": "BAR",
    "m³/h": "MQH",
    "°C": "CEL",
    "mm/s": "C16",
    "m/s²": "MSK",
    "N·m": "NU",
    "l/min": "L2",
    "V": "VLT",
    "g": "K40",
    "°R": "A48",
    "psi": "PS",
    "1": "C62",
}


def unit_id(unit: str) -> int:
    """Return OPC UA's UnitId of *unit* (Part 8, 5.6.3), or -1, "unknown", for a unit without a UNECE code."""
    code = UNECE_CODES.get(unit)
    return -1 if code is None else int.from_bytes(code.encode("ascii"), "big")
