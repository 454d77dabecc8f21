from importlib import import_module

from gevent import monkey

monkey.patch_all()  # gunicorn patches only in the workers, which is too late for modules loaded before the fork

worker_class = "gevent"
preload_app = True
graceful_timeout = 5


def worker_exit(server, worker):
    module, _, _ = worker.app.app_uri.partition(":")
    import_module(module).client.close(drain=1.0)
