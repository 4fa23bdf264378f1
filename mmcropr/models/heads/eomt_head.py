# Copyright (c) mmcropr contributors.
from typing import Any, Dict, List, Optional, Tuple

import torch
from mmdet.models.dense_heads import Mask2FormerHead
from mmdet.models.dense_heads.anchor_free_head import AnchorFreeHead
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.registry import TASK_UTILS
from torch import Tensor, nn
from torch.nn import functional as F

from mmcropr.registry import MODELS
from mmcropr.structures import TokenState
from mmcropr.utils.precision import without_autocast

from .eomt_checks import check_sample
from .eomt_matching import TRAIN_CFG
from .scale_block import ScaleBlock, dot_product


@MODELS.register_module()
class EoMTHead(Mask2FormerHead):
    """Encoder-only mask transformer (Kerssies et al., CVPR 2025), for the
    ``panoptic_head`` of mmdet's MaskFormer and Mask2Former.

    Learned queries join the tokens before block ``fuse_at`` of a
    :class:`CroprViT` with ``out_type='tokens'`` and run through its remaining
    blocks with them. Before each of these blocks, and after the last, the
    queries read classes and masks; in training each of these outputs is
    supervised, and the next block's queries attend only to the patches of
    their mask (masked attention), with a probability that
    :class:`MaskAnnealingHook` takes down to 0. Matching, losses and the
    points they are computed at are Mask2Former's.

    Args:
        in_channels: Channels D of the tokens.
        num_things_classes: Classes of objects.
        num_stuff_classes: Classes of regions, behind those of objects; 0 for
            instance segmentation.
        num_queries: Q.
        num_blocks: Blocks that the queries run through, K: ``fuse_at=-K`` in
            the backbone.
        num_upscale: How many times the resolution of the patches is doubled:
            2 for patches of 16 px, so masks have a stride of 4 px.
        masked_attention: Whether queries attend by their masks, as often as
            ``attn_mask_probs`` says, in training and in evaluation.
            Without it the last output alone is computed, as in deployment.
        loss_cls: Of the classes, ``class_weight`` with one entry more than
            classes, that of no object.
        loss_mask: Of the masks, per point.
        loss_dice: Of the masks, as a whole.
        train_cfg: Points, assigner and sampler, where they differ from
            ``TRAIN_CFG``.
        test_cfg: Of the fusion head.
        init_cfg: As of every mmengine module.

    Attributes:
        attn_mask_probs: Probability that a query attends by its mask, for
            every block (K, ); saved with the weights.
        takes_tokens: Says that this head takes a :class:`TokenState`.

    Raises:
        ValueError: If queries or blocks are fewer than 1.
    """

    takes_tokens = True

    def __init__(self,
                 in_channels: int,
                 num_things_classes: int = 80,
                 num_stuff_classes: int = 53,
                 num_queries: int = 200,
                 num_blocks: int = 4,
                 num_upscale: int = 2,
                 masked_attention: bool = True,
                 loss_cls: Optional[dict] = None,
                 loss_mask: dict = dict(
                     type='mmdet.CrossEntropyLoss',
                     use_sigmoid=True,
                     reduction='mean',
                     loss_weight=5.0),
                 loss_dice: dict = dict(
                     type='mmdet.DiceLoss',
                     use_sigmoid=True,
                     activate=True,
                     reduction='mean',
                     naive_dice=True,
                     eps=1.0,
                     loss_weight=5.0),
                 train_cfg: Optional[dict] = None,
                 test_cfg: Optional[dict] = None,
                 init_cfg: Optional[dict] = None) -> None:
        # Mask2Former's decoder is what this head has not
        super(AnchorFreeHead, self).__init__(init_cfg=init_cfg)
        for name, number in (('num_queries', num_queries),
                             ('num_blocks', num_blocks)):
            if isinstance(number, bool) or not isinstance(
                    number, int) or number < 1:
                raise ValueError(f'{name} must be 1 or more, got {number!r}')
        self.in_channels = in_channels
        self.num_things_classes = num_things_classes
        self.num_stuff_classes = num_stuff_classes
        self.num_classes = num_things_classes + num_stuff_classes
        self.num_queries, self.num_blocks = num_queries, num_blocks
        self.masked_attention = masked_attention
        self.query_feat = nn.Embedding(num_queries, in_channels)
        self.cls_embed = nn.Linear(in_channels, self.num_classes + 1)
        self.mask_embed = nn.Sequential(
            nn.Linear(in_channels, in_channels), nn.GELU(),
            nn.Linear(in_channels, in_channels), nn.GELU(),
            nn.Linear(in_channels, in_channels))
        self.upscale = nn.Sequential(
            *(ScaleBlock(in_channels) for _ in range(num_upscale)))
        self.register_buffer('attn_mask_probs', torch.ones(num_blocks))
        self._read_probs: Optional[tuple] = None
        self._build_losses(loss_cls, loss_mask, loss_dice)
        self._build_matching({**TRAIN_CFG, **(train_cfg or {})})
        self.test_cfg = test_cfg

    def _build_losses(self, loss_cls: Optional[dict], loss_mask: dict,
                      loss_dice: dict) -> None:
        loss_cls = loss_cls or dict(
            type='mmdet.CrossEntropyLoss',
            use_sigmoid=False,
            loss_weight=2.0,
            reduction='mean',
            class_weight=[1.0] * self.num_classes + [0.1])
        self.class_weight = loss_cls['class_weight']
        self.loss_cls = MMDET_MODELS.build(loss_cls)
        self.loss_mask = MMDET_MODELS.build(loss_mask)
        self.loss_dice = MMDET_MODELS.build(loss_dice)

    def _build_matching(self, train_cfg: dict) -> None:
        self.train_cfg = train_cfg
        self.assigner = TASK_UTILS.build(train_cfg['assigner'])
        self.sampler = TASK_UTILS.build(
            train_cfg['sampler'], default_args=dict(context=self))
        self.num_points = train_cfg['num_points']
        self.oversample_ratio = train_cfg['oversample_ratio']
        self.importance_sample_ratio = train_cfg['importance_sample_ratio']

    def init_weights(self) -> None:
        """PyTorch's defaults, then whatever ``init_cfg`` says."""
        super(AnchorFreeHead, self).init_weights()

    def check_backbone(self, backbone: Any) -> None:
        """Raise a ValueError unless queries can join the remaining blocks of
        a CroprViT; asked once, before training."""
        depth = backbone.trunk.depth
        if backbone.out_type != 'tokens' or (
                backbone.fuse_at != depth - self.num_blocks):
            raise ValueError(
                f'the queries of {type(self).__name__} join before the last '
                f'num_blocks={self.num_blocks} of {depth} blocks: the '
                f"backbone needs out_type='tokens' and fuse_at="
                f'{-self.num_blocks}, and has out_type='
                f'{backbone.out_type!r} and fuse_at={backbone.fuse_at}.')
        if backbone.trunk.embed_dim != self.in_channels:
            raise ValueError(
                f'{type(self).__name__} has in_channels={self.in_channels}, '
                f'the backbone gives {backbone.trunk.embed_dim} channels: set '
                f'in_channels={backbone.trunk.embed_dim}.')

    def forward(
        self,
        x: TokenState,
        batch_data_samples: Optional[list] = None
    ) -> Tuple[List[Tensor], List[Tensor]]:
        """Run the remaining blocks with the queries.

        Args:
            x: Of the backbone, changed in place.
            batch_data_samples: Samples of the images, with masks of their
                size in training.

        Returns:
            Class logits (B, Q, C + 1) and mask logits (B, Q, H, W) of every
            output that was computed: all K + 1 in training, of the others
            the last and those that masks are needed from.
        """
        self._check_state(x)
        probs = [0.] * self.num_blocks
        if self.masked_attention:
            probs = self._probs()
        supervised = self.training and self.masked_attention
        state, outputs = x.join(self.query_feat.weight), []
        for run, prob in zip(state.origin.rest, probs):
            if supervised or prob > 0:
                outputs.append(self.read(state))
                state.allowed = self.attention_mask(
                    outputs[-1][1], state, prob)
            state = run(state)
            state.allowed = None
        state.finished = True
        outputs.append(self.read(state))
        classes, masks = zip(*outputs)
        return list(classes), list(masks)

    def train(self, mode: bool = True) -> 'EoMTHead':
        if mode != self.training:
            self._read_probs = None
        return super().train(mode)

    def _probs(self) -> List[float]:
        """``attn_mask_probs`` as numbers, read again when they have changed
        and between training and evaluation, where an EMA changes them unseen:
        a GPU has to be waited for."""
        probs = self.attn_mask_probs
        key = (probs.data_ptr(), probs._version)
        if self._read_probs is None or self._read_probs[0] != key:
            self._read_probs = key, probs.tolist()
        return self._read_probs[1]

    def _check_state(self, state: TokenState) -> None:
        if not isinstance(state, TokenState):
            raise TypeError(
                f'{type(self).__name__} takes the TokenState of a '
                "mmcropr.CroprViT with out_type='tokens', got "
                f'{type(state).__name__}: leave the neck out.')
        if len(state.origin.rest) != self.num_blocks:
            raise ValueError(
                f'{len(state.origin.rest)} blocks remain behind the backbone, '
                f'{type(self).__name__} has num_blocks={self.num_blocks}: set '
                f'fuse_at={-self.num_blocks} in the backbone.')

    def read(self, state: TokenState) -> Tuple[Tensor, Tensor]:
        """Class logits (B, Q, C + 1) and mask logits (B, Q, H, W) of the
        current tokens."""
        x = state.origin.norm(state.x)
        queries = x[:, state.num_prefix - self.num_queries:state.num_prefix]
        features = self.upscale(state.to_map(x))
        masks = dot_product(self.mask_embed(queries), features)
        return self.cls_embed(queries), masks

    def attention_mask(self, masks: Tensor, state: TokenState,
                       prob: float) -> Optional[Tensor]:
        """Which tokens may attend to which in the next block, (B, M, M): a
        query only to the patches of its mask, which may be none, and to all
        other tokens; all else to everything.

        Args:
            masks: Logits (B, Q, H, W).
            state: With the queries.
            prob: That a query goes by its mask, drawn anew for each; for 1
                nothing is drawn, for 0 there is no mask.
        """
        if prob == 0:
            return None
        masks = F.interpolate(masks.detach(), state.grid, mode='bilinear')
        inside = (masks > 0).flatten(2)
        if prob < 1:
            draws = torch.rand(inside.shape[:2], device=inside.device)
            inside = inside | (draws > prob)[..., None]
        allowed = inside.new_ones(
            inside.shape[0], state.length, state.length)
        last = state.num_prefix
        allowed[:, last - self.num_queries:last, last:] = inside
        return allowed

    def to_image(self, masks: Tensor, state: TokenState) -> Tensor:
        """Mask logits (B, Q, h, w) at the size of the images (B, Q, H, W),
        without what was padded to whole patches."""
        masks = F.interpolate(
            masks, state.image.shape[-2:], mode='bilinear')
        height, width = state.image_size
        return masks[..., :height, :width]

    def predict(self, x: TokenState,
                batch_data_samples: list) -> Tuple[Tensor, Tensor]:
        """Class logits (B, Q, C + 1) and mask logits (B, Q, H, W) at the size
        of the images, for mmdet's ``MaskFormerFusionHead``."""
        classes, masks = self(x, batch_data_samples)
        return classes[-1], self.to_image(masks[-1], x)

    def loss(self, x: TokenState, batch_data_samples: list,
             *args: Any) -> Dict[str, Tensor]:
        """Losses of all outputs by name: those of the last one, and those of
        the others behind ``d0.``, ``d1.``, ...

        Raises:
            ValueError: If masks have another size than the images, or there
                are stuff classes and a sample comes without their map.
        """
        self._check_state(x)
        for sample in batch_data_samples:
            self._check_sample(sample, tuple(x.image.shape[-2:]))
        return super().loss(x, batch_data_samples, *args)

    def _check_sample(self, sample: Any, size: Tuple[int, int]) -> None:
        check_sample(self, sample, size)

    def loss_by_feat(self, all_cls_scores: List[Tensor],
                     all_mask_preds: List[Tensor],
                     *args: Any) -> Dict[str, Tensor]:
        """See :meth:`loss`. In single precision: sums over the points leave
        the range of half precision."""
        with without_autocast(all_cls_scores[0]):
            return super().loss_by_feat([s.float() for s in all_cls_scores],
                                        [m.float() for m in all_mask_preds],
                                        *args)
