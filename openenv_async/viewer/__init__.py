"""The viewer of runs: episodes of run folders and files, on a local page, in one file, as text.

A *source* is one run or file that is shown (``sources``). Its episodes are rows of an index of
typed columns (``columns``), which the page filters and sorts by itself; an episode's steps are read
when somebody opens it. ``opening`` finds the source of a
path, ``app`` serves the page, ``single_file`` writes it as one HTML file, and
``terminal`` prints tables.
"""

from openenv_async.viewer.app import ViewerServer
from openenv_async.viewer.opening import open_source
from openenv_async.viewer.single_file import write_html
from openenv_async.viewer.sources import EpisodeSource

__all__ = ["EpisodeSource", "ViewerServer", "open_source", "write_html"]
