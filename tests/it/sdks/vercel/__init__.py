"""Stands in for vercel: the calls that examples/on_vercel.py makes, on this machine."""
