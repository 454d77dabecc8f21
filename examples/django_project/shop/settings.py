"""Settings of a project that stores its cache and its sessions in Pegasus and has no other database.

pip install django gunicorn
cd examples/django_project
PEGASUS_URL=pegasus://127.0.0.1:34601/temp gunicorn -k gevent -w 2 shop.wsgi
"""

import os

SECRET_KEY = os.environ.get("SECRET_KEY", "only for trying it out")
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
USE_TZ = True

CACHES = {
    "default": {
        "BACKEND": "pegasus_green.contrib.django.PegasusCache",
        "LOCATION": os.environ.get("PEGASUS_URL", "pegasus://127.0.0.1:34601/temp?timeout=5"),
        "KEY_PREFIX": "shop",
    },
}
SESSION_ENGINE = "django.contrib.sessions.backends.cache"
# The session is JSON inside the pickle of the cache.
SESSION_SERIALIZER = "django.contrib.sessions.serializers.JSONSerializer"
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
# Without this, Django logs the traceback of a failed view only in debug mode.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}
