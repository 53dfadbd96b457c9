"""The plugin contract: hook specifications and the frozen types that hooks return.

A plugin imports this package and nothing else of ortforge. What a hook returns is data (frozen dataclasses)
and a few pure functions, so a plugin can be listed, checked and hashed without running it.
"""

from typing import Final

from ortforge.api.backend import (
    Allocator,
    Availability,
    Backend,
    BuildContext,
    BuildContribution,
    Device,
    Gpu,
    Patch,
    PluginEp,
    available,
    unavailable,
)
from ortforge.api.datasets import DatasetSource
from ortforge.api.execution import Executor, Task, TaskOutcome
from ortforge.api.externaldata import ExternalFile, external_files, locate_external
from ortforge.api.extras import Check, CheckContext, CheckOutcome, Command, Metric, Report
from ortforge.api.gitcommand import git, git_address, git_revision
from ortforge.api.passes import Pass, PassJob, PassUse, Trial
from ortforge.api.resolver import FetchContext, Fetched, Resolver, SourceContext, SourceResolver
from ortforge.api.spec import hookimpl, hookspec
from ortforge.errors import BuildError, ConfigurationError, EnvironmentLacksError, FetchError, nearest

__all__ = [
    "OLDEST_PLUGIN_API",
    "PLUGIN_API",
    "Allocator",
    "Availability",
    "Backend",
    "BuildContext",
    "BuildContribution",
    "BuildError",
    "Check",
    "CheckContext",
    "CheckOutcome",
    "Command",
    "ConfigurationError",
    "DatasetSource",
    "Device",
    "EnvironmentLacksError",
    "Executor",
    "ExternalFile",
    "FetchContext",
    "FetchError",
    "Fetched",
    "Gpu",
    "Metric",
    "Pass",
    "PassJob",
    "PassUse",
    "Patch",
    "PluginEp",
    "Report",
    "Resolver",
    "SourceContext",
    "SourceResolver",
    "Task",
    "TaskOutcome",
    "Trial",
    "available",
    "external_files",
    "git",
    "git_address",
    "git_revision",
    "hookimpl",
    "hookspec",
    "locate_external",
    "nearest",
    "unavailable",
]

PLUGIN_API: Final = 1
"""Version of this contract. A plugin may state ``ORTFORGE_PLUGIN_API = 1``; others are refused with a reason."""

OLDEST_PLUGIN_API: Final = 1
"""Oldest contract version that this ortforge still serves."""
