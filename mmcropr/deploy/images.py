# Copyright (c) mmcropr contributors.
"""Images as an exported file takes them."""
from pathlib import Path
from typing import List, Sequence, Tuple

import cv2
import numpy as np
from mmengine.config import Config

from mmcropr.utils.data import datasets_of
from mmcropr.utils.files import IMAGES


def prepare(image: np.ndarray, description: dict) -> np.ndarray:
    """An image as read by OpenCV (H', W', 3) -> input (1, 3, H, W) of a file:
    resized so that it fits, its ratio kept, normalised, and padded at the
    bottom and right."""
    how = description['preprocessing']
    height, width = description['input']['shape'][2:]
    ratio = min(height / image.shape[0], width / image.shape[1])
    size = [max(round(n * ratio), 1) for n in image.shape[:2]]
    image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    image = image[..., ::-1] if how['channels'] == 'rgb' else image
    image = (image - np.float32(how['mean'])) / np.float32(how['std'])
    pad = np.reshape(how['pad_value'], (-1, 1, 1))
    canvas = np.full((1, 3, height, width), pad, np.float32)
    canvas[0, :, :size[0], :size[1]] = image.transpose(2, 0, 1)
    return canvas.astype(description['input']['dtype'])


def find_images(paths: Sequence[str], count: int) -> List[Path]:
    """The first image files in folders, and files that are given.

    Raises:
        FileNotFoundError: If there is none.
    """
    found: List[Path] = []
    for path in map(Path, paths):
        files = sorted(path.rglob('*')) if path.is_dir() else [path]
        found += [x for x in files if x.suffix.lower() in IMAGES]
    found = [x for x in found if x.is_file()][:count]
    if not found:
        raise FileNotFoundError(
            f'no images at {", ".join(map(str, paths)) or "any place"}: an '
            'export is checked on real ones. Give --images with files or '
            'folders.')
    return found


def folders_of(cfg: Config) -> List[str]:
    """Folders of a config's test images."""
    folders = []
    for dataset in datasets_of(cfg.get('test_dataloader')):
        root = dataset.get('data_root') or ''
        prefix = dataset.get('data_prefix') or ''
        for key in ('img_path', 'img'):
            prefix = prefix.get(key, prefix) if isinstance(
                prefix, dict) else prefix
        folders.append(
            str(Path(root, prefix if isinstance(prefix, str) else '')))
    return folders


def load_images(paths: Sequence[Path],
                description: dict) -> List[Tuple[str, np.ndarray]]:
    """Names and inputs (1, 3, H, W) of image files.

    Raises:
        ValueError: If one cannot be read, or the file takes other channels.
    """
    if description['input']['shape'][1] != 3:
        raise ValueError(
            f'the model takes {description["input"]["shape"][1]} channels, '
            'and image files are read as 3.')
    loaded = []
    for path in paths:
        image = cv2.imread(str(path))
        if image is None:
            raise ValueError(f'{path} cannot be read as an image.')
        loaded.append((path.name, prepare(image, description)))
    return loaded
