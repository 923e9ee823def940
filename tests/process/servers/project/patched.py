"""A gunicorn.conf.py for gevent with ``--preload``: what the master imports is patched, too."""

from gevent import monkey

monkey.patch_all()
