-- Tables of the posting workflows. conversations has no created_at and no updated_at: the cookbook's
-- interaction summary names those columns without saying whose they are.

CREATE TABLE actors (
    actor_id    integer PRIMARY KEY,
    actor_name  text    NOT NULL UNIQUE,
    actor_type  text    NOT NULL CHECK (actor_type IN ('plain', 'ollama'))
);

CREATE TABLE conversations (
    conversation_id    integer PRIMARY KEY,
    conversation_name  text    NOT NULL UNIQUE,
    actor_id           integer NOT NULL REFERENCES actors
);

CREATE TABLE workflows (
    workflow_id    integer PRIMARY KEY,
    workflow_name  text    NOT NULL
);

CREATE TABLE workflow_conversations (
    workflow_id      integer NOT NULL REFERENCES workflows,
    execution_order  integer NOT NULL,
    conversation_id  integer NOT NULL REFERENCES conversations,
    stage            text    NOT NULL CHECK (stage IN ('summary', 'skills', 'ihl')),
    PRIMARY KEY (workflow_id, execution_order),
    UNIQUE (workflow_id, conversation_id)
);

-- workflow_id references nothing: a refused run of a workflow that does not exist is recorded too.
-- run_id is the runbook's, so that interactions and audit can be joined; NULL when started by hand.
CREATE TABLE workflow_runs (
    workflow_run_id  bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workflow_id      integer     NOT NULL,
    run_id           text        UNIQUE,
    started_at       timestamptz NOT NULL DEFAULT NOW()
);

CREATE TABLE postings (
    posting_id         integer     PRIMARY KEY,
    job_title          text        NOT NULL,
    employer           text        NOT NULL,
    location           text        NOT NULL,
    job_description    text,
    extracted_summary  text,
    skill_keywords     jsonb,
    ihl_score          integer     CHECK (ihl_score BETWEEN 0 AND 100),
    posted_at          timestamptz NOT NULL
);

CREATE TABLE interactions (
    interaction_id   bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    conversation_id  integer     NOT NULL REFERENCES conversations,
    posting_id       integer     REFERENCES postings,
    workflow_run_id  bigint      REFERENCES workflow_runs,
    status           text        NOT NULL DEFAULT 'pending'
                     CHECK (status IN ('pending', 'processing', 'completed', 'failed')),
    input            jsonb       NOT NULL DEFAULT '{}',
    output           jsonb,
    created_at       timestamptz NOT NULL DEFAULT NOW(),
    updated_at       timestamptz NOT NULL DEFAULT NOW()
);

CREATE INDEX ON interactions (status, updated_at);
CREATE INDEX ON interactions (conversation_id, created_at);
CREATE INDEX ON interactions (posting_id, conversation_id);
