"""The tree of errors: what callers may catch them as."""

from __future__ import annotations

import inspect
import pickle

import pytest

from tenantry import exceptions
from tenantry.exceptions import InvalidEvent, MissingExtra, TenantryError

ERRORS = {
    name: error
    for name, error in vars(exceptions).items()
    if inspect.isclass(error) and issubclass(error, TenantryError)
}


def test_all_derive_from_one_root():
    defined = {n for n, e in vars(exceptions).items() if inspect.isclass(e)}
    assert defined == set(ERRORS)


@pytest.mark.parametrize("name", [name for name in ERRORS if name != "TenantryError"])
def test_each_is_also_the_builtin_that_a_reader_expects(name):
    ours = {TenantryError, *ERRORS.values()}
    builtin = [base for base in ERRORS[name].__mro__ if base not in ours]
    assert builtin[0] not in (Exception, BaseException, object)


@pytest.mark.parametrize("name", ERRORS)
def test_each_is_in_the_tree_of_the_docstring(name):
    assert f" {name}" in exceptions.__doc__ or f"    {name}" in exceptions.__doc__


def test_missing_extra_says_what_to_install():
    error = MissingExtra("the command line", "cli")
    assert str(error) == (
        "the command line needs the extra 'cli', which is not installed. Install it with: "
        "pip install 'tenantry[cli]'"
    )
    assert (error.feature, error.extra) == ("the command line", "cli")


def test_invalid_event_keeps_reason_and_detail():
    error = InvalidEvent("x: bad", reason="too_large")
    assert (str(error), error.reason, error.detail) == ("x: bad", "too_large", "x: bad")


@pytest.mark.parametrize("name", [name for name in ERRORS if name != "MissingExtra"])
def test_errors_survive_a_process_boundary(name):
    again = pickle.loads(pickle.dumps(ERRORS[name]("text")))
    assert (type(again), str(again)) == (ERRORS[name], "text")
