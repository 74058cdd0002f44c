"""The configuration: one schema (`model`), read from YAML with exact positions (`load`), written back (`render`).

This file stays empty of imports: pydantic and yaml load only when a config is really judged (`judging`, `schema`).
"""
