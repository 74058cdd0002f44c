"""What `opskit init` does: the config side of it, over operations.

`wishes` is what was asked for and whether it can be meant, `places` what the file system says about it, `initialise`
makes a host that can back up, `rebuild` brings a lost one back, `drill_host` makes one that only restores.
"""

from __future__ import annotations

from opskit.setup.drill_host import DrillWishes
from opskit.setup.initialise import Done, check, config_path, initialise, state_path
from opskit.setup.rebuild import Rebuilt, rebuild
from opskit.setup.wishes import Wishes

__all__ = ["Done", "DrillWishes", "Rebuilt", "Wishes", "check", "config_path", "initialise", "rebuild", "state_path"]
