# Copyright (c) mmcropr contributors.
import math
from abc import abstractmethod
from functools import partial
from typing import Any, Dict, List, Optional, Union

import torch
from timm.layers import Mlp
from torch import Tensor, nn

from mmcropr.structures import FeatureMaps, Route, TokenState

from .local_losses import GradScale, has_shards, local_losses
from .state_head import StateHead

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class Aggregator(nn.Module):
    """Read tokens by the queries' attention (Token Cropr).

    X' = softmax(A / sqrt(D)) X, then X'' = X' + MLP(LN(X')).

    Args:
        dim: Channels D.
        mlp_ratio: Hidden width of the MLP / D; 0 leaves it out (an ablation
            of the paper).
        num_heads: Given, values are projected and read in this many heads,
            and several heads projected again (another one).
    """

    def __init__(self,
                 dim: int,
                 mlp_ratio: float = 4.,
                 num_heads: Optional[int] = None) -> None:
        super().__init__()
        self.num_heads, self.norm, self.mlp = num_heads, None, None
        if num_heads is not None:
            self.v = nn.Linear(dim, dim, bias=False)
            self.proj = nn.Linear(dim, dim) if num_heads > 1 else nn.Identity()
        if mlp_ratio:
            self.norm = LayerNorm(dim)
            self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Logits (B, Q, M) or (B, heads, Q, M) and tokens (B, M, D) ->
        (B, Q, D)."""
        if self.num_heads is None:
            scale = 1 / math.sqrt(tokens.shape[-1])
            x = (logits * scale).softmax(-1) @ tokens
        else:
            values = self.v(tokens).unflatten(-1, (self.num_heads, -1))
            scale = 1 / math.sqrt(values.shape[-1])
            x = (logits * scale).softmax(-1) @ values.transpose(1, 2)
            x = self.proj(x.transpose(1, 2).flatten(2))
        return x if self.mlp is None else x + self.mlp(self.norm(x))


class AuxiliaryHead(StateHead):
    """Trains the queries of all Cropr modules, and vanishes afterwards.

    One aggregator and one task head (LN, linear) per module. A subclass gives
    the loss of a task in :meth:`loss_by_logits`.

    Args:
        in_channels: Channels D of the tokens.
        num_classes: Classes of the task.
        num_modules: Number of Cropr modules of the backbone, L - 2 with LLF.
        mlp_ratio: Hidden width of the aggregators' MLP / D, 0 for none.
        num_heads: Of the aggregators, as the reducer has it.
        local: Whether the loss of a module is differentiated where it is
            computed, and what that kept is freed before the next one: the
            same gradients for less memory. By default where they stop at the
            tokens, that is unless a reducer has ``stop_gradient=False``, and
            no part of the head is a unit of FSDP.
        init_cfg: As of every mmengine module.

    Raises:
        ValueError: If ``num_modules`` is below 1, or ``num_heads`` does not
            divide ``in_channels``.
    """

    def __init__(self,
                 in_channels: int,
                 num_classes: int,
                 num_modules: int,
                 mlp_ratio: float = 4.,
                 num_heads: Optional[int] = None,
                 local: Optional[bool] = None,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg)
        if local is not None and not isinstance(local, bool):
            raise ValueError(f'local must be True, False or None, got '
                             f'{local!r}')
        if num_heads is not None and (num_heads < 1
                                      or in_channels % num_heads):
            raise ValueError(f'num_heads={num_heads} does not divide '
                             f'in_channels={in_channels}.')
        if num_modules < 1:
            raise ValueError(f'num_modules must be 1 or more, got '
                             f'{num_modules}')
        self.in_channels, self.num_classes = in_channels, num_classes
        self.num_heads, self.local = num_heads, local
        self.grad_scale = GradScale()
        self.aggregators = nn.ModuleList(
            Aggregator(in_channels, mlp_ratio, num_heads)
            for _ in range(num_modules))
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

    @classmethod
    def sizes_of(cls, backbone: Any) -> Dict[str, Any]:
        learners = [
            r for r in backbone.reducers if r.record_type is cls.record_type
        ]
        if not learners:
            names = sorted({type(r).__name__ for r in backbone.reducers})
            raise ValueError(
                (f'{", ".join(names)} leaves nothing that {cls.__name__} could'
                 ' learn from' if names else
                 f'{cls.__name__} has nothing to learn from: the backbone has '
                 'no reducer') +
                ': remove this head (a classifier takes a stock one), or give '
                'the backbone a reducer that learns, such as mmcropr.Cropr.')
        return dict(
            in_channels=backbone.trunk.embed_dim,
            num_modules=len(learners),
            num_heads=getattr(learners[0], 'num_heads', None))

    def check_backbone(self, backbone: Any) -> None:
        super().check_backbone(backbone)
        learners = self.learners(backbone)
        self.check_modules(len(learners))
        if self.in_channels != backbone.trunk.embed_dim:
            raise ValueError(
                f'the auxiliary head has in_channels={self.in_channels}, the '
                f'tokens of the backbone {backbone.trunk.embed_dim}; set '
                f'in_channels={backbone.trunk.embed_dim}.')
        for reducer in learners:
            theirs = getattr(reducer, 'num_heads', None)
            if self.num_heads != theirs:
                raise ValueError(
                    f'the auxiliary head has num_heads={self.num_heads}, the '
                    f'reducers have {theirs}; set num_heads={theirs} in both.')
            if self.local and not getattr(reducer, 'stop_gradient', True):
                raise ValueError(
                    'local=True differentiates auxiliary losses before the '
                    'backward pass, and with stop_gradient=False of the '
                    'reducer they go on into the backbone: leave out local, '
                    'or stop_gradient.')

    def check_modules(self, num_modules: int) -> None:
        """Raise a ValueError unless the backbone has as many modules."""
        if num_modules != self.num_modules:
            raise ValueError(
                f'the auxiliary head has num_modules={self.num_modules}, the '
                f'reducers of the backbone are {num_modules}; set '
                f'num_modules={num_modules}.')

    def records_of(self, state: TokenState) -> List[Route]:
        records = super().records_of(state)
        self.check_modules(len(records))
        return records

    def forward(self, inputs: Union[FeatureMaps,
                                    TokenState]) -> List[Tensor]:
        """Predictions of every module, each (B, Q, num_classes)."""
        records = self.records_of(self.state_of(inputs))
        return [self.predict(i, route) for i, route in enumerate(records)]

    def predict(self,
                module: int,
                route: Route,
                rows: Optional[Tensor] = None) -> Tensor:
        """Predictions of one module, (B, Q', num_classes).

        Args:
            module: Its number.
            route: What its reducer left.
            rows: Queries that predict, (Q', ); all Q if None.
        """
        x = self.aggregators[module](*route.read(rows))
        return self.fcs[module](self.norms[module](x))

    def loss(self,
             inputs: Union[FeatureMaps, TokenState],
             batch_data_samples: list,
             train_cfg: Any = None) -> Dict[str, Tensor]:
        """One loss per module, ``module<i>.loss_...``; they are summed."""
        state = self.state_of(inputs)
        records = self.records_of(state)
        with torch.no_grad():
            targets = self.targets(state, batch_data_samples)
        losses, parameters = {}, self._parameters_by_module()
        local = self.local is not False and not has_shards(self)
        for i, route in enumerate(records):
            compute = partial(self.module_loss, i, route, targets)
            module_losses = compute() if not (local and route.is_local) else (
                local_losses(compute, parameters[i] + route.parameters(),
                             self.grad_scale))
            for name, value in module_losses.items():
                losses[f'module{i}.{name}'] = value
        self.grad_scale.update()
        return losses

    def _parameters_by_module(self) -> List[List[nn.Parameter]]:
        """What the loss of every Cropr module can depend on: its own parts,
        and those of the head that belong to no module."""
        own = [[p for part in parts for p in part.parameters()]
               for parts in zip(self.aggregators, self.norms, self.fcs)]
        known = {p for parameters in own for p in parameters}
        shared = [p for p in self.parameters() if p not in known]
        return [shared + parameters for parameters in own]

    def module_loss(self, module: int, route: Route, targets: Any) -> dict:
        """Losses of one module by name.

        Args:
            module: Its number.
            route: What its reducer left.
            targets: See :meth:`targets`.
        """
        return self.loss_by_logits(self.predict(module, route), targets)

    @abstractmethod
    def targets(self, state: TokenState, batch_data_samples: list) -> Any:
        """What every module shall predict, from the task's own labels."""

    @abstractmethod
    def loss_by_logits(self, logits: Tensor, targets: Any) -> dict:
        """Losses of one module from its logits (B, Q, num_classes)."""
