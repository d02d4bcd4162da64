"""Data sets of videos and images, and the files they come from and go to."""

from vdm.data.clip import Batch, Clip, collate
from vdm.data.digit_images import DigitImages, bundled_digits, mnist_digits
from vdm.data.draws import DrawDataset
from vdm.data.moving_digits import MovingDigits

__all__ = [
    "Batch",
    "Clip",
    "DigitImages",
    "DrawDataset",
    "MovingDigits",
    "bundled_digits",
    "collate",
    "mnist_digits",
]
