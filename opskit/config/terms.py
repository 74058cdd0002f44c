"""The words in which `model` says what a key takes: patterns and what they mean to a person, durations, marks.

Marks stand beside a bare type (`Annotated[str, Matches(…)]`) for what it leaves open; `schema` judges by them.
"""

from __future__ import annotations

import re
from datetime import timedelta
from enum import Enum
from typing import Any, NamedTuple

LABEL_PATTERN = r"^[a-z0-9_-]{1,32}$"
TAG_PATTERN = r"^[A-Za-z0-9_.:=+-]{1,64}$"
FINGERPRINT_PATTERN = r"^[0-9A-Fa-f]{40}$"
FILENAME_PATTERN = r"^[^/\x00]{1,200}$"
VARIABLE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
BUCKET_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]$"
PREFIX_PATTERN = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}){0,4}$"
# No '@': a user name or password has no place in an address that messages show.
ENDPOINT_PATTERN = r"^https?://[A-Za-z0-9.\[\]:-]{1,253}(/[A-Za-z0-9._~-]+)*/?$"
REGION_PATTERN = r"^[A-Za-z0-9-]{1,64}$"
ACCOUNT_PATTERN = r"^[0-9]{12}$"
STORAGE_CLASS_PATTERN = r"^[A-Z0-9_]{1,64}$"
KMS_KEY_PATTERN = r"^[A-Za-z0-9:/_-]{1,2048}$"
# No '@', '=' or blank: neither credentials nor a whole connection string.
SERVER_PATTERN = r"^[A-Za-z0-9/_.:%-]{1,255}$"
DATABASE_PATTERN = r"^[^\x00]{1,64}$"
ACCOUNT_NAME_PATTERN = r"^[^\x00-\x1f]{1,128}$"
# No '@' and no '/': neither an account nor a folder, which have keys of their own.
HOST_PATTERN = r"^[A-Za-z0-9:][A-Za-z0-9._:%-]{0,252}$"
SERVER_PATH_PATTERN = r"^[^\x00-\x1f\x7f~][^\x00-\x1f\x7f]{0,999}$"
WEBDAV_PATTERN = r"^https?://[A-Za-z0-9.\[\]:-]{1,253}(/[A-Za-z0-9._~%+=,!$&'()*-]+)*/?$"
AZURE_ACCOUNT_PATTERN = r"^[a-z0-9]{3,24}$"
CONTAINER_PATTERN = r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$"
GCS_BUCKET_PATTERN = r"^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$"
# What a pattern means to a person; `judging` puts it after "expected".
MEANINGS = {
    LABEL_PATTERN: "1 to 32 of a-z, 0-9, _ and -",
    TAG_PATTERN: "1 to 64 of letters, digits and _ . : = + -",
    FINGERPRINT_PATTERN: "a full fingerprint of 40 hexadecimal digits",
    FILENAME_PATTERN: "a file name without '/'",
    VARIABLE_PATTERN: "names of letters, digits and _, not beginning with a digit",
    BUCKET_PATTERN: "the name of a bucket: 3 to 255 of letters, digits, '.', '_' and '-'",
    PREFIX_PATTERN: "1 to 5 parts of letters, digits, '.', '_' and '-', with '/' between them only",
    ENDPOINT_PATTERN: "an address such as https://s3.example.org, without a user name or a bucket",
    REGION_PATTERN: "a region such as eu-central-1",
    ACCOUNT_PATTERN: "the id of an AWS account, 12 digits",
    STORAGE_CLASS_PATTERN: "a storage class such as STANDARD_IA",
    KMS_KEY_PATTERN: "the id, alias or ARN of a key",
    SERVER_PATTERN: "a host name, an address or the folder of a socket",
    DATABASE_PATTERN: "the name of a database",
    ACCOUNT_NAME_PATTERN: "the name of a user",
    HOST_PATTERN: "a host name or an address, without a user name or a path",
    SERVER_PATH_PATTERN: "a path at the server such as /srv/backups, or backups below the login folder",
    AZURE_ACCOUNT_PATTERN: "the name of a storage account: 3 to 24 of a-z and 0-9",
    CONTAINER_PATTERN: "the name of a container: 3 to 63 of a-z, 0-9 and '-'",
    GCS_BUCKET_PATTERN: "the name of a bucket: 3 to 222 of a-z, 0-9, '-', '_' and '.'",
    WEBDAV_PATTERN: "an address such as https://dav.example.org/backups, without a user name",
}
DURATION_PATTERN = r"^[1-9][0-9]{0,5}[smhdw]$"
DURATION_EXAMPLE = "a duration such as 90m, 26h, 30d or 2w"


def without_account(text: str) -> str:
    """An address as messages may show it: without what stands before the last "@", which may hold a password."""
    return re.sub(r"://.*@", "://…@", text, flags=re.DOTALL)


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}  # seconds


class Duration(timedelta):
    """A length of time that shows itself as it was written: `26h` stays `26h`."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read `90m`, `26h`, `30d` or `2w`. Raises ValueError."""
        if not re.fullmatch(DURATION_PATTERN, text):
            raise ValueError(f"expected {DURATION_EXAMPLE}")
        duration = cls(seconds=int(text[:-1]) * _UNITS[text[-1]])
        duration.text = text
        return duration

    def __str__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple[Any, ...]:
        return Duration.parse, (self.text,)


class Matches(NamedTuple):
    """A mark: the text matches this pattern."""

    pattern: str


class Between(NamedTuple):
    """A mark: the number lies between these two, both included."""

    least: int
    most: int


class Rule(Enum):
    """Marks without parameters; `schema` says how each is judged."""

    NOT_EMPTY = "at least one entry or character"
    FILE_NAME = "neither '.' nor '..'"
    FINGERPRINT = "blanks between the digits are dropped, letters become upper case"
    PROGRAM = "words of a command, the first of which is a program"
    PASSES_FILE = "a command with an argument that holds {file}"
    VARIABLES = "a mapping whose keys are names of variables"
    A_DAY_OR_MORE = "a duration of 24 hours at least"
    WHOLE_NUMBER = "a whole number, which true and 1.0 are not"
