# Copyright (c) mmcropr contributors.
import os
import shutil
from pathlib import Path
from typing import Dict, List

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

try:
    from setuptools.command.develop import develop
except ImportError:  # setuptools is about to remove it
    develop = object

HERE = Path(__file__).resolve().parent
# What openmim and mmengine look for beside the code, in mmcropr/.mim
MIM = ('configs', 'tools', 'demo', 'model-index.yml')


def get_version() -> str:
    scope: dict = {}
    exec((HERE / 'mmcropr/version.py').read_text(), scope)
    return scope['__version__']


def parse_requirements(name: str) -> List[str]:
    """Requirements in a file of requirements/, comments left out."""
    lines = (HERE / f'requirements/{name}.txt').read_text().splitlines()
    lines = [line.split('#')[0].strip() for line in lines]
    return [line for line in lines if line]


def parse_extras() -> Dict[str, List[str]]:
    """Extras named by the comments of requirements/optional.txt, and those
    that are files."""
    extras: Dict[str, List[str]] = {}
    text = (HERE / 'requirements/optional.txt').read_text()
    for line in text.splitlines():
        if not line.startswith('#'):
            requirement, extra = line.split('  # ')
            extras.setdefault(extra, []).append(requirement)
    return dict(
        extras,
        tests=parse_requirements('tests'),
        docs=parse_requirements('docs'))


def add_mim(package: Path, links: bool) -> None:
    """Put configs and tools beside the code: as files, or as links into the
    folders that are worked on."""
    target = package / '.mim'
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in MIM:
        source = HERE / name
        if links:
            (target / name).symlink_to(os.path.relpath(source, target))
        elif source.is_dir():
            shutil.copytree(
                source,
                target / name,
                ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy(source, target / name)


class BuildWithMim(build_py):
    """Of a wheel, or of an editable installation."""

    def run(self) -> None:
        super().run()
        links = getattr(self, 'editable_mode', False)
        root = HERE if links else Path(self.build_lib)
        add_mim(root / 'mmcropr', links)


class DevelopWithMim(develop):
    """What some versions of pip run for an editable installation."""

    def run(self) -> None:
        super().run()
        add_mim(HERE / 'mmcropr', True)


COMMANDS = {'build_py': BuildWithMim}
if develop is not object:
    COMMANDS['develop'] = DevelopWithMim

setup(
    name='mmcropr',
    version=get_version(),
    description='Token reduction for Vision Transformers in OpenMMLab: '
    'faster segmentation and detection at nearly the same accuracy',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='mmcropr contributors',
    license='Apache-2.0',
    packages=find_packages(include=['mmcropr', 'mmcropr.*']),
    package_data={'mmcropr.visualization': ['explorer.html']},
    cmdclass=COMMANDS,
    python_requires='>=3.10',
    install_requires=parse_requirements('runtime'),
    extras_require=parse_extras(),
    classifiers=[
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ])
