"""A code location with the tiny pipeline alone, for Dagster's own processes in tests."""

from pipelines.definitions import build_definitions, platform_resources
from resources.settings import settings
from tests.support.tiny import tiny

defs = build_definitions([tiny], platform_resources(settings()))
