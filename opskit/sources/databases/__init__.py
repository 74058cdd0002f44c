"""Databases as sources: servers, whose client programs write dumps, and files of SQLite, which are copied.

`dumps` is a Source for whatever client of a server `postgresql` and `mariadb` describe to it; `sqlite` stands alone.
"""
