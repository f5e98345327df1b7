"""The physics of the two asset classes: what their sensors would read without noise.

Centrifugal pump, variable speed:
    Affinity laws: head at no flow grows with the square of speed, flow with speed, power with head times flow over
    efficiency. ``cavitation``: the NPSH margin is used up, head, flow and efficiency fall, pressure and flow shake,
    bubbles hiss. ``seal_leak``: part of the flow runs back through the worn seal, whose faces run hot.
Spindle drive of a machining centre:
    Torque follows load; current follows torque. Coolant carries the motor's heat: its rise is heat over heat
    capacity flow. ``cooling_loss``: the coolant flow falls, so coolant and bearings warm up. ``tool_wear``: flank
    wear after Taylor raises the cutting force, so torque, current and the edges' passing frequency.
Both:
    Bearings are one heat capacity that follows friction heat and ambient (first order). ``bearing_outer_race``:
    each ball over the spall is an impact that rings the bearing seat, friction warms it. ``imbalance``: the
    1x force grows with the square of speed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from demo.plant.conditions import Conditions, first_order
from demo.plant.vibration import Vibration
from models.records import FloatArray

GRAVITY_M_S2: Final = 9.81
WATER_J_KG_K: Final = 4186.0


@dataclass(frozen=True, kw_only=True)
class Readings:
    """Noise-free readings by channel, the noise of each channel (one sigma, its unit), and the vibration."""

    values: dict[str, FloatArray]
    noise: dict[str, FloatArray | float]
    vibration: Vibration


def _make(draw: np.random.Generator, nominal: float, spread: float = 0.025) -> float:
    """Return a property of one machine: *nominal* with the spread of series production."""
    return nominal * (1.0 + spread * float(np.clip(draw.standard_normal(), -2.0, 2.0)))


def pump(meets: Conditions, draw: np.random.Generator) -> Readings:
    """Return what the sensors of one centrifugal pump read under *meets*; *draw* gives its make."""
    load, ambient = meets.load, meets.ambient_c
    race, imbalance = meets.severity["bearing_outer_race"], meets.severity["imbalance"]
    cavitation, leak = meets.severity["cavitation"], meets.severity["seal_leak"]
    relative = 0.90 + 0.10 * (load - 0.75)  # speed over rated speed
    flow = _make(draw, 80.0) * relative * (0.70 + 0.36 * load) * (1 - 0.24 * cavitation) * (1 - 0.05 * leak)
    head = (_make(draw, 62.0) * relative**2 - 0.0028 * flow**2) * (1 - 0.32 * cavitation) * (1 - 0.10 * leak)
    efficiency = _make(draw, 0.68, 0.01) * (1 - 0.12 * cavitation) * (1 - 0.08 * leak)
    power_w = 1000.0 * GRAVITY_M_S2 * flow / 3600.0 * head / efficiency * (1 + 0.05 * race)
    friction_k = _make(draw, 27.0) + _make(draw, 12.0) * load * relative + 24.0 * race + 3.0 * imbalance
    seal_k = _make(draw, 19.0) + 8.0 * load + 36.0 * leak + 3.0 * cavitation
    one_x = (_make(draw, 1.05, 0.05) + 5.5 * imbalance) * (relative / 0.9) ** 2
    vibration = Vibration(
        rotation_hz=_make(draw, 2950.0, 0.005) * relative / 60.0,
        one_x_mm_s=one_x,
        two_x_mm_s=_make(draw, 0.35, 0.05) + 0.5 * imbalance,
        rough_m_s2=_make(draw, 0.75, 0.03) * (0.85 + 0.2 * load) * (1 + 0.3 * race),
        impact_m_s2=15.0 * race,
        hiss_m_s2=6.0 * cavitation,
        tooth_m_s2=np.zeros_like(load),
    )
    values = {
        "speed_rpm": vibration.rotation_hz * 60.0,
        "load_pct": 100.0 * load,
        "motor_current_a": power_w / (np.sqrt(3.0) * 400.0 * 0.86 * 0.92),
        "discharge_pressure_bar": 0.35 + 1000.0 * GRAVITY_M_S2 * head / 1e5,
        "flow_m3_h": flow * (1 - 0.16 * leak),
        "bearing_temperature_c": ambient + first_order(friction_k, meets.step_s, 2400.0),
        "seal_temperature_c": ambient + first_order(seal_k, meets.step_s, 1500.0),
        "ambient_temperature_c": ambient,
        "vibration_rms_mm_s": vibration.velocity_rms_mm_s(),
    }
    noise: dict[str, FloatArray | float] = {
        "speed_rpm": 1.5,
        "load_pct": 0.4,
        "motor_current_a": 0.08,
        "discharge_pressure_bar": 0.012 + 0.25 * cavitation,
        "flow_m3_h": 0.35 + 4.0 * cavitation,
        "bearing_temperature_c": 0.25,
        "seal_temperature_c": 0.3,
        "ambient_temperature_c": 0.15,
        "vibration_rms_mm_s": 0.025 * values["vibration_rms_mm_s"],
    }
    return Readings(values=values, noise=noise, vibration=vibration)


def spindle(meets: Conditions, draw: np.random.Generator) -> Readings:
    """Return what the sensors of one spindle drive read under *meets*; *draw* gives its make."""
    load, ambient = meets.load, meets.ambient_c
    race, imbalance = meets.severity["bearing_outer_race"], meets.severity["imbalance"]
    blocked, wear = meets.severity["cooling_loss"], meets.severity["tool_wear"]
    relative = 0.97 + 0.03 * meets.batch  # speed over the programme's speed
    torque = _make(draw, 24.0) * (0.35 + 0.65 * load) * (1 + 0.55 * wear) + 0.8 * race
    current = _make(draw, 5.0) + _make(draw, 0.85) * torque
    coolant_flow = _make(draw, 12.0) * (1 - 0.62 * blocked)
    heat_w = _make(draw, 2600.0) + 90.0 * torque
    coolant_k = 3.0 + heat_w / (WATER_J_KG_K * coolant_flow / 60.0) + 7.0 * blocked
    friction_k = _make(draw, 17.0) + _make(draw, 11.0) * load * relative**2 + 22.0 * race + 2.5 * imbalance
    friction_k = friction_k + 16.0 * blocked + 2.0 * wear
    one_x = (_make(draw, 0.70, 0.05) + 3.8 * imbalance) * (relative / 0.97) ** 2
    vibration = Vibration(
        rotation_hz=_make(draw, 7200.0, 0.005) * relative / 60.0,
        one_x_mm_s=one_x,
        two_x_mm_s=_make(draw, 0.22, 0.05) + 0.3 * imbalance,
        rough_m_s2=_make(draw, 0.65, 0.03) * (0.8 + 0.3 * load) * (1 + 1.1 * wear + 0.3 * race),
        impact_m_s2=15.0 * race,
        hiss_m_s2=np.zeros_like(load),
        tooth_m_s2=_make(draw, 0.5, 0.05) * (0.7 + 0.4 * load) * (1 + 6.0 * wear),
    )
    values = {
        "speed_rpm": vibration.rotation_hz * 60.0,
        "load_pct": 100.0 * load,
        "spindle_current_a": current,
        "torque_nm": torque,
        "bearing_temperature_c": ambient + first_order(friction_k, meets.step_s, 2100.0),
        "coolant_temperature_c": ambient + first_order(coolant_k, meets.step_s, 1200.0),
        "coolant_flow_l_min": coolant_flow,
        "ambient_temperature_c": ambient,
        "vibration_rms_mm_s": vibration.velocity_rms_mm_s(),
    }
    noise: dict[str, FloatArray | float] = {
        "speed_rpm": 4.0,
        "load_pct": 0.4,
        "spindle_current_a": 0.12,
        "torque_nm": 0.15,
        "bearing_temperature_c": 0.25,
        "coolant_temperature_c": 0.2,
        "coolant_flow_l_min": 0.07,
        "ambient_temperature_c": 0.15,
        "vibration_rms_mm_s": 0.025 * values["vibration_rms_mm_s"],
    }
    return Readings(values=values, noise=noise, vibration=vibration)


MACHINES: Final[dict[str, Callable[[Conditions, np.random.Generator], Readings]]] = {
    "centrifugal_pump": pump,
    "spindle_drive": spindle,
}
