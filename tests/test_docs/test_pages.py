# Copyright (c) mmcropr contributors.
"""Links, commands and snippets of README and docs."""
import ast
import re
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import pytest
import torch

from mmcropr.models import CroprViT, LLFNeck
from mmcropr.models.reducers.build import Sizes, build_reducers
from mmcropr.structures import (Step, TokenState, put_rows, split_lowest,
                                steps, take_rows)
from tests.test_models.test_vectors import samples
from tests.utils import ROOT, TINY, make_state

PAGES = [*sorted(ROOT.glob('*.md')), *sorted((ROOT / 'docs').rglob('*.md')),
         *sorted((ROOT / 'configs').rglob('*.md'))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
# Where a command is run: a test, or nowhere, and why. What begins with a name
# comes before what is more general.
RUN = {
    'mim train': 'test_model_index.py does what it does',
    'make lint': 'make test begins with it: .ci/run',
    'python demo/app.py': 'tests/test_demo/test_app.py; a browser',
    'python demo/small_models.py': 'tests/test_demo/test_small_models.py',
    'python tools/model_converters/small_model.py':
    'tests/test_demo/test_small_models.py',
    'make docs': 'tests/test_docs/test_site.py',
    'make quickstart': 'tests/test_tools/test_setup_env.py reads the steps; '
                       'it trains for minutes',
    'make': 'sets up an environment: .ci/run',
    '. .venv/bin/activate': 'the environment of .ci/run',
    'pip install': 'installs into the environment; the wheel of conftest.py',
    'python tools/train.py': 'tests/test_tools/test_train_and_test.py',
    'python tools/test.py': 'tests/test_tools/test_train_and_test.py',
    'python tools/check_env.py': 'tests/test_tools/test_check_env.py',
    'python tools/check_data.py': 'tests/test_tools/test_check_data.py',
    'python tools/dataset_converters/digits_scenes.py':
    'tests/test_tools/test_digits_scenes.py',
    'python tools/reproduce.py':
    'tests/test_tools/test_reproduction_runs.py; all of it takes a night',
    'python tools/analysis_tools/foreground_stats.py':
    'tests/test_tools/test_digits_photos.py',
    'python tools/model_converters/official_cropr.py':
    'tests/test_tools/test_official_cropr.py; needs published weights',
    'python tools/model_converters/official_eomt.py':
    'tests/test_tools/test_official_eomt.py; needs published weights',
    'python tools/model_converters/eva02_det.py':
    'tests/test_tools/test_eva02_det.py; needs published weights',
    'python tools/model_converters/strip_auxiliary.py':
    'tests/test_tools/test_strip_auxiliary.py',
    'python tools/analysis_tools/get_flops.py':
    'tests/test_tools/test_analysis_tools.py',
    'python tools/analysis_tools/benchmark.py':
    'tests/test_tools/test_analysis_tools.py; GPU, or minutes',
    'python tools/analysis_tools/evaluate_rates.py':
    'tests/test_tools/test_evaluate_rates.py',
    'python tools/analysis_tools/probe_queries.py':
    'tests/test_tools/test_probe_queries.py',
    'python tools/visualize_pruning.py':
    'tests/test_tools/test_visualize_pruning.py',
    'python demo/image_demo.py': 'tests/test_demo/test_image_demo.py',
    'tools/gpu_check.sh': 'tests/test_tools/test_gpu_check.py; a GPU',
    'python tools/deploy/export.py': 'tests/test_tools/test_deploy_tools.py',
    'python tools/deploy/verify.py': 'tests/test_tools/test_deploy_tools.py',
    'python tools/deploy/benchmark.py': 'tests/test_docs/test_deploy_page.py',
    'python tools/analysis_tools/host_matrix.py':
    'tests/test_tools/test_host_matrix.py; all of it takes half an hour',
    'python -m pytest': 'these are the tests',
    'tools/dist_': 'tests/test_tools/test_train_and_test.py; several GPUs',
    'tools/slurm_': 'a cluster',
}
SHELL = re.compile(r'(for|do|done|export|grep)\b|[A-Z]+=')
SETTING = re.compile(r'^((OMP_NUM_THREADS|NNODES|NODE_RANK|MASTER_ADDR|PORT|'
                     r'GPUS|GPUS_PER_NODE)=\S+ )*')


def blocks(page: Path, language: str) -> List[str]:
    """Fenced blocks of one language in a page."""
    return re.findall(rf'^```{language}\n(.*?)^```$', page.read_text(),
                      re.M | re.S)


def slugs(page: Path) -> List[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r'^```.*?^```$', '', page.read_text(), flags=re.M | re.S)
    heads = re.findall(r'^#+ (.*)$', text, re.M)
    return [re.sub(r'[^\w\- ]', '', head.lower()).replace(' ', '-')
            for head in heads]


def links(page: Path) -> List[Tuple[str, Optional[str]]]:
    """Path ('' for the page itself) and anchor of every link inside."""
    text = re.sub(r'^```.*?^```$', '', page.read_text(), flags=re.M | re.S)
    found = re.findall(r'\]\(([^)\s]+)\)', text)
    return [(link.split('#')[0], (link.split('#') + [None])[1])
            for link in found if '://' not in link]


@pytest.mark.parametrize('name', NAMES)
def test_links(name):
    page = ROOT / name
    for path, anchor in links(page):
        target = page.parent / path if path else page
        assert target.exists(), f'{name} links to {path}'
        assert anchor is None or anchor in slugs(target), (
            f'{name}: no heading {anchor} in {path or "itself"}')


def test_every_page_is_reached():
    """From the README, by links alone."""
    seen, queue = set(), [ROOT / 'README.md']
    while queue:
        page = queue.pop().resolve()
        if page not in seen and page.suffix == '.md':
            seen.add(page)
            queue += [page.parent / path for path, _ in links(page) if path]
    assert seen == set(PAGES)


def commands(page: Path) -> List[str]:
    """Commands in a page, without what only shells know."""
    lines = '\n'.join(blocks(page, 'bash')).replace('\\\n', ' ').splitlines()
    found = [SETTING.sub('', line.strip()).replace('$MMCROPR/', '')
             for line in lines]
    return [line for line in found if line and not SHELL.match(line)]


@pytest.mark.parametrize('name', NAMES)
def test_commands(name):
    """Each is run by a test or cannot be, its tool is there, and has the
    options that are given."""
    for command in commands(ROOT / name):
        place = next((RUN[k] for k in RUN if command.startswith(k)), None)
        assert place, f'{name}: who runs {command!r}?'
        for file in re.findall(r'[\w/]*test_\w+\.py', place):
            assert list((ROOT / 'tests').rglob(Path(file).name)), file
        tool = re.search(r'(?:tools|demo)/\w[\w/]*\.\w+', command)
        if tool is None:
            continue
        source = (ROOT / tool[0]).read_text()
        if 'from export import' in source:  # options that both have
            source += (ROOT / 'tools/deploy/export.py').read_text()
        if 'add_tpr(parser)' in source:
            source += (ROOT / 'mmcropr/utils/rates.py').read_text()
        if tool[0].endswith('.sh'):
            continue
        for option in re.findall(r'(?<=[ \[])--[\w-]+', command):
            assert f"'{option}'" in source, f'{tool[0]} has no {option}'


@pytest.mark.parametrize('name', NAMES)
def test_files_that_are_named(name):
    """Configs, tools, tests and modules in a page are there."""
    text = (ROOT / name).read_text()
    for file in re.findall(r'(?<![\w/$])(?:configs|tools|tests|mmcropr)/'
                           r'[\w/.-]+\.(?:py|sh)\b', text):
        if 'my_method' not in file:
            assert (ROOT / file).exists(), f'{name} names {file}'


def strings(path: Path) -> str:
    """All text in the literals of a module, each as one line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return '\n'.join(found)


def test_messages_in_the_questions():
    """Each that the table quotes is one of ours."""
    page = (ROOT / 'docs/en/faq.md').read_text()
    rows = re.findall(r'^\| (`[^|]*`) \|', page.split(
        '## Messages of ours')[1], re.M)
    said = '\n'.join(strings(path) for folder in ('mmcropr', 'tools')
                     for path in (ROOT / folder).rglob('*.py'))
    assert len(rows) > 15
    for row in rows:
        for message in re.findall('`([^`]+)`', row):
            assert message in said, message


def test_example_head():
    """Of the guide: losses by name, a gradient for the queries, none for the
    ViT."""
    page = ROOT / 'docs/en/advanced_guides/add_a_head.md'
    block, = (b for b in blocks(page, 'python') if 'class AreaHead' in b)
    head = define(block, 'AreaHead')(in_channels=32, num_classes=5,
                                     num_modules=2)
    model = CroprViT(
        TINY, img_size=64, out_type='tokens', reducer=dict(
            type='mmcropr.Cropr', rate=4, num_queries='image')).train()
    maps = LLFNeck()(model(torch.rand(2, 3, 64, 64)))
    labels = torch.randint(0, 5, (2, 64, 64))
    labels[0, :32] = 255
    losses = head.loss(maps, samples(labels))
    assert sorted(losses) == ['module0.loss_area', 'module1.loss_area']
    sum(losses.values()).backward()
    assert all(r.queries.grad.abs().sum() > 0 for r in model.reducers)
    assert all(p.grad is None for p in model.vit.parameters())


def test_schedules():
    """Every `reducer=` line of the page is a schedule of a ViT with 24
    blocks."""
    sizes = Sizes(depth=24, grid=(32, 32), num_prefix=1, embed_dim=64)
    page = ROOT / 'docs/en/advanced_guides/compared_methods.md'
    lines = [line.split('  #')[0] for block in blocks(page, 'python')
             for line in block.splitlines() if line.startswith('reducer=')]
    assert len(lines) == 5
    for line in lines:
        schedule, reducers = build_reducers(eval(line[8:]), sizes)
        assert len(reducers) == len(schedule.lengths()) > 0


def parts_of_the_guide() -> Dict[str, str]:
    page = ROOT / 'docs/en/advanced_guides/add_a_reducer.md'
    found = ((re.search(r'^ *(?:class|def) (\w+)', block, re.M), block)
             for block in blocks(page, 'python'))
    return {match[1]: block for match, block in found if match}


def define(source: str, name: str, **scope) -> type:
    """What a snippet defines, without a place in the registry."""
    scope = dict(vars(steps), **scope)
    exec(source.replace('@MODELS.register_module()\n', '').replace(
        'from .base', 'from mmcropr.models.reducers'), scope)
    return scope[name]


@pytest.mark.parametrize('name', ['LargestNorm', 'Neighbours'])
def test_example_reducers(name):
    """As the guide has them: lengths, and every patch in one place."""
    torch.manual_seed(0)
    reducer = define(parts_of_the_guide()[name], name)(embed_dim=4)
    state = make_state()
    before = state.x.clone()
    assert reducer(state, state.length).x.equal(before)
    state = reducer(state, 9)
    assert state.length == 9 and isinstance(state.steps[0], reducer.step_types)
    slots, removed = state.trace()
    assert ((slots >= 0) == (removed < 0)).all()
    if name == 'LargestNorm':
        assert state.full().equal(before)
        norms = before[:, 2:].norm(dim=-1)
        least = state.patches.norm(dim=-1).amin(1)
        assert (least >= norms.sort(1)[0][:, 8]).all()
    else:
        mean = before[0, 2:][slots[0] == 3].mean(0)
        torch.testing.assert_close(state.patches[0, 3], mean)


def test_example_step():
    """The restoration of the guide: places of what left get the mean."""
    parts = parts_of_the_guide()
    kind = define(parts['Replace'], 'Replace')
    assert issubclass(kind, Step)
    method = define('class Part:\n' + parts['replace'], 'Part', Replace=kind,
                    split_lowest=split_lowest, take_rows=take_rows,
                    put_rows=put_rows).replace
    state = make_state()
    before = state.x.clone()
    scores = before[:, 2:, 0]
    method(state, scores, 8)
    assert isinstance(state, TokenState) and state.length == 8
    slots, removed = state.trace()
    full, stays = state.full()[:, 2:], slots >= 0
    assert stays.sum(1).tolist() == [6, 6]
    assert full[stays].equal(before[:, 2:][stays])
    mean = state.patches.mean(1, keepdim=True).expand_as(full)
    torch.testing.assert_close(full[~stays], mean[~stays])
    assert (removed[~stays] == 0).all()
