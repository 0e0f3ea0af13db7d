"""The group ``tuned``: published settings of single pairs. Hydra imports this at every start."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from kdbench.config.tuned import TunedSource, add_sources

__all__ = ["PublishedSettings", "TunedSource"]  # Hydra registers both


class PublishedSettings(SearchPathPlugin):
    """Adds the settings of each config folder that has some: see ``kdbench.config.tuned``."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra before ``--config-dir`` is added."""
        add_sources(search_path)
