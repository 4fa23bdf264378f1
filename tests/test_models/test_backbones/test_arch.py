# Copyright (c) mmcropr contributors.
import pytest
import timm
from timm.layers import PatchEmbed
from timm.models.eva import EvaBlockPostNorm
from timm.models.vision_transformer import ParallelScalingBlock
from torch import nn

from mmcropr.models import CroprViT
from mmcropr.models.backbones.arch import (build_vit, check_arch_name,
                                           check_plain)
from tests.utils import TINY, TINY_EVA


class OtherEmbed(PatchEmbed):
    """A patch embedding that may do anything."""


def without(key: str) -> dict:
    return {k: v for k, v in TINY.items() if k != key}


@pytest.mark.parametrize('arch', [
    'vit_large_patch16_224', 'vit_large_patch16_224.mae',
    'vit_base_patch16_clip_224.openai', 'vit_large_patch14_reg4_dinov2',
    'deit_base_distilled_patch16_224', 'deit3_large_patch16_224',
    'eva_giant_patch14_224', 'eva02_large_patch14_448.mim_m38m_ft_in22k_in1k',
    'vit_large_patch16_dinov3', 'vit_pe_core_large_patch14_336',
    'vit_base_patch16_rope_mixed_224'
])
def test_plain_names_are_accepted(arch):
    assert check_arch_name(arch) is None


@pytest.mark.parametrize('arch, close', [
    ('vit_larg_patch16_224', 'vit_large_patch16_224'),
    ('eva02_large_patch14_484', 'eva02_large_patch14_448'),
    ('deit_small_distiled_patch16_224', 'deit_small_distilled_patch16_224')
])
def test_unknown_names_are_told_close_ones(arch, close):
    with pytest.raises(ValueError) as error:
        CroprViT(arch)
    message = str(error.value)
    assert f'arch={arch!r} is no model of timm {timm.__version__}' in message
    assert close in message.split('Close names: ')[1]


def test_no_close_name():
    with pytest.raises(ValueError, match='Close names: none'):
        CroprViT('@@@@')


@pytest.mark.parametrize('arch, module', [
    ('swin_tiny_patch4_window7_224', 'timm.models.swin_transformer'),
    ('convnext_tiny', 'timm.models.convnext'),
    ('vit_relpos_small_patch16_224', 'timm.models.vision_transformer_relpos'),
    ('vit_small_r26_s32_224', 'timm.models.vision_transformer_hybrid')
])
def test_other_families_are_refused(arch, module):
    with pytest.raises(ValueError, match=rf'{arch}.*{module}.*no plain ViT'):
        CroprViT(arch)


@pytest.mark.parametrize('arch, reason', [
    (dict(TINY, block_fn=ParallelScalingBlock), 'are ParallelScalingBlock'),
    (dict(TINY, patch_drop_rate=.25), 'drops patches by itself'),
    (dict(TINY_EVA, patch_drop_rate=.25), 'drops patches by itself'),
    (dict(TINY, embed_layer=OtherEmbed), 'embedding is OtherEmbed')
])  # yapf: disable
def test_models_that_break_a_changing_sequence_are_refused(arch, reason):
    with pytest.raises(ValueError, match=f'no plain ViT: .*{reason}'):
        CroprViT(arch, img_size=64)


def test_post_norm_blocks_are_refused():
    # As of the EVA-02 CLIP models of 1 to 4 billion weights, too large to be
    # built here; timm 1.0.20 cannot build small ones of them.
    vit = build_vit(TINY_EVA, (64, 64))
    vit.blocks[2] = EvaBlockPostNorm(32, 2)
    with pytest.raises(ValueError, match='its blocks are EvaBlockPostNorm;'):
        check_plain(vit, 'eva02_e')


@pytest.mark.parametrize('arch', [
    without('family'), without('depth'), without('embed_dim'),
    without('num_heads'), dict(TINY, family='swin')
])
def test_a_dict_needs_family_and_sizes(arch):
    with pytest.raises(ValueError, match="needs family='vit' or 'eva', embed"):
        CroprViT(arch)


@pytest.mark.parametrize('img_size, patch_size, message', [
    (72, None, r'img_size=\(72, 72\) must be a multiple.*\(16, 16\)'),
    ((64, 60), None, r'img_size=\(64, 60\) must be a multiple.*\(16, 16\)'),
    (64, 14, r'img_size=\(64, 64\) must be a multiple.*\(14, 14\)')
])
def test_img_size_off_the_patch_size(img_size, patch_size, message):
    with pytest.raises(ValueError, match=message):
        CroprViT(TINY, img_size=img_size, patch_size=patch_size)


def test_out_type():
    with pytest.raises(ValueError, match="'featmap' or 'tokens', got 'map'"):
        CroprViT(TINY, img_size=64, out_type='map')


@pytest.mark.parametrize('arch', [TINY, TINY_EVA, 'test_vit', 'test_vit2'])
def test_what_is_built(arch):
    vit = build_vit(arch, (64, 96), patch_size=8, in_channels=4)
    assert vit.patch_embed.grid_size == (8, 12)
    assert vit.patch_embed.proj.weight.shape[1:] == (4, 8, 8)
    assert isinstance(vit.norm, nn.LayerNorm), 'the final norm of every token'
    rest = (name.split('.')[0] for name, _ in vit.named_parameters())
    assert not {'fc_norm', 'head', 'attn_pool'} & set(rest)
    assert not hasattr(vit, 'num_classes'), "mmdet's NumClassCheckHook"


def test_a_name_with_changes():
    """Parts of a named model that detectors of the family go without."""
    plain = CroprViT(dict(name='test_vit', final_norm=False), img_size=64)
    assert isinstance(plain.vit.norm, nn.Identity)
    assert plain.trunk.num_prefix == 1
    without = CroprViT(
        dict(name='test_vit', class_token=False, global_pool='avg',
             fc_norm=False), img_size=64)
    assert without.trunk.num_prefix == 0
    with pytest.raises(ValueError, match='is no model of timm'):
        CroprViT(dict(name='test_vti'), img_size=64)
    with pytest.raises(TypeError, match='colour'):
        CroprViT(dict(name='test_vit', colour=1), img_size=64)
