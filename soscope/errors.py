"""Errors a user can cause. Each message says what was found, what was expected, and the way out."""


class SoScopeError(Exception):
    """Base of every error that is printed without a traceback."""


class ConfigError(SoScopeError):
    """A setting is unknown, contradicts another, or does not fit this machine."""


class DataError(SoScopeError):
    """An input file or table cannot be used as it is."""


class ModelFileError(SoScopeError):
    """A saved encoder or model does not fit the run that loads it."""


class RunFolderError(SoScopeError):
    """A run folder holds something else than the command asks for."""
