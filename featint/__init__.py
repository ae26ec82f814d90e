"""A living, falsifiable companion to 'Feature Integration Spaces' (arXiv 2507.00269)."""

import os
import warnings

# In a notebook without widgets tqdm falls back to text, which is what these pages want, and says so on every one of them.
warnings.filterwarnings("ignore", message="IProgress not found")

# Threads that wait for work sleep instead of spinning. A spinning thread costs nothing on an idle machine, but if anything else runs it
# keeps the core from the thread that has work: measured tenfold on small steps. It must be set before torch loads its threads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
