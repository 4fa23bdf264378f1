# Copyright (c) mmcropr contributors.
import math
from functools import partial
from typing import List, Optional, Sequence, Tuple, Union

from mmengine.model import BaseModule
from timm.layers import ConvNormAct, LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from mmcropr.registry import MODELS
from mmcropr.structures import FeatureMaps, TokenState

Stride = Union[int, float]
Conv = partial(
    ConvNormAct,
    norm_layer=LayerNorm2d,
    norm_kwargs=dict(eps=1e-6),
    apply_act=False)
# The heads of ViTDet normalise over channels too: norm_cfg of mmcv's layers.
MODELS.register_module(name='LN2d', module=LayerNorm2d)


def default_strides(patch_size: int) -> List[Stride]:
    """The four strides ``patch_size * 2**k`` that are next to 4, 8, 16, 32:
    these themselves for patches of 8, 16 and 32 px, and 3.5, 7, 14, 28 for
    patches of 14 px."""
    power = round(math.log2(16 / patch_size))
    strides = [patch_size * 2.**(power + k) for k in (-2, -1, 0, 1)]
    return [int(s) if s == int(s) else s for s in strides]


@MODELS.register_module()
class SimpleFPN(BaseModule):
    """Simple feature pyramid from the last map of a plain ViT (Li et al.,
    Exploring Plain Vision Transformer Backbones for Object Detection, ECCV
    2022).

    Every level resizes the one map, by transposed convolutions of stride 2
    (with LayerNorm and GELU between two of them) or by max pooling, and
    projects it with a 1 x 1 and a 3 x 3 convolution, each with a LayerNorm
    over channels. Levels beyond the given strides subsample the last one.

    Args:
        in_channels: Channels D of the backbone's map.
        out_channels: Channels of every level.
        num_outs: Number of levels.
        patch_size: Of the backbone, in pixels.
        strides: Strides in pixels of the projected levels, ascending. By
            default four, or ``num_outs`` if that is less: see
            :func:`default_strides`.
        init_cfg: As of every mmengine module.

    Raises:
        ValueError: If a stride is not ``patch_size`` times a power of two, or
            there are fewer levels than strides.
    """

    def __init__(self,
                 in_channels: int,
                 out_channels: int = 256,
                 num_outs: int = 5,
                 patch_size: int = 16,
                 strides: Optional[Sequence[Stride]] = None,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg)
        if num_outs < 1:
            raise ValueError(f'num_outs must be 1 or more, got {num_outs}')
        if strides is None:
            strides = default_strides(patch_size)[:num_outs]
        steps = [self._step(stride, patch_size) for stride in strides]
        if not steps or steps != sorted(set(steps)) or len(steps) > num_outs:
            raise ValueError(f'strides={tuple(strides)} must ascend, from one '
                             f'to num_outs={num_outs} of them.')
        self.in_channels, self.out_channels = in_channels, out_channels
        self.patch_size = patch_size
        self.strides = list(strides)
        while len(self.strides) < num_outs:
            self.strides.append(self.strides[-1] * 2)
        self.levels = nn.ModuleList(
            self._level(step, in_channels, out_channels) for step in steps)

    @staticmethod
    def _step(stride: Stride, patch_size: int) -> int:
        """Halvings from a patch to a stride; below 0 they are doublings."""
        step = math.log2(stride / patch_size) if stride > 0 else math.nan
        if step != step or step != round(step):
            near = default_strides(patch_size)
            raise ValueError(
                f'SimpleFPN cannot reach a stride of {stride} px from patches '
                f'of {patch_size} px: a stride is patch_size times a power of '
                f'two, such as {near}. The anchors and RoI extractors of the '
                'heads need the same strides.')
        return round(step)

    @staticmethod
    def _level(step: int, dim: int, out_channels: int) -> nn.Sequential:
        layers: List[nn.Module] = []
        if step > 0:
            # Odd maps keep their border: h -> ceil(h / 2)
            layers = [nn.MaxPool2d(2, ceil_mode=True) for _ in range(step)]
        for number in range(-step):
            if number:
                layers += [LayerNorm2d(dim), nn.GELU()]
            layers.append(nn.ConvTranspose2d(dim, dim // 2, 2, stride=2))
            dim //= 2
        return nn.Sequential(*layers, Conv(dim, out_channels, 1),
                             Conv(out_channels, out_channels, 3))

    def forward(self, inputs: Sequence[Tensor]) -> FeatureMaps:
        """Maps of the backbone, of which the last, (B, D, h, w), is used ->
        ``num_outs`` maps (B, out_channels, h_i, w_i), finest first.

        Raises:
            TypeError: If ``LLFNeck`` is missing before it.
            ValueError: If the backbone has another ``patch_size``.
        """
        if isinstance(inputs, TokenState):
            raise TypeError(
                'SimpleFPN got a TokenState instead of a feature map: put '
                "dict(type='mmcropr.LLFNeck') before it in the list of necks,"
                " or set out_type='featmap' in the backbone.")
        state = getattr(inputs, 'state', None)
        if state is not None:
            self.check_patch(
                tuple(size // n
                      for size, n in zip(state.image.shape[-2:], state.grid)))
        # A LayerNorm over channels leaves them last in memory, and mmcv's ops
        # (RoIAlign, deformable convolution) read such a map wrongly without a
        # word (open-mmlab/mmcv#2203).
        maps = [level(inputs[-1]).contiguous() for level in self.levels]
        while len(maps) < len(self.strides):
            maps.append(F.max_pool2d(maps[-1], 1, stride=2))
        return FeatureMaps(maps, state)

    def check_patch(self, patch: Tuple[int, int]) -> None:
        """Raise a ValueError unless the patches of the backbone, in pixels,
        are those that the strides were computed for."""
        if tuple(patch) != (self.patch_size, self.patch_size):
            raise ValueError(
                f'SimpleFPN has patch_size={self.patch_size}, the patches of '
                f'the backbone are {patch[0]} x {patch[1]} px: set '
                f'patch_size={patch[0]}, or its strides are not those of the '
                'heads.')


# Necks of mmdet that hand on as many levels, of the same strides
SAME_LEVELS = ('BFP', 'DyHead')


def check_pyramid(detector: nn.Module) -> None:
    """Raise a ValueError unless the :class:`SimpleFPN` of a detector, if it
    has one, fits the patches of its backbone and the strides of its heads;
    else anchors would be of other places than features, without a word.
    Behind necks that may change levels it cannot know and says nothing.

    Args:
        detector: With ``backbone`` and ``neck``.
    """
    neck = getattr(detector, 'neck', None)
    necks = list(neck) if isinstance(neck, nn.Sequential) else [neck]
    number = next(
        (i for i, n in enumerate(necks) if isinstance(n, SimpleFPN)), None)
    if number is None:
        return
    neck = necks[number]
    trunk = getattr(detector.backbone, 'trunk', None)
    if trunk is not None:
        neck.check_patch(trunk.patch_size)
        if neck.in_channels != trunk.embed_dim:
            raise ValueError(
                f'SimpleFPN has in_channels={neck.in_channels}, the backbone '
                f'gives {trunk.embed_dim} channels: set '
                f'in_channels={trunk.embed_dim}.')
    if any(type(n).__name__ not in SAME_LEVELS for n in necks[number + 1:]):
        return
    _check_readers(detector, neck)
    for name, module in detector.named_modules():
        expected = _strides_of(module)
        if expected and not _reads(name, expected, neck.strides):
            raise ValueError(
                f'{name} works on strides {expected}, SimpleFPN gives '
                f'{neck.strides}: set its strides and num_outs accordingly '
                '(levels beyond the given strides double the last one).')


def _check_readers(model: nn.Module, pyramid: SimpleFPN) -> None:
    """Of what reads levels without strides: DETR, which takes the last one,
    and pixel decoders (MaskFormer, Mask2Former), by a convolution each."""
    if len(pyramid.strides) > 1 and any(
            c.__name__ == 'DETR' for c in type(model).__mro__):
        raise ValueError(
            f'{type(model).__name__} reads one map, and SimpleFPN gives '
            f'{len(pyramid.strides)}: the weights of the others would have no '
            'gradient, for which DDP waits. Set strides=[32] and num_outs=1.')
    for name, module in model.named_modules():
        if not type(module).__name__.endswith('PixelDecoder'):
            continue
        convs = [conv for key in ('input_convs', 'lateral_convs')
                 for conv in getattr(module, key, ())]
        widths = {conv.in_channels for conv in convs}
        if widths - {pyramid.out_channels}:
            raise ValueError(
                f'{name} reads maps of {sorted(widths)} channels, SimpleFPN '
                f'gives {pyramid.out_channels}: set in_channels='
                f'[{pyramid.out_channels}] * {len(pyramid.strides)} in '
                f'{name.rpartition(".")[0]}.')


def _reads(name: str, expected: List[int], strides: List[Stride]) -> bool:
    """Whether a part of a detector reads its strides where they are: heads of
    boxes all levels, RoI extractors the first ones. Others, such as heads of
    masks or of a map of semantics, can read some."""
    if name.split('.')[-1] in ('bbox_head', 'rpn_head'):
        return strides == expected
    first = 'roi_extractor' in name and 'semantic' not in name
    starts = [0] if first else range(len(strides))
    return any(strides[i:i + len(expected)] == expected for i in starts)


def _strides_of(module: nn.Module) -> Optional[List[int]]:
    """Strides of the levels that a head or RoI extractor reads."""
    priors = getattr(module, 'prior_generator', None)
    strides = getattr(priors, 'strides', None)
    if strides is None:
        strides = getattr(module, 'featmap_strides', None)
    if strides is None:
        return None
    strides = [s[0] if isinstance(s, tuple) else s for s in strides]
    # YOLACT's are shares of its image size, which no pyramid has
    return strides if all(s == int(s) for s in strides) else None
