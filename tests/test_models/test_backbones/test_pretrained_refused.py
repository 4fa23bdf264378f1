# Copyright (c) mmcropr contributors.
"""Pretrained weights that are refused leave the model as it was."""
import copy
import pickle
import re
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

import pytest
import torch
from safetensors.torch import save_file

from mmcropr.models import CroprViT
from mmcropr.models.backbones import pretrained as pretrained_file
from tests.utils import TINY

State = Dict[str, torch.Tensor]
Write = Callable[[Path], Any]


def source(arch: dict = TINY, **kwargs: Any) -> State:
    return CroprViT(arch, img_size=64, **kwargs).vit.state_dict()


class Code:
    """Unpickling this makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker, )


def truncated(path: Path) -> None:
    save = save_file if path.suffix == '.safetensors' else torch.save
    save(source(), path)
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def of_three_blocks(path: Path) -> None:
    torch.save(source(dict(TINY, depth=3)), path)


def of_six_blocks(path: Path) -> None:
    torch.save(source(dict(TINY, depth=6)), path)


def with_layer_scale(path: Path) -> None:
    torch.save(source(dict(TINY, init_values=1.)), path)


BAD: Dict[str, Write] = {
    'truncated.pth': truncated,
    'truncated.safetensors': truncated,
    'text.pth': lambda path: path.write_text('<html>404</html>\n' * 50),
    'text.safetensors': lambda path: path.write_text('<html>404</html>' * 50),
    'empty.pth': lambda path: path.touch(),
    'list.pth': lambda path: torch.save([torch.zeros(3)], path),
    'nothing.pth': lambda path: torch.save({}, path),
    'number.pth': lambda path: torch.save({'model': 3}, path),
    'code.pth': lambda path: torch.save(
        {**source(), 'code': Code(path.with_name('marker'))}, path),
    'pickle.pth': lambda path: path.write_bytes(
        pickle.dumps({'code': Code(path.with_name('marker'))}, protocol=2))
}  # yapf: disable
OTHER: Dict[str, Tuple[str, Write]] = dict(
    width=(r'\(1, 1, 48\) for \(1, 1, 32\)', lambda path: torch.save(
        source(dict(TINY, embed_dim=48, num_heads=3)), path)),
    fewer_blocks=(r'12 weights of blocks.*\(blocks.3.norm1.weight',
                  of_three_blocks),
    more_blocks=(r'blocks\.4\.norm1\.weight', of_six_blocks),
    layer_scale=(r'blocks\.0\.ls1\.gamma', with_layer_scale),
    unknown_layout=(r'1 are unknown \(teacher', lambda path: torch.save(
        {'teacher': {'a': torch.zeros(1)}}, path)),
    of_a_host=("names of a transformer of mmseg, .*pretrained=True",
               lambda path: torch.save({
                   'layers.0.ln1.weight': torch.zeros(32),
                   'patch_embed.projection.bias': torch.zeros(32)}, path)),
    in_channels=(r'proj.weight \(32, 1, 16, 16\) for \(32, 3, 16, 16\)',
                 lambda path: torch.save(source(in_channels=1), path))
)  # yapf: disable


def check_unchanged(model: CroprViT, before: State) -> None:
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def check_refused(path: Path, error: type, message: str) -> None:
    model = CroprViT(TINY, img_size=64, pretrained=str(path))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        model.init_weights()
    check_unchanged(model, before)


@pytest.mark.parametrize('name', BAD)
def test_unreadable_files(name, tmp_path):
    path = tmp_path / name
    BAD[name](path)
    check_refused(path, ValueError, f"pretrained='{path}'")
    assert not (tmp_path / 'marker').exists()


def test_code_would_have_run(tmp_path):
    # Otherwise the test above could not fail.
    for name in ('code.pth', 'pickle.pth'):
        path, marker = tmp_path / name, tmp_path / 'marker'
        BAD[name](path)
        read = torch.load if name == 'code.pth' else pickle.load
        with path.open('rb') as file:
            read(file, **({} if read is pickle.load else
                          dict(weights_only=False)))  # yapf: disable
        assert marker.exists()
        marker.unlink()


@pytest.mark.parametrize('kind', OTHER)
def test_checkpoints_of_another_model(kind, tmp_path):
    path, (message, write) = tmp_path / 'other.pth', OTHER[kind]
    write(path)
    check_refused(path, ValueError, f'no checkpoint of this model.*{message}')


def test_missing_file(tmp_path):
    check_refused(tmp_path / 'a.pth', FileNotFoundError, 'a.pth.*no such file')
    check_refused(tmp_path, FileNotFoundError, 'no such file')


def test_an_embedding_that_cannot_be_converted(tmp_path):
    path, state = tmp_path / 'odd.pth', source()
    state['pos_embed'] = torch.zeros(1, 12, 32)
    torch.save(state, path)
    check_refused(path, ValueError, 'no checkpoint of arch=.*can convert')


def test_timm_weights_without_a_network(monkeypatch):

    def fail(*args, **kwargs):
        raise ConnectionError('no route to host')

    monkeypatch.setattr(pretrained_file, 'timm_load_pretrained', fail)
    model = CroprViT('test_vit', img_size=64, pretrained=True)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError) as error:
        model.init_weights()
    for part in ("arch='test_vit'", 'ConnectionError: no route to host',
                 "pretrained='file.safetensors'", 'pretrained=False'):
        assert part in str(error.value)
    check_unchanged(model, before)


def test_timm_weights_of_another_model(monkeypatch):
    given = source(dict(TINY, depth=6))

    def fake(vit, filter_fn, **kwargs):
        vit.load_state_dict(filter_fn(given, vit), strict=False)

    monkeypatch.setattr(pretrained_file, 'timm_load_pretrained', fake)
    model = CroprViT('test_vit', img_size=64, pretrained=True)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match='timm weights of test_vit is no ch'):
        model.init_weights()
    check_unchanged(model, before)


def test_a_dict_has_no_timm_weights():
    with pytest.raises(RuntimeError, match='could not be fetched.*network'):
        CroprViT(TINY, img_size=64, pretrained=True).init_weights()


@pytest.mark.parametrize('keys, message', [
    (dict(fresh=['fc_norm.']), "fresh='fc_norm.', but no weight"),
    (dict(fresh=['norm.'], file='x'), "got ['file', 'fresh', 'weights']"),
    (dict(), 'the keys weights and fresh'),
])
def test_nothing_to_start_fresh(keys, message, tmp_path):
    path = tmp_path / 'vit.pth'
    torch.save(CroprViT(TINY, img_size=64).vit.state_dict(), path)
    model = CroprViT(
        TINY, img_size=64, pretrained=dict(weights=str(path), **keys))
    with pytest.raises(ValueError, match=re.escape(message)):
        model.init_weights()
