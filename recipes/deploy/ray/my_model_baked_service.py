"""my-model-baked on Ray Serve: `serve run my_model_baked_service:app`, with every route of `graphsurgery serve`."""

from graphsurgery.serving.ray_serve import make_deployment

app = make_deployment(
    "/srv/models/my-model-baked",
    name="my-model-baked",
    replicas=1,
    processors=2,
)
