# Copyright (c) mmcropr contributors.
import re
import shutil
import subprocess

import numpy as np
import pytest

from mmcropr.visualization import Fates, Item, write_explorer

BROWSER = shutil.which('chromium') or shutil.which('google-chrome')


def fates(slots, scores):
    return Fates((2, 2), (4, 4), [1, 3], np.array(slots),
                 np.array(scores, float))


@pytest.fixture
def page(tmp_path):
    image = np.full((8, 8, 3), 200, np.uint8)
    methods = dict(
        Cropr=fates([[0, 1, -1, 2], [0, -1, -1, 1]],
                    [[4, 3, 1, 2], [9, 7, np.nan, 8]]),
        ToMe=fates([[0, 1, 1, 2], [0, 0, 0, 1]], np.full((2, 4), np.nan)))
    path = tmp_path / 'explorer.html'
    write_explorer([Item('a</script>b', image, methods)], path)
    return path


def test_one_file_without_network(page):
    text = page.read_text()
    assert 'data:image/png;base64,' in text
    assert not re.search(r'https?://|src=|href=', text)
    assert text.count('</script>') == 2, 'a name cannot end the data'


def test_nothing_to_show(tmp_path):
    with pytest.raises(ValueError, match='nothing to show'):
        write_explorer([], tmp_path / 'explorer.html')
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(BROWSER is None, reason='no Chromium here')
@pytest.mark.parametrize('state, block, left, fate', [
    ('', 'none yet', '4 of 4 tokens', 'Point at a patch'),
    ('step=1&patch=1', '1', '3 of 4 tokens',
     'row 0, column 1: left after block 3\nscore after block 1: 3.000\n'
     'score after block 3: 7.000'),
    ('step=2&patch=2', '3', '2 of 4 tokens',
     'row 1, column 0: left after block 1\nscore after block 1: 1.000'),
    ('step=2&patch=0&method=ToMe', '3', '2 of 4 tokens',
     'row 0, column 0: kept to the end'),
])
def test_in_a_browser(page, state, block, left, fate):
    done = subprocess.run([
        BROWSER, '--headless=new', '--no-sandbox', '--disable-gpu',
        '--virtual-time-budget=5000', '--dump-dom', f'file://{page}#{state}'],
        capture_output=True, text=True, timeout=120)
    assert f'id="block">{block}<' in done.stdout
    assert f'id="left">{left} left<' in done.stdout
    told = re.search(r'id="fate"[^>]*>([^<]*)<', done.stdout)[1]
    assert fate in told
