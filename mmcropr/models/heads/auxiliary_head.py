# Copyright (c) mmcropr contributors.
import math
from abc import abstractmethod
from functools import partial
from typing import Any, Dict, List, Optional, Union

import torch
from mmengine.model import BaseModule
from timm.layers import Mlp
from torch import Tensor, nn

from mmcropr.structures import FeatureMaps, Route, TokenState

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class Aggregator(nn.Module):
    """Read tokens by the queries' attention (Token Cropr).

    X' = softmax(A / sqrt(D)) X, then X'' = X' + MLP(LN(X')).

    Args:
        dim: Channels D.
        mlp_ratio: Hidden width of the MLP / D; 0 leaves it out (an ablation
            of the paper).
    """

    def __init__(self, dim: int, mlp_ratio: float = 4.) -> None:
        super().__init__()
        self.norm, self.mlp = None, None
        if mlp_ratio:
            self.norm = LayerNorm(dim)
            self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, route: Route) -> Tensor:
        """Logits (B, Q, M) and tokens (B, M, D) -> (B, Q, D)."""
        scale = 1 / math.sqrt(route.tokens.shape[-1])
        x = (route.logits * scale).softmax(-1) @ route.tokens
        return x if self.mlp is None else x + self.mlp(self.norm(x))


class AuxiliaryHead(BaseModule):
    """Trains the queries of all Cropr modules, and vanishes afterwards.

    One aggregator and one task head (LN, linear) per module. A subclass gives
    the loss of a task in :meth:`loss_by_logits`.

    Args:
        in_channels: Channels D of the tokens.
        num_classes: Classes of the task.
        num_modules: Number of Cropr modules of the backbone, L - 2 with LLF.
        mlp_ratio: Hidden width of the aggregators' MLP / D, 0 for none.
        init_cfg: As of every mmengine module.

    Raises:
        ValueError: If ``num_modules`` is below 1.
    """

    def __init__(self,
                 in_channels: int,
                 num_classes: int,
                 num_modules: int,
                 mlp_ratio: float = 4.,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg)
        if num_modules < 1:
            raise ValueError(f'num_modules must be 1 or more, got '
                             f'{num_modules}')
        self.in_channels, self.num_classes = in_channels, num_classes
        self.aggregators = nn.ModuleList(
            Aggregator(in_channels, mlp_ratio) for _ in range(num_modules))
        self.norms = nn.ModuleList(
            LayerNorm(in_channels) for _ in range(num_modules))
        self.fcs = nn.ModuleList(
            nn.Linear(in_channels, num_classes) for _ in range(num_modules))
        for fc in self.fcs:
            nn.init.trunc_normal_(fc.weight, std=.02)
            nn.init.zeros_(fc.bias)

    @property
    def num_modules(self) -> int:
        return len(self.fcs)

    def check_backbone(self, backbone: Any) -> None:
        """Raise a ValueError unless this head fits a CroprViT; hooks call it
        before training."""
        self.check_modules(backbone.num_modules)
        reducer = backbone.reducers[0]
        if not reducer.auxiliary:
            raise ValueError(
                f'{type(reducer).__name__} has no queries, so there is '
                'nothing to train through an auxiliary head: remove it. Only '
                'mmcropr.Cropr and NonSalient use one.')
        if self.in_channels != backbone.trunk.embed_dim:
            raise ValueError(
                f'the auxiliary head has in_channels={self.in_channels}, the '
                f'tokens of the backbone {backbone.trunk.embed_dim}; set '
                f'in_channels={backbone.trunk.embed_dim}.')

    def check_modules(self, num_modules: int) -> None:
        """Raise a ValueError unless the backbone has as many modules."""
        if num_modules == 0:
            raise ValueError(
                'the model has an auxiliary head, but its backbone has no '
                'reducer: remove auxiliary_head, or add a reducer.')
        if num_modules != self.num_modules:
            raise ValueError(
                f'the auxiliary head has num_modules={self.num_modules}, the '
                f'reducers of the backbone are {num_modules}; set '
                f'num_modules={num_modules}.')

    def state_of(self, inputs: Union[FeatureMaps, TokenState]) -> TokenState:
        """The token state behind what a neck handed over.

        Raises:
            TypeError: If it carries none.
            ValueError: If the number of routes is not ``num_modules``.
        """
        state = inputs if isinstance(inputs, TokenState) else getattr(
            inputs, 'state', None)
        if state is None:
            raise TypeError(
                f'{type(self).__name__} got {type(inputs).__name__} without '
                'the state of a mmcropr.CroprViT. A neck after LLFNeck must '
                'pass it on: return FeatureMaps(maps, inputs.state).')
        if not state.routes:
            raise ValueError(
                f'{type(self).__name__} found nothing to learn from: the '
                'reducer of the backbone has no queries, or the backbone is '
                'in eval mode. Only mmcropr.Cropr and NonSalient use an '
                'auxiliary head.')
        self.check_modules(len(state.routes))
        state.readers.append(type(self).__name__)
        return state

    def forward(self, inputs: Union[FeatureMaps,
                                    TokenState]) -> List[Tensor]:
        """Predictions of every module, each (B, Q, num_classes)."""
        routes = self.state_of(inputs).routes
        return [
            fc(norm(aggregator(route))) for route, aggregator, norm, fc in zip(
                routes, self.aggregators, self.norms, self.fcs)
        ]

    def loss(self,
             inputs: Union[FeatureMaps, TokenState],
             batch_data_samples: list,
             train_cfg: Any = None) -> Dict[str, Tensor]:
        """One loss per module, ``module<i>.loss_...``; they are summed."""
        state = self.state_of(inputs)
        with torch.no_grad():
            targets = self.targets(state, batch_data_samples)
        losses = {}
        for i, logits in enumerate(self(inputs)):
            for name, value in self.loss_by_logits(logits, targets).items():
                losses[f'module{i}.{name}'] = value
        return losses

    @abstractmethod
    def targets(self, state: TokenState, batch_data_samples: list) -> Any:
        """What every module shall predict, from the task's own labels."""

    @abstractmethod
    def loss_by_logits(self, logits: Tensor, targets: Any) -> dict:
        """Losses of one module from its logits (B, Q, num_classes)."""
