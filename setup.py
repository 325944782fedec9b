"""Package of CYBORGS, which also carries its configs and tools for MIM."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.develop import develop
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
PACKAGE = 'cyborgs_plugin'
# mim and mmengine look for these in `<package>/.mim`.
MIM_PARTS = ('configs', 'tools', 'model-index.yml')


def read_version():
    """Read the version without importing the package."""
    text = (ROOT / PACKAGE / 'version.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '(.+)'$", text, re.M).group(1)


def read_readme():
    """Read the description, if there is one."""
    path = ROOT / 'README.md'
    return path.read_text(encoding='utf-8') if path.is_file() else ''


def read_requirements(name):
    """Read the requirements of one file in ``requirements/``."""
    text = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8')
    lines = (line.split('#')[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def copy_mim(package):
    """Copy configs, tools and model index into a package that is built."""
    mim = Path(package) / '.mim'
    shutil.rmtree(mim, ignore_errors=True)
    mim.mkdir(parents=True)
    ignore = shutil.ignore_patterns('__pycache__', '*.py[cod]',
                                    'setup_env.sh')
    for part in MIM_PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, mim / part, ignore=ignore)
        else:
            shutil.copy2(source, mim / part)


def link_mim():
    """Link configs, tools and model index into the package of a checkout."""
    mim = ROOT / PACKAGE / '.mim'
    if mim.is_symlink() or mim.is_file():
        mim.unlink()
    shutil.rmtree(mim, ignore_errors=True)
    mim.mkdir()
    for part in MIM_PARTS:
        (mim / part).symlink_to(Path('..', '..', part))


class BuildPy(build_py):
    """Add ``.mim``: copies to a wheel, links to an editable install."""

    def run(self):
        """Build, then add."""
        super().run()
        # `pip install -e` runs this command too, in place.
        if getattr(self, 'editable_mode', False):
            link_mim()
        else:
            copy_mim(Path(self.build_lib) / PACKAGE)


class Develop(develop):
    """Add ``.mim`` where an old pip or setuptools uses this command."""

    def run(self):
        """Link, then install."""
        link_mim()
        super().run()


class SDist(sdist):
    """Add ``.mim`` to the source package."""

    def make_release_tree(self, base_dir, files):
        """Lay out the files, then add."""
        super().make_release_tree(base_dir, files)
        copy_mim(Path(base_dir) / PACKAGE)


setup(
    name=PACKAGE,
    version=read_version(),
    description='CYBORGS: self-supervised pretraining on scene images by '
    'contrasting regions that the network segments itself; a plugin for '
    'MMPreTrain',
    long_description=read_readme(),
    long_description_content_type='text/markdown',
    author='CYBORGS plugin contributors',
    project_urls={'Paper': 'https://arxiv.org/abs/2203.09343'},
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords='computer vision, self-supervised learning, representation '
    'learning, unsupervised segmentation, object detection',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    packages=find_packages(include=[f'{PACKAGE}*']),
    package_data={PACKAGE: ['py.typed', 'visualization/pages/*']},
    entry_points=dict(
        console_scripts=[f'cyborgs={PACKAGE}.__main__:main']),
    python_requires='>=3.10',
    # Neither family of OpenMMLab packages: see the extras and version.py.
    install_requires=read_requirements('runtime'),
    extras_require={
        'onedl': read_requirements('onedl'),
        'openmmlab': read_requirements('openmmlab'),
        'transfer': read_requirements('transfer'),
        'transfer-openmmlab': read_requirements('transfer-openmmlab'),
        'segmentation': read_requirements('segmentation'),
        'segmentation-openmmlab': read_requirements('segmentation-openmmlab'),
        'heif': read_requirements('heif'),
        'http': read_requirements('http'),
        's3': read_requirements('s3'),
        'gcs': read_requirements('gcs'),
        'dev': read_requirements('dev'),
        'browser': read_requirements('browser'),
    },
    cmdclass={
        'build_py': BuildPy,
        'develop': Develop,
        'sdist': SDist,
    },
    zip_safe=False,
)
