"""What reports and gates must say alike: groups of measures and the tolerance of a proof.

Nothing is computed here, so that the graph can name its gates without loading what computes them.
"""

from __future__ import annotations

NO_CHAMPION = "none"
"""Group of the measure `champion` while nothing is released."""

ALL_NUMBERS = "all numeric features"
"""What noise is added to at once."""

ADDITIVITY_TOLERANCE = 1e-3
"""How far contributions may be from adding up to the margin.

Margins are float32 sums over hundreds of trees.
"""
