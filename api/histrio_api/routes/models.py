"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from histrio.config.model_kind import TASKS
from histrio_api.http.response import Response
from histrio_api.http.routing import get
from histrio_api.routes.auth import ANY_KEY
from histrio_api.routes.common import HttpRequest, json_response, may_see_model
from histrio_api.routes.described import described
from histrio_api.schemas.models import ModelCard
from histrio_api.shared.edge import Edge

__all__ = ["list_models", "show_model"]


@get("/v1/models", opt=ANY_KEY)
async def list_models(request: HttpRequest) -> Response:
    """The one model that is served, if the key may use it."""
    edge = request.state
    return json_response({"object": "list", "data": [_card(edge)] if may_see_model(request) else []})


@get("/v1/models/{model_id:path}", opt=described(answers=ModelCard))
async def show_model(request: HttpRequest) -> Response:
    """One model; hub ids have a slash in them."""
    edge = request.state
    edge.require_id(request.path_params["model_id"])
    return json_response(_card(edge))


def _card(edge: Edge) -> ModelCard:
    model = edge.gateway.model
    tasks = [task for task in TASKS[model.kind] if task == "generate" or model.honours.pooling]
    return ModelCard(model.id, model.created, model.max_sequence_length, model.kind, tasks)
