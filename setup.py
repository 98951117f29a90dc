"""Everything about the package is said in settings.ini; this hands it to setuptools."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=['='])
config.read('settings.ini', encoding='utf-8')
cfg = config['DEFAULT']

LICENSES = {'apache2': 'Apache-2.0'}
STATUSES = [
    '1 - Planning',
    '2 - Pre-Alpha',
    '3 - Alpha',
    '4 - Beta',
    '5 - Production/Stable',
    '6 - Mature',
    '7 - Inactive',
]
minor = int(cfg['min_python'].split('.')[1])
pythons = [f'3.{m}' for m in range(minor, 14)]  # tested up to 3.13
extras = {key.removesuffix('_requirements'): cfg[key].split() for key in cfg if key.endswith('_requirements')}
own = extras.pop('dev')
extras['all'] = sorted({need for key in extras.keys() - {'vllm'} for need in extras[key]})
extras['dev'] = sorted({need for key in extras.keys() - {'all', 'bench', 'vllm'} for need in extras[key]} | set(own))

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    license=LICENSES[cfg['license']],
    description=cfg['description'],
    keywords=cfg['keywords'],
    url=cfg['git_url'],
    author=cfg['author'],
    author_email=cfg['author_email'],
    long_description=Path('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    classifiers=[
        f'Development Status :: {STATUSES[int(cfg["status"]) - 1]}',
        'Intended Audience :: Science/Research',
        f'Natural Language :: {cfg["language"]}',
        *(f'Programming Language :: Python :: {p}' for p in pythons),
    ],
    python_requires=f'>={cfg["min_python"]}',
    install_requires=cfg['requirements'].split(),
    extras_require=extras,
    # the experiment notebooks of nbs/experiments travel inside the package: `tracenb run` works outside a checkout
    packages=[*find_packages(include=['tracenb', 'tracenb.*']), 'tracenb.experiments'],
    package_dir={'tracenb': 'tracenb', 'tracenb.experiments': 'nbs/experiments'},
    package_data={'': ['templates/*', 'page/*', '*.yaml', 'grids/*.yaml', '*.js'], 'tracenb.experiments': ['*.ipynb']},
    include_package_data=False,
    entry_points={
        'console_scripts': cfg['console_scripts'].split(),
        'nbdev': [f'{cfg["lib_path"]}={cfg["lib_path"]}._modidx:d'],
    },
    zip_safe=False,
)
