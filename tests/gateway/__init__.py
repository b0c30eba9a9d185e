"""A local Dataloop: a small server on loopback that the unmodified SDK talks to over HTTP."""

from tests.gateway.server import Gateway

__all__ = ["Gateway"]
