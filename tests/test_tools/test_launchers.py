# Copyright (c) mmcropr contributors.
"""The shell scripts, with stand-ins for torchrun's Python and for srun."""
import os
import shutil
import subprocess

import pytest

from tests.utils import ROOT


@pytest.mark.parametrize('name, args, files, launcher', [
    ('dist_train.sh', ['a cfg.py', '2'], ['a cfg.py'], 'pytorch'),
    ('dist_test.sh', ['a cfg.py', 'a b.pth', '2'], ['a cfg.py', 'a b.pth'],
     'pytorch'),
    ('slurm_train.sh', ['part', 'my job', 'a cfg.py'], ['a cfg.py'], 'slurm'),
    ('slurm_test.sh', ['part', 'my job', 'a cfg.py', 'a b.pth'],
     ['a cfg.py', 'a b.pth'], 'slurm'),
])
def test_paths_with_spaces(name, args, files, launcher, tmp_path):
    tools, stand_ins = tmp_path / 'my code/tools', tmp_path / 'bin'
    tools.mkdir(parents=True)
    stand_ins.mkdir()
    shutil.copy(ROOT / 'tools' / name, tools)
    for command in ('python', 'srun'):
        (stand_ins / command).write_text(
            '#!/bin/sh\necho "$PYTHONPATH"\nprintf "%s\\n" "$@"\n')
        (stand_ins / command).chmod(0o755)
    env = dict(os.environ, PYTHONPATH='',
               PATH=f'{stand_ins}{os.pathsep}{os.environ["PATH"]}')
    option = ['--work-dir', 'my runs/1']
    done = subprocess.run(['bash', str(tools / name), *args, *option],
                          capture_output=True, text=True, env=env)
    path, *given = done.stdout.splitlines()
    script = name.split('_')[1].replace('.sh', '.py')
    assert done.returncode == 0, done.stderr
    assert path == f'{tools}/..:'
    assert given[given.index(f'{tools}/{script}') + 1:] == [
        *files, '--launcher', launcher, *option]
