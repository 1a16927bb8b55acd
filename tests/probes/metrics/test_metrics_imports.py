from __future__ import annotations

import subprocess
import sys


def test_scores_need_numpy_only():
    code = (
        "import importlib, pkgutil, sys\n"
        "from ssl_audio.probes import metrics\n"
        "for module in pkgutil.iter_modules(metrics.__path__, metrics.__name__ + '.'):\n"
        "    importlib.import_module(module.name)\n"
        "heavy = ('sklearn', 'scipy', 'torchmetrics', 'numba')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
