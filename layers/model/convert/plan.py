"""What is to be made of a frozen graph: its logits, and its head where maps can be had."""

from typing import Any, NamedTuple

from convert import anatomy, graph, head


class Plan(NamedTuple):
    """A graph, its output, and its head; or why it has none that maps can be made for."""

    frozen: graph.Frozen
    opened: graph.Opened
    answer: anatomy.Output
    head: head.Head | None
    why: str

    @property
    def logits(self) -> Any:
        """The tensor of the logits; the output itself where they cannot be told from it."""
        return self.opened.graph.get_tensor_by_name(self.answer.logits or self.frozen.output)


def draw(frozen: graph.Frozen, opaque: bool = False) -> Plan:
    """Find the output and the head of a frozen graph.

    *opaque*: its probabilities were found to be made by no plain softmax.
    """
    opened = graph.read(frozen)
    answer = anatomy.output(opened)
    if opaque or answer.logits is None:
        answer = answer._replace(kind="softmax", logits=None)
        return Plan(frozen, opened, answer, None, "its output is made by no plain softmax")
    try:
        found = head.find(opened, opened.graph.get_tensor_by_name(answer.logits))
    except head.Unknown as error:
        return Plan(frozen, opened, answer, None, str(error))
    return Plan(frozen, opened, answer, found, "")
