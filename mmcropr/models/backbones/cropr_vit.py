# Copyright (c) mmcropr contributors.
from functools import partial
from typing import Dict, List, Optional, Sequence, Tuple, Union

from torch import Tensor, nn

from mmcropr.registry import MODELS
from mmcropr.structures import FeatureMaps, Route, TokenState

from ..reducers.amounts import Progress
from ..reducers.base import TokenReducer
from ..reducers.build import ReducerConfig, Sizes, build_reducers
from ..reducers.schedule import PruningSchedule
from .arch import check_fuse_at, trunk_class
from .timm_backbone import TimmBackbone


@MODELS.register_module()
class CroprViT(TimmBackbone):
    """A plain timm ViT with a token reducer after its blocks.

    Order: embed, block, reducer, block, reducer, ... Weights of the ViT are
    under ``vit`` with timm's own keys, the reducers under ``reducers``.

    Args:
        arch: A timm name of a plain ViT (its VisionTransformer and Eva
            families), ``dict(name=<timm name>, **keywords of the timm
            class)`` to change parts of it, or ``dict(family='vit' | 'eva',
            embed_dim=..., depth=..., num_heads=..., **keywords)``.
        img_size: Image size of training in pixels, (H, W) or one number. It
            sets the position embeddings and the grid that the schedule
            refers to; images of any size can be given.
        patch_size: In pixels; the model's own by default (else resampled).
        in_channels: Channels of the image.
        reducer: Config of the reducer, with the keys of the schedule in it
            (``rate``, ``tpr``, ``keep`` or ``keep_rate``; ``modules``,
            ``align``, ``slope``; see :class:`PruningSchedule`). One is built
            per module. A list of them puts several methods into one model,
            each at ``modules`` of its own. None runs the ViT as it is.
        out_type: 'featmap' puts all tokens back before the last block (Last
            Layer Fusion) and returns feature maps, for any head (those of
            mmseg stretch it over the image, padding to whole patches too);
            'tokens' stops before that block and returns a :class:`TokenState`
            for ``mmcropr.LLFNeck`` or ``mmcropr.EoMTHead``, which go on.
        out_indices: With 'featmap', blocks whose maps are returned. Maps of
            blocks before the last are not normalised and hold pruned
            patches as they left. Nothing runs behind the last of these.
        pretrained: True for timm's weights of ``arch``, or a ``.pth`` or
            ``.safetensors`` file (timm, MAE, EVA layouts); for init_weights.
        drop_path_rate: Stochastic depth, linear from 0. With a reducer the
            block that fuses has none (Cropr).
        fuse_at: Block before which all tokens are put back: by default the
            last one (Last Layer Fusion), an earlier one to run more blocks on
            all tokens or with queries; -1 counts from the end. None never
            puts them back, for a neck that pools what is left ('tokens' then
            stops before the last block). Reducers follow blocks before it.
        frozen_stages: -1: nothing, 0: the embeddings, n: n blocks as well.
        with_cp: Gradient checkpointing of the blocks.
        init_cfg: As of every mmengine module.

    Raises:
        ValueError: For an unknown or non-plain ``arch``, an ``img_size`` off
            the patch size, a schedule that leaves no patch, or a reducer that
            needs a class token on a model without one.
    """

    def __init__(self,
                 arch: Union[str, dict],
                 img_size: Union[int, Sequence[int]] = 224,
                 patch_size: Optional[int] = None,
                 in_channels: int = 3,
                 reducer: Optional[ReducerConfig] = None,
                 out_type: str = 'featmap',
                 out_indices: Union[int, Sequence[int]] = -1,
                 pretrained: Union[bool, str, dict, None] = False,
                 drop_path_rate: float = 0.,
                 frozen_stages: int = -1,
                 with_cp: bool = False,
                 fuse_at: Optional[int] = -1,
                 init_cfg: Union[dict, List[dict], None] = None) -> None:
        super().__init__(arch, img_size, patch_size, in_channels, pretrained,
                         drop_path_rate, frozen_stages, init_cfg)
        if out_type not in ('featmap', 'tokens'):
            raise ValueError(f"out_type must be 'featmap' or 'tokens', got "
                             f'{out_type!r}')
        self.out_type = out_type
        self.fuse_at = check_fuse_at(fuse_at, len(self.vit.blocks), out_type)
        self.trunk = trunk_class(self.vit)(
            self.vit, with_cp, self.fuse_at)
        self.out_indices = self._check_indices(out_indices)
        self._progress: Progress = (1, 1)
        self.schedule: Optional[PruningSchedule] = None
        self.reducers = nn.ModuleList()
        if reducer is not None:
            self._build_reducers(reducer)
        self.freeze(max(self.out_indices))

    def _check_indices(self, indices: Union[int, Sequence[int]]) -> tuple:
        indices = (indices, ) if isinstance(indices, int) else tuple(indices)
        depth = self.trunk.depth
        resolved = tuple(i + depth if i < 0 else i for i in indices)
        if not resolved or any(not 0 <= i < depth for i in resolved):
            raise ValueError(f'out_indices={indices} are not blocks of a '
                             f'model of {depth} blocks.')
        if self.out_type == 'tokens' and resolved != (depth - 1, ):
            raise ValueError("out_type='tokens' hands over the last block "
                             f'only; out_indices={indices} needs '
                             "out_type='featmap'.")
        return resolved

    def _build_reducers(self, cfg: ReducerConfig) -> None:
        trunk = self.trunk
        self.schedule, reducers = build_reducers(
            cfg,
            Sizes(trunk.depth, trunk.grid, trunk.num_prefix, trunk.embed_dim,
                  self.fuse_at))
        self.reducers = nn.ModuleList(reducers)
        for number, module in zip(self.schedule.modules, reducers):
            if module.needs_class_token and not trunk.has_class_token:
                raise ValueError(
                    f'{type(module).__name__} scores by the attention of a '
                    f'class token, and {type(self.vit).__name__} without a '
                    'class token has none: use an arch with a class token or '
                    'another reducer (mmcropr.Cropr needs none).')
            if module.needs_attention:
                trunk.record_attention(number, module.needs_gradient)
        if self.schedule.modules[-1] > max(self.out_indices):
            raise ValueError(
                f'modules={self.schedule.modules} prune behind the last map, '
                f'that of block {max(self.out_indices)} (out_indices='
                f'{self.out_indices}): nothing runs there. Give modules '
                'before it.')
        if self.fuse_at is not None:
            fusing = self.vit.blocks[self.fuse_at]
            fusing.drop_path1, fusing.drop_path2 = nn.Identity(), nn.Identity()

    @property
    def num_modules(self) -> int:
        """Number of reducers, 0 without token reduction."""
        return len(self.reducers)

    @property
    def follows_progress(self) -> bool:
        """Whether the pruning rate can rise in training. Reducers whose
        weights work only while they reduce (SiT, DPCKNN, DynamicViT, ...)
        are at the full rate from the start: else they would learn late, and
        distributed training would stop at weights without a gradient."""
        return all(
            reducer.record_type is Route or not list(reducer.parameters())
            for reducer in self.reducers)

    def set_progress(self, progress: Progress) -> None:
        """Set the share of the full pruning rate that training uses from now
        on, where it can rise (``follows_progress``). Evaluation always uses
        the full rate.

        Args:
            progress: Numerator and denominator, 0 <= numerator <=
                denominator.

        Raises:
            ValueError: If the share is not in [0, 1].
        """
        if not 0 <= progress[0] <= progress[1]:
            raise ValueError('progress must be (numerator, denominator) of a '
                             f'share in [0, 1], got {progress}')
        self._progress = (progress[0], progress[1])

    @property
    def progress(self) -> Progress:
        """Share of the full rate that training uses now, numerator and
        denominator."""
        return self._progress if self.follows_progress else (1, 1)

    def lengths(self,
                grid: Optional[Tuple[int, int]] = None,
                training: Optional[bool] = None) -> List[int]:
        """Sequence length after every module; empty without a reducer. See
        :meth:`PruningSchedule.lengths` and
        :meth:`TokenReducer.reachable_length`.

        Args:
            grid: Patches per column and row; that of ``img_size`` by default.
            training: Whether at the rate of training now or at the full one;
                by default as the next forward will be.
        """
        if self.schedule is None:
            return []
        training = self.training if training is None else training
        progress = self.progress if training else (1, 1)
        scheduled = self.schedule.lengths(grid, progress)
        height, width = self.trunk.grid if grid is None else grid
        num_prefix, lengths = self.trunk.num_prefix, []
        length = num_prefix + height * width
        for reducer, target in zip(self.reducers, scheduled):
            # A method with a number of its own can leave fewer than a later
            # one is asked for
            length = reducer.reachable_length(length, min(target, length),
                                              num_prefix)
            lengths.append(length)
        return lengths

    def forward(self, image: Tensor) -> Union[TokenState, FeatureMaps]:
        """Run all blocks, or with 'tokens' those before ``fuse_at``.

        Args:
            image: (B, C, H, W).

        Returns:
            A :class:`TokenState`, or :class:`FeatureMaps` with one map
            (B, D, ceil(H / patch), ceil(W / patch)) per ``out_indices``.

        Raises:
            RuntimeError: If a reducer leaves another number of tokens than
                asked for.
            TypeError: If it returns no state.
        """
        trunk = self.trunk
        state = trunk.embed(image)
        plan = self.plan(state.grid)
        hands_over = self.out_type == 'tokens'
        stop = trunk.stop if hands_over else max(self.out_indices) + 1
        outputs = []
        for number in range(stop):
            if number == self.fuse_at:
                state.restore()
            state = self.run_block(number, state, plan.get(number))
            state.finished = number == trunk.depth - 1
            if number in self.out_indices:
                tokens = state.full()
                outputs.append(
                    trunk.vit.norm(tokens) if state.finished else tokens)
        if hands_over:
            return state
        return FeatureMaps(
            map(state.to_map, outputs), state,
            (x[:, :state.num_prefix].clone() for x in outputs))

    def plan(self, grid: Tuple[int, int]) -> Dict[int, Tuple[int, int]]:
        """Block -> (which reducer follows it, length to reach)."""
        if self.schedule is None:
            return {}
        lengths = self.lengths(grid)
        return {
            block: (i, lengths[i])
            for i, block in enumerate(self.schedule.modules)
        }

    def run_block(self, number: int, state: TokenState,
                  plan: Optional[Tuple[int, int]]) -> TokenState:
        """One block and, after it or between its halves, its reducer."""
        if plan is None:
            return self.trunk.block(number, state)
        state.module, length = plan
        reduce = partial(self._reduce, number, length)
        if self.reducers[state.module].stage == 'attention':
            return self.trunk.block(number, state, between=reduce)
        return reduce(self.trunk.block(number, state))

    def _reduce(self, number: int, length: int,
                state: TokenState) -> TokenState:
        """Let the reducer of a block work, and check what it did."""
        reducer: TokenReducer = self.reducers[state.module]
        state = reducer(state, length)
        if not isinstance(state, TokenState):
            raise TypeError(f'{type(reducer).__name__} returned '
                            f'{type(state).__name__}: its forward must return '
                            'the state.')
        state.attention = None
        masked = len(state.steps) > 0 and state.steps[-1].lazy
        if state.length != length and not masked:
            raise RuntimeError(
                f'{type(reducer).__name__} after block {number} left '
                f'{state.length} tokens, not the {length} of the schedule: '
                'its reachable_length() must say what it does.')
        return state

    def remove_reducers(self) -> None:
        """Prune nothing from now on; all other weights stay."""
        self.reducers, self.schedule = nn.ModuleList(), None
        self.trunk = trunk_class(self.vit)(
            self.vit, self.trunk.with_cp, self.fuse_at)

    def fold_queries(self) -> None:
        """Fold the queries of each reducer into one, with the same scores."""
        for reducer in self.reducers:
            getattr(reducer, 'fold', lambda: None)()

    def switch_to_deploy(self, size: Optional[Tuple[int, int]] = None) -> None:
        """Make the backbone, with its weights loaded, ready for export.

        Args:
            size: (H, W) in pixels of images whose positions become constants.
        """
        self.fold_queries()
        for block in self.vit.blocks:
            block.drop_path1 = block.drop_path2 = nn.Identity()
        self.eval().requires_grad_(False)
        if size is not None:
            self.trunk.fix_positions(size)
