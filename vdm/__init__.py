"""Video diffusion models that train, sample and extend videos, on fused kernels."""

__version__ = "0.1.0"

__all__ = ["__version__"]
