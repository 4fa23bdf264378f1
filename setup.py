# Copyright (c) mmcropr contributors.
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def get_version() -> str:
    scope: dict = {}
    exec((HERE / 'mmcropr/version.py').read_text(), scope)
    return scope['__version__']


def parse_requirements(name: str) -> list:
    lines = (HERE / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith('#')]


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
    python_requires='>=3.10',
    install_requires=parse_requirements('requirements.txt'),
    extras_require={
        'timm': ['timm>=1.0.20'],
        'digits': ['scikit-learn', 'scikit-image', 'pycocotools'],
        'deploy': ['onnx', 'onnxscript', 'onnxruntime'],
        'tests': ['pytest', 'scikit-learn', 'scikit-image', 'pycocotools'],
    },
    classifiers=[
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ])
