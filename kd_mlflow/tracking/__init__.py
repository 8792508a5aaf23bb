"""Runs on MLflow's stores: written with patience, found again; curves, data sets, failures."""
