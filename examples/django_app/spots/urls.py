from django.urls import path

from spots import views

urlpatterns = [path("", views.spot), path("health/", views.health)]
