# Copyright (c) mmcropr contributors.
from typing import Any, Optional

from mmpretrain.models.peft import LoRAModel as StockLoRAModel
from torch import nn

from mmcropr.registry import MODELS


@MODELS.register_module()
class LoRAModel(StockLoRAModel):
    """mmpretrain's ``LoRAModel`` (Hu et al., LoRA: Low-Rank Adaptation of
    Large Language Models, ICLR 2022) for a :class:`CroprViT`, whose reducers
    learn and are saved beside the low-rank weights. The stock one freezes
    them, and leaves them out of checkpoints.

    Args:
        module: Config of the backbone.
        alpha: See mmpretrain's ``LoRAModel``, as all others.
    """

    kept = ('.lora_', '.reducers.')

    def _set_lora_trainable(self) -> None:
        for name, parameter in self.named_parameters():
            parameter.requires_grad = self._keeps(name)

    def _keeps(self, name: str) -> bool:
        return any(part in f'.{name}' for part in self.kept)

    def _register_state_dict_hooks(self) -> None:

        def save(module: nn.Module, state_dict: dict, prefix: str,
                 local_metadata: Optional[dict]) -> None:
            for key in list(state_dict):
                if key.startswith(prefix) and not self._keeps(key):
                    del state_dict[key]

        def load(module: nn.Module, incompatible: Any) -> None:
            # Keys of a whole model: ours end with a name of this module
            frozen = tuple(f'.{name}' for name, _ in self.named_parameters()
                           if not self._keeps(name))
            missing = incompatible.missing_keys
            missing[:] = [
                key for key in missing if not f'.{key}'.endswith(frozen)]

        self._register_state_dict_hook(save)
        self.register_load_state_dict_post_hook(load)
