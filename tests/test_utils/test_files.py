# Copyright (c) mmcropr contributors.
import os
import signal

import pytest

from mmcropr.utils.files import claim_folder, written_whole


def test_file_appears_whole(tmp_path):
    dst = tmp_path / 'new/x'
    with written_whole(dst) as part:
        part.write_text('a')
        assert not dst.exists()
    assert [p.name for p in dst.parent.iterdir()] == ['x']
    assert dst.read_text() == 'a'


@pytest.mark.parametrize('folder', [True, False])
@pytest.mark.parametrize('end', [ValueError, KeyboardInterrupt, 'SIGTERM'])
def test_nothing_is_left(tmp_path, end, folder):
    old = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit if end == 'SIGTERM' else end):
        with written_whole(tmp_path / 'x') as part:
            if folder:
                part.mkdir()
                part = part / 'y'
            part.write_text('a')
            if end == 'SIGTERM':
                os.kill(os.getpid(), signal.SIGTERM)
            raise end
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is old


def test_one_run_in_a_folder(tmp_path):
    first = claim_folder(tmp_path / 'run')
    with pytest.raises(ValueError, match='another run is writing to .*run'):
        claim_folder(tmp_path / 'run')
    first.close()
    claim_folder(tmp_path / 'run').close()
