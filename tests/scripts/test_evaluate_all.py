from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("evaluate_all", ROOT / "scripts" / "evaluate_all.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_a_place_for_each_data_set(script: ModuleType) -> None:
    """What is put there replaces what a run before put there, and nothing else."""
    page = script.PAGE.read_text("utf-8")
    for name in ("summary", *script.NAMES):
        page = script.with_section(page, name, "first")
        page = script.with_section(page, name, f"of {name}")
    assert "first" not in page.replace("first rows", "")
    assert all(page.count(f"of {name}\n") == 1 for name in script.NAMES)
    assert page.startswith("# Evaluation\n")


def test_a_report_becomes_a_section_with_its_plots(script: ModuleType) -> None:
    report = "# skab\n\n## Protocol\n\n![precision recall](precision-recall.png)\n"
    assert script.section("skab", report) == (
        "## skab\n\n### Protocol\n\n![precision recall](evaluation/skab.precision-recall.png)"
    )


def test_the_summary_tells_each_aim_and_what_was_reached(script: ModuleType) -> None:
    told = {
        "aims": {
            "f1": {"least": 0.8, "most": None, "met": True},
            "nab_standard": {"least": 33.0, "most": None, "met": False},
        },
        "metrics": {"f1": 0.8123, "nab_standard": 30.0},
        "spread": {"f1": 0.004, "nab_standard": None},
        "parity": {"windows": 1000, "decisions_changed": 0},
        "seconds": 90.0,
    }
    text = script.summary({"skab": told})
    assert "| skab | f1 | ≥ 0.8 | 0.8123 | 0.004 | met |" in text
    assert "| skab | nab_standard | ≥ 33 | 30 |  | missed |" in text
    assert "0 of 1,000 decisions differ" in text
    assert "1.5 minutes" in text
