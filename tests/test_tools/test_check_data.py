# Copyright (c) mmcropr contributors.
import shutil

import pytest

from tests.utils import load_tool, tiny_digits_config


@pytest.fixture
def tool():
    return load_tool('check_data.py')


@pytest.fixture
def config(digits, tmp_path, monkeypatch):
    """File of a config over a copy of the scenes, given to the tool."""
    shutil.copytree(digits, tmp_path / 'digits')
    file = tmp_path / 'config.py'
    tiny_digits_config(tmp_path / 'digits', tmp_path / 'run').dump(str(file))
    monkeypatch.setattr('sys.argv', ['check_data.py', str(file)])
    return file


def test_sound_data(tool, config, capsys):
    tool.main()
    text = capsys.readouterr().out
    assert 'train: nothing wrong found' in text and '16/16' in text


def test_defects_are_counted(tool, config, capsys):
    for name in ('000001.png', '000002.png'):
        (config.parent / 'digits/images/train' / name).write_bytes(b'x')
    with pytest.raises(SystemExit) as stop:
        tool.main()
    assert stop.value.code == 1
    assert '2 unreadable files: ' in capsys.readouterr().out


def test_interrupted(tool, config, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(tool, 'scan', interrupt)
    with pytest.raises(SystemExit, match='not every file was looked at'):
        tool.main()


def test_unknown_loader(tool, config, monkeypatch):
    monkeypatch.setattr('sys.argv', [
        'check_data.py', str(config), '--loader', 'test', '--cfg-options',
        'test_dataloader=None'])
    with pytest.raises(SystemExit):
        tool.main()
