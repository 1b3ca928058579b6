from tenantry import Event


class LeftOut(Event):
    reason: str


class InvoiceSent(Event):
    """Another class of a name that the taxonomy has."""

    invoice_id: str
    amount: float
