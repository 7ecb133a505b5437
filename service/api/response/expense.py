"""Which fields make a request too expensive, and which values are allowed."""

from collections.abc import Mapping

from service.api.order import Kind, Order
from service.api.request.schemas import GenerateRequest
from service.errors import FieldProblem, TooExpensive

#: The field that sets the number of pictures.
_COUNTED: Mapping[Kind, str] = {
    "generation": "n",
    "interpolation": "frames",
    "encoding": "image",
    "latent-map": "across",
}


def with_fields(rejection: TooExpensive, order: Order) -> TooExpensive:
    """``rejection`` with the fields of ``order`` that are too large, and for each the largest value that is enough."""
    share = rejection.limit_s / rejection.price_s
    count, row = len(order.rows), order.rows[0]
    field = _COUNTED[order.kind]
    if isinstance(order.asked, GenerateRequest) and order.asked.seeds is not None:
        field = "seeds"
    problems = []
    if count > 1:
        most = int(count * share)
        problems.append(
            FieldProblem(f"#/{field}", f"{count} pictures are too many", f"up to {most}" if most else "fewer")
        )
    if row.plan.steps > 1:
        most = int(row.plan.steps * share)
        allowed = f"up to {most}" if most else "fewer"
        problems.append(FieldProblem("#/steps", f"{row.plan.steps} steps for each picture are too many", allowed))
    if row.weight > 1:
        problems.append(
            FieldProblem("#/guidance_scale", "doubles the cost of every step", "1, which disables guidance")
        )
    if row.size is not None and order.parts[-1].pixels > 1:
        height, width = row.size
        problems.append(
            FieldProblem("#/width", f"{width} x {height} pixels cost more than the model's own size", "less")
        )
    return TooExpensive(rejection.price_s, rejection.limit_s, problems)
