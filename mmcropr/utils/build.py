# Copyright (c) mmcropr contributors.
"""Models as they run after training, for the analysis tools."""
import copy
from typing import Optional, Union

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn


def _is(kind: Union[str, type], name: str) -> bool:
    """Whether the type in a config, a name or a class, is a class of ours."""
    return getattr(kind, '__name__', str(kind)).split('.')[-1] == name


def plain_model(model_cfg: ConfigDict) -> ConfigDict:
    """Config of a model as it runs after training: a detector without its
    :class:`CroprDetector`, a segmentor without auxiliary heads, a classifier
    with the stock linear head.

    Args:
        model_cfg: ``model`` of a config; it stays as it is.
    """
    model_cfg = copy.deepcopy(model_cfg)
    if _is(model_cfg.type, 'CroprDetector'):
        wrapper, model_cfg = model_cfg, model_cfg.detector
        if wrapper.get('data_preprocessor') is not None:
            model_cfg.setdefault('data_preprocessor',
                                 wrapper.data_preprocessor)
    model_cfg.pop('auxiliary_head', None)
    head = model_cfg.get('head')
    if head is not None and any(
            _is(head.type, name)
            for name in ('CroprClsHead', 'DynamicViTClsHead')):
        head.type = 'mmpretrain.LinearClsHead'
        for key in ('num_modules', 'mlp_ratio', 'num_heads', 'local',
                    'class_weight', 'auxiliary'):
            head.pop(key, None)
    return model_cfg


def build_for_inference(cfg: Union[Config, str]) -> nn.Module:
    """Build the model of a config with random weights, in eval mode, without
    what only training needs: no auxiliary head, one folded query per module.

    Args:
        cfg: Config, or the path of one.
    """
    cfg = Config.fromfile(cfg) if isinstance(cfg, str) else cfg
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = MODELS.build(plain_model(cfg.model)).eval()
    head = head_of_tokens(model)
    if head is not None:
        head.masked_attention = False  # as after its annealing
    if hasattr(model.backbone, 'fold_queries'):
        model.backbone.fold_queries()
    return model


def head_of_tokens(model: nn.Module) -> Optional[nn.Module]:
    """The head of a model that runs the last blocks of the ViT itself, such
    as ``mmcropr.EoMTHead``, if it has one."""
    heads = (getattr(model, name, None)
             for name in ('panoptic_head', 'decode_head'))
    return next((h for h in heads if getattr(h, 'takes_tokens', False)), None)


class Encoder(nn.Module):
    """The ViT of a model: image (B, C, H, W) -> feature maps. What runs its
    last blocks is part of it: the first of several necks, or a head whose
    queries join there, and the outputs are that head's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone = model.backbone
        neck = head_of_tokens(model) or getattr(model, 'neck', None)
        self.neck = neck[0] if isinstance(neck, nn.Sequential) else neck

    def forward(self, image):
        x = self.backbone(image)
        return x if self.neck is None else self.neck(x)


class WholeModel(nn.Module):
    """All of a model: image (B, C, H, W), as after the data preprocessor ->
    raw outputs of a segmentor, post-processed predictions of a detector,
    whose later parts depend on what earlier ones find."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.is_detector = hasattr(model, 'with_bbox')

    def forward(self, image):
        if not self.is_detector:
            return self.model(image, mode='tensor')
        return self.model(image, blank_samples(image), mode='predict')


def blank_samples(image: Tensor) -> list:
    """A ``DetDataSample`` for every image (B, C, H, W), without padding,
    rescaling or annotations."""
    from mmdet.structures import DetDataSample
    size = tuple(image.shape[-2:])
    return [
        DetDataSample(
            metainfo=dict(
                img_shape=size,
                ori_shape=size,
                pad_shape=size,
                batch_input_shape=size,
                scale_factor=(1., 1.),
                flip=False)) for _ in image
    ]
