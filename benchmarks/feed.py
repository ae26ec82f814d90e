"""A source of training batches that times whoever takes them. It imports nothing of the project: peers run it in their own environment."""

import json
import os
import resource
import sys
import time

import torch


class Feed:
    """Batches of N(0, 1) numbers, four of them in turn.

    A training loop asks for a batch at the start of each step, so the time from one request to the next is one whole step, whatever the
    loop does in it. When the steps that were ordered are done, the next request waits for a new order: a number of steps on standard
    input, answered with their seconds on standard output. End of input ends the process.
    """

    def __init__(self, batch: int, d_in: int):
        self.batches = [
            torch.randn(batch, d_in, generator=torch.Generator().manual_seed(i)) for i in range(4)
        ]
        self.reports = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # what the training loop prints is not for the report
        self.i, self.ordered, self.seconds = 0, 0, []
        self.began = None

    def __len__(self) -> int:
        return 1_000_000

    def __iter__(self):
        return self

    def __next__(self) -> torch.Tensor:
        return self[self.i]

    def __getitem__(self, _) -> torch.Tensor:
        if self.began is not None:
            self.seconds.append(time.perf_counter() - self.began)
        if len(self.seconds) == self.ordered:
            self.wait()
        self.i += 1
        self.began = time.perf_counter()
        return self.batches[self.i % 4]

    def wait(self) -> None:
        """Report, and wait for the next order."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(
            json.dumps({"seconds": self.seconds, "peak_bytes": peak}), file=self.reports, flush=True
        )
        order = sys.stdin.readline()
        if not order:
            raise SystemExit
        self.ordered, self.seconds = int(order), []
