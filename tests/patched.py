"""Patched mode: `python -m pytest -p tests.patched` patches before pytest loads a conftest, a test, another plugin."""

from gevent import monkey

monkey.patch_all()
