"""Backends for frameworks: each module here serves one framework and imports only that one.

===================  ===================================================================  =======================
module               what it is                                                           extra
===================  ===================================================================  =======================
``django``           cache backend, and sessions through it                               ``[django]``
``cachelib``         cache for cachelib, Flask-Session and Flask-Caching                  ``[cachelib]``
``dogpile``          ``dogpile.cache`` backend with a distributed lock                    ``[dogpile]``
``celery``           result backend                                                       ``[celery]``
``limits``           storage of ``limits`` and Flask-Limiter                              ``[limits]``
``prometheus``       metrics                                                              ``[prometheus]``
``opentelemetry``    spans and metrics                                                    ``[opentelemetry]``
``locust``           a User whose calls are reported as requests                          ``[locust]``
``requests_cache``   backend of ``requests-cache``                                        ``[requests-cache]``
===================  ===================================================================  =======================

Importing a module patches nothing, connects to nothing and registers nothing beyond what its framework asks for.
"""
