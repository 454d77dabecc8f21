"""The URLs of the pages."""

from django.urls import path

from . import views

urlpatterns = [
    path("visits", views.visits),
    path("page", views.page),
    path("hits", views.hits),
    path("health", views.health),
]
