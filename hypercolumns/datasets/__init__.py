"""Labelled images on disk behind one protocol: which images there are, their pixels, and what their labels mean."""

from hypercolumns.datasets.base import VOID, Dataset, FileDataset, ImageRecord
from hypercolumns.datasets.checking import Rejection, check_dataset
from hypercolumns.datasets.decoding import decode_image, image_hw, image_sha256, read_image
from hypercolumns.datasets.folder import FolderDataset
from hypercolumns.datasets.opening import TorchSegmentation, open_dataset
from hypercolumns.datasets.voc import VOC_CLASS_NAMES, VocDataset

__all__ = [
    "VOC_CLASS_NAMES",
    "VOID",
    "Dataset",
    "FileDataset",
    "FolderDataset",
    "ImageRecord",
    "Rejection",
    "TorchSegmentation",
    "VocDataset",
    "check_dataset",
    "decode_image",
    "image_hw",
    "image_sha256",
    "open_dataset",
    "read_image",
]
