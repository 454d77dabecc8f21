from gevent import monkey

monkey.patch_all()  # gunicorn itself patches in the workers, which is late for what is loaded before the fork

worker_class = "gevent"
workers = 2
preload_app = True
graceful_timeout = 5


def worker_exit(server, worker):
    from tests.kerberos.gunicorn_app import client

    client.close(drain=1.0)
