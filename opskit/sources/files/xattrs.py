"""Extended attributes of files, links and folders.

ACLs (`system.posix_acl_access`, `system.posix_acl_default`) and capabilities (`security.capability`)
are extended attributes and come with them, and so does `security.selinux`: a restore to a host with
another policy may have to leave it out, but it cannot invent it. Attributes this user may not see
(`trusted.*` without root) are not listed by the kernel and so not recorded. Inode flags (chattr) are not read.
"""

from __future__ import annotations

import errno
import os


def read_xattrs(file: int | bytes) -> dict[bytes, bytes]:
    """Extended attributes of a descriptor or of a path (not following a link); one system call where there are none.

    Raises OSError; an attribute which vanishes between listing and reading is left out.
    """
    follow = isinstance(file, int)
    names = os.listxattr(file, follow_symlinks=follow)
    values: dict[bytes, bytes] = {}
    for name in names:
        try:
            values[os.fsencode(name)] = os.getxattr(file, name, follow_symlinks=follow)
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
    return values
