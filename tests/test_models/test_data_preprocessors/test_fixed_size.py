# Copyright (c) mmcropr contributors.
import json
from types import SimpleNamespace

import pytest
import torch
from mmdet.testing import demo_mm_inputs

from mmcropr.deploy.description import preprocessing_of
from mmcropr.deploy.images import prepare
from mmcropr.models import FixedSizeDetDataPreprocessor


def preprocessor(size=(96, 96)):
    return FixedSizeDetDataPreprocessor(
        size, mean=[100., 110., 120.], std=[50., 60., 70.], bgr_to_rgb=True,
        pad_mask=True)  # yapf: disable


def test_padding_is_black():
    data = demo_mm_inputs(
        2, [(3, 96, 80), (3, 64, 96)], [2, 1], num_classes=3, with_mask=True)
    out = preprocessor()(data, True)
    assert out['inputs'].shape == (2, 3, 96, 96)
    black = torch.tensor([-100 / 50, -110 / 60, -120 / 70])
    assert torch.allclose(out['inputs'][0, :, :, 80:],
                          black[:, None, None].expand(3, 96, 16))
    assert torch.allclose(out['inputs'][1, :, 64:],
                          black[:, None, None].expand(3, 32, 96))
    inside = data['inputs'][0].flip(0).float()
    wanted = (inside - torch.tensor([100., 110, 120])[:, None, None]
              ) / torch.tensor([50., 60, 70])[:, None, None]
    assert torch.allclose(out['inputs'][0, :, :, :80], wanted)
    samples = out['data_samples']
    assert [s.img_shape for s in samples] == [(96, 80), (64, 96)]
    assert {s.batch_input_shape for s in samples} == {(96, 96)}
    assert {s.gt_instances.masks.masks.shape[1:] for s in samples} == {
        (96, 96)}


def test_stacked_images():
    data = dict(inputs=torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert preprocessor()(data)['inputs'].shape == (2, 3, 96, 96)


def test_larger_images():
    data = dict(inputs=[torch.zeros(3, 64, 100)])
    with pytest.raises(ValueError, match='64 x 100 px is larger than size'):
        preprocessor()(data)


def test_as_exported_files_describe_it():
    """The padding is black before it is normalised, not 0 behind that."""
    image = torch.randint(0, 256, (3, 96, 80), dtype=torch.uint8)
    model = SimpleNamespace(data_preprocessor=preprocessor(),
                            backbone=SimpleNamespace(in_channels=3))
    about = dict(input=dict(shape=[1, 3, 96, 96], dtype='float32'),
                 preprocessing=json.loads(json.dumps(preprocessing_of(model))))
    found = prepare(image.permute(1, 2, 0).numpy(), about)
    wanted = model.data_preprocessor(dict(inputs=[image]))['inputs']
    torch.testing.assert_close(torch.from_numpy(found), wanted)


@pytest.mark.parametrize('name', [
    '_channel_conversion', 'channel_conversion', 'to_rgb'])
@pytest.mark.parametrize('swapped', [True, False])
def test_channels_of_every_host(name, swapped):
    model = SimpleNamespace(data_preprocessor=SimpleNamespace(),
                            backbone=SimpleNamespace(in_channels=3))
    setattr(model.data_preprocessor, name, swapped)
    assert preprocessing_of(model)['channels'] == ('rgb' if swapped else 'bgr')
