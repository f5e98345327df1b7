"""Who may import whom, and what the gateway must do without."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "gateway": {"cloud_service", "demo", "dashboards", "sklearn", "lightgbm", "pandas", "pyarrow"},
    "cloud_service": {"gateway", "demo"},
    "models": {"gateway", "cloud_service", "demo", "dashboards"},
    "models/features": {"onnxruntime", "sklearn", "scipy", "lightgbm", "pandas"},
}


def _imports(path: Path) -> set[str]:
    """Return what the module cannot do without: an import that may fail is none."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    optional = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.Try) and any("ImportError" in ast.dump(handler) for handler in node.handlers)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in optional:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_nothing_it_may_not(package: str) -> None:
    """Gateway and cloud meet only in models; models knows neither."""
    crossing = {
        str(path.relative_to(ROOT)): sorted(_imports(path) & FORBIDDEN[package])
        for path in (ROOT / package).rglob("*.py")
        if _imports(path) & FORBIDDEN[package]
    }

    assert crossing == {}


def test_the_gateway_loads_without_the_training_libraries() -> None:
    """What it imports, whoever imports it, brings no scikit-learn, LightGBM, pandas or pyarrow in."""
    heavy = "{'sklearn', 'lightgbm', 'pandas', 'pyarrow', 'scipy', 'fastapi', 'matplotlib'}"
    program = f"import sys, gateway.pipeline; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout.strip() == "[]"
