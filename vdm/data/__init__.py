"""Data sets of videos and images, and the files they come from and go to."""

from vdm.data.atomic_files import atomic_file
from vdm.data.clip import Batch, Clip, collate
from vdm.data.contact_sheet import write_contact_sheet
from vdm.data.digit_images import DigitImages, bundled_digits, mnist_digits
from vdm.data.draws import DrawDataset
from vdm.data.gif import GifWriter, write_gif
from vdm.data.image_folder import ImageFolder
from vdm.data.joint import JointImageVideo
from vdm.data.moving_digits import MovingDigits
from vdm.data.video_file import VideoFile
from vdm.data.video_folder import VideoFolder
from vdm.data.video_parts import VideoParts
from vdm.data.video_reader import read_video
from vdm.data.video_writer import VideoWriter, video_writer, write_mp4, write_video

__all__ = [
    "Batch",
    "Clip",
    "DigitImages",
    "DrawDataset",
    "GifWriter",
    "ImageFolder",
    "JointImageVideo",
    "MovingDigits",
    "VideoFile",
    "VideoFolder",
    "VideoParts",
    "VideoWriter",
    "atomic_file",
    "bundled_digits",
    "collate",
    "mnist_digits",
    "read_video",
    "video_writer",
    "write_contact_sheet",
    "write_gif",
    "write_mp4",
    "write_video",
]
