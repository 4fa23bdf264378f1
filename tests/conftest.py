# Copyright (c) mmcropr contributors.
from pathlib import Path
from typing import Iterator, List

import pytest

from tests.utils import forget_globals, load_tool


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    """Whole runs of tools first: two processes that share out the files then
    end together, on small ones."""
    slow = ('test_tools', 'test_docs', 'test_deploy')
    items.sort(key=lambda item: item.path.parent.name not in slow)


@pytest.fixture(autouse=True)
def clean_globals() -> Iterator[None]:
    yield
    forget_globals()


@pytest.fixture(scope='session')
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few digits scenes of 64 x 64 px."""
    out = tmp_path_factory.mktemp('data') / 'digits'
    tool = load_tool('dataset_converters/digits_scenes.py')
    tool.main([
        str(out), '--size', '64', '64', '--num-train', '16', '--num-val', '4',
        '--digit-size', '20', '30'
    ])
    return out
