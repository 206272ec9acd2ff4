"""Stands before the real numpy on the path of every service that the tests start."""

raise ImportError("the service must not import numpy")
