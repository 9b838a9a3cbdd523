"""A small provider plugin `kubernetes` for tests where the official one is not on PATH.

It does with objects what the official provider 4.x does by default: server-side apply, dry runs in previews, waiting
until an object is ready, replacing what cannot be changed, deleting until it is gone. It knows nothing but objects.
"""
