from tenantry import Event


class ImportStarted(Event):
    source: str


class ImportCompleted(Event):
    source: str
    rows: int
    note: str | None = None


class ImportFailed(Event):
    source: str
    error_code: str


class ExportCompleted(Event):
    rows: int


class ExportFailed(Event):
    rows: int


class RefundCompleted(Event):
    result: str


class RenameCompleted(Event):
    tenant: str | None = None
    name: str


class InvoiceSent(Event):
    invoice_id: str
    amount: float


class Forgotten(Event):  # never_emitted
    reason: str
