# Copyright (c) mmcropr contributors.
from abc import abstractmethod
from typing import Any, Dict, Union

from mmengine.model import BaseModule
from torch import Tensor

from mmcropr.structures import FeatureMaps, Route, TokenState


class StateHead(BaseModule):
    """Losses from what reducers leave in the token state in training.

    Attributes:
        reads: What it takes from ``state.routes``.
    """

    reads: type = Route

    def check_backbone(self, backbone: Any) -> None:
        """Raise a ValueError unless this head fits a CroprViT; hooks call it
        before training."""
        name = type(self).__name__
        if backbone.num_modules == 0:
            raise ValueError(
                f'the model has a {name}, but its backbone has no reducer: '
                'remove this head, or add a reducer.')
        reducer = backbone.reducers[0]
        if reducer.leaves is not self.reads:
            remedy = (f'use {reducer.hint(backbone.num_modules)}.' if
                      reducer.leaves else 'remove this head; '
                      f'{type(reducer).__name__} needs none.')
            raise ValueError(f'{type(reducer).__name__} leaves nothing that '
                             f'{name} could learn from: {remedy}')

    def state_of(self, inputs: Union[FeatureMaps, TokenState]) -> TokenState:
        """The token state behind what a neck handed over.

        Raises:
            TypeError: If it carries none.
            ValueError: If there is nothing in it for this head.
        """
        state = inputs if isinstance(inputs, TokenState) else getattr(
            inputs, 'state', None)
        name = type(self).__name__
        if state is None:
            raise TypeError(
                f'{name} got {type(inputs).__name__} without '
                'the state of a mmcropr.CroprViT. A neck after LLFNeck must '
                'pass it on: return FeatureMaps(maps, inputs.state).')
        if not all(isinstance(r, self.reads) for r in state.routes) or (
                not state.routes):
            raise ValueError(
                f'{name} found nothing to learn from: the reducer of the '
                f'backbone leaves no {self.reads.__name__}, or the backbone '
                'is in eval mode.')
        state.readers.append(name)
        return state

    @abstractmethod
    def loss(self,
             inputs: Union[FeatureMaps, TokenState],
             batch_data_samples: list,
             train_cfg: Any = None) -> Dict[str, Tensor]:
        """Losses by name."""
