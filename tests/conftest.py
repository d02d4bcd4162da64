"""Settings that must be made before anything imports Triton."""

import os

import torch

# Without a GPU, Triton's kernels run in its interpreter. Triton reads this once, when it is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
