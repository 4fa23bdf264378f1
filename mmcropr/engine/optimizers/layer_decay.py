# Copyright (c) mmcropr contributors.
from collections import defaultdict
from typing import Any, Dict, List, Tuple

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmcropr.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Layer-wise learning rate decay for any backbone that tells the depth of
    its parameters by ``get_layer_depth`` (mmpretrain's protocol).

    A parameter at depth d of n has its learning rate times
    ``layer_decay_rate ** (n - 1 - d)``; parameters outside the backbone keep
    theirs. All other keys of ``paramwise_cfg`` mean what they mean in
    mmengine (``norm_decay_mult``, ``custom_keys``, ...). Parameters with equal
    settings share one group.

    Args:
        optim_wrapper_cfg: As of mmengine.
        paramwise_cfg: As of mmengine, with ``layer_decay_rate`` in (0, 1].

    Raises:
        ValueError: If the rate is missing or out of range, the optimizer has
            no ``lr``, or the backbone no ``get_layer_depth``.
    """

    def __init__(self,
                 optim_wrapper_cfg: dict,
                 paramwise_cfg: dict = None) -> None:
        cfg = dict(paramwise_cfg or {})
        self.decay_rate = cfg.pop('layer_decay_rate', None)
        if self.decay_rate is None or not 0 < self.decay_rate <= 1:
            raise ValueError(
                'paramwise_cfg needs layer_decay_rate in (0, 1], got '
                f'{self.decay_rate}')
        # mmengine skips add_params for an empty paramwise_cfg.
        cfg.setdefault('bypass_duplicate', False)
        super().__init__(optim_wrapper_cfg, cfg)
        if self.base_lr is None:
            raise ValueError('layer-wise decay scales the learning rate: set '
                             'optim_wrapper.optimizer.lr, got '
                             f'optimizer={dict(self.optimizer_cfg)}')

    def add_params(self,
                   params: List[dict],
                   module: nn.Module,
                   prefix: str = '',
                   **kwargs: Any) -> None:
        super().add_params(params, module, prefix, **kwargs)
        if prefix:
            return  # not the outermost call: mmengine recurses
        scales, marks = self._scales(module), self._marks(module)
        groups = defaultdict(list)
        for group in params:
            settings = {k: v for k, v in group.items() if k != 'params'}
            for param in group['params']:
                scale = scales.get(param, 1.)
                lr = settings.get('lr', self.base_lr) * scale
                key = tuple(sorted(
                    {**settings, 'lr': lr, **marks.get(param, {})}.items()))
                groups[key].append(param)
        params[:] = [
            dict(params=ps, **dict(key)) for key, ps in groups.items()
        ]

    def _scale(self, depth: int, total: int) -> float:
        """Factor of the learning rate at a depth."""
        return self.decay_rate**(total - 1 - depth)

    def _marks(self, model: nn.Module) -> Dict[nn.Parameter, Dict[str, Any]]:
        """Parameter -> what its group says besides, for schedulers."""
        return {}

    @staticmethod
    def _backbones(model: nn.Module) -> List[Tuple[str, nn.Module]]:
        """Every module that tells depths, behind the prefix of its name."""
        # A classifier of mmpretrain has one too, that asks its backbone.
        places = [(name + '.' if name else '', m)
                  for name, m in model.named_modules()
                  if hasattr(m, 'get_layer_depth')
                  and not hasattr(m, 'backbone')]
        if not places:
            raise ValueError(f'{type(model).__name__} has no module with '
                             'get_layer_depth, so no layer-wise decay.')
        return places

    def _scales(self, model: nn.Module) -> Dict[nn.Parameter, float]:
        """Parameter -> factor, for the backbone's parameters."""
        scales = {}
        for prefix, backbone in self._backbones(model):
            for name, param in backbone.named_parameters():
                depth, total = backbone.get_layer_depth(prefix + name, prefix)
                scales[param] = self._scale(depth, total)
        return scales
