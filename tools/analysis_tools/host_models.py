# Copyright (c) mmcropr contributors.
"""Stock models with another backbone and neck, small."""
import copy
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from host_configs import Family

SIZE, DIM, DEPTH = 128, 32, 4
ARCH = dict(family='vit', embed_dim=DIM, depth=DEPTH, num_heads=2)
# Wherever they are in a model, so that a step takes seconds
SMALLER = {
    'num_queries': 20, 'num_layers': 2, 'num_dn_queries': 10,
    'feedforward_channels': 64, 'stacked_convs': 1, 'num_convs': 1,
    'nms_pre': 50, 'max_per_img': 20}  # yapf: disable
# Strides that ResNet's stages have, by their channels
STRIDES = {256: 4, 512: 8, 1024: 16, 2048: 32}


class Change(NamedTuple):
    """What one family needs beside backbone and neck: where it is in the
    model, and what is to be there."""
    place: str
    value: Any


def of_panoptic(channels: int) -> List[Change]:
    return [Change('panoptic_head.in_channels', [channels] * 4),
            Change('panoptic_head.strides', [4, 8, 16, 32])]


# Lines that are to be changed in configs of a family
LINES: Dict[str, Callable[[dict], List[Change]]] = {
    'mask2former': lambda model: of_panoptic(256),
    'maskformer': lambda model: of_panoptic(256)[:1],
    'Mask2FormerHead': lambda model: [
        Change('decode_head.in_channels', [256] * 4)],
    'rpn': lambda model: [Change('auxiliary_head.num_classes', 80)],
    'VPDDepthHead': lambda model: [
        Change('decode_head.in_channels', [256] * 4)],
    'MaskFormerHead': lambda model: [
        Change('decode_head.in_channels', [256] * 4)],
    'DepthwiseSeparableASPPHead': lambda model: [
        Change('decode_head.c1_in_channels', DIM)],
    'DPTHead': lambda model: [
        Change('neck', dict(type='mmcropr.ReadoutNeck')),
        Change('decode_head.embed_dims', DIM)],
}


# Sizes in these depend on each other
WHOLE = ('boxinst', 'condinst', 'queryinst', 'scnet')
# Heads that read more than maps of a plain ViT
REASONS = {
    'ClsHead': 'it reads classes, not features: use `LinearClsHead`',
    'MultiLabelClsHead': 'it reads classes, not features: use '
                         '`MultiLabelLinearClsHead`',
    'ConformerHead': 'it reads the two branches of a Conformer',
    'DeiTClsHead': 'it reads a class and a distillation token: use '
                   '`LinearClsHead`',
    'EfficientFormerClsHead': 'it reads a pair of tokens: use `LinearClsHead`',
    'LeViTClsHead': 'it reads what LeViT pools: use `LinearClsHead`',
    'VigClsHead': 'it reads maps of a graph network: use `LinearClsHead`',
    'DDRHead': 'it reads the two branches of a DDRNet',
    'PIDHead': 'it reads the three branches of a PIDNet',
    'LRASPPHead': 'it pools windows of 49 x 49 cells',
    'centripetalnet': 'it reads the two stacks of an Hourglass',
    'cornernet': 'it reads the two stacks of an Hourglass',
    'masktrack_rcnn': 'it learns from pairs of frames: two runs of the '
                      'backbone for one loss',
    'tridentnet': 'its detector makes branches of a ResNet',
    'yolo': 'its head reads the coarsest level first',
}
# What is not at hand here
MISSING = {
    'ArcFaceClsHead': 'the retriever evaluates; `CroprClassifier` trains this '
                      'head beside `CroprLabelHead`',
    'clrnet': 'lanes: its data preprocessor is in no host',
    'fast_rcnn': 'its proposals are files; see faster_rcnn',
    'glip': 'its language model would be downloaded',
    'grounding_dino': 'its language model would be downloaded',
    'mm_grounding_dino': 'its language model would be downloaded',
    'lad': 'its teacher would be downloaded',
    'ld': 'its teacher would be downloaded',
    'mask2former_vis': 'it learns from clips',
    'reid': 'identities of people: see mmpretrain',
}


def smaller(part: Any, sizes: dict = SMALLER) -> Any:
    """Copy of a config with fewer layers, queries and proposals, weights that
    are not downloaded, and norms that run without a GPU."""
    if isinstance(part, dict):
        return {
            key: sizes[key] if isinstance(value, int) and key in sizes
            else smaller(value, sizes) for key, value in part.items()
            if key != 'init_cfg' or 'Pretrained' not in str(value)}
    if isinstance(part, (list, tuple)):
        return type(part)(smaller(item, sizes) for item in part)
    return 'BN' if part == 'SyncBN' else part


def small_model(family: Family) -> dict:
    """Copy of the model of a family, small."""
    model = smaller(
        copy.deepcopy(family.model), {} if family.name in WHOLE else SMALLER)
    if family.host == 'mmpretrain':  # the config has it beside the model
        classes = model['head'].get('num_classes', 1000)
        model['data_preprocessor'] = dict(num_classes=classes)
    if isinstance(model.get('data_preprocessor'), dict):
        # Those of a batch follow the iterations of a run
        model['data_preprocessor'].pop('batch_augments', None)
        if family.host == 'mmseg':
            model['data_preprocessor'].update(size=(SIZE, SIZE), test_cfg=None)
    model.pop('pretrained', None)
    return model


def backbone(queries: str, **options: Any) -> dict:
    """Config of a small CroprViT."""
    return dict(
        type='mmcropr.CroprViT', arch=ARCH, img_size=SIZE, patch_size=16,
        reducer=dict(type='mmcropr.Cropr', keep=[40, 16], num_queries=queries),
        **options)


def apply(model: dict, changes: List[Change]) -> None:
    """Set what a family needs."""
    for place, value in changes:
        part = model
        *path, name = place.split('.')
        for step in path:
            part = part[int(step) if step.isdigit() else step]
        part[name] = value


def find(part: Any, key: str) -> list:
    """All values of a key, wherever it is in a config."""
    if isinstance(part, dict):
        own = [part[key]] if key in part else []
        return own + [x for value in part.values() for x in find(value, key)]
    if isinstance(part, (list, tuple)):
        return [x for item in part for x in find(item, key)]
    return []


def pyramid(model: dict) -> Tuple[list, int, int, list]:
    """Strides, levels and channels that heads of a detector read, and necks
    behind the first."""
    neck = model.get('neck') or {}
    first, *rest = neck if isinstance(neck, (list, tuple)) else [neck]
    channels = first.get('out_channels', 256)
    strides = None
    for name in ('rpn_head', 'bbox_head'):
        head = model.get(name)
        head = (head or {}) if not isinstance(head, list) else head[0]
        priors = head.get('anchor_generator', head.get('prior_generator', {}))
        strides = strides or priors.get('strides') or head.get('strides')
    if strides is None:
        inputs = first.get('in_channels', [256, 512, 1024, 2048])
        inputs = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        strides = [STRIDES.get(width) for width in inputs]
        if None in strides:
            strides = [8, 16, 32, 64][:len(inputs)]
        levels = first.get('num_outs', len(strides))
        strides = strides[first.get('start_level', 0):]
    else:
        levels = len(strides)
    if not isinstance(channels, int):
        channels = channels[0]
    return [s for s in strides if s <= 32] or strides, levels, channels, rest


def as_detector(model: dict) -> dict:
    """A detector, by the recipe of the detection guide."""
    strides, levels, channels, rest = pyramid(model)
    model['backbone'] = backbone('image', out_type='tokens')
    model['neck'] = [
        dict(type='mmcropr.LLFNeck'),
        dict(type='mmcropr.SimpleFPN', in_channels=DIM, num_outs=levels,
             out_channels=channels, strides=list(strides)), *rest]
    return dict(
        type='mmcropr.CroprDetector', detector=model,
        auxiliary_head=dict(type='mmcropr.CroprMultiLabelHead'))


def as_segmentor(model: dict) -> dict:
    """A segmentor, by the recipe of the segmentation guide."""
    heads = model['decode_head']
    heads = heads if isinstance(heads, list) else [heads]
    heads = [head.get('kernel_generate_head', head) for head in heads]
    index = heads[-1].get('in_index', -1)
    several = [h for h in heads if isinstance(h.get('in_index'),
                                              (list, tuple))]
    count = max((len(h['in_index']) for h in several), default=1)
    if model['type'] == 'DepthEstimator' or 'Former' in heads[-1]['type']:
        model['backbone'] = backbone('patch', out_type='tokens')
        model['neck'] = [
            dict(type='mmcropr.LLFNeck'),
            dict(type='mmcropr.SimpleFPN', in_channels=DIM, num_outs=4,
                 strides=[8, 16, 32, 64] if 'Depth' in heads[-1]['type'] else
                 [4, 8, 16, 32])]
        count = 0
    elif count > 1 or index not in (-1, 0):
        blocks = tuple(range(DEPTH))[-count:]
        model['backbone'] = backbone(
            'patch', out_type='featmap', out_indices=blocks)
        model.pop('neck', None)
    else:
        model['backbone'] = backbone('patch', out_type='tokens')
        model['neck'] = dict(type='mmcropr.LLFNeck')
    for head in heads if count else []:
        inputs = isinstance(head.get('in_channels'), (list, tuple))
        head['in_channels'] = [DIM] * count if inputs else DIM
        if isinstance(head.get('in_index'), (list, tuple)):
            head['in_index'] = list(range(len(head['in_index'])))
            head['in_channels'] = [DIM] * len(head['in_index'])
        elif 'in_index' in head:
            head['in_index'] = -1
    depth = model['type'] == 'DepthEstimator'
    classes = {} if depth else dict(
        num_classes=max(find(heads[-1], 'num_classes')))
    model['auxiliary_head'] = dict(
        type=f'mmcropr.Cropr{"Depth" if depth else "Seg"}Head',
        in_channels=DIM, num_modules=2, **classes)
    model['test_cfg'] = dict(model.get('test_cfg') or {}, mode='whole')
    return model


def as_classifier(model: dict) -> dict:
    """A classifier, by the recipe of the classification guide."""
    reads_maps = 'CSRA' in model['head']['type']
    model.update(
        type='mmcropr.CroprClassifier',
        backbone=backbone('image', out_type='tokens'),
        neck=dict(type=f'mmcropr.{"LLFNeck" if reads_maps else "PoolNeck"}'),
        auxiliary_head=dict(type='mmcropr.CroprLabelHead'))
    model['head']['in_channels'] = DIM
    return model


RECIPES = dict(
    mmdet=as_detector, mmseg=as_segmentor, mmpretrain=as_classifier)


def with_cropr(family: Family, lines: bool) -> Tuple[dict, List[Change]]:
    """The model of a family with backbone and neck of ours.

    Args:
        family: Of a host.
        lines: Whether to change what this family needs, too.

    Returns:
        Config of the model, and what was changed.
    """
    model = RECIPES[family.host](small_model(family))
    make: Optional[Callable] = LINES.get(family.name) if lines else None
    changes = make(model) if make else []
    for change in changes:
        ours = change.place.startswith('auxiliary_head')
        apply(model if ours else model.get('detector', model), [change])
    return model, changes
