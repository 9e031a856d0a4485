"""The session of the SDK, which reads the credentials."""

from contextlib import asynccontextmanager


@asynccontextmanager
async def session():
    yield
