"""Ship conf/ inside the package; everything else about the build is in pyproject.toml."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["beacon_lit*"]), "beacon_lit.conf"], package_dir={"beacon_lit.conf": "conf"})
