"""Settings that must be made before anything imports Triton, or starts a process."""

import os
import signal

import torch

# Without a GPU, Triton's kernels run in its interpreter. Triton reads this once, when it is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Processes that tests start import the package that is tested, not the checkout that they happen to start in.
os.environ["PYTHONSAFEPATH"] = "1"

# A shell that runs the tests in the background has them ignore SIGINT, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
