"""Signals: the first ends training after the running iteration, the second ends the process."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dcgan.callbacks.stopping import SignalStop

ROOT = Path(__file__).resolve().parents[3]


def test_a_second_signal_ends_at_once():
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import os, signal, time, types\n"
        "from dcgan.callbacks.stopping import SignalStop\n"
        "stop = SignalStop(); stop.set_model(types.SimpleNamespace(stop_training=False)); stop.on_train_begin()\n"
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.1)\n"
        "assert stop.model.stop_training and stop.received == signal.SIGTERM\n"
        "print('alive', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(5); print('still alive')\n"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert answer.stdout == "alive\n" and answer.returncode == -signal.SIGTERM


def test_training_in_another_thread_hears_no_signals_and_takes_nobodys_handler():
    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(SignalStop().on_train_begin).result()
    assert signal.getsignal(signal.SIGTERM) == before
