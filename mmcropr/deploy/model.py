# Copyright (c) mmcropr contributors.
"""The part of a model that is exported."""
from typing import Any, List, Sequence, Tuple

import torch
from torch import Tensor, nn

from mmcropr.models import CroprViT
from mmcropr.structures import TokenState
from mmcropr.utils.build import head_of_tokens

PARTS = ('whole', 'encoder')


def task_of(model: nn.Module) -> str:
    """'segmentation', 'classification' or 'detection', by the heads."""
    if hasattr(model, 'decode_head'):
        return 'segmentation'
    if getattr(model, 'head', None) is not None:
        return 'classification'
    return 'detection'


class DeployModel(nn.Module):
    """A trained model as a function of the image, for exporters: tensors in,
    a tuple of tensors out, and nothing that only training needs.

    Args:
        model: A segmentor, classifier or detector with a :class:`CroprViT`,
            a detector without its ``CroprDetector``. Its backbone is switched
            to deployment.
        shape: Height and width of the images in pixels.
        part: 'whole', or 'encoder' for backbone and necks, without heads.

    Attributes:
        task: See :func:`task_of`.

    Raises:
        ValueError: For another backbone, an unknown ``part``, or a whole
            detector, whose later parts depend on what earlier ones find.
    """

    def __init__(self,
                 model: nn.Module,
                 shape: Sequence[int],
                 part: str = 'whole') -> None:
        super().__init__()
        backbone = getattr(model, 'backbone', None)
        if not isinstance(backbone, CroprViT):
            raise ValueError(
                f'the backbone is {type(backbone).__name__}; only models with '
                'a mmcropr.CroprViT can be exported here.')
        if part not in PARTS:
            raise ValueError(f"part must be 'whole' or 'encoder', got "
                             f'{part!r}')
        self.task, self.part = task_of(model), part
        self.shape = (int(shape[0]), int(shape[1]))
        if self.task == 'detection' and part == 'whole':
            raise ValueError(
                f'{type(model).__name__} is a detector: its heads depend on '
                "what they find, and stay in PyTorch. Give part='encoder' "
                '(--part encoder), which exports backbone and necks.')
        if part == 'encoder' and head_of_tokens(model) is not None:
            raise ValueError(
                f'the queries of {type(head_of_tokens(model)).__name__} run '
                'through the last blocks of the ViT, so there is no encoder '
                'without the head. A segmentor is exported whole (part='
                "'whole'); a detector with this head stays in PyTorch.")
        backbone.switch_to_deploy()
        self.model = model.eval().requires_grad_(False)
        backbone.switch_to_deploy(self.shape)

    @property
    def backbone(self) -> CroprViT:
        return self.model.backbone

    def forward(self, image: Tensor) -> Tuple[Tensor, ...]:
        """Image (B, C, H, W), normalised -> logits (B, classes, H, W) or
        (B, classes), of an encoder its maps; of a model with reducers also
        ``removed`` and ``slot``, both (B, h, w): the module at which every
        patch left, -1 if it stayed, and which of the last tokens it is in,
        -1 if it left."""
        features = self.backbone(image)
        state = features if isinstance(features, TokenState) else (
            features.state)
        neck = getattr(self.model, 'neck', None)
        features = features if neck is None else neck(features)
        outputs = self._head(features, image)
        if self.backbone.num_modules:
            slot, removed = state.trace()
            outputs += [x.unflatten(1, state.grid) for x in (removed, slot)]
        return tuple(outputs)

    def _head(self, features: Any, image: Tensor) -> List[Tensor]:
        if self.part == 'encoder':
            return list(features)
        if self.task == 'classification':
            return [self.model.head(features)]
        metas = [dict(img_shape=tuple(image.shape[-2:]))]
        return [
            self.model.decode_head.predict(features, metas,
                                           self.model.test_cfg)
        ]

    def blank(self, batch: int = 1) -> Tensor:
        """Black images of its size and precision, (B, C, H, W)."""
        weight = next(self.parameters())
        return weight.new_zeros(batch, self.backbone.in_channels, *self.shape)

    @torch.no_grad()
    def output_names(self) -> List[str]:
        """Names of the outputs, in order."""
        tokens = ['removed', 'slot'] if self.backbone.num_modules else []
        if self.part == 'whole':
            return ['logits', *tokens]
        count = len(self(self.blank())) - len(tokens)
        return [f'map_{i}' for i in range(count)] + tokens
