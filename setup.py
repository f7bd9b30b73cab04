"Hands the facts of `settings.ini` to setuptools"
from configparser import ConfigParser
from setuptools import setup

ini = ConfigParser(delimiters=['='])
ini.read('settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
extras = {k.removesuffix('_requirements'): v.split() for k,v in cfg.items() if k.endswith('_requirements')}
setup(install_requires=cfg['requirements'].split(), extras_require=extras, keywords=cfg['keywords'].split(),
    python_requires=f">={cfg['min_python']}", license_expression=cfg['license'],
    entry_points={'console_scripts': cfg['console_scripts'].splitlines(), 'nbdev': ['mnist_fast = mnist_fast._modidx:d']})
