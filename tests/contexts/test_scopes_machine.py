"""Scopes as a state machine: blocks and bindings that end in any order, in copies and threads."""

from __future__ import annotations

import threading
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tenantry import PLATFORM, bind_tenant, current_scope, propagate, reset, tenant
from tenantry.scopes import _left_early
from tests.contexts.scenes import A, B


@dataclass(eq=False)
class Entered:
    """One scope that was entered, by a block or by ``bind_tenant``."""

    is_block: bool
    handle: Any
    scope: Any
    place: Place


@dataclass(eq=False)
class Place:
    """A context, and the scopes that are open in it, by the model: inherited ones first."""

    context: Context
    inherited: list[Any]
    stack: list[Entered] = field(default_factory=list)

    def expected(self) -> Any:
        open_ones = self.inherited + [each.scope for each in self.stack]
        return open_ones[-1] if open_ones else None

    def leave(self, entered: Entered) -> None:
        """Take it out, with the bindings in it; a block that is open, and what is in it, stays."""
        if entered not in self.stack:
            return
        index = self.stack.index(entered)
        above = self.stack[index + 1 :]
        while above and not above[0].is_block:
            above.pop(0)
        self.stack[index:] = above


class Scopes(RuleBasedStateMachine):
    """What is current in each context is what the model says, whatever ends when and where."""

    def __init__(self) -> None:
        super().__init__()
        self.places = [Place(Context(), [])]
        self.entered: list[Entered] = []

    def _choose(self, data: st.DataObject) -> Place:
        return data.draw(st.sampled_from(self.places))

    @rule(
        data=st.data(), tenant_id=st.sampled_from([A, B, PLATFORM, "nobody"]), block=st.booleans()
    )
    def enter(self, data, tenant_id, block):
        place = self._choose(data)
        if block:
            handle = tenant(tenant_id)
            scope = place.context.run(handle.__enter__)
        else:
            handle = place.context.run(bind_tenant, tenant_id)
            scope = place.context.run(current_scope)
        entered = Entered(block, handle, scope, place)
        self.entered.append(entered)
        place.stack.append(entered)

    @rule(data=st.data())
    def leave(self, data):
        if not self.entered:
            return
        entered = data.draw(st.sampled_from(self.entered))
        self._leave(entered, entered.place)

    @rule(data=st.data())
    def leave_elsewhere(self, data):
        if not self.entered:
            return
        entered, place = data.draw(st.sampled_from(self.entered)), self._choose(data)
        if place is not entered.place and place.expected() is not entered.scope:
            before = place.expected()
            if entered.is_block:
                return  # a block's end is where its code is; test_bindings has those
            place.context.run(reset, entered.handle)
            assert place.context.run(current_scope) is before

    def _leave(self, entered: Entered, place: Place) -> None:
        place.leave(entered)
        if entered.is_block:
            place.context.run(entered.handle.__exit__, None, None, None)
            self.entered.remove(entered)
        else:
            place.context.run(reset, entered.handle)  # once more does nothing

    @rule(data=st.data())
    def copy(self, data):
        if len(self.places) < 5:
            place = self._choose(data)
            inherited = [] if place.expected() is None else [place.expected()]
            self.places.append(Place(place.context.copy(), inherited))

    @rule(data=st.data())
    def thread(self, data):
        place = self._choose(data)
        seen = []

        def start() -> None:
            carried = propagate(lambda: seen.append(current_scope()))
            for target in (carried, lambda: seen.append(current_scope())):
                thread = threading.Thread(target=target)
                thread.start()
                thread.join()

        place.context.run(start)
        assert seen == [place.expected(), None]

    @invariant()
    def current_is_what_the_model_says(self):
        for place in self.places:
            assert place.context.run(current_scope) is place.expected()

    def teardown(self):
        for entered in reversed(self.entered):
            self._leave(entered, entered.place)
        for place in self.places:
            assert place.stack == []
        assert copy_context().run(_left_early.get) == ()
        super().teardown()


Scopes.TestCase.settings = settings(deadline=None, max_examples=150, stateful_step_count=40)
TestScopes = Scopes.TestCase
