"""The version. Reading it imports nothing else."""

__version__ = "0.1.0"
