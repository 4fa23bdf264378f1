# Copyright (c) mmcropr contributors.
"""Who may import whom: docs/en/advanced_guides/architecture.md."""
import ast
from pathlib import Path

import pytest

from tests.utils import ROOT

# From below; a module imports its own layer and those before it
LAYERS = ['mmcropr.version', 'mmcropr.utils', 'mmcropr.registry',
          'mmcropr.structures', 'mmcropr.models.reducers',
          'mmcropr.models.backbones', 'mmcropr.models.necks',
          'mmcropr.models.heads', 'mmcropr.models.checks',
          'mmcropr.models.classifiers', 'mmcropr.models.detectors',
          'mmcropr.models', 'mmcropr.datasets', 'mmcropr.evaluation',
          'mmcropr.deploy', 'mmcropr.visualization', 'mmcropr.engine',
          'mmcropr', 'tools']
FILES = sorted(
    p.relative_to(ROOT).as_posix() for folder in ('mmcropr', 'tools')
    for p in (ROOT / folder).rglob('*.py'))


def layer_of(module: str) -> int:
    """The longest matching name counts."""
    fits = [name for name in LAYERS
            if module == name or module.startswith(name + '.')]
    return LAYERS.index(max(fits, key=len))


def imports_of(module: str, path: Path) -> set:
    """Modules of ours that a file imports, wherever in it."""
    package = module if path.name == '__init__.py' else (
        module.rpartition('.')[0])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                parts = package.split('.')
                parts = parts[:len(parts) - node.level + 1]
                base = '.'.join(parts + ([base] if base else []))
            found.add(base)
            # `from package import module`
            found |= {f'{base}.{alias.name}' for alias in node.names
                      if (ROOT / base.replace('.', '/') /
                          f'{alias.name}.py').exists()}
    return {name for name in found if name.split('.')[0] == 'mmcropr'}


@pytest.mark.parametrize('file', FILES)
def test_no_import_goes_up(file):
    path = ROOT / file
    module = file[:-3].replace('/', '.').removesuffix('.__init__')
    own = layer_of(module)
    above = {name for name in imports_of(module, path)
             if layer_of(name) > own}
    assert not above, f'{module} must not know them'


def test_the_rule_sees_what_it_forbids(tmp_path):
    path = tmp_path / 'x.py'
    path.write_text('from ..heads import StateHead\nfrom . import trunk\n')
    assert imports_of('mmcropr.models.backbones.x', path) == {
        'mmcropr.models.heads', 'mmcropr.models.backbones',
        'mmcropr.models.backbones.trunk'}
    assert layer_of('mmcropr.models.heads.seg_head') > layer_of(
        'mmcropr.models.backbones.trunk')
