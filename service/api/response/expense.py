"""Which fields make a request too expensive, and what they may be."""

from collections.abc import Mapping

from service.api.order import Kind, Order
from service.api.request.schemas import GenerateRequest
from service.errors import FieldProblem, TooExpensive

#: What says how many pictures there are.
_COUNTED: Mapping[Kind, str] = {
    "generation": "n",
    "interpolation": "frames",
    "encoding": "image",
    "latent-map": "across",
}


def named(refusal: TooExpensive, order: Order) -> TooExpensive:
    """``refusal`` of ``order`` with the fields that would have to be smaller, each alone where that is possible."""
    share = refusal.limit_s / refusal.price_s
    count, row = len(order.rows), order.rows[0]
    field = _COUNTED[order.kind]
    if isinstance(order.asked, GenerateRequest) and order.asked.seeds is not None:
        field = "seeds"
    problems = []
    if count > 1:
        most = int(count * share)
        problems.append(FieldProblem(f"#/{field}", f"asks for {count} pictures", f"up to {most}" if most else "fewer"))
    if row.plan.steps > 1:
        most = int(row.plan.steps * share)
        allowed = f"up to {most}" if most else "fewer"
        problems.append(FieldProblem("#/steps", f"asks for {row.plan.steps} steps of each", allowed))
    if row.weight > 1:
        problems.append(FieldProblem("#/guidance_scale", "computes every step twice", "1, which is no guidance"))
    return TooExpensive(refusal.price_s, refusal.limit_s, problems)
