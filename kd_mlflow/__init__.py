"""Distil an ensemble into one small student, tracked and registered in MLflow."""

__version__ = "0.1.0"
