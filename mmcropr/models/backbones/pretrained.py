# Copyright (c) mmcropr contributors.
"""Pretrained ViT weights by timm name or from a file."""
import math
from pathlib import Path
from typing import Any, Dict, List, Sequence, Union, cast

from mmengine.logging import print_log
from timm.layers import resample_abs_pos_embed
from timm.models import clean_state_dict
from timm.models import load_pretrained as timm_load_pretrained
from timm.models import load_state_dict as timm_load_state_dict
from torch import Tensor, nn

from mmcropr.utils.checkpoint import other_vit
from mmcropr.utils.loading import load_file

from .arch import trunk_class

StateDict = Dict[str, Tensor]
# Parts of published checkpoints that a backbone has no use for.
HEADS = ('head', 'fc_norm', 'attn_pool', 'mask_token', 'lm_head', 'decoder',
         'head_dist', 'fc.', 'logit_scale', 'text.')

# A mismatch in these is another model, not another head.
CORE = ('blocks.', 'patch_embed.')
EMBEDDINGS = ('pos_embed', 'cls_token', 'dist_token')


def read_checkpoint(path: Union[str, Path],
                    trust: bool = False) -> StateDict:
    """Tensors of a ``.pth`` or ``.safetensors`` file.

    Args:
        path: The file.
        trust: Whether to run code that is pickled in it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is truncated, no checkpoint, or holds more than
            data.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'pretrained={str(path)!r}: no such file. '
                                'Give a .pth or .safetensors file, or '
                                'pretrained=True for the weights of timm.')
    try:
        if str(path).endswith('.safetensors'):
            state = timm_load_state_dict(str(path))
        else:
            state = _weights(load_file(path, trust=trust))
    except Exception as error:  # every reader has errors of its own
        raise ValueError(
            f'pretrained={str(path)!r} cannot be read as a checkpoint; it may '
            'be truncated, something else, or contain pickled code. '
            f'{type(error).__name__}: {error}') from error
    if not isinstance(state, dict) or not state:
        raise ValueError(f'pretrained={str(path)!r} holds '
                         f'{type(state).__name__}, not named tensors.')
    return state


def _weights(content: Any) -> Any:
    """Weights in a file, averaged ones first, as timm looks for them."""
    if not isinstance(content, dict):
        return content
    names = ('state_dict_ema', 'model_ema', 'state_dict', 'model')
    candidates = [content[n] for n in names if content.get(n) is not None]
    return clean_state_dict(candidates[0] if candidates else content)


def convert(state: StateDict, vit: nn.Module) -> StateDict:
    """Published layout -> keys and shapes of ``vit``: timm's own conversions
    (MAE, DeiT, CLIP, DINO, EVA; embeddings resampled), then what a backbone
    without pooling needs."""
    prefix = 'backbone.vit.'
    if any(key.startswith(prefix) for key in state):
        state = {
            k[len(prefix):]: v
            for k, v in state.items() if k.startswith(prefix)
        }
    if getattr(vit, 'cls_token', None) is None:
        state = _without_class_token(state)
    state = trunk_class(vit).convert(state, vit)
    expected = vit.state_dict()
    for name in ('weight', 'bias'):
        norm, fc_norm = f'norm.{name}', f'fc_norm.{name}'
        if norm in expected and norm not in state and fc_norm in state:
            state[norm] = state.pop(fc_norm)
    return {
        k: v
        for k, v in state.items() if k in expected or not k.startswith(HEADS)
    }


def _without_class_token(state: StateDict) -> StateDict:
    """Leave out a checkpoint's class token and the position it has."""
    if 'cls_token' not in state:
        return state
    state = {k: v for k, v in state.items() if k != 'cls_token'}
    positions = state.get('pos_embed')
    if positions is not None and math.isqrt(
            positions.shape[1])**2 != positions.shape[1]:
        state['pos_embed'] = positions[:, 1:]
    return state


def check(state: StateDict,
          vit: nn.Module,
          source: str,
          adapted: Sequence[str] = ()) -> None:
    """Report missing and unexpected keys.

    Args:
        state: In the layout of ``vit``.
        vit: As made by :func:`build_vit`.
        source: Where it comes from, for messages.
        adapted: Keys whose shape timm itself will adapt.

    Raises:
        ValueError: If this must be the checkpoint of another model.
    """
    expected = vit.state_dict()
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    misshapen = [
        f'{key} {tuple(value.shape)} for {tuple(expected[key].shape)}'
        for key, value in state.items()
        if key in expected and key not in adapted
        and value.shape != expected[key].shape
    ]
    core = [k for k in missing if k.startswith(CORE + EMBEDDINGS)]
    if misshapen or core or any(k.startswith(CORE) for k in unexpected):
        raise ValueError(
            f'{source} is no checkpoint of this model: {len(core)} weights of '
            f'blocks and embeddings are missing ({_some(core)}), '
            f'{len(misshapen)} have another shape ({_some(misshapen)}), '
            f'{len(unexpected)} are unknown ({_some(unexpected)}). ' + (
                other_vit(state) or 'Compare arch, patch_size and in_channels '
                'with the model it comes from.'))
    num_loaded = len(expected) - len(missing)
    print_log(
        f'{source}: loaded {num_loaded} of {len(expected)} weights; missing: '
        f'{", ".join(missing) or "none"}; unexpected: '
        f'{", ".join(unexpected) or "none"}', 'current')


def _some(names: List[str]) -> str:
    text = ', '.join(names[:3])
    return text + ', ...' if len(names) > 3 else text or 'none'


def _without(state: StateDict, fresh: Sequence[str]) -> StateDict:
    """Leave out the weights that shall start fresh.

    Raises:
        ValueError: If there are none of that name.
    """
    for prefix in fresh:
        if not any(key.startswith(prefix) for key in state):
            raise ValueError(f'pretrained has fresh={prefix!r}, but no weight '
                             'of the checkpoint starts so; they are '
                             f'{_some(list(state))}.')
    return {k: v for k, v in state.items() if not k.startswith(tuple(fresh))}


def load_pretrained(vit: nn.Module, pretrained: Union[bool, str, dict],
                    arch: str, in_channels: int) -> None:
    """Load weights into ``vit``, or leave it as it was.

    Args:
        vit: As made by :func:`build_vit`.
        pretrained: True for timm's weights of ``arch``, a file, or
            ``dict(weights=<either>, fresh=[...])``: weights of the ViT whose
            names start so stay as they are initialised.
        arch: Name for messages.
        in_channels: Channels of the image; timm adapts the first layer.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is unreadable, or a checkpoint of another model, or
            has no weights to start fresh.
        RuntimeError: If timm's weights could not be fetched.
    """
    fresh: Sequence[str] = ()
    if isinstance(pretrained, dict):
        if set(pretrained) != {'weights', 'fresh'}:
            raise ValueError('pretrained as a dict has the keys weights and '
                             f'fresh, got {sorted(pretrained)}.')
        fresh = pretrained['fresh']
        pretrained = cast(Union[bool, str], pretrained['weights'])
    if pretrained is True:

        def adapt(state: StateDict, model: nn.Module) -> StateDict:
            state = _without(convert(state, model), fresh)
            first = () if in_channels == 3 else ('patch_embed.proj.weight', )
            check(state, model, f'timm weights of {arch}', adapted=first)
            return state

        try:
            timm_load_pretrained(
                vit,
                num_classes=0,
                in_chans=in_channels,
                filter_fn=adapt,
                strict=False)
        except ValueError:
            raise
        except Exception as error:  # hub, network and file errors alike
            raise RuntimeError(
                f'the weights of arch={arch!r} could not be fetched '
                f'({type(error).__name__}: {error}). Fetch them where there is'
                " a network and give the file: pretrained='file.safetensors', "
                'or pretrained=False to start at random.') from error
        return
    state = read_checkpoint(str(pretrained))
    try:
        state = convert(state, vit)
    except Exception as error:
        raise ValueError(
            f'pretrained={str(pretrained)!r} is no checkpoint of arch='
            f'{arch!r} that timm can convert. {type(error).__name__}: '
            f'{error}') from error
    state = _without(state, fresh)
    check(state, vit, f'pretrained={str(pretrained)!r}')
    vit.load_state_dict(state, strict=False)


def resample_pos_embed(state: StateDict, key: str, vit: nn.Module,
                       num_prefix: int) -> None:
    """Resample the position embeddings of a checkpoint of another image size,
    in place; nothing happens where there are none, or of this size.

    Args:
        state: State dict with them at ``key``.
        vit: The model they are for.
        num_prefix: Its prefix tokens.

    Raises:
        ValueError: If they are of no square grid.
    """
    current = vit.pos_embed
    if key not in state or current is None:
        return
    loaded, grid = state[key], tuple(vit.patch_embed.grid_size)
    same_width = loaded.shape[2] == current.shape[2]
    if loaded.shape[1:] == current.shape[1:] or not same_width:
        return
    no_embed = getattr(vit, 'no_embed_class', False)
    num_prefix = 0 if no_embed else num_prefix
    patches = loaded.shape[1] - num_prefix
    if math.isqrt(max(patches, 0))**2 != patches:
        raise ValueError(
            f'{key} {tuple(loaded.shape)} is of {patches} patches, no square '
            f'grid, so it cannot be resampled to {grid}. Give img_size as in '
            'training.')
    state[key] = resample_abs_pos_embed(
        loaded,
        new_size=list(grid),
        num_prefix_tokens=num_prefix,
        verbose=True)
