# Copyright (c) mmcropr contributors.
"""Predictions of a trained model of any host for pictures of one's own."""
import copy
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DATASETS, MODELS, VISUALIZERS, init_default_scope
from mmengine.runner import load_checkpoint

from mmcropr.models.backbones import CroprViT
from mmcropr.models.checks import find_backbone
from mmcropr.utils.checkpoint import check_checkpoint
from mmcropr.utils.files import IMAGES
from mmcropr.utils.loading import load_safely
from mmcropr.utils.logs import import_hosts

from .fates import Fates, record_fates
from .legible import enlarged, times


def list_images(path: Path) -> List[Path]:
    """The image files of a folder, or the one file.

    Raises:
        ValueError: If there is none.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f'there is no {path}')
    found = sorted(
        p for p in path.iterdir() if p.suffix.lower() in IMAGES)
    if not found:
        raise ValueError(f'no image in {path} (looked for '
                         f'{", ".join(IMAGES)})')
    return found


def check_out(out: Path, images: List[Path]) -> None:
    """Raise a ValueError if pictures of these images in a folder would take
    the place of the images, or of one another."""
    if Path(out).resolve() in {path.resolve().parent for path in images}:
        raise ValueError(f'{out} holds the images themselves, which pictures '
                         'of the same names would replace: give another '
                         '--out.')
    names = [path.stem for path in images]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f'several images are named {twice[0]}, and so would '
                         'be their pictures: rename one.')


class Picture(NamedTuple):
    """What a model made of a picture.

    Args:
        image: What the model saw, without padding, (H, W, 3), uint8, RGB.
        result: Data sample of the host, with the prediction.
        fates: Of its patches; of every window where it saw several, none
            without a reducer.
    """
    image: np.ndarray
    result: Any
    fates: List[Fates]


class Predictor:
    """A trained segmentor, detector or classifier with a CroprViT.

    Args:
        config: Of the training, or a path to it.
        checkpoint: Of the training, or a file of tensors (``.safetensors``).
        device: To run on.
        trust: Whether to read a checkpoint that can run code, from a source
            you trust.

    Raises:
        ValueError: If the checkpoint is of another config, or the backbone
            no CroprViT.
        OSError: If a file is not there.
    """

    def __init__(self,
                 config: Any,
                 checkpoint: str,
                 device: str = 'cpu',
                 trust: bool = False) -> None:
        load_safely(trust)
        cfg = config if isinstance(config, Config) else Config.fromfile(config)
        self.cfg, self.device = cfg, torch.device(device)
        import_hosts(cfg)
        self.host = cfg.get('default_scope', 'mmengine')
        init_default_scope(self.host)
        if self.device.type == 'cuda' and not torch.cuda.is_available():
            raise ValueError(f'device={device}: there is no CUDA device here')
        model = MODELS.build(cfg.model).eval()
        check_checkpoint(model, checkpoint)
        content = load_checkpoint(model, checkpoint, 'cpu', logger='silent')
        self.model = getattr(model, 'detector', model).to(self.device)
        self.pipeline = Compose(_pipeline(cfg))
        meta = content.get('meta', {}).get('dataset_meta') or self._classes()
        self.meta = {key.lower(): value for key, value in meta.items()}
        palette = self.meta.get('palette')
        if isinstance(palette, list):  # of JSON, and mmdet asks for tuples
            self.meta['palette'] = [tuple(colour) for colour in palette]

    @property
    def backbone(self) -> CroprViT:
        """Of the model."""
        return find_backbone(self.model)

    def without_pruning(self) -> 'Predictor':
        """One of the same weights that prunes nothing."""
        twin = copy.copy(self)
        twin.model = copy.deepcopy(self.model)
        twin.backbone.remove_reducers()
        return twin

    def _classes(self) -> Dict[str, Any]:
        """Names and colours of the classes as the data set of the test has
        them, for checkpoints that do not say them."""
        dataset = self.cfg.test_dataloader.dataset
        kind = dataset.type
        if isinstance(kind, str):
            with DATASETS.switch_scope_and_registry(self.host) as registry:
                kind = registry.get(kind)
        return {**getattr(kind, 'METAINFO', {}), **dataset.get('metainfo', {})}

    def __call__(self, path: Path) -> Picture:
        """Predict for an image file.

        Raises:
            ValueError: If it cannot be read as an image.
        """
        return self.predict(self.load(path))

    def load(self, path: Path) -> Dict[str, Any]:
        """A sample of an image file, as :meth:`predict` takes it.

        Raises:
            ValueError: If it cannot be read as an image.
        """
        try:
            image = mmcv.imread(str(path))
        except cv2.error:  # of an empty file
            image = None
        if image is None:
            raise ValueError(f'{path} cannot be read as an image')
        init_default_scope(self.host)
        return self.pipeline(dict(img_path=str(path), img_id=0))

    @torch.no_grad()
    def seconds(self, data: Dict[str, Any]) -> float:
        """What the model takes for a sample, from pixels to prediction."""
        batch = pseudo_collate([copy.deepcopy(data)])
        self._wait()
        start = time.perf_counter()
        self.model.test_step(batch)
        self._wait()
        return time.perf_counter() - start

    @torch.no_grad()
    def predict(self, data: Dict[str, Any]) -> Picture:
        """Predict for a sample as the pipeline packs it."""
        batch = pseudo_collate([copy.deepcopy(data)])
        image = data['inputs']
        image = image[0] if isinstance(image, list) else image
        with record_fates(self.backbone) as found:
            result = self.model.test_step(batch)[0]
        pixels = image.permute(1, 2, 0).cpu().numpy()
        # As the hosts' pipelines read images, BGR
        return Picture(
            np.ascontiguousarray(pixels[..., ::-1]), result,
            [fates for batch in found for fates in batch])

    def _wait(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        elif self.device.type == 'mps':
            torch.mps.synchronize()

    def test_set(self) -> Any:
        """The data set of the config's test, with labels."""
        init_default_scope(self.host)
        return DATASETS.build(self.cfg.test_dataloader.dataset)

    def draw(self, picture: Picture, truth: bool = False) -> np.ndarray:
        """Prediction or ground truth on the image, by the visualizer of the
        host, (H, W, 3), uint8, RGB; larger than a small image where there
        are words on it."""
        init_default_scope(self.host)
        kind = self.cfg.get('visualizer') or dict(
            mmseg=dict(type='SegLocalVisualizer'),
            mmdet=dict(type='DetLocalVisualizer'),
            mmpretrain=dict(type='UniversalVisualizer'))[self.host]
        visualizer = VISUALIZERS.build({
            **{key: value for key, value in kind.items()
               if key not in ('vis_backends', 'save_dir', 'name')},
            'name': f'pictures{id(picture)}'})
        visualizer.dataset_meta = self.meta
        result, image = picture.result, picture.image
        with tempfile.TemporaryDirectory() as folder:
            out = str(Path(folder, 'picture.png'))
            if self.host == 'mmpretrain':
                visualizer.visualize_cls(
                    image, result, classes=self.meta.get('classes'),
                    draw_gt=truth, draw_pred=not truth, out_file=out,
                    rescale_factor=times(image))
            else:
                size = result.metainfo.get('ori_shape', image.shape)[:2]
                image = mmcv.imresize(image, (size[1], size[0]))
                if self.host == 'mmdet':
                    image, result = enlarged(image, result)
                options = dict(with_labels=False) if (
                    self.host == 'mmseg') else dict(pred_score_thr=0.3)
                visualizer.add_datasample(
                    'picture', image, result, draw_gt=truth,
                    draw_pred=not truth, out_file=out, **options)
            return mmcv.imread(out, channel_order='rgb')

    def class_colours(self, *pictures: Picture) -> Dict[str, Any]:
        """Colours of 0 to 1, by name, of the classes that are predicted in
        pictures of a segmentor, those of most pixels first; none of other
        models."""
        names, palette = self.meta.get('classes'), self.meta.get('palette')
        maps = [picture.result.pred_sem_seg.data.cpu().numpy().ravel()
                for picture in pictures
                if 'pred_sem_seg' in picture.result and names and palette]
        if self.host != 'mmseg' or not maps:
            return {}
        numbers, counts = np.unique(np.concatenate(maps), return_counts=True)
        known = min(len(names), len(palette))
        return {names[number]: np.array(palette[number]) / 255
                for number in numbers[np.argsort(-counts, kind='stable')]
                if number < known}


def _pipeline(cfg: Config) -> List[dict]:
    """That of the test, without labels."""
    return [
        step for step in cfg.test_dataloader.dataset.pipeline
        if not str(step['type']).split('.')[-1].startswith('Load')
        or 'Annotation' not in str(step['type'])
    ]


def truth_of(result: Any) -> Optional[str]:
    """Name of the ground truth that a data sample has, if it has any."""
    names = ('gt_sem_seg', 'gt_instances', 'gt_label')
    return next((name for name in names if name in result), None)
