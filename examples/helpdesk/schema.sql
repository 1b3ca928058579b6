-- The help desk's own tables. Each belongs to a tenant, and each query names it.

CREATE SCHEMA IF NOT EXISTS helpdesk;

CREATE TABLE IF NOT EXISTS helpdesk.tenants (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL,
    plan text NOT NULL DEFAULT 'free',
    plan_status text NOT NULL DEFAULT 'active',
    plan_as_of timestamptz NOT NULL DEFAULT '-infinity',  -- webhooks come in any order
    stripe_customer_id text UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS helpdesk.api_keys (
    key_hash bytea PRIMARY KEY,  -- SHA-256: a key is random enough to need no salt
    tenant_id uuid NOT NULL REFERENCES helpdesk.tenants ON DELETE CASCADE,
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS helpdesk.conversations (
    tenant_id uuid NOT NULL REFERENCES helpdesk.tenants ON DELETE CASCADE,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    session_id text NOT NULL,
    external_id text,  -- of an imported conversation: its id where it comes from
    started_at timestamptz NOT NULL DEFAULT now(),
    escalation_reason text,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, external_id)
);

CREATE TABLE IF NOT EXISTS helpdesk.messages (
    tenant_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    role text NOT NULL CHECK (role IN ('user', 'assistant')),
    body text NOT NULL,
    confidence double precision,
    sent_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, conversation_id, id),
    FOREIGN KEY (tenant_id, conversation_id) REFERENCES helpdesk.conversations ON DELETE CASCADE
);

CREATE TABLE IF NOT EXISTS helpdesk.documents (
    tenant_id uuid NOT NULL REFERENCES helpdesk.tenants ON DELETE CASCADE,
    url text NOT NULL,
    title text NOT NULL,
    ingested_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, url)
);

CREATE TABLE IF NOT EXISTS helpdesk.chunks (
    tenant_id uuid NOT NULL,
    url text NOT NULL,
    number integer NOT NULL,
    body text NOT NULL,
    words tsvector NOT NULL GENERATED ALWAYS AS (to_tsvector('english', body)) STORED,
    PRIMARY KEY (tenant_id, url, number),
    FOREIGN KEY (tenant_id, url) REFERENCES helpdesk.documents ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS chunks_words_idx ON helpdesk.chunks USING gin (words);

CREATE TABLE IF NOT EXISTS helpdesk.usage (
    tenant_id uuid NOT NULL REFERENCES helpdesk.tenants ON DELETE CASCADE,
    quota_type text NOT NULL,
    period date NOT NULL,
    used bigint NOT NULL,
    PRIMARY KEY (tenant_id, quota_type, period)
);

CREATE TABLE IF NOT EXISTS helpdesk.integrations (
    tenant_id uuid NOT NULL REFERENCES helpdesk.tenants ON DELETE CASCADE,
    type text NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    url text NOT NULL,
    secret text NOT NULL,  -- signs what is sent, by the scheme of Standard Webhooks
    PRIMARY KEY (tenant_id, type),
    UNIQUE (tenant_id, id)
);

-- Written in the transaction of what it tells of; sent by the dispatcher, at least once.
CREATE TABLE IF NOT EXISTS helpdesk.outbox (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id uuid NOT NULL,
    integration_id uuid NOT NULL,
    payload jsonb NOT NULL,
    headers jsonb NOT NULL DEFAULT '{}',  -- traceparent: the dispatcher goes on in the same trace
    correlation text,
    attempts integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    last_error_code text,
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'given_up')),
    created_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (tenant_id, integration_id)
        REFERENCES helpdesk.integrations (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS outbox_waiting_idx ON helpdesk.outbox (next_attempt_at)
    WHERE state = 'waiting';
