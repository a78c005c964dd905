"""Whatever is killed, the ledger keeps what it acknowledged and goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

from resources.keys import Keys
from resources.ledger import Ledger

APPENDS = """
import sys
from datetime import date
from resources.keys import Keys
from resources.ledger import Ledger

ledger = Ledger(path=sys.argv[1], signer=Keys(path=sys.argv[2]))
while True:
    entry = ledger.append(
        "flights", "traffic", bundle="1" * 64, day=date(2013, 4, 1), actor="worker"
    )
    print(entry.serial, flush=True)
"""


def test_what_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    path, keys = str(tmp_path / "ledger.db"), str(tmp_path / "keys")
    ledger = Ledger(path=path, signer=Keys(path=keys))
    moments = random.Random(7)
    acknowledged = 0
    for _ in range(4):
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", APPENDS, path, keys],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )
            for _ in range(2)
        ]
        assert all(worker.stdout and worker.stdout.readline() for worker in workers)
        time.sleep(moments.uniform(0.0, 0.3))
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
        for worker in workers:
            output, _ = worker.communicate()
            serials = [int(line) for line in output.splitlines() if line]
            acknowledged = max([acknowledged, *serials])
        assert ledger.verify() >= acknowledged
    before = ledger.verify()
    entry = ledger.append(
        "flights", "traffic", bundle="1" * 64, day=date(2013, 4, 1), actor="afterwards"
    )
    assert entry.serial == before + 1 == ledger.verify()
    assert acknowledged > 0
