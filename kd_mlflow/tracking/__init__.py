"""All that talks to MLflow: runs, curves, lookup, packaging, the registry, models as teachers."""
