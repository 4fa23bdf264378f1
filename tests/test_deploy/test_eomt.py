# Copyright (c) mmcropr contributors.
"""Models whose queries join the last blocks: the segmentor is exported whole,
without masked attention; a detector has no encoder without its head."""
import numpy as np
import pytest
import torch

from mmcropr.deploy.model import DeployModel
from tests import eomt
from tests.deploy import skip_without
from tests.utils import load_vectors

skip_without()


@pytest.fixture(scope='module')
def vectors():
    return load_vectors('eomt')


def test_segmentor_whole(vectors):
    from mmcropr.deploy.export import to_program
    segmentor = eomt.segmentor(*vectors, dict(mode='whole')).eval()
    model = DeployModel(segmentor, (96, 96))
    run = to_program(model, True).module()
    image = torch.rand(3, 3, 96, 96)
    with torch.no_grad():
        for found, wanted in zip(run(image), model(image)):
            assert np.allclose(found, wanted, atol=1e-5)
    assert run(image)[0].shape[0] == 3


@pytest.mark.parametrize('kind', ['segmentor', 'detector'])
def test_no_encoder_without_the_head(vectors, kind):
    model = eomt.detector(*vectors) if kind == 'detector' else (
        eomt.segmentor(*vectors, dict(mode='whole')))
    with pytest.raises(ValueError, match='there is no encoder without'):
        DeployModel(model.eval(), (96, 96), 'encoder')
