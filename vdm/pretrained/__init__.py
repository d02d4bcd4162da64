"""Models that come with the package.

`MOVING_DIGITS` generates 16 frames of 32x32 pixels of a handwritten digit in motion, by class; docs/moving_digits.md
says how it was trained.
"""

from pathlib import Path

MOVING_DIGITS: Path = Path(__file__).with_name("moving_digits.safetensors")
