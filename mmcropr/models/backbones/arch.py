# Copyright (c) mmcropr contributors.
"""From a config's ``arch`` to a plain timm ViT."""
import difflib
from typing import Any, Optional, Sequence, Tuple, Type, Union

import timm
from timm.layers import PatchEmbed
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva, EvaBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from .eva_trunk import EvaTrunk
from .trunk import Trunk

PLAIN_MODULES = ('timm.models.vision_transformer', 'timm.models.deit',
                 'timm.models.eva')
PLAIN_CLASSES = (VisionTransformer, VisionTransformerDistilled, Eva)
PLAIN_BLOCKS = (Block, EvaBlock)
FAMILIES = {'vit': VisionTransformer, 'eva': Eva}


def trunk_class(vit: nn.Module) -> Type[Trunk]:
    """The adapter for a model of :func:`build_vit`."""
    return EvaTrunk if isinstance(vit, Eva) else Trunk


def check_arch_name(arch: str) -> None:
    """Raise a ValueError unless timm knows ``arch`` as a plain ViT."""
    name = arch.split('.')[0]
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise ValueError(
            f'arch={arch!r} is no model of timm {timm.__version__}. '
            f'Close names: {", ".join(close) or "none"}. See '
            'timm.list_models().')
    module = timm.model_entrypoint(name).__module__
    if module not in PLAIN_MODULES:
        raise ValueError(
            f'arch={arch!r} ({module}) is no plain ViT. Token reduction needs '
            'one sequence of patches from the first block to the last: timm\'s'
            ' VisionTransformer (DeiT, AugReg, MAE, CLIP, DINOv2) and Eva '
            '(EVA, EVA-02, DINOv3) families.')


def check_plain(vit: nn.Module, arch: Any) -> None:
    """Raise a ValueError if a model does something that a token sequence of
    changing length would break."""
    blocks = {type(block) for block in getattr(vit, 'blocks', ())}
    odd = blocks - set(PLAIN_BLOCKS)
    reason = None
    if type(vit) not in PLAIN_CLASSES:
        reason = f'its class is {type(vit).__name__}'
    elif odd:
        reason = ('its blocks are '
                  f'{", ".join(sorted(cls.__name__ for cls in odd))}')
    elif type(vit.patch_embed) is not PatchEmbed:
        reason = f'its patch embedding is {type(vit.patch_embed).__name__}'
    elif not isinstance(vit.patch_drop, (nn.Identity, type(None))):
        reason = 'it drops patches by itself (patch_drop_rate)'
    if reason:
        raise ValueError(f'arch={arch!r} is no plain ViT: {reason}; '
                         'mmcropr runs Block and EvaBlock sequences only.')


def check_size(img_size: Union[int, Sequence[int]]) -> Tuple[int, int]:
    """Height and width in pixels, from one number or both.

    Raises:
        ValueError: If they are anything but one or two whole numbers above 0.
    """
    sides = img_size if isinstance(img_size, (list, tuple)) else [img_size] * 2
    if len(sides) != 2 or any(
            isinstance(side, bool) or not isinstance(side, int) or side < 1
            for side in sides):
        raise ValueError('img_size is one whole number of pixels or (height, '
                         f'width), got {img_size!r}')
    return tuple(sides)


def check_fuse_at(fuse_at: Optional[int], depth: int,
                  out_type: str) -> Optional[int]:
    """Block before which all tokens are put back, from 0, or None.

    Raises:
        ValueError: If it is no block of a model of ``depth`` blocks, or None
            where ``out_type='featmap'`` needs all tokens.
    """
    if fuse_at is None:
        if out_type == 'featmap':
            raise ValueError(
                "out_type='featmap' puts all tokens back before the last "
                "block; fuse_at=None goes with out_type='tokens' and a "
                'neck that takes what is left, such as mmcropr.PoolNeck.')
        return None
    if isinstance(fuse_at, bool) or not isinstance(fuse_at, int):
        raise ValueError('fuse_at is the number of a block or None, got '
                         f'{fuse_at!r}')
    resolved = fuse_at + depth if fuse_at < 0 else fuse_at
    if not 0 < resolved < depth:
        raise ValueError(f'fuse_at={fuse_at} is no block from 1 to '
                         f'{depth - 1} of a model of {depth} blocks.')
    return resolved


def _create(arch: dict, kwargs: dict) -> nn.Module:
    """The timm model of an ``arch``; its own keywords win."""
    if 'name' in arch:
        changes = dict(arch)
        name = changes.pop('name')
        check_arch_name(name)
        if 'distilled' in name:
            # This class has no other pooling; features are the same.
            kwargs['global_pool'] = 'token'
        return timm.create_model(
            name, pretrained=False, **{**kwargs, **changes})
    sizes = dict(arch)
    family = sizes.pop('family', None)
    missing = {'embed_dim', 'depth', 'num_heads'} - set(sizes)
    if family not in FAMILIES or missing:
        raise ValueError(
            f"arch={arch!r} needs family='vit' or 'eva', embed_dim, depth "
            'and num_heads, or name=<timm name>; other keys are keywords '
            'of the timm class.')
    return FAMILIES[family](**{**kwargs, **sizes})


def build_vit(arch: Union[str, dict],
              img_size: Tuple[int, int],
              patch_size: Optional[int] = None,
              in_channels: int = 3,
              drop_path_rate: float = 0.) -> nn.Module:
    """Build the timm model of a backbone, without pretrained weights.

    It has no classifier and no pooling, so its ``norm`` is the final norm of
    every token, and it takes images of any size.

    Args:
        arch: A timm name, ``dict(name=<timm name>, **timm's keywords)`` to
            change parts of that model, or ``dict(family='vit' | 'eva',
            embed_dim=..., depth=..., num_heads=..., **timm's keywords)``.
        img_size: Height and width in pixels, multiples of the patch size.
        patch_size: In pixels; the model's own by default.
        in_channels: Channels of the image.
        drop_path_rate: Stochastic depth of the last block, linear from 0.

    Raises:
        ValueError: If ``arch`` is unknown or no plain ViT, or ``img_size`` is
            no multiple of the patch size.
    """
    if not isinstance(arch, (str, dict)):
        raise ValueError(f'arch is a timm name or a dict, got {arch!r}')
    if patch_size is not None and (isinstance(patch_size, bool)
                                   or not isinstance(patch_size, int)
                                   or patch_size < 1):
        raise ValueError('patch_size is a whole number of pixels, 1 or more, '
                         f'got {patch_size!r}')
    kwargs = dict(
        img_size=img_size,
        in_chans=in_channels,
        num_classes=0,
        global_pool='',
        drop_path_rate=drop_path_rate,
        dynamic_img_size=True)
    if patch_size is not None:
        kwargs['patch_size'] = patch_size
    arch = dict(name=arch) if isinstance(arch, str) else arch
    vit = _create(arch, kwargs)
    check_plain(vit, arch)
    patch = vit.patch_embed.patch_size
    if any(size % p for size, p in zip(img_size, patch)):
        raise ValueError(
            f'img_size={img_size} must be a multiple of the patch size '
            f'{patch}. Images of other sizes are padded; this is the size '
            'that position embeddings and the schedule refer to.')
    # mmdet's NumClassCheckHook would compare it with the data set's classes.
    del vit.num_classes
    # mmengine would otherwise initialise the model anew, over its weights.
    vit.is_init = True
    return vit
