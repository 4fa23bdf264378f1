# Copyright (c) mmcropr contributors.
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import torch
from mmengine.config import Config
from mmengine.registry import MODELS as ALL_MODELS
from mmengine.runner import load_checkpoint
from torch import Tensor, nn
from torch.nn import functional as F

from mmcropr.registry import MODELS
from mmcropr.structures import Decision, FeatureMaps, TokenState
from mmcropr.utils.build import plain_model
from mmcropr.utils.checkpoint import check_checkpoint

from .state_head import StateHead


def ratio_loss(decisions: List[Decision]) -> Tensor:
    """Squared gap between the share of the patches that stay and the share
    that shall, mean over images and locations."""
    gaps = [(d.keep.float().mean(1) - d.share).square() for d in decisions]
    return torch.stack(gaps).mean()


def token_loss(student: Tensor, teacher: Tensor, keep: Tensor,
               kind: str) -> Tensor:
    """Gap between two sets of patches where they are still there.

    Args:
        student: (B, N, D).
        teacher: (B, N, D).
        keep: 1 for the patches that stay, (B, N).
        kind: 'mse', mean over their elements, or 'kl', from the student's
            softmax over channels to the teacher's, mean over patches.

    Returns:
        A scalar; 0 if no patch stays.
    """
    student, teacher, keep = student.float(), teacher.float(), keep.float()
    if kind == 'mse':
        gaps = (student - teacher).square().mean(-1)
    else:
        gaps = F.kl_div(
            student.log_softmax(-1), teacher.log_softmax(-1),
            reduction='none', log_target=True).sum(-1)
    return (gaps * keep).sum() / keep.sum().clamp(min=1)


def class_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """KL divergence from the student's class distribution to the teacher's,
    both given as logits (B, C), mean over images."""
    return F.kl_div(
        student.float().log_softmax(-1),
        teacher.float().log_softmax(-1),
        reduction='batchmean',
        log_target=True)


class Teacher:
    """A trained model without pruning that another one learns from.

    It is no module, so that it is in no checkpoint and no optimiser. It is
    built when it is first needed: testing and deployment do without.

    Args:
        config: Path of its config, or a config with ``model``.
        ckpt: Its checkpoint.

    Attributes:
        num_classes: Classes that it must have, if that matters.

    Raises:
        ValueError: If there is no checkpoint.
    """

    def __init__(self, config: Union[str, Path, dict],
                 ckpt: Optional[str]) -> None:
        if ckpt is None:
            raise ValueError(f'teacher_config={config} needs teacher_ckpt: a '
                             'teacher with random weights teaches nothing.')
        self.config, self.ckpt = config, ckpt
        self.num_classes: Optional[int] = None
        self._model: Optional[nn.Module] = None
        self._loaded = False

    def __deepcopy__(self, memo: dict) -> 'Teacher':
        """Itself: one teacher serves all copies, as that of an EMA."""
        return self

    @property
    def model(self) -> nn.Module:
        """The teacher.

        Raises:
            ValueError: If its backbone is no CroprViT or reduces tokens, or
                classes are asked for and it has others or no PoolNeck.
        """
        if self._model is None:
            self._model = self._build().eval().requires_grad_(False)
        return self._model

    def _build(self) -> nn.Module:
        config = self.config
        if isinstance(config, (str, Path)):
            config = Config.fromfile(config)
        cfg = plain_model(Config(dict(model=config['model'])).model)
        if config.get('default_scope'):
            cfg.setdefault('_scope_', config['default_scope'])
        model = ALL_MODELS.build(cfg)
        backbone = getattr(model, 'backbone', None)
        if not hasattr(backbone, 'trunk'):
            raise ValueError(f'the backbone of the teacher is '
                             f'{type(backbone).__name__}, no mmcropr.CroprViT')
        if backbone.num_modules:
            raise ValueError('the teacher has a reducer; it shall be the same '
                             'model without one: reducer=None.')
        theirs = getattr(getattr(model, 'head', None), 'num_classes', None)
        if self.num_classes not in (None, theirs):
            raise ValueError(f'the teacher has num_classes={theirs}, the '
                             f'model {self.num_classes}.')
        neck = getattr(model, 'neck', None)
        if self.num_classes and not getattr(neck, 'takes_tokens', False):
            raise ValueError(
                f'the neck of the teacher is {type(neck).__name__}; a teacher '
                "of classes needs neck=dict(type='mmcropr.PoolNeck', ...).")
        # All of it runs here, whatever maps its own heads take
        backbone.out_type = 'tokens'
        backbone.out_indices = (backbone.trunk.depth - 1, )
        return model

    def load(self) -> None:
        """Read the weights, once.

        Raises:
            ValueError: If the checkpoint is of another model.
        """
        if not self._loaded:
            check_checkpoint(self.model, self.ckpt)
            load_checkpoint(
                self.model, self.ckpt, map_location='cpu', logger='silent')
            self._loaded = True

    def check_backbone(self, backbone: Any) -> None:
        """Raise a ValueError unless its tokens are those of a CroprViT."""
        for name in ('embed_dim', 'patch_size', 'num_prefix'):
            ours, theirs = (getattr(b.trunk, name)
                            for b in (self.model.backbone, backbone))
            if ours != theirs:
                raise ValueError(
                    f'the teacher has {name}={ours}, the model {theirs}: a '
                    'teacher is the same ViT without pruning.')

    @torch.no_grad()
    def __call__(self, image: Tensor,
                 classify: bool) -> Tuple[Tensor, Optional[Tensor]]:
        """Image (B, C, H, W) as embedded -> normalised patches of the last
        block (B, N, D), and logits (B, C) if asked for."""
        self.load()
        self.model.to(image.device)
        state, logits = self.model.backbone(image), None
        if classify:
            logits = self.model.head(self.model.neck(state))
        else:
            state.finish_block()
        return patches_of(state), logits


def patches_of(state: TokenState) -> Tensor:
    """Normalised patches (B, N, D) of a state whose last block has run."""
    if not state.finished:
        raise RuntimeError(
            'the last block has not run, so there are no tokens to compare '
            "with the teacher's: out_indices of the backbone must have it.")
    return state.origin.norm(state.x)[:, state.num_prefix:]


@MODELS.register_module()
class DynamicViTHead(StateHead):
    """Losses that train the predictors of :class:`DynamicViT` (Rao et al.,
    NeurIPS 2021), as ``auxiliary_head`` of a segmentor or of a
    :class:`CroprDetector`. It has no weights.

    ``loss_ratio`` holds the share of patches that stay at every location to
    that of the schedule. With a teacher, the same model trained without
    pruning, ``loss_token`` pulls the patches that stay to the end to the
    teacher's.

    Args:
        ratio_weight: Weight of the first.
        token_weight: Weight of the second.
        token_loss: 'mse', or 'kl' for softmaxes over channels.
        teacher_config: Config of the teacher, as a path or with its
            ``model``; None to learn without. Images go to it as they go to
            the model, so both need the same normalisation.
        teacher_ckpt: Its checkpoint.
        init_cfg: As of every mmengine module.

    Raises:
        ValueError: For an unknown ``token_loss``, a negative weight, or a
            teacher that is incomplete or does not fit.
    """

    record_type = Decision

    def __init__(self,
                 ratio_weight: float = 2.,
                 token_weight: float = .5,
                 token_loss: str = 'mse',
                 teacher_config: Union[str, Path, dict, None] = None,
                 teacher_ckpt: Optional[str] = None,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg)
        if token_loss not in ('mse', 'kl'):
            raise ValueError("token_loss must be 'mse' or 'kl', got "
                             f'{token_loss!r}')
        if min(ratio_weight, token_weight) < 0:
            raise ValueError(f'weights of losses must be 0 or more, got '
                             f'ratio_weight={ratio_weight} and '
                             f'token_weight={token_weight}')
        if teacher_config is None and teacher_ckpt is not None:
            raise ValueError(f'teacher_ckpt={teacher_ckpt} needs '
                             'teacher_config.')
        self.ratio_weight, self.token_weight = ratio_weight, token_weight
        self.token_loss = token_loss
        self.teacher: Optional[Teacher] = None
        if teacher_config is not None:
            self.teacher = Teacher(teacher_config, teacher_ckpt)

    def init_weights(self) -> None:
        super().init_weights()
        if self.teacher is not None:
            self.teacher.load()

    def check_backbone(self, backbone: Any) -> None:
        super().check_backbone(backbone)
        if self.teacher is not None:
            others = len(self.learners(backbone)) < backbone.num_modules
            if others and backbone.fuse_at is None:
                raise ValueError(
                    'a teacher knows all patches, and with fuse_at=None and '
                    'other reducers before DynamicViT the model has fewer: '
                    'leave the teacher out, or fuse.')

    def check_teacher(self, backbone: Any) -> None:
        """Build the teacher, if there is one, and raise a ValueError unless
        its tokens are those of a CroprViT."""
        if self.teacher is not None:
            self.teacher.check_backbone(backbone)

    def loss(self,
             inputs: Union[FeatureMaps, TokenState],
             batch_data_samples: Optional[list] = None,
             train_cfg: Any = None) -> Dict[str, Tensor]:
        """``loss_ratio``, and with a teacher ``loss_token``."""
        return self.losses(inputs)[0]

    def losses(self,
               inputs: Union[FeatureMaps, TokenState],
               classify: bool = False) -> Tuple[dict, Optional[Tensor]]:
        """:meth:`loss`, and the teacher's logits if they are asked for."""
        state, logits = self.state_of(inputs), None
        decisions = self.records_of(state)
        losses = dict(loss_ratio=self.ratio_weight * ratio_loss(decisions))
        if self.teacher is not None:
            patches, logits = self.teacher(state.image, classify)
            keep = decisions[-1].keep.detach()
            if keep.shape != patches.shape[:2]:  # others came before it
                keep = state.trace()[0] >= 0
            losses['loss_token'] = self.token_weight * token_loss(
                patches_of(state), patches, keep, self.token_loss)
        return losses, logits
