"""Passwords of MariaDB and MySQL: two accounts in turn (`alternating`), or two passwords of one account (`dual`).

Each kind suits one server only: MySQL keeps an old password beside a new one, MariaDB does not.
"""
