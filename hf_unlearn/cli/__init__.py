"""Flags and recipes to settings, one job for each command, errors to exit codes."""

from .main import main

__all__ = ["main"]
