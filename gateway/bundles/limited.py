"""Run a bundle's golden vectors with little memory and time: ``python -m gateway.bundles.limited FOLDER``.

The models of a bundle run here for the first time. Whatever they do, this process ends and the gateway goes on.
"""

from __future__ import annotations

import resource
import runpy

MEMORY_BYTES = 3 * 2**30  # address space, not use: onnxruntime and NumPy reserve most of a GiB before they start
CPU_S = 60


def main() -> None:
    """Set the limits, which children cannot lift, and hand over to `models.bundle.golden`."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    runpy.run_module("models.bundle.golden", run_name="__main__", alter_sys=True)  # which reads FOLDER and exits


if __name__ == "__main__":
    main()
