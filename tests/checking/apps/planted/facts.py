from datetime import datetime

import tenantry
from planted import elsewhere
from planted.events import InvoiceSent
from tenantry import alog_event, log_event

NAME = "invoice_sent"


def send(invoice: str, when: datetime, more: dict[str, object], name: str) -> None:
    log_event("invoice_send", invoice_id=invoice, amount=1.0)  # unknown_event
    log_event("invoice_sent", amount=1.0)  # missing_key invoice_id
    log_event(NAME, invoice_id=invoice, amount=1.0, currency="EUR")  # undeclared_key currency
    log_event(InvoiceSent(invoice_id=invoice))  # missing_key amount
    log_event(InvoiceSent(invoice_id=invoice, amount=1.0), total=2)  # undeclared_key total
    log_event(elsewhere.LeftOut(reason="x"))  # unknown_class
    log_event(elsewhere.InvoiceSent(invoice_id=invoice, amount=1.0))  # unknown_class
    event = InvoiceSent(invoice_id=invoice)
    tenantry.log_event(event)  # missing_key amount
    log_event(NAME, invoice_id=invoice, amount=1, idempotency_key="k")  # occurred_at_missing
    log_event(NAME, invoice_id=invoice, amount=1.0, result=3)  # reserved_key result


async def send_later(invoice: str) -> None:
    from tenantry import alog_event as record

    await record("invoice_sent", invoice_id=invoice)  # missing_key amount


async def right(invoice: str, when: datetime, more: dict[str, object], name: str) -> None:
    log_event("invoice_sent", invoiceId=invoice, amount=1.0, duration_ms=3.0, errorCode="x")
    log_event(NAME, fields={"invoice_id": invoice, "amount": 1.0}, idempotency_key=None)
    log_event(NAME, invoice_id=invoice, amount=1, idempotency_key="k", occurred_at=when)
    await alog_event(InvoiceSent(invoiceId=invoice, amount=1.0), tenant="t", actor="a")
    log_event(name, amount=1.0)
    log_event("invoice_sent", **more)
