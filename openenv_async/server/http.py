from openenv_async.engine import Engine


def http_routes(engine: Engine):
    return []
