"""What a user can cause: each message states the rule, the value received and the way out."""


class KDError(Exception):
    """Root of every error that the command line prints as one line and exit code 1."""


class ConfigError(KDError):
    """An option has a value that no run could use."""


class DataError(KDError):
    """A table cannot be read, split or encoded."""


class TrainingError(KDError):
    """Training produced numbers that cannot be used."""


class RunError(KDError):
    """A tracked run does not exist or is not what a step needs."""


class RegistryError(KDError):
    """A registered model or version does not exist, or cannot be moved as asked."""


class ClusterError(KDError):
    """A Dask cluster cannot be reached or cannot do the work."""
