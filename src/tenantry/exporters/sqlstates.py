"""What each error of PostgreSQL means for a batch: the one table of SQLSTATEs.

Knows codes, and what the server says beside them; nothing of connections or of statements. The
codes are those of PostgreSQL 18's manual, appendix A.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

import psycopg

from tenantry.exceptions import (
    DatabaseError,
    DatabaseUnreachable,
    PrivilegeMissing,
    SchemaMismatch,
    SchemaMissing,
)


class Verdict(NamedTuple):
    """What is done about an error.

    ``backoff``: the whole batch is sent again over a new connection, soon. ``hold``: the same,
    slowly, since somebody has to act. ``row``: one row causes it; it is found and rejected, and the
    rest of the batch goes on.
    """

    kind: Literal["backoff", "hold", "row"]
    remedy: str = ""
    """What to do, if anything; ``{schema}``, ``{migrate}`` and ``{partition}`` are filled in."""
    error: type[DatabaseError] = DatabaseError
    """What `check` raises."""
    smaller: bool = False
    """Whether less at a time may get through."""


def _retry(remedy: str = "", *, smaller: bool = False) -> Verdict:
    return Verdict("backoff", remedy, DatabaseUnreachable, smaller)


def _hold(remedy: str, error: type[DatabaseError] = DatabaseError) -> Verdict:
    return Verdict("hold", remedy, error)


_ROW: Final = Verdict("row", "Drop from {schema} what refuses the rows that Tenantry has to write.")
"""The remedy is for tables whose rows cannot be rejected: cursors, and rejects themselves."""
_SEE_LOG: Final = _hold("See the server's log.")
_MIGRATE: Final = _hold("{migrate}", SchemaMissing)
_NO_PARTITION: Final = _hold("{partition}", SchemaMismatch)
_ALTERED: Final = _hold(
    "Give the columns of {schema} the types that the migrations gave them.", SchemaMismatch
)
_OF_THE_HOST: Final = _hold(
    "A trigger, a constraint or a function of your own raised it while a row was written: correct "
    "it, or drop it from the tables of {schema}."
)

UNNAMED: Final = _SEE_LOG
"""For a code that no line below names: keep, try again slowly, say so once."""

TABLE: Final[Mapping[str, Verdict]] = MappingProxyType(
    {
        # Classes have two characters; codes that deviate from their class have five.
        "00": UNNAMED,  # successful completion: never an error
        "01": UNNAMED,  # warning
        "02": UNNAMED,  # no data
        "03": UNNAMED,  # SQL statement not yet complete
        "08": _retry(),  # connection exception
        "08P01": _retry("If it goes on, look at the log of the pooler, if there is one."),
        "09": _ROW,  # triggered action exception
        "0A": _SEE_LOG,  # feature not supported
        "0B": _SEE_LOG,  # invalid transaction initiation
        "0F": _SEE_LOG,  # locator exception
        "0L": _SEE_LOG,  # invalid grantor
        "0P": _SEE_LOG,  # invalid role specification
        "0Z": _SEE_LOG,  # diagnostics exception
        "10": _ROW,  # XQuery error: a regular expression of JSON path
        "20": _ROW,  # case not found
        "21": _ROW,  # cardinality violation
        "22": _ROW,  # data exception
        "23": _ROW,  # integrity constraint violation
        "24": _SEE_LOG,  # invalid cursor state
        "25": _SEE_LOG,  # invalid transaction state
        "25006": _retry(  # read_only_sql_transaction: a standby, until it is promoted
            "If it goes on, let the DSN lead to the primary (target_session_attrs=read-write), or "
            "reset default_transaction_read_only."
        ),
        "25P02": _retry(),  # in_failed_sql_transaction
        "25P03": _retry(),  # idle_in_transaction_session_timeout
        "25P04": _retry(  # transaction_timeout
            "Smaller batches are tried. If it goes on, run as the DSN's user: "
            "ALTER ROLE CURRENT_USER SET transaction_timeout = '10s';",
            smaller=True,
        ),
        "26": _SEE_LOG,  # invalid SQL statement name
        "27": _ROW,  # triggered data change violation
        "28": _retry(  # invalid authorization specification
            "Check the user and the password of the DSN, and that the server lets them in."
        ),
        "2B": _SEE_LOG,  # dependent privilege descriptors still exist
        "2D": _SEE_LOG,  # invalid transaction termination
        "2F": _ROW,  # SQL routine exception
        "34": _SEE_LOG,  # invalid cursor name
        "38": _ROW,  # external routine exception
        "39": _SEE_LOG,  # external routine invocation exception
        "3B": _hold(  # savepoint exception
            "Between the DSN and the server a pooler may hand single statements to connections: "
            "let it pool by transaction or by session."
        ),
        "3D": _retry("Create the database, or correct its name in the DSN."),
        "3F": _MIGRATE,  # invalid schema name
        "40": _retry(),  # transaction rollback; after 40003 the cursor knows what became of it
        "42": _SEE_LOG,  # syntax error or access rule violation
        "42501": _hold("", PrivilegeMissing),  # the remedy takes a look at what is granted
        "42703": _MIGRATE,  # undefined_column
        "42804": _ALTERED,  # datatype_mismatch
        "428C9": _ALTERED,  # generated_always
        "42P01": _MIGRATE,  # undefined_table
        "44": _ROW,  # WITH CHECK OPTION violation
        "53": _retry("If it goes on, give the server what it lacks."),  # insufficient resources
        "53100": _retry("Make room on the server's disk."),
        "53200": _retry("If it goes on, give the server more memory.", smaller=True),
        "53300": _retry("If it goes on, raise max_connections, or put a pooler in between."),
        "53400": _retry(  # configuration_limit_exceeded
            "Smaller batches are tried. If it goes on, raise the limit that the server names.",
            smaller=True,
        ),
        "54": _ROW,  # program limit exceeded
        "54011": _SEE_LOG,  # too_many_columns
        "54023": _SEE_LOG,  # too_many_arguments
        "55": _retry(),  # object not in prerequisite state
        "55000": _hold(  # object_not_in_prerequisite_state
            "Put tables back in {schema} where views stand, and make unique constraints of your "
            "own NOT DEFERRABLE.",
            SchemaMismatch,
        ),
        "55P02": _SEE_LOG,  # cant_change_runtime_param
        "57": _retry(),  # operator intervention
        "57014": _retry(  # query_canceled
            "Smaller batches are tried. If it goes on, run as the DSN's user: "
            "ALTER ROLE CURRENT_USER SET statement_timeout = '10s';",
            smaller=True,
        ),
        "57P04": _retry("Create the database again, or correct its name in the DSN."),
        "58": _retry("If it goes on, look at the server's log, and at its disk."),  # system error
        "72": _retry(),  # snapshot failure
        "F0": _SEE_LOG,  # configuration file error
        "HV": _hold("See the log of the server, and of the foreign server that it calls."),
        "HV00N": _retry("If it goes on, look at the foreign server."),
        "P0": _ROW,  # PL/pgSQL error: a trigger of the host says no
        "P0000": _OF_THE_HOST,  # plpgsql_error
        "XX": _SEE_LOG,  # internal error
        "XX001": _hold("A table is damaged: see the server's log, and mind the backups."),
        "XX002": _hold("An index is damaged: run REINDEX SCHEMA {schema};"),
    }
)


def find(sqlstate: str) -> Verdict:
    """Look up a code, else its class."""
    return TABLE.get(sqlstate) or TABLE.get(sqlstate[:2]) or UNNAMED


def judge(error: psycopg.Error) -> Verdict:
    """Say what is done about ``error``: the table, and what a code alone does not tell."""
    if error.sqlstate is None:
        is_lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        # A server may end the session over a batch that is too much for it, or for its patience.
        return _retry(smaller=True) if is_lost else UNNAMED  # else psycopg could not send it
    if _is_without_partition(error):
        return _NO_PARTITION
    if is_by_policy(error):
        return _ROW
    verdict = find(error.sqlstate)
    # A context is what PostgreSQL was in: none of Tenantry's own statements calls a function.
    return _OF_THE_HOST if verdict.kind == "hold" and error.diag.context else verdict


def is_by_policy(error: psycopg.Error) -> bool:
    """Say whether row-level security refused a row; a table that refuses all has the same code."""
    # The name of a function in the server's source: its messages are translated.
    return error.sqlstate == "42501" and error.diag.source_function == "ExecWithCheckOptions"


def _is_without_partition(error: psycopg.Error) -> bool:
    """Tell it from a CHECK, which has a name, and from a trigger's RAISE, which names no table."""
    diag = error.diag
    return error.sqlstate == "23514" and diag.constraint_name is None and bool(diag.table_name)
