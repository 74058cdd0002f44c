"""Prune: delete what no snapshot needs, in two phases with a grace between them.

`needs` says what must stay, `plan` what may go, when and where (pure), `prune` carries it out.
"""

from __future__ import annotations

from opskit.operations.pruning.plan import Plan, Where
from opskit.operations.pruning.prune import Limits, Pruned, prune

__all__ = ["Limits", "Plan", "Pruned", "Where", "prune"]
