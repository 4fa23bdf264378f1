# Copyright (c) mmcropr contributors.
"""Small models of every kind, and what must be true of their states."""
import torch

from mmcropr.models import CroprViT
from mmcropr.structures import Mix
from tests.utils import TINY, TINY_EVA, randomise_layer_scale

ARCHS = {
    'vit': TINY,
    'deit3': dict(TINY, init_values=1e-5, no_embed_class=True),
    'dinov2': dict(
        TINY, init_values=1e-5, reg_tokens=4, no_embed_class=True),
    'eva': TINY_EVA,
}
SIZE = (64, 96)  # 4 x 6 patches
KEEP = [20, 14]


def build(reducer, arch='vit', **options):
    torch.manual_seed(0)
    if reducer is not None:
        schedule = dict(align=1, modules=[1, 2])
        schedule.setdefault('keep', KEEP)
        reducer = {**schedule, 'type': f'mmcropr.{reducer}', **options}
        if 'rate' in options:
            del reducer['keep']
    model = CroprViT(
        ARCHS[arch], img_size=SIZE, patch_size=16, reducer=reducer)
    randomise_layer_scale(model.vit)
    return model.eval()


def images(batch=2):
    torch.manual_seed(1)
    return torch.rand(batch, 3, *SIZE)


def tokens(model, image):
    """State before the last block."""
    model.out_type = 'tokens'
    return model(image)


def walk(model, image):
    """State before the last block, and for every reducer the patches that it
    got, which of them each patch of the grid was in, the prefix, the length
    to reach and its step types."""
    seen, handles = [], []

    def look(module, args):
        state, length = args
        seen.append((state.patches.clone(), state.trace()[0],
                     state.x[:, :state.num_prefix].clone(), length,
                     module.step_types))

    def look_after(module, args, state):
        assert state.length == seen[-1][3]
        assert state.x[:, :state.num_prefix].equal(seen[-1][2]), (
            'prefix tokens are never mixed with patches')

    for reducer in model.reducers:
        handles += [reducer.register_forward_pre_hook(look),
                    reducer.register_forward_hook(look_after)]
    state = tokens(model, image)
    for handle in handles:
        handle.remove()
    return state, seen


def check_places(state, seen):
    """Every patch is in one current token or left at one module, and what is
    restored in its place is that token, as it is or as it left."""
    slots, removed = state.trace()
    full, index = state.full()[:, state.num_prefix:], state.raster_index()
    assert index.shape == (len(full), state.num_current)
    assert 0 <= index.min() and index.max() < 24
    assert ((slots >= 0) == (removed < 0)).all()
    if any(isinstance(step, Mix) for step in state.steps):
        return
    for image in range(len(full)):
        for place, slot in enumerate(slots[image].tolist()):
            patches, number = state.patches, slot
            if slot < 0:
                patches, before, *_, step_types = seen[removed[image, place]]
                if len(step_types) > 1:
                    continue  # it may have changed before it left
                number = before[image, place]
            assert full[image, place].equal(patches[image, number])
