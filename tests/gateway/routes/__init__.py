"""Every route the gateway knows, one file for each family."""

from aiohttp import web

from tests.gateway.routes import (
    annotations,
    apps,
    datasets,
    dpks,
    executions,
    features,
    items,
    metrics,
    models,
    packages,
    projects,
    recipes,
    servers,
    services,
)

_FAMILIES = (
    projects,
    datasets,
    recipes,
    items,
    annotations,
    packages,
    dpks,
    apps,
    models,
    services,
    servers,
    executions,
    features,
    metrics,
)

ROUTES: list[web.RouteDef] = [route for family in _FAMILIES for route in family.routes]
