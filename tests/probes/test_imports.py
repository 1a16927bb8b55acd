from __future__ import annotations

import subprocess
import sys


def test_probes_need_neither_lightning_nor_tasks_nor_hydra():
    code = (
        "import sys, ssl_audio.probes\n"
        "heavy = ('lightning', 'hydra', 'torchaudio', 'transformers', 'ssl_audio.tasks')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
