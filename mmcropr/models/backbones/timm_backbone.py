# Copyright (c) mmcropr contributors.
"""What the hosts ask of a backbone, of a timm ViT."""
from typing import Any, List, Optional, Sequence, Tuple, Union

from mmengine.model import BaseModule

from .arch import build_vit, check_size
from .pretrained import load_pretrained, resample_pos_embed


class TimmBackbone(BaseModule):
    """Owns a plain ViT of timm under ``vit``: its weights, what is frozen,
    and the depth of its parameters. See :class:`CroprViT` for the
    arguments."""

    def __init__(self,
                 arch: Union[str, dict],
                 img_size: Union[int, Sequence[int]],
                 patch_size: Optional[int],
                 in_channels: int,
                 pretrained: Union[bool, str, dict, None],
                 drop_path_rate: float,
                 frozen_stages: int,
                 init_cfg: Union[dict, List[dict], None]) -> None:
        super().__init__(init_cfg)
        self.arch, self.pretrained = arch, pretrained
        self.in_channels = in_channels
        self.vit = build_vit(arch, check_size(img_size), patch_size,
                             in_channels, drop_path_rate)
        self.frozen_stages = self._check_stages(frozen_stages)
        self._last = len(self.vit.blocks) - 1
        self._register_load_state_dict_pre_hook(self._resample_pos_embed)

    def _check_stages(self, stages: int) -> int:
        if not -1 <= stages <= len(self.vit.blocks):
            raise ValueError(f'frozen_stages must be from -1 to '
                             f'{len(self.vit.blocks)}, got {stages}')
        return stages

    def init_weights(self) -> None:
        """Load the pretrained weights, then whatever ``init_cfg`` says."""
        if self.pretrained and not self._is_init:
            load_pretrained(self.vit, self.pretrained, str(self.arch),
                            self.in_channels)
        super().init_weights()

    def freeze(self, last: int) -> None:
        """Freeze what ``frozen_stages`` says, and all blocks behind the last
        one that is used."""
        vit, self._last = self.vit, last
        # Blocks behind the last map have no part in anything.
        vit.blocks[last + 1:].requires_grad_(False)
        if last < len(vit.blocks) - 1:
            vit.norm.requires_grad_(False)
        if self.frozen_stages < 0:
            return
        parts = [vit.patch_embed, vit.norm_pre]
        parts += vit.blocks[:self.frozen_stages]
        if getattr(vit, 'rope', None) is not None:
            parts.append(vit.rope)  # learned frequencies in some models
        for part in parts:
            part.eval()
            part.requires_grad_(False)
        for parameter in vit.parameters(recurse=False):
            parameter.requires_grad_(False)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == 'vit' and 'trunk' in self.__dict__:
            self.trunk.vit = value  # whoever wraps the ViT means all of it

    def train(self, mode: bool = True) -> 'TimmBackbone':
        super().train(mode)
        self.freeze(self._last)
        return self

    def get_layer_depth(self,
                        param_name: str,
                        prefix: str = '') -> Tuple[int, int]:
        """Depth of a parameter for layer-wise learning rate decay.

        Args:
            param_name: Full name of the parameter.
            prefix: What precedes the name inside this backbone.

        Returns:
            Depth and number of depths: embeddings 0, block i has i + 1, all
            else, the reducers included, the last.
        """
        num_layers = len(self.vit.blocks) + 2
        name = param_name[len(prefix):]
        if name.startswith('vit.blocks.'):
            return int(name.split('.')[2]) + 1, num_layers
        if name.startswith(('vit.norm.', 'reducers.')):
            return num_layers - 1, num_layers
        if name.startswith('vit.'):
            return 0, num_layers
        return num_layers - 1, num_layers

    def _resample_pos_embed(self, state_dict: dict, prefix: str,
                            *args: Any) -> None:
        """Resample position embeddings of a checkpoint of another size."""
        resample_pos_embed(state_dict, f'{prefix}vit.pos_embed', self.vit,
                           self.vit.num_prefix_tokens)
