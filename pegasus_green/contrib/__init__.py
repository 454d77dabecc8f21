"""Backends for frameworks. Each module here serves one framework and imports no other framework.

===================  ===================================================================  =======================
module               content                                                              extra
===================  ===================================================================  =======================
``django``           cache backend, and sessions through it                               ``[django]``
``cachelib``         cache for cachelib, Flask-Session and Flask-Caching                  ``[cachelib]``
``dogpile``          ``dogpile.cache`` backend with a distributed lock                    ``[dogpile]``
``celery``           result backend                                                       ``[celery]``
``limits``           storage of ``limits`` and Flask-Limiter                              ``[limits]``
``prometheus``       metrics                                                              ``[prometheus]``
``opentelemetry``    spans and metrics                                                    ``[opentelemetry]``
``locust``           a User whose calls are requests in Locust's statistics               ``[locust]``
``requests_cache``   backend of ``requests-cache``                                        ``[requests-cache]``
===================  ===================================================================  =======================

The import of a module connects to nothing, and registers only what its framework needs. It patches nothing, except that
the import of ``locust`` imports Locust, which calls ``gevent.monkey.patch_all()``.
"""
