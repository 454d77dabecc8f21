"""Views that use the session and the cache."""

from django.conf import settings
from django.core.cache import cache
from django.http import HttpResponse
from django.views.decorators.cache import cache_page

from pegasus_green import PegasusError, shared_client


def visits(request):
    request.session["visits"] = request.session.get("visits", 0) + 1
    return HttpResponse(f"visit {request.session['visits']}")


@cache_page(60)
def page(request):
    return HttpResponse("a page that is hard to make")


def hits(request):
    try:
        cache.add("hits", 0, timeout=None)
        return HttpResponse(f"hit {cache.incr('hits')}")
    except PegasusError as error:
        if not error.outcome_unknown:
            raise
        # A server died during add or incr: this hit was counted once or not at all. Do not count it again.
        return HttpResponse(f"about hit {cache.get('hits')}")


def health(request):
    try:
        seconds = shared_client(settings.CACHES["default"]["LOCATION"]).ping(timeout=1.0)
    except PegasusError as error:
        return HttpResponse(str(error), status=503)
    return HttpResponse(f"the cluster answers in {seconds * 1000:.1f} ms")
