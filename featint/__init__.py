"""Sparse autoencoders with a neural factorization machine, from activations to their effects.

The method is that of arXiv 2507.00269.
"""

import os

# Threads that wait for work sleep instead of spinning. A spinning thread costs nothing on an idle
# machine, but if anything else runs it keeps the core from the thread that has work: measured
# tenfold on small steps. It must be set before torch loads its threads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
