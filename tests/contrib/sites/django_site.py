"""A Django project in one file with one client, which every thread of the server uses.

``python django_site.py runserver --noreload`` serves it with a thread for each connection.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpResponse
from django.urls import path

from pegasus_green import open_table

table = open_table(os.environ["PEGASUS_URL"])


def visit(request: Any) -> Any:
    """Store a value, read it back and count the visit; return whether the value was right."""
    name = f"visitor {threading.get_native_id()}"
    table.set(name, "name", name)
    table.incr("page", "visits")
    time.sleep(float(request.GET.get("pause", 0)))
    return HttpResponse(str(table.get(name, "name") == name.encode()))


def descriptors(_request: Any) -> Any:
    """Return how many descriptors this process has open."""
    return HttpResponse(str(len(os.listdir("/proc/self/fd"))))


urlpatterns = [path("visit", visit), path("descriptors", descriptors)]

if __name__ == "__main__":
    settings.configure(ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__, SECRET_KEY="of a test")
    execute_from_command_line(sys.argv)
