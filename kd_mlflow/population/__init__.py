"""Populations: networks of one architecture trained side by side. Tensors only.

Knows no table, option or run.
"""
