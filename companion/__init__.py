"""What this book makes of `featint`: sizes of a run, statistics, chapters, figures, the ledger, and
the command."""

import os
import warnings

from companion.places import PROJECT

# In a notebook without widgets tqdm falls back to text, which is what these pages want, and says so
# on every one of them.
warnings.filterwarnings("ignore", message="IProgress not found")

# The project's own cache, unless somebody has chosen one; the library alone would take the user's.
# A relative one lies in the project, so that commands and kernels find the same from anywhere.
os.environ["FEATINT_CACHE"] = str(PROJECT / (os.environ.get("FEATINT_CACHE") or "cache"))
