"""What temporal and spatial attention share: tiles, flash-style Triton kernels and their launches."""
