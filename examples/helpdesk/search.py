"""The answer to a question: PostgreSQL's full-text search over the tenant's own documents."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from helpdesk.database import Connection


@dataclass(frozen=True, slots=True)
class Answer:
    """The chunk that answers best; ``confidence`` is the share of the question's words in it."""

    body: str
    url: str
    confidence: float


_BEST: Final = """
    WITH question AS (
        SELECT tsvector_to_array(to_tsvector('english', %(text)s)) AS words,
               replace(plainto_tsquery('english', %(text)s)::text, ' & ', %(operator)s)::tsquery
               AS query
    ), candidate AS (
        SELECT url, number, body, words, ts_rank(words, (SELECT query FROM question)) AS rank
          FROM helpdesk.chunks
         WHERE tenant_id = %(tenant)s AND words @@ (SELECT query FROM question)
         LIMIT 500
    )
    SELECT url, body,
           (SELECT count(*) FROM unnest(question.words) AS word
             WHERE word = ANY(tsvector_to_array(candidate.words)))::double precision
           / cardinality(question.words) AS confidence
      FROM candidate, question
     ORDER BY confidence DESC, rank DESC, url, number
     LIMIT 1
"""


async def find_answer(connection: Connection, tenant_id: UUID, question: str) -> Answer | None:
    """Find the best chunk with all words of the question, else with some; None for nothing."""
    for operator in (" & ", " | "):
        cursor = await connection.execute(
            _BEST, {"text": question, "operator": operator, "tenant": tenant_id}
        )
        row = await cursor.fetchone()
        if row is not None:
            return Answer(row["body"], row["url"], row["confidence"])
    return None
