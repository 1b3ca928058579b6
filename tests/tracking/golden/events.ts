// Written by `tenantry taxonomy typescript`; changes are lost.

export interface ImportFailed {
  name: "import_failed";
  event_version: 1;
  data: {
    errorCode: string;
  };
}

export interface ImportStarted {
  name: "import_started";
  event_version: 1;
  data: Record<string, never>;
}

export interface ImportSucceeded {
  name: "import_succeeded";
  event_version: 1;
  data: {
    rows: number;
  };
}

export type InvoiceSentCard = {
  kind: "card";
};

export type InvoiceSentCurrency = "eur" | "usd";

export type InvoiceSentLine = {
  text: string;
  parent?: InvoiceSentLine | null;
};

export type InvoiceSentTransfer = {
  kind: "transfer";
};

/**
 * An invoice went out.
 *
 * Once; a *\/ within does no harm.
 */
export interface InvoiceSent {
  name: "invoice_sent";
  event_version: 3;
  data: {
    invoiceId: string;
    /** In full | with tax. */
    amount?: string;
    currency: InvoiceSentCurrency;
    sentOn: string;
    paidAt?: string;
    lines?: Array<InvoiceSentLine>;
    totals?: Record<string, number>;
    place?: [number, number];
    payment: InvoiceSentCard | InvoiceSentTransfer;
    /** Of the payer */
    email?: string;
    number?: string;
    code?: number | string;
    more?: unknown;
    isPaid?: boolean;
  };
}

/** A row, told apart by its name. */
export type TenantryEvent =
  | ImportFailed
  | ImportStarted
  | ImportSucceeded
  | InvoiceSent;

export type EventName = TenantryEvent["name"];
