"""How a step of the flow ends early: by a signal, or with the process that began it.

As a program, `python -m companion.flow words...`, it makes any other program such a step.
"""

import os
import signal
import subprocess
import sys
import threading
import time


def on_signals(act) -> None:
    """Have `act` called by each signal that asks to end, unless it is ignored (`nohup`)."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, act)


def stop(*_) -> None:
    """Unwind what runs, once: Ctrl-C reaches a step from the terminal and from the flow."""
    on_signals(lambda *_: None)
    raise KeyboardInterrupt


def follow(parent: int) -> None:
    """Send this process SIGTERM once `parent` has died, and so is no longer its parent."""

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def begin() -> None:
    """Make this process a step: signals unwind it, and it ends with the flow that began it."""
    on_signals(stop)
    if flow := os.environ.pop("FEATINT_FLOW", None):  # not handed on to kernels
        follow(int(flow))


if __name__ == "__main__":
    begin()
    try:
        sys.exit(subprocess.run(sys.argv[1:]).returncode)
    except KeyboardInterrupt:
        sys.exit(130)
