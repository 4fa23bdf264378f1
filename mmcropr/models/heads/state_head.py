# Copyright (c) mmcropr contributors.
from abc import abstractmethod
from typing import Any, Dict, Union

from mmengine.model import BaseModule
from torch import Tensor

from mmcropr.structures import FeatureMaps, Route, TokenState


class StateHead(BaseModule):
    """Losses from what reducers leave in the token state in training.

    Attributes:
        record_type: What it learns from in ``state.records``.
    """

    record_type: type = Route

    @classmethod
    def sizes_of(cls, backbone: Any) -> Dict[str, Any]:
        """Arguments that follow from a CroprViT."""
        return {}

    def learners(self, backbone: Any) -> list:
        """The reducers of a CroprViT whose records this head learns from."""
        return [
            r for r in backbone.reducers if r.record_type is self.record_type
        ]

    def check_backbone(self, backbone: Any) -> None:
        """Raise a ValueError unless this head fits a CroprViT; asked once,
        before training."""
        name = type(self).__name__
        if backbone.num_modules == 0:
            raise ValueError(
                f'the model has a {name}, but its backbone has no reducer: '
                'remove this head, or add a reducer.')
        if not self.learners(backbone):
            others = sorted({type(r).__name__ for r in backbone.reducers})
            raise ValueError(
                f'{", ".join(others)} leaves nothing that {name} could learn '
                'from: remove this head, or give the reducer the one that '
                'belongs to it.')

    def state_of(self, inputs: Union[FeatureMaps, TokenState]) -> TokenState:
        """The token state behind what a neck handed over.

        Raises:
            TypeError: If it carries none.
        """
        state = inputs if isinstance(inputs, TokenState) else getattr(
            inputs, 'state', None)
        if state is None:
            raise TypeError(
                f'{type(self).__name__} got {type(inputs).__name__} without '
                'the state of a mmcropr.CroprViT. A neck after LLFNeck must '
                'pass it on: return FeatureMaps(maps, inputs.state).')
        return state

    def records_of(self, state: TokenState) -> list:
        """What reducers left for this head, one item per module.

        Raises:
            ValueError: If there is nothing.
        """
        records = [r for r in state.records if isinstance(r, self.record_type)]
        if not records:
            raise ValueError(
                f'{type(self).__name__} found nothing to learn from: the '
                'reducer of the backbone leaves no '
                f'{self.record_type.__name__}, or the backbone is in eval '
                'mode.')
        return records

    @abstractmethod
    def loss(self,
             inputs: Union[FeatureMaps, TokenState],
             batch_data_samples: list,
             train_cfg: Any = None) -> Dict[str, Tensor]:
        """Losses by name."""
