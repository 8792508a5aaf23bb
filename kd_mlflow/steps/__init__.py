"""The steps of the straight line, each taking a configuration and leaving runs."""
