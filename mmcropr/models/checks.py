# Copyright (c) mmcropr contributors.
"""Do the parts of a model fit together? Asked once, before training."""
import warnings
from typing import Iterator, List, Optional, Tuple

from mmengine.model import is_model_wrapper
from torch import nn

from mmcropr.structures import Decision, Route
from mmcropr.utils.build import head_of_tokens

from .backbones import CroprViT, cropr_vit_of
from .heads import StateHead
from .necks import FusionNeck, LLFNeck, PoolNeck, check_neck, check_pyramid

# What a config adds for reducers that learn; {n} modules
HEADS = {
    Route: (
        "auxiliary_head=dict(type='mmcropr.CroprSegHead', num_modules={n}, "
        "...) to a segmentor; wrap a detector in dict(type='mmcropr."
        "CroprDetector', detector=..., auxiliary_head=dict(type='mmcropr."
        "CroprMultiLabelHead', num_modules={n}, ...)); give a classifier "
        "head=dict(type='mmcropr.CroprClsHead', num_modules={n}, ...)"),
    Decision: (
        "auxiliary_head=dict(type='mmcropr.DynamicViTHead') to a segmentor; "
        "wrap a detector in dict(type='mmcropr.CroprDetector', detector=..., "
        "auxiliary_head=dict(type='mmcropr.DynamicViTHead')); give a "
        "classifier head=dict(type='mmcropr.DynamicViTClsHead', ...)"),
}
# Attributes of models that read maps, not vectors
DENSE_HEADS = ('decode_head', 'bbox_head', 'rpn_head', 'roi_head',
               'panoptic_head', 'mask_head')


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside (nested) model wrappers."""
    while is_model_wrapper(model):
        model = model.module
    return model


def backbones_of(model: nn.Module) -> List[CroprViT]:
    """Every CroprViT of a model, also inside model wrappers."""
    return [m for m in model.modules() if isinstance(m, CroprViT)]


def find_backbone(model: nn.Module) -> CroprViT:
    """The CroprViT of a model, also inside (nested) model wrappers.

    Raises:
        ValueError: If there is none, or more than one.
    """
    model = unwrap(model)
    backbones = backbones_of(model)
    if len(backbones) != 1:
        raise ValueError(f'{type(model).__name__} has {len(backbones)} '
                         'mmcropr.CroprViT backbones where 1 is expected.')
    return backbones[0]


def check_model(model: nn.Module, teachers: bool = True) -> None:
    """Check reducers, necks and heads of a model against each other, for each
    CroprViT in it; nothing happens where there is none. ``teachers``, which
    only train, are built for it.

    Raises:
        ValueError: If a neck does not take what the backbone gives, widths,
            strides or classes differ, or a reducer lacks its auxiliary head
            or has one that does not fit.
    """
    model = unwrap(model)
    _check_trackers(model)
    owned = set()
    for owner, scope in _owners(model):
        backbone = cropr_vit_of(owner.backbone)
        owned.add(backbone)
        joined = _head_of_tokens(owner)
        if joined is None:
            _check_necks(owner, backbone)
        else:
            joined.check_backbone(backbone)
        check_pyramid(owner)
        main = getattr(owner, 'decode_head', getattr(owner, 'head', None))
        _check_width(owner, main, backbone.trunk.embed_dim)
        heads = [m for m in scope.modules() if isinstance(m, StateHead)]
        _check_states(owner, heads)
        _check_indices(owner, backbone)
        _check_heads(backbone, heads)
        for head in heads:
            _check_task(owner, main, head)
            if teachers and hasattr(head, 'check_teacher'):
                head.check_teacher(backbone)
    for name, backbone in model.named_modules():
        if isinstance(backbone, CroprViT) and backbone not in owned:
            _check_encoder(model, name, backbone)


def _owners(model: nn.Module) -> Iterator[Tuple[nn.Module, nn.Module]]:
    """Every module that has a CroprViT as its ``backbone``, and its scope."""
    for owner in model.modules():
        if cropr_vit_of(owner._modules.get('backbone')) is not None:
            yield owner, _scope_of(model, owner)


def _scope_of(model: nn.Module, part: nn.Module) -> nn.Module:
    """The largest part of a model around another with no other CroprViT in
    it, where the heads of that one are."""
    return next((m for m in model.modules() if len(backbones_of(m)) == 1
                 and any(inner is part for inner in m.modules())), part)


def _check_encoder(model: nn.Module, name: str, backbone: CroprViT) -> None:
    """Check a CroprViT that is nobody's ``backbone``, such as the
    ``image_encoder`` of mmpretrain's retriever: only whether its reducers
    learn, as how it is used is not known."""
    scope = _scope_of(model, backbone)
    heads = [m for m in scope.modules() if isinstance(m, StateHead)]
    if not any(p.requires_grad for p in backbone.parameters()):
        return
    try:
        _check_heads(backbone, heads)
    except ValueError as error:
        raise ValueError(
            f'{name} of {type(model).__name__}: {error} A retriever takes '
            "head=dict(type='mmcropr.CroprClsHead'), or the weights of a "
            'CroprClassifier that has been trained.') from error


def _check_trackers(model: nn.Module) -> None:
    """QDTrack calls the parts of its detector, never its loss, so the losses
    of a CroprDetector would be left out without a word."""
    for module in model.modules():
        parts = module._modules
        if 'track_head' in parts and hasattr(
                parts.get('detector'), 'auxiliary_head'):
            raise ValueError(
                f'{type(module).__name__} trains the parts of its detector '
                'itself, and the auxiliary head of a CroprDetector in it '
                'would learn nothing: give it the plain detector and a '
                'reducer that needs no such head, or train the detector '
                'first.')


def _head_of_tokens(owner: nn.Module) -> Optional[nn.Module]:
    """:func:`head_of_tokens`, before which there can be no neck."""
    head, necks = head_of_tokens(owner), _necks_of(owner)
    if head is not None and necks:
        raise ValueError(
            f'{type(head).__name__} takes the tokens of the backbone itself: '
            f'leave the neck ({type(necks[0]).__name__}) out.')
    return head


def _check_necks(owner: nn.Module, backbone: CroprViT) -> None:
    neck: Optional[nn.Module] = getattr(owner, 'neck', None)
    if backbone.out_type == 'tokens':
        check_neck(neck)
    necks = _necks_of(owner) or [None]
    takers = [n for n in necks if getattr(n, 'takes_tokens', False)]
    kind = type(owner).__name__
    if takers and backbone.out_type == 'featmap':
        raise ValueError(
            f'{type(takers[0]).__name__} takes the tokens of a backbone with '
            "out_type='tokens', and this one has out_type='featmap': set "
            "out_type='tokens', or leave that neck out.")
    if len(takers) > 1:
        raise ValueError(
            f'{" and ".join(type(n).__name__ for n in takers)} each run the '
            'last block of the backbone; leave all but the first out.')
    if takers and isinstance(takers[0], FusionNeck):
        takers[0].check_backbone(backbone)
    dense = next((name for name in DENSE_HEADS if hasattr(owner, name)), None)
    if dense and isinstance(necks[0], PoolNeck):
        raise ValueError(
            f'PoolNeck gives one vector per image, the {dense} of {kind} '
            "reads maps: use neck=dict(type='mmcropr.LLFNeck').")
    reads_vectors = not dense and getattr(owner, 'head', None) is not None
    # mmpretrain's heads read vectors, but for those of attention by class
    reads_vectors = reads_vectors and 'CSRA' not in type(owner.head).__name__
    if reads_vectors and len(necks) == 1 and isinstance(
            necks[0], (LLFNeck, FusionNeck)):
        raise ValueError(
            f'{type(necks[0]).__name__} gives a map, the head of {kind} reads '
            'one vector per '
            "image: use neck=dict(type='mmcropr.PoolNeck').")
    if isinstance(necks[0], PoolNeck) and necks[0].llf is False and (
            backbone.num_modules and backbone.fuse_at is not None
            and backbone.schedule.modules
            == tuple(range(backbone.fuse_at - 1))):
        warnings.warn(
            'PoolNeck(llf=False) pools what is left, and the backbone with '
            f'fuse_at={backbone.fuse_at} has modules up to block '
            f'{backbone.fuse_at - 2}, as before a fusion: set fuse_at=None '
            'in the backbone for one more, and leave llf out.')


def _check_states(owner: nn.Module, heads: List[StateHead]) -> None:
    """Auxiliary heads of segmentors and classifiers read the state behind the
    last neck; a detector's gets it from the backbone."""
    necks = _necks_of(owner)
    reads = hasattr(owner, 'decode_head') or hasattr(owner, 'head')
    if not reads or not heads:
        return
    tasks = getattr(getattr(owner, 'head', None), 'task_heads', nn.Module())
    if any(isinstance(part, StateHead) for part in tasks.modules()):
        raise ValueError(
            'MultiTaskHead hands maps on without the token state, which a '
            'head that trains reducers reads: give its tasks stock heads, and '
            "the model type='mmcropr.CroprClassifier' with auxiliary_head="
            "dict(type='mmcropr.CroprLabelHead', task=...).")
    for neck in necks:
        module = type(neck).__module__
        if module.startswith(('mmseg.', 'mmdet.', 'mmpretrain.')):
            raise ValueError(
                f'{type(neck).__name__} hands maps on without the token '
                f'state, which {type(heads[0]).__name__} reads: put it into '
                "dict(type='mmcropr.HostNeck', neck=dict(type="
                f"'{type(neck).__name__}', ...)). If it wants several maps, "
                "give the backbone out_type='featmap' with out_indices and "
                'leave LLFNeck out.')


def _check_indices(owner: nn.Module, backbone: CroprViT) -> None:
    """Heads of a segmentor read maps that are there, if it is known how many
    there are: without another neck than ours, one or ``out_indices``."""
    necks = _necks_of(owner)
    if any(not isinstance(neck, LLFNeck) for neck in necks):
        return
    count = 1 if necks else len(backbone.out_indices)
    for name in ('decode_head', 'auxiliary_head'):
        heads = owner._modules.get(name)
        heads = heads if isinstance(heads, nn.ModuleList) else [heads]
        for head in heads:
            index = getattr(head, 'in_index', None)
            indices = index if isinstance(index, (list, tuple)) else [index]
            if any(isinstance(i, int) and not -count <= i < count
                   for i in indices):
                raise ValueError(
                    f'{type(head).__name__} reads in_index={index}, and the '
                    f'backbone gives {count} map{"s" * (count > 1)}: set '
                    f'in_index of {name} to numbers from 0 to {count - 1}, '
                    "or give the backbone out_type='featmap' with more "
                    'out_indices and leave LLFNeck out.')


def _necks_of(owner: nn.Module) -> List[nn.Module]:
    neck = getattr(owner, 'neck', None)
    if isinstance(neck, nn.Sequential):
        return list(neck)
    return [] if neck is None else [neck]


def _check_heads(backbone: CroprViT, heads: List[StateHead]) -> None:
    for kind, advice in HEADS.items():
        learners = [r for r in backbone.reducers if r.record_type is kind]
        if learners and not any(
                issubclass(h.record_type, kind) for h in heads):
            reason = 'the model has none'
            if heads:
                names = ', '.join(type(h).__name__ for h in heads)
                reason = f'{names} reads something else'
            raise ValueError(
                f'{type(learners[0]).__name__} learns through an auxiliary '
                f'head, and {reason}: add {advice.format(n=len(learners))}.')
        if learners and not any(
                p.requires_grad for r in learners for p in r.parameters()):
            warnings.warn(
                f'no weight of {type(learners[0]).__name__} learns: all are '
                'frozen, as by the LoRAModel of mmpretrain, which leaves them '
                "out of checkpoints, too: give it type='mmcropr.LoRAModel'. "
                'Else the selection stays as it is.')
    for head in heads:
        head.check_backbone(backbone)


def _check_task(owner: nn.Module, main: Optional[nn.Module],
                head: StateHead) -> None:
    """What main and auxiliary head both say of one task: classes, or the
    greatest depth. Heads of unlike tasks have nothing in common."""
    # One channel of depth is a class to mmseg
    depth = any(c.__name__ == 'DepthEstimator' for c in type(owner).__mro__)
    key = 'max_depth' if depth else 'num_classes'
    found, expected = getattr(head, key, None), getattr(main, key, None)
    if None not in (expected, found) and expected != found:
        raise ValueError(f'the auxiliary head has {key}={found}, the main '
                         f'head {expected}.')


def _check_width(model: nn.Module, main: nn.Module, embed_dim: int) -> None:
    """Of a main head that reads one map, or a vector, of the backbone."""
    neck = getattr(model, 'neck', None)
    direct = neck is None or getattr(neck, 'takes_tokens', False)
    several = getattr(main, 'input_transform', None) is not None
    width = getattr(main, 'in_channels', None)
    if direct and not several and isinstance(width, int) and (
            width != embed_dim):
        raise ValueError(f'{type(main).__name__} has in_channels={width}, the '
                         f'backbone gives {embed_dim} channels: set '
                         f'in_channels={embed_dim}.')
