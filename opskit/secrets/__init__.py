"""Secrets: references to them (`reference`) and the places where they lie (`stores`)."""
