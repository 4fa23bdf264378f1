# Copyright (c) mmcropr contributors.
"""The documentation as a site: built with warnings as errors."""
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.utils import ROOT

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ('mkdocs', 'mkdocstrings',
                                           'material'))),
    reason='needs requirements/docs.txt')
SOURCES = ('docs', 'configs', 'mmcropr')


def build(root: Path, site: Path) -> subprocess.CompletedProcess:
    env = dict(os.environ, NO_MKDOCS_2_WARNING='1')
    return subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '-d', str(site)],
        cwd=root, env=env, capture_output=True, text=True)


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('site') / 'site'
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_pages_and_docstrings(site):
    """README, changelog and the READMEs of configs are pages as well."""
    for page in ('index', 'changelog', 'contributing', 'en/model_zoo',
                 'configs/cropr', 'en/user_guides/own_data'):
        assert (site / f'{page}.html').is_file(), page
    text = (site / 'en/api/backbones.html').read_text()
    assert 'id="mmcropr.models.backbones.cropr_vit.CroprViT"' in text
    assert 'reducer' in text and 'Raises' in text
    start = (site / 'index.html').read_text()
    assert 'href="en/user_guides/own_data.html"' in start
    assert 'src="images/pruning_map.png"' in start


def test_every_image_and_link_inside_is_there(site):
    for page in site.rglob('*.html'):
        if page.name == '404.html':
            continue
        found = re.findall(r'(?:href|src)="([^"#:?]+)(?:#[^"]*)?"',
                           page.read_text())
        for link in set(found):
            assert (page.parent / link).exists(), (page, link)
        # Nothing is fetched from elsewhere
        assert not re.findall(r'(?:<script|<img)[^>]* src="https?://',
                              page.read_text()), page


def test_every_page_is_in_the_navigation():
    text = (ROOT / 'mkdocs.yml').read_text()
    for page in (ROOT / 'docs').rglob('*.md'):
        assert f'- {page.relative_to(ROOT / "docs")}\n' in text, page


def test_a_broken_link_fails(tmp_path):
    for name in SOURCES:
        shutil.copytree(ROOT / name, tmp_path / name,
                        ignore=shutil.ignore_patterns('.mim', '*.png'))
    for name in ('mkdocs.yml', 'README.md', 'CHANGELOG.md',
                 'CONTRIBUTING.md'):
        shutil.copy(ROOT / name, tmp_path)
    with (tmp_path / 'docs/en/faq.md').open('a') as file:
        file.write('\n[x](user_guides/nowhere.md)\n')
    done = build(tmp_path, tmp_path / 'site')
    assert done.returncode != 0
    assert 'nowhere.md' in done.stdout + done.stderr


def test_api_pages_list_what_the_packages_export():
    """Each class of a package's registry has its docstring on a page."""
    pages = ' '.join(path.read_text()
                     for path in (ROOT / 'docs/en/api').glob('*.md'))
    for path in (ROOT / 'mmcropr').rglob('*.py'):
        for name in re.findall(r'@\w+\.register_module\(\)\nclass (\w+)',
                               path.read_text()):
            assert f'.{name}\n' in pages + '\n', f'{name} of {path.name}'


def test_pins_have_what_the_site_needs():
    names = [line for line in (ROOT / 'requirements/docs.txt').read_text()
             .splitlines() if line and line[0] != '#']
    pins = (ROOT / 'requirements/default.txt').read_text()
    assert all(f'\n{name}==' in pins for name in names)
