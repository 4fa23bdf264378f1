# Copyright (c) mmcropr contributors.
"""Configs that mmdet, mmseg and mmpretrain ship: one per family."""
from importlib import import_module
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple

from mmengine.config import Config

# Folders of mmdet that are no family of models: data sets, backbones, recipes
NO_FAMILY = {
    'albu_example', 'carafe', 'cityscapes', 'common', 'convnext', 'dcn',
    'dcnv2', 'deepfashion', 'dsdl', 'efficientnet', 'fpg', 'gcnet', 'gn',
    'gn+ws', 'hrnet', 'instaboost', 'legacy_1.x', 'lvis', 'misc', 'nas_fpn',
    'objects365', 'openimages', 'pafpn', 'pascal_voc', 'pvt', 'regnet',
    'res2net', 'resnest', 'resnet_strikes_back', 'scratch', 'selfsup_pretrain',
    'simple_copy_paste', 'strong_baselines', 'swin', 'timm_example', 'v3det',
    'wider_face', 'empirical_attention', 'groie', 'seesaw_loss'}
# What a family is better known by than by its first file
FIRST = ('faster-rcnn_r50_fpn_1x', 'faster-rcnn_r50', 'r50_fpn_1x',
         'r50-caffe_fpn', 'r50_fpn', 'r50_8x', 'r50', 's_8xb', 'tiny', 'vit-b')


class Family(NamedTuple):
    """A family of models of a host, and the config it is tried by."""
    host: str
    name: str
    config: str
    model: dict


def shipped(host: str) -> Path:
    """The folder of the configs that are installed with a host.

    Raises:
        FileNotFoundError: If there are none.
    """
    folder = Path(import_module(host).__file__).parent / '.mim/configs'
    if not folder.is_dir():
        raise FileNotFoundError(
            f'{host} is installed without its configs ({folder}): install it '
            'from a wheel, not from its sources.')
    return folder


def _load(path: Path) -> dict:
    """The model of a config; empty if it has none or cannot be read."""
    try:
        return Config.fromfile(path).get('model', {}).to_dict()
    except Exception:  # those of other packages, or of newer Pythons
        return {}


def family_of(host: str, name: str, config: str) -> Family:
    """A family by the path of a config that its host ships."""
    return Family(host, name, config, _load(shipped(host) / config))


def _candidates(folder: Path) -> List[Path]:
    """Configs of a folder, the most usual first."""
    found = sorted(p for p in folder.glob('*.py') if p.name[0] != '_')
    return sorted(found, key=lambda path: next(
        (i for i, word in enumerate(FIRST) if word in path.name), len(FIRST)))


def detectors() -> Iterator[Family]:
    """One config of every folder of mmdet."""
    root = shipped('mmdet')
    for folder in sorted(root.iterdir()):
        if not folder.is_dir() or folder.name in NO_FAMILY | {'_base_'}:
            continue
        for path in _candidates(folder):
            model = _load(path)
            if model:
                yield Family('mmdet', folder.name,
                             str(path.relative_to(root)), model)
                break


def _heads_of(host: str, key: str) -> Iterator[Family]:
    """One config of every type that a host has as a head."""
    root, seen = shipped(host), set()
    for folder in sorted(p for p in root.iterdir() if p.name != '_base_'):
        for path in _candidates(folder):
            model = _load(path)
            head = model.get(key)
            head = head[-1] if isinstance(head, list) else head
            kind = (head or {}).get('type')
            if isinstance(kind, type):
                kind = kind.__name__
            if kind and kind not in seen:
                seen.add(kind)
                yield Family(host, kind, str(path.relative_to(root)), model)


def segmentors() -> Iterator[Family]:
    """One config of every decode head of mmseg."""
    return _heads_of('mmseg', 'decode_head')


def classifiers() -> Iterator[Family]:
    """One config of every head of mmpretrain."""
    return _heads_of('mmpretrain', 'head')


FAMILIES: Dict[str, Callable[[], Iterator[Family]]] = dict(
    mmdet=detectors, mmseg=segmentors, mmpretrain=classifiers)
