"""For all tests: Ray without tokens and statistics, torch on one thread, state of their own."""

import atexit
import os
import shutil
import tempfile

# Before anything imports ray or torch.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Also for the processes that tests start; a snapshot of the user's is neither read nor replaced.
os.environ["SPECROUTER_STATE_DIR"] = tempfile.mkdtemp(prefix="specrouter-tests-")
atexit.register(shutil.rmtree, os.environ["SPECROUTER_STATE_DIR"], ignore_errors=True)

from hypothesis import settings  # noqa: E402

# How long an example takes is the machine's affair; pytest-timeout ends what hangs.
settings.register_profile("specrouter", deadline=None)
settings.load_profile("specrouter")
