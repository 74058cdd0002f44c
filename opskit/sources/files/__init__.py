"""Files and folders as a source: the walk (source), what it leaves out (excludes), and how it reaches things (folders).

`FileSource` is all that others use. Nothing in here writes, or follows a symbolic link below a source path.
"""

from opskit.sources.files.source import FileSource

__all__ = ["FileSource"]
