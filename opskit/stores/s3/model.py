"""Botocore's own description of S3, found and read in half the time: it is read at every start.

botocore looks through the folders of four hundred services to learn that there is one named s3 (20 ms), and keeps the
order of JSON objects in the way of old Pythons (12 ms). What is read, and from where, is botocore's business as before:
`AWS_DATA_PATH` and `~/.aws/models` count.
"""

from __future__ import annotations

import gzip
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from botocore.loaders import JSONFileLoader, Loader


class Model(Loader):
    """Finds descriptions of S3 alone; `data_path` are more folders to look in, as `AWS_DATA_PATH` names them."""

    def __init__(self, data_path: str | None) -> None:
        paths = [os.path.expanduser(os.path.expandvars(each)) for each in (data_path or "").split(os.pathsep) if each]
        super().__init__(extra_search_paths=paths, file_loader=_Files())

    def list_available_services(self, type_name: str) -> list[str]:
        """The services that a client may be made for."""
        return ["s3"]


class _Files(JSONFileLoader):
    """Reads JSON files, packed ones too; their names are given without the ending that tells the two apart."""

    def load_file(self, file_path: str) -> Any:
        """What a file holds, None where there is none."""
        with suppress(FileNotFoundError):
            return json.loads(Path(f"{file_path}.json").read_bytes())
        with suppress(FileNotFoundError):
            return json.loads(gzip.decompress(Path(f"{file_path}.json.gz").read_bytes()))
        return None
