"""HTTP/1.1 for one ASGI application, on raw sockets: no client can stall, fill or confuse it."""
