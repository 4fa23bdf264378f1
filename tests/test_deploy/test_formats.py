# Copyright (c) mmcropr contributors.
"""Every method in the formats: the same tokens and values as in PyTorch, for
any number of images."""
import json

import numpy as np
import pytest
import torch

from mmcropr.deploy.export import to_program
from mmcropr.deploy.formats import FORMATS, format_of, open_file
from mmcropr.deploy.model import DeployModel
from mmcropr.models import CroprViT, LLFNeck
from tests.deploy import skip_without
from tests.utils import REDUCERS, TINY, TINY_EVA

skip_without('onnx', 'onnxscript', 'onnxruntime')
SHAPE = (48, 40)


class Encoder(torch.nn.Module):
    """Backbone and neck, as a detector has them."""

    def __init__(self, name: str, arch: dict = TINY) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = CroprViT(
            arch, img_size=SHAPE, patch_size=8, out_type='tokens',
            reducer=dict(
                type=f'mmcropr.{name}', keep=[20, 12], modules=[0, 1],
                align=1))
        self.neck = LLFNeck()
        for parameter in self.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)


def deployed(name: str, arch: dict = TINY) -> DeployModel:
    return DeployModel(Encoder(name, arch), SHAPE, 'encoder')


def describe(model: DeployModel, batch) -> dict:
    return dict(
        opset=20, input=dict(shape=[batch, 3, *SHAPE]),
        outputs=[dict(name=name) for name in model.output_names()])


def check(run, model, batches):
    for batch in batches:
        image = torch.randn(batch, 3, *SHAPE)
        found = run(image.numpy())
        assert list(found) == model.output_names()
        for value, wanted in zip(found.values(), model(image)):
            assert value.shape == tuple(wanted.shape)
            assert np.allclose(value, wanted.numpy(), atol=1e-4), batch


def write_and_check(model, file):
    """As ONNX, and what that is made from as a file of PyTorch."""
    program = to_program(model, True)
    for name, other in (('torch-export', file.with_suffix('.pt2')),
                        ('onnx', file)):
        FORMATS[name].write(program, model.output_names(),
                            describe(model, 'batch'), other)
        check(open_file(other)[1], model, (1, 2, 3))


# Written as a file of PyTorch and as ONNX, the others as the first alone
ONNX = dict(Cropr=TINY_EVA, ToMe=TINY, KMedoids=TINY)
WITHOUT_RANKS = ['ATS', 'PatchMerger', 'SiT', 'Sinkhorn']


@pytest.mark.parametrize('name', ['Cropr', *sorted(
    {*REDUCERS} - {'Random', *ONNX, *WITHOUT_RANKS})])
def test_torch_export(name, tmp_path):
    model, file = deployed(name), tmp_path / 'x.pt2'
    FORMATS['torch-export'].write(
        to_program(model, True), model.output_names(),
        describe(model, 'batch'), file)
    description, run = open_file(file)
    assert description == describe(model, 'batch')
    check(run, model, (1, 3))


@pytest.mark.parametrize('name, arch', ONNX.items(), ids=ONNX)
def test_onnx(name, arch, tmp_path):
    """Those with operators that ONNX lacks among them."""
    import onnx
    model, file = deployed(name, arch), tmp_path / 'x.onnx'
    write_and_check(model, file)
    graph = onnx.load(file).graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == 'batch'
    assert {node.domain for node in graph.node} == {''}, 'standard operators'
    assert not any(node.metadata_props for node in graph.node)
    constants = {x.name for x in graph.initializer}
    selections = [x for x in graph.node if x.op_type == 'TopK']
    assert selections
    assert all(node.input[1] in constants for node in selections)
    resized = [x for x in graph.node if x.op_type == 'Resize']
    assert not resized, 'positions are constants'


@pytest.mark.parametrize('name', WITHOUT_RANKS)
def test_onnx_of_methods_without_a_selection_by_rank(name, tmp_path):
    import onnx
    model, file = deployed(name, TINY), tmp_path / 'x.onnx'
    write_and_check(model, file)
    graph = onnx.load(file).graph
    assert {node.domain for node in graph.node} == {''}, 'standard operators'


def test_static_batch(tmp_path):
    model, file = deployed('Cropr'), tmp_path / 'x.pt2'
    FORMATS['torch-export'].write(
        to_program(model, False), model.output_names(), describe(model, 1),
        file)
    run = open_file(file)[1]
    check(run, model, (1, ))
    with pytest.raises(Exception):
        run(np.zeros((2, 3, *SHAPE), np.float32))


@pytest.mark.parametrize('name, error, text', [
    ('none.onnx', FileNotFoundError, 'no file at'),
    ('x.txt', ValueError, 'no known format'),
    ('x.pt2', ValueError, 'no archive'),
])
def test_no_format(name, error, text, tmp_path):
    for other in ('x.txt', 'x.pt2'):
        (tmp_path / other).write_text('something')
    with pytest.raises(error, match=text):
        format_of(tmp_path / name)


def test_foreign_file(tmp_path):
    program = torch.export.export(torch.nn.Identity(), (torch.zeros(1), ))
    torch.export.save(program, str(tmp_path / 'x.pt2'))
    with pytest.raises(ValueError, match='not written by'):
        open_file(tmp_path / 'x.pt2')
    (tmp_path / 'x.onnx').write_text(json.dumps({}))
    with pytest.raises(ValueError, match='cannot be read'):
        open_file(tmp_path / 'x.onnx')


def test_missing_runtime(tmp_path, monkeypatch):
    (tmp_path / 'x.onnx').touch()
    monkeypatch.setattr(FORMATS['onnx'].__class__, 'runs_by', ('no_such', ))
    with pytest.raises(ImportError, match='Run: pip install no_such'):
        open_file(tmp_path / 'x.onnx')
